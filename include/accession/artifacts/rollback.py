"""The stored outcome of an undo: `rollback.json`."""

from typing import Any

from accession.artifacts.document import Document


class Undone(Document):
    """The results of undoing one entity. Every item counts once."""

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
    read_units: float = 0.0
    started_at: str
    ended_at: str
