"""What was done of a change set: the mark that a part was begun, what its last execution did, the conflicts it met."""

from typing import Any

from accession.artifacts.document import Document


class WriteConflict(Document):
    """A conflict met while writing: the application's item stands. `checksum` is what an earlier run wrote there; None
    where this run wrote it before the application did, so that its undo has to look at it."""

    key: str
    old_key: Any
    checksum: str | None
    reason: str


class Execution(Document):
    """What one execution of a part did; `progress/<entity>/<part>.json`."""

    entity: str
    part: int | None
    written: int
    already: int
    conflicts: list[WriteConflict]
    write_units: float
    read_units: float = 0.0
    throttled: int
    started_at: str
    ended_at: str
