"""Log the progress of long work: how much is done, at what rate, and the time left; a line every few seconds."""

import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

EVERY_SECONDS = 5.0


class Progress:
    """Count the work done, and log it. `note` returns text to append to each line."""

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        note: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._total, self._unit, self._note, self._clock = title, total, unit, note, clock
        self._started = clock()
        self._next = self._started + EVERY_SECONDS
        self.done = 0

    def add(self, number: int) -> None:
        """Count `number` more as done."""
        self.done += number
        # Read the clock for every hundredth row only: reading it costs more than a row.
        if (number > 1 or self.done % 100 == 0) and self._clock() >= self._next:
            self._next = self._clock() + EVERY_SECONDS
            rate = self.done / max(self._clock() - self._started, 1e-9)
            left = max(self._total - self.done, 0) / max(rate, 1e-9)
            logger.info(
                "%s: %s of %s %s, %s/s, %s left%s",
                self._title,
                f"{self.done:,}",
                f"{self._total:,}",
                self._unit,
                f"{rate:,.0f}",
                show_seconds(left),
                self._note(),
            )

    def finish(self) -> None:
        """Log the last line."""
        seconds = self._clock() - self._started
        rate = self.done / max(seconds, 1e-9)
        logger.info(
            "%s: %s %s in %s, %s/s%s",
            self._title,
            f"{self.done:,}",
            self._unit,
            show_seconds(seconds),
            f"{rate:,.0f}",
            self._note(),
        )


def show_seconds(seconds: float) -> str:
    """Return a duration as people write it: 0.4 s, 12 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 120:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
