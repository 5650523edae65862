"""The fence: it stops a writer that no longer owns the target."""

import logging

from accession.artifacts import Store
from accession.errors import FencedError
from accession.host import Host
from accession.target.ownership import CHECK_SECONDS, SETTLE_SECONDS
from accession.target.register import load_state

logger = logging.getLogger(__name__)


class Fence:
    """Check that a writer still owns the target, and that no newer attempt took its part over.

    `newer` is the path of the mark that the next attempt would leave. The first check reads state and mark; later ones
    read them again every CHECK_SECONDS.

    Call `check` before every request that writes. Threads may share a fence. It cannot stop a request that is already
    in flight, nor one that a frozen process sends when it wakes.
    """

    def __init__(self, store: Store, run: str, epoch: int, newer: str | None = None) -> None:
        self._store, self._run, self._epoch, self._newer = store, run, epoch, newer
        self._clock = store.host.monotonic
        self._next = 0.0
        self._stopped_by = ""

    def check(self) -> None:
        """Raise FencedError if another run or epoch owns the target, or a newer attempt the part."""
        while self._stopped_by or (asked := self._clock()) >= self._next:  # look again if the answer came too late
            self._stopped_by = self._stopped_by or self._find_successor()
            if self._stopped_by:
                raise FencedError(
                    f"This writer of run {self._run} (epoch {self._epoch}) stopped: {self._stopped_by}. See the log of "
                    "that one."
                )
            self._next = asked + CHECK_SECONDS

    def _find_successor(self) -> str:
        """Return who took over from this writer, or an empty text."""
        state = load_state(self._store)
        if state is None or not state.is_open_in(self._run, self._epoch):
            return "another resume, undo or run owns the target now"
        if self._newer is not None and self._store.has(self._newer):
            return "a newer attempt at the same part took over"
        return ""


def settle(host: Host) -> None:
    """Wait until every writer of an older epoch has stopped and its last request has ended."""
    logger.info("waiting %.0f s for writers of an older epoch to stop", SETTLE_SECONDS)
    host.sleep(SETTLE_SECONDS)
