"""The stored proof of an entity: its counts, and the items that differ from the source."""

from accession.artifacts.document import Document

PROBLEMS = ("missing", "mismatched", "drifted", "held", "unexpected")


class Problem(Document):
    """An item that differs from the source."""

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
