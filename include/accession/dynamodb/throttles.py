"""Two kinds of throttle: a limit slows all requests down, a hot key range makes only its own items wait."""

from collections.abc import Callable

from accession.dynamodb.answers import ThrottledError
from accession.dynamodb.rate import Rate

HOT_SECONDS = 10.0  # a key range that was hot is assumed to be hot for this long


class Throttles:
    """Count throttles, and slow `rate` down for those of a limit: of the table, of the account.

    Unprocessed items come without a reason. They are attributed to a hot key range if one was named recently, otherwise
    to a limit. That is taken back if a refusal names a hot key range after all.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self.count = 0
        self._rate, self._clock = rate, clock
        self._hot_until = 0.0
        self._unnamed: int | None = None  # the last slowing for a throttle without a reason

    def add(self, throttle: ThrottledError) -> bool:
        """Count a throttle of a write. Return whether it slows all requests down now."""
        self.count += 1
        if throttle.hot_keys_only:
            self._hot_until = self._clock() + HOT_SECONDS
            self._take_back()
            return False
        if throttle.reasons:
            self._hot_until = 0.0
        elif self._clock() < self._hot_until:
            return False
        number = self._rate.throttled()
        self._unnamed = None if throttle.reasons else number or self._unnamed
        return number is not None

    def _take_back(self) -> None:
        if self._unnamed is not None:
            self._rate.take_back(self._unnamed)
            self._unnamed = None
