"""The fence: it stops a writer that no longer owns the target."""

import logging
import time
from collections.abc import Callable

from accession.artifacts import Store
from accession.errors import FencedError
from accession.target.ownership import CHECK_SECONDS, SETTLE_SECONDS
from accession.target.state import Open, load_state

logger = logging.getLogger(__name__)


class Fence:
    """Check that a writer still owns the target. The state is read at the first check, then every CHECK_SECONDS.

    Call `check` before every request that writes. Threads may share a fence. It cannot stop a request that is already
    in flight, nor one that a frozen process sends when it wakes.
    """

    def __init__(self, store: Store, run: str, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._run, self._epoch, self._clock = store, run, epoch, clock
        self._next = 0.0
        self._fenced = False

    def check(self) -> None:
        """Raise FencedError if another run or epoch owns the target."""
        while self._fenced or (asked := self._clock()) >= self._next:  # read again if the answer came too late
            state = None if self._fenced else load_state(self._store)
            if state is None or state.open != Open(run=self._run, epoch=self._epoch):
                self._fenced = True
                raise FencedError(
                    f"This writer of run {self._run} (epoch {self._epoch}) stopped: another resume, undo or run owns "
                    "the target now. See the log of that one."
                )
            self._next = asked + CHECK_SECONDS


def settle(sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until every writer of an older epoch has stopped and its last request has ended."""
    logger.info("waiting %.0f s for writers of an older epoch to stop", SETTLE_SECONDS)
    sleep(SETTLE_SECONDS)
