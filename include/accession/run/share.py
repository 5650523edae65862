"""The share of the run's rate cap that a task may use."""

import threading

from accession.artifacts import RunFolder

LOOK_SECONDS = 0.5  # how often a task counts the parts at work: one S3 LIST, $0.04 an hour (Amazon S3 pricing)
JOIN_SECONDS = 0.8  # by then all other tasks have looked, with 0.3 s for the LIST


class Share:
    """A task's share of the write units per second of the whole run: the cap divided by the number of parts at work.

    The marks of the parts are counted every LOOK_SECONDS, so tasks on any number of machines share the cap without
    talking to each other. A task that finds others at work waits before it writes, until they have seen its mark and
    reduced their shares.
    """

    def __init__(
        self,
        folder: RunFolder,
        units_per_second: float,
        epoch: int,
    ) -> None:
        self._folder, self._cap, self._epoch, self._host = folder, units_per_second, epoch, folder.store.host
        self._lock = threading.Lock()
        self._next = self._share = 0.0

    def __call__(self) -> float:
        """Return the write units per second for this task now. The first call may wait for JOIN_SECONDS."""
        if self._host.monotonic() >= self._next and self._lock.acquire(blocking=not self._share):
            try:
                if self._host.monotonic() >= self._next:
                    self._renew()
            finally:
                self._lock.release()
        return self._share

    def _renew(self) -> None:
        is_new, share = not self._share, self._look()
        if is_new and share < self._cap:
            self._host.sleep(JOIN_SECONDS)
            share = self._look()
        self._share, self._next = share, self._host.monotonic() + LOOK_SECONDS

    def _look(self) -> float:
        return self._cap / max(count_parts_at_work(self._folder, self._epoch), 1)


def count_parts_at_work(folder: RunFolder, epoch: int) -> int:
    """Return the number of parts that were begun in this epoch and are not done."""
    newest = [attempts[-1] for attempts in folder.list_attempts().values()]
    return sum(attempt.epoch == epoch and not attempt.has_ended for attempt in newest)
