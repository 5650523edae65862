"""What was done of a change set: the mark that a part was begun, what its last execution did, the conflicts it met."""

from typing import Any

from accession.artifacts.document import Document, run_path
from accession.artifacts.store import Store


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


def started_path(run: str, entity: str, part: int, step: str = "migrate") -> str:
    """The mark that a part was begun."""
    return run_path(run, f"progress/{entity}/{part:05d}.{step}.started")


def execution_path(run: str, entity: str, part: int, step: str = "migrate") -> str:
    """What the last execution of a part did."""
    return run_path(run, f"progress/{entity}/{part:05d}.{step}.json")


def was_started(store: Store, run: str, entity: str, part: int, step: str = "migrate") -> bool:
    """Whether a part was begun, so that something of it may be in the target."""
    return store.has(started_path(run, entity, part, step))


def find_conflicts(store: Store, run: str, entity: str) -> list[WriteConflict]:
    """The conflicts that the writers of a run met in one entity."""
    kept: list[WriteConflict] = []
    for path in store.list(run_path(run, f"progress/{entity}/")):
        if path.endswith(".json"):
            kept += store.get_document(path, Execution).conflicts
    return kept
