"""The stored outcome of an undo: `rollback.json`."""

from typing import Any

from accession.artifacts.document import Document, run_path
from accession.artifacts.store import Store


class Undone(Document):
    """What the undo of one entity came to. Every item counts once."""

    table: str
    restored: int
    deleted: int
    already: int
    conflicts: int


class Rollback(Document):
    """`rollback.json`."""

    run: str
    by: str
    entities: dict[str, Undone]
    conflicts: list[dict[str, Any]]
    accepted: bool
    proved: bool
    write_units: float
    started_at: str
    ended_at: str


def rollback_path(run: str) -> str:
    """Where the outcome of an undo lies."""
    return run_path(run, "rollback.json")


def find_rollback(store: Store, run: str) -> Rollback | None:
    """The last undo of a run, if there was one."""
    return store.find_document(rollback_path(run), Rollback)
