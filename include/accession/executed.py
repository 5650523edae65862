"""What was done of a change set: the mark that a part was begun, what its last execution did, the conflicts it met."""

import threading
import time
from collections.abc import Callable
from typing import Any

from accession.manifest import Document, run_path
from accession.store import Store

LOOK_SECONDS = 1.0  # how often a task looks how many share the cap: one S3 LIST, $0.02 an hour
JOIN_SECONDS = 1.5  # after which everybody has looked, with half a second for the LIST


class Kept(Document):
    """A conflict met while writing: the application's item stands. `checksum` is what an earlier run wrote there; None
    where this run wrote it before the application did, so that its undo has to look at it."""

    key: str
    old_key: Any
    checksum: str | None
    reason: str


class Executed(Document):
    """What one execution of a part did; `progress/<entity>/<part>.json`."""

    entity: str
    part: int | None
    written: int
    already: int
    conflicts: list[Kept]
    write_units: float
    read_units: float = 0.0
    throttled: int
    started_at: str
    ended_at: str


def started_path(run: str, entity: str, part: int, step: str = "migrate") -> str:
    """The mark that a part was begun."""
    return run_path(run, f"progress/{entity}/{part:05d}.{step}.started")


def executed_path(run: str, entity: str, part: int, step: str = "migrate") -> str:
    """What the last execution of a part did."""
    return run_path(run, f"progress/{entity}/{part:05d}.{step}.json")


def was_started(store: Store, run: str, entity: str, part: int, step: str = "migrate") -> bool:
    """Whether a part was begun, so that something of it may be in the target."""
    return store.has(started_path(run, entity, part, step))


def find_conflicts(store: Store, run: str, entity: str) -> list[Kept]:
    """The conflicts that the writers of a run met in one entity."""
    kept: list[Kept] = []
    for path in store.list(run_path(run, f"progress/{entity}/")):
        if path.endswith(".json"):
            kept += store.get_document(path, Executed).conflicts
    return kept


class Share:
    """A task's share of the write units a second that the whole run may use: as many as there are parts at work.

    Looks at the marks of the parts every LOOK_SECONDS, so that tasks on any number of machines share without talking.
    A task that finds others at work first gives them the time to see its mark: they use what is to be its share.
    """

    def __init__(
        self,
        store: Store,
        run: str,
        units_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store, self._run, self._whole, self._clock, self._sleep = store, run, units_per_second, clock, sleep
        self._lock = threading.Lock()
        self._next = self._share = 0.0

    def __call__(self) -> float:
        """Write units a second for this task now. The first call may wait for JOIN_SECONDS."""
        if self._clock() >= self._next and self._lock.acquire(blocking=not self._share):
            try:
                if self._clock() >= self._next:
                    self._renew()
            finally:
                self._lock.release()
        return self._share

    def _renew(self) -> None:
        is_new, share = not self._share, self._look()
        if is_new and share < self._whole:
            self._sleep(JOIN_SECONDS)
            share = self._look()
        self._share, self._next = share, self._clock() + LOOK_SECONDS

    def _look(self) -> float:
        return self._whole / max(count_parts_at_work(self._store, self._run), 1)


def count_parts_at_work(store: Store, run: str) -> int:
    """Parts that were begun and are not done."""
    paths = set(store.list(run_path(run, "progress/")))
    begun = [path for path in paths if path.endswith(".started")]
    return sum(path.removesuffix(".started") + ".json" not in paths for path in begun)
