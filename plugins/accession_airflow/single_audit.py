"""Audits for the pages: one at a time, with results that are kept for a while.

An audit reads every artifact of a target. Asked 45 times at once, it would take the API server's threads from Airflow.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from accession.artifacts import Store
from accession.audit import Audit, audit_target
from accession.progress import show_seconds

KEEP_SECONDS = 60.0
KEPT = 16  # results, of as many targets


@dataclass(frozen=True)
class MadeAudit:
    """An audit, how long it took, and when it was made."""

    audit: Audit
    took: str
    at: str
    made: float


class SingleAudits:
    """The audits of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._made: dict[str, MadeAudit] = {}

    def make(self, store: Store) -> MadeAudit | None:
        """Return the audit of a target, at most KEEP_SECONDS old; None while another one is being made.

        It never waits for another audit, so a request holds no thread.
        """
        key = store.uri("")
        known = self._find(key)
        if known or not self._lock.acquire(blocking=False):
            return known
        try:
            if known := self._find(key):
                return known
            started = self._clock()
            audit = audit_target(store)
            ended = self._clock()
            made = MadeAudit(audit, show_seconds(ended - started), f"{datetime.now(UTC):%H:%M:%S} UTC", ended)
            self._made = dict([*self._made.items(), (key, made)][-KEPT:])
            return made
        finally:
            self._lock.release()

    def forget(self) -> None:
        """Forget all results."""
        self._made = {}

    def _find(self, key: str) -> MadeAudit | None:
        made = self._made.get(key)
        return made if made and self._clock() - made.made < KEEP_SECONDS else None


AUDITS = SingleAudits()
