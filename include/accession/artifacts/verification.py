"""What verification found of an entity: the counts, and every item that is not as the source makes it."""

from accession.artifacts.document import Document

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
