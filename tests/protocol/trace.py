"""The format of a trace: one event a line, `process action object`. It has the steps that change something.

open_run start run          a process begins: run, resume, retry, report, automatic-rollback, undo,
                            committing-report; `retry/1` is a task of the resumed DAG run
open_run open 1             it opens the target in an epoch
undo take 2                 it takes the target over
migrate mark 1.1            it leaves the mark of an attempt: epoch and number
migrate write put           it changes an item: put, update or delete; an undo too
migrate result 1.1          it writes the result of its attempt
report record commit        it writes a record: commit, release or undo
application edit update     the application changes an item
"""

from collections.abc import Iterable
from typing import NamedTuple

from protocol.layout import DELETE, PUT, TITLES, UPDATE, Kind

ITEM_NAMES = {"put": PUT, "update": UPDATE, "delete": DELETE}
KIND_NAMES: dict[str, Kind] = {title.replace(" ", "-"): kind for kind, title in TITLES.items()}
APPLICATION = "application"


class Event(NamedTuple):
    """One step of a process, or of the application."""

    process: str
    action: str
    object: str

    def __str__(self) -> str:
        return " ".join(self)


def parse_trace(lines: Iterable[str]) -> list[Event]:
    """Read a trace. Raises ValueError, with the line, if one is not an event."""
    events = []
    for line in lines:
        words = line.split()
        if len(words) != 3:
            raise ValueError(f"{line!r} is not an event: write process, action and object.")
        events.append(Event(*words))
    return events
