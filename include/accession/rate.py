"""How fast we write: one rate, in write units a second, shared by all requests in flight.

Two things bound it. The cap that the user set holds over the whole run, because what a request really consumed is
charged afterwards. The table's own limit is unknown and is found: a throttle sets the rate a little below what the
table was seen to accept, and success brings it back along the curve of CUBIC (RFC 9438): quickly up to where the limit
was, flat around it, then ever faster, so that a limit that doubled is found within ten seconds.
"""

import threading
import time
from collections.abc import Callable

BACK_OFF = 0.85  # the share of what was accepted that a throttle leaves
PLATEAU_SECONDS = 3.0  # from a throttle back to the rate at which it came
LOWEST = 250.0  # write units a second, ten full batches of 1 KB items: below, the waits between retries do the work
BURST_SECONDS = 0.1  # unused time that may be made up for at once
SETTLE_SECONDS = 0.25  # one answer to all throttles that belong together
WINDOW_SECONDS = 1.0  # over which the accepted units are measured
FIRST_LOOK_SECONDS = 0.02  # but a throttle among the very first requests is answered by what these got through


class Rate:
    """Write units a second, for many threads; `acquire` before a request, `accepted` or `throttled` after it."""

    def __init__(
        self,
        cap: float | Callable[[], float] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if isinstance(cap, int | float) and cap <= 0:
            raise ValueError("a cap is more than 0 write units a second")
        self._cap: Callable[[], float | None] = cap if callable(cap) else lambda: cap
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._limit: float | None = None  # where the last throttle came; None: none so far
        self._since, self._fresh = clock(), 0.0  # the last throttle, and the units accepted after it
        self._free = clock()  # when the next unit may go out
        self._window, self._sum, self._before, self._first = clock(), 0.0, 0.0, True

    def acquire(self, units: float) -> None:
        """Wait until `units` may go out."""
        with self._lock:
            rate = self._rate(now := self._clock())
            if rate is None:
                return
            start = max(self._free, now - BURST_SECONDS)
            self._free = start + units / rate
        if start > now:
            self._sleep(start - now)

    def accepted(self, units: float, expected: float) -> None:
        """The table took `units` where `expected` were acquired: the difference (indexes, say) is charged now."""
        with self._lock:
            now = self._clock()
            if (rate := self._rate(now)) is not None:
                self._free += (units - expected) / rate
            self._roll(now)
            self._sum += units
            self._fresh += units

    def throttled(self) -> None:
        """The table refused: go on a little below what it accepts."""
        with self._lock:
            now = self._clock()
            first = self._limit is None
            if not first and now - self._since < SETTLE_SECONDS:
                return
            seen, rate = self._measured(now), self._rate(now)
            if not first and now - self._since < WINDOW_SECONDS:  # still too fast: only what came since then counts
                seen = min(seen, self._fresh / (now - self._since))
            self._limit = max(LOWEST / BACK_OFF, seen if rate is None else min(seen, rate))
            self._since, self._fresh = now, 0.0

    def per_second(self) -> float | None:
        """Write units a second now; None when nothing bounds them."""
        with self._lock:
            return self._rate(self._clock())

    def _rate(self, now: float) -> float | None:
        cap = self._cap()
        if self._limit is None:
            return cap
        curve = (now - self._since) / PLATEAU_SECONDS - 1
        found = self._limit * (1 + (1 - BACK_OFF) * curve**3)
        return found if cap is None else min(found, cap)

    def _roll(self, now: float) -> None:
        passed = now - self._window
        if passed >= WINDOW_SECONDS:
            self._before = self._sum * WINDOW_SECONDS / passed
            self._window, self._sum, self._first = now, 0.0, False

    def _measured(self, now: float) -> float:
        """Units a second that were accepted over about the last window."""
        self._roll(now)
        passed = now - self._window
        if self._first:
            return self._sum / max(passed, FIRST_LOOK_SECONDS)
        return (self._before * max(0.0, WINDOW_SECONDS - passed) + self._sum) / WINDOW_SECONDS
