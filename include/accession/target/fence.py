"""The fence: stops a writer that no longer owns the target."""

import logging
import time
from collections.abc import Callable

from accession.artifacts import Store
from accession.errors import FencedError
from accession.target.ownership import CHECK_SECONDS, SETTLE_SECONDS
from accession.target.state import Open, load_state

logger = logging.getLogger(__name__)


class Fence:
    """Tells a writer whether it still owns the target: reads the state at its start and every CHECK_SECONDS.

    Call `check` before every request that writes. Raises FencedError once run or epoch are not ours. Threads may share
    it. (A request already in flight from a frozen process cannot be fenced.)
    """

    def __init__(self, store: Store, run: str, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._run, self._epoch, self._clock = store, run, epoch, clock
        self._next = 0.0
        self._fenced = False

    def check(self) -> None:
        """Raises FencedError when the target is not ours any more."""
        while self._fenced or (asked := self._clock()) >= self._next:  # again, when the answer was long on its way
            state = None if self._fenced else load_state(self._store)
            if state is None or state.open != Open(run=self._run, epoch=self._epoch):
                self._fenced = True
                raise FencedError(
                    f"this writer of run {self._run} (epoch {self._epoch}) stopped: the target is owned by another "
                    "resume, undo or run now."
                )
            self._next = asked + CHECK_SECONDS


def settle(sleep: Callable[[float], None] = time.sleep) -> None:
    """Wait until every writer of an older epoch has seen the new one, or its last request has ended."""
    logger.info("waiting %.0f s, so that writers of an older epoch have stopped", SETTLE_SECONDS)
    sleep(SETTLE_SECONDS)
