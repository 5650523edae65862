"""What verification found of an entity: the counts, and every item that is not as the source makes it."""

from collections.abc import Iterator

from accession.artifacts.document import Document, run_path
from accession.artifacts.store import Store
from accession.mapping import Mapping

PROBLEMS = ("missing", "mismatched", "drifted", "held", "unexpected")


class Problem(Document):
    """An item that is not as the source makes it."""

    kind: str
    key: str
    old_key: int | str | None
    reason: str


class Verification(Document):
    """`verification/<entity>.json`."""

    entity: str
    table: str
    verified: int
    missing: int
    mismatched: int
    drifted: int
    held: int
    unexpected: int
    listed: list[Problem]
    look_ups: dict[str, int]
    conflicts: list[dict[str, str | int | None]]
    read_units: float
    ok: bool
    reason: str | None
    started_at: str
    ended_at: str


def verification_path(run: str, entity: str) -> str:
    """Where the verification of an entity lies."""
    return run_path(run, f"verification/{entity}.json")


def problems_path(run: str, entity: str) -> str:
    """Where all problems of an entity are listed by key."""
    return run_path(run, f"verification/{entity}.jsonl.gz")


def load_verifications(store: Store, mapping: Mapping, run: str) -> Iterator[Verification]:
    """The verifications that a run has."""
    for name in mapping.order:
        found = store.find_document(verification_path(run, name), Verification)
        if found is not None:
            yield found
