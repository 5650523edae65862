"""A task's share of the run's rate cap."""

import threading
import time
from collections.abc import Callable

from accession.artifacts import Store, run_path

LOOK_SECONDS = 1.0  # how often a task looks how many share the cap: one S3 LIST, $0.02 an hour
JOIN_SECONDS = 1.5  # after which everybody has looked, with half a second for the LIST


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
