"""The stored result of executing one part of a change set, and the conflicts that its writer met."""

from typing import Any

from accession.artifacts.document import Document


class WriteConflict(Document):
    """A conflict that a writer met; the application's item stays.

    `checksum` is that of the item which an earlier run wrote. It is None if this run may have written the item before
    the application changed it, so that an undo must look at the item.
    """

    key: str
    old_key: Any
    checksum: str | None
    reason: str


class TableLimit(Document):
    """The limit of a table as a writer found it, in write units a second, and the seconds since it last throttled."""

    units_per_second: float
    seconds: float


class Execution(Document):
    """The result of one attempt at a part: see `attempts`."""

    entity: str
    part: int | None
    written: int
    already: int
    conflicts: list[WriteConflict]
    write_units: float
    read_units: float = 0.0
    throttled: int
    limit: TableLimit | None = None  # None if it never throttled
    started_at: str
    ended_at: str
