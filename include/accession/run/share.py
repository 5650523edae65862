"""The share of the run's rate cap that a task may use."""

import threading
import time
from collections.abc import Callable

from accession.artifacts import RunFolder

LOOK_SECONDS = 1.0  # how often a task counts the parts at work: one S3 LIST, $0.02 an hour (Amazon S3 pricing)
JOIN_SECONDS = 1.5  # by then all other tasks have looked, with half a second for the LIST


class Share:
    """A task's share of the write units per second of the whole run: the cap divided by the number of parts at work.

    The marks of the parts are counted every LOOK_SECONDS, so tasks on any number of machines share the cap without
    talking to each other. A task that finds others at work waits before it writes, until they have seen its mark and
    given up its share.
    """

    def __init__(
        self,
        folder: RunFolder,
        units_per_second: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder, self._cap, self._clock, self._sleep = folder, units_per_second, clock, sleep
        self._lock = threading.Lock()
        self._next = self._share = 0.0

    def __call__(self) -> float:
        """Return the write units per second for this task now. The first call may wait for JOIN_SECONDS."""
        if self._clock() >= self._next and self._lock.acquire(blocking=not self._share):
            try:
                if self._clock() >= self._next:
                    self._renew()
            finally:
                self._lock.release()
        return self._share

    def _renew(self) -> None:
        is_new, share = not self._share, self._look()
        if is_new and share < self._cap:
            self._sleep(JOIN_SECONDS)
            share = self._look()
        self._share, self._next = share, self._clock() + LOOK_SECONDS

    def _look(self) -> float:
        return self._cap / max(count_parts_at_work(self._folder), 1)


def count_parts_at_work(folder: RunFolder) -> int:
    """Return the number of parts that were started and are not done."""
    paths = set(folder.store.list(folder.path("progress/")))
    started = [path for path in paths if path.endswith(".started")]
    return sum(path.removesuffix(".started") + ".json" not in paths for path in started)
