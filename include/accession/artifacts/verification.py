"""The stored proof of an entity: its counts, and the items that differ from the source."""

from pydantic import Field

from accession.artifacts.document import Document

PROBLEMS = ("missing", "mismatched", "lost", "drifted", "held", "unexpected")


class Problem(Document):
    """An item that differs from the source."""

    kind: str
    key: str
    old_key: int | str | None
    reason: str


class Verification(Document):
    """`verification/<entity>.json`.

    An item that this run did not write is `drifted` if it was changed, `lost` if it is gone. Version 0.1.0 counted both
    as drifted. `lagging`: the table is proved, and an index does not find some of its items yet. `problems` is the path
    of the list of all problems; 0.1.0 named it after the entity.
    """

    entity: str
    table: str
    verified: int
    missing: int
    mismatched: int
    lost: int = 0
    drifted: int
    held: int
    unexpected: int
    listed: list[Problem]
    look_ups: dict[str, int]
    look_ups_not_known: dict[str, int] = Field(default_factory=dict)  # too many items share the index's key
    conflicts: list[dict[str, str | int | None]]
    read_units: float
    ok: bool
    lagging: bool = False
    problems: str = ""
    reason: str | None
    started_at: str
    ended_at: str
