"""The rate in units per second that all requests in flight share, for writing or for reading.

Two things bound it. The cap that the user set holds over the whole run: the cost of requests beyond their items
(indexes) is learnt, and the units actually consumed are charged afterwards. The table's own limit is unknown and has to
be found: a throttle sets the rate a little below what the table was seen to accept, and success brings it back along
the curve of CUBIC (RFC 9438): quickly up to the old limit, slowly around it, then faster and faster. A limit that
doubled is found within ten seconds. A table saves up unused capacity (Developer Guide, "Burst capacity"), so it accepts
more than its limit just before it throttles. The average that it accepted since the last throttle tells the two apart.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

BACK_OFF = 0.9  # the share of the limit that a throttle leaves
GROWTH = 0.15  # of the limit, beyond it, at twice the time of the plateau
PLATEAU_SECONDS = 3.0  # from a throttle back to the rate at which it came
LOWEST = 250.0  # write units a second, ten full batches of 1 KB items: below, the waits between retries do the work
BURST_SECONDS = 0.1  # unused time that may be made up for at once
PAUSE_UNITS = 400.0  # gathers in the table after a throttle: else each request in flight gets one too
LONGEST_PAUSE_SECONDS = 1.0
SETTLE_SECONDS = 0.25  # one answer to all throttles that belong together
WINDOW_SECONDS = 1.0  # over which the accepted units are measured
FIRST_LOOK_SECONDS = 0.02  # but a throttle among the very first requests is answered by what these got through
SAVED, LEAST = 0.95, 0.85  # an average below this share of what was seen last: that was saved up; how far to believe it
LEARNING = 0.1  # the weight of one request in what requests cost


class Limit(NamedTuple):
    """The limit of a table as a writer found it, in write units a second, and the seconds since it last throttled."""

    units_per_second: float
    seconds: float


class Rate:
    """Hold all tasks of a loop to one rate: `acquire` before a request, `accepted` or `throttled` after it.

    If `cap` is a function, it is called repeatedly and must not block. `limit` is what an earlier writer found.
    """

    def __init__(
        self,
        cap: float | Callable[[], float | None] | None = None,
        *,
        limit: Limit | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        if isinstance(cap, int | float) and cap <= 0:
            raise ValueError("A cap must be more than 0 units a second.")
        self._cap: Callable[[], float | None] = cap if callable(cap) else lambda: cap
        self._clock, self._sleep = clock, sleep
        self._limit: float | None = None  # where the last throttle came; None: none so far
        self._since, self._fresh = clock(), 0.0  # the last throttle, and the units accepted after it
        if limit is not None:
            self._limit, self._since = limit.units_per_second, clock() - limit.seconds
            self._fresh = limit.units_per_second * limit.seconds
        self._free = clock()  # when the next unit may go out
        self._turn = asyncio.Lock()
        self._cost = 1.0  # units consumed for each unit expected
        self._throttles, self._pause = 0, 0.0
        self._earlier: tuple[float | None, float, float] = (None, 0.0, 0.0)  # before the last throttle
        self._window, self._sum, self._before, self._first = clock(), 0.0, 0.0, True

    @property
    def limit(self) -> Limit | None:
        """Return the limit that was found; None if there was no throttle."""
        return None if self._limit is None else Limit(self._limit, self._clock() - self._since)

    async def acquire(self, units: float) -> None:
        """Wait until `units` may go out."""
        if self.per_second() is None:
            return
        async with self._turn:  # so that whoever is next knows what the requests before it cost
            waiting = True
            while waiting and (rate := self.per_second()) is not None:
                now = self._clock()
                start = max(self._free, now - BURST_SECONDS)
                self._free = start + units * self._cost / rate
                throttles = self._throttles
                if start > now:
                    await self._sleep(start - now)
                # A throttle while we waited cleared the queue: line up again.
                waiting = start > now and throttles != self._throttles

    def accepted(self, units: float, expected: float, whole: bool = True) -> None:
        """Charge the difference between the `units` that the table took and the `expected` ones that were acquired.

        `whole`: it left nothing of the request unprocessed, so that the two tell the cost of requests.
        """
        if (rate := self.per_second()) is not None:
            self._free += (units - expected * self._cost) / rate
        if whole and expected:
            self._cost += LEARNING * (units / expected - self._cost)
        self._roll(self._clock())
        self._sum += units
        self._fresh += units

    def throttled(self) -> int | None:
        """Slow down to a little below the rate that the table accepts, since it refused a request.

        Return a number for `take_back`; None for a throttle that belongs to the one before and changes nothing.
        """
        cap = self._cap()
        now = self._clock()
        passed = now - self._since
        if self._limit is not None and passed < SETTLE_SECONDS + self._pause:
            return None
        found = self._measured(now)
        self._earlier = self._limit, self._since, self._fresh
        if self._limit is not None:
            average = self._fresh / passed
            if passed < WINDOW_SECONDS:  # still too fast: only what came since then counts
                found = min(found, average)
            elif average < SAVED * found:
                found = max(average, LEAST * found)
        self._limit = max(LOWEST / BACK_OFF, found if cap is None else min(found, cap))
        self._pause = min(PAUSE_UNITS * self._cost / self._limit, LONGEST_PAUSE_SECONDS)
        self._since, self._fresh, self._free = now, 0.0, now + self._pause
        self._throttles += 1
        return self._throttles

    def take_back(self, number: int) -> None:
        """Undo the throttle with this number, if none came after it: it did not come from the table's limit."""
        if number == self._throttles:
            (self._limit, self._since, before), self._pause = self._earlier, 0.0
            self._fresh += before
            self._free = min(self._free, self._clock())
            self._throttles += 1

    def per_second(self) -> float | None:
        """Return the units a second now; None when nothing bounds them."""
        cap = self._cap()
        if self._limit is None:
            return cap
        curve = (self._clock() - self._since) / PLATEAU_SECONDS - 1
        found = self._limit * (1 + (1 - BACK_OFF if curve < 0 else GROWTH) * curve**3)
        return found if cap is None else min(found, cap)

    def _roll(self, now: float) -> None:
        passed = now - self._window
        if passed >= WINDOW_SECONDS:
            self._before = self._sum * WINDOW_SECONDS / passed
            self._window, self._sum, self._first = now, 0.0, False

    def _measured(self, now: float) -> float:
        """Return the units a second that were accepted over about the last window."""
        self._roll(now)
        passed = now - self._window
        if self._first:
            return self._sum / max(passed, FIRST_LOOK_SECONDS)
        return (self._before * max(0.0, WINDOW_SECONDS - passed) + self._sum) / WINDOW_SECONDS
