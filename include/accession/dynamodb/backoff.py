"""The growing waits between the attempts of a call, until its patience ends."""

from collections.abc import Awaitable, Callable

from accession.dynamodb.crew import Call, find_call

RETRY_SECONDS = 300.0  # how long a request is repeated without any progress before it is given up
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 2.0


class Backoff:
    """Wait with full jitter, doubling, until `patience` seconds have passed without progress.

    Seconds that the call spends in the queue of the rate do not count: nothing fails there.
    """

    def __init__(
        self,
        patience: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
    ) -> None:
        self._patience, self._clock, self._sleep, self._jitter = patience, clock, sleep, jitter
        self._call: Call = find_call()
        self.progress()

    def progress(self) -> None:
        """Start over, since something went through."""
        self._start, self._queued, self._attempt = self._clock(), self._call.queued_seconds, 0

    @property
    def seconds(self) -> float:
        """Return the seconds since the start or the last progress, without those in the queue."""
        return self._clock() - self._start - (self._call.queued_seconds - self._queued)

    async def wait(self) -> bool:
        """Wait a little longer than before. Return False at once if patience has run out, or the call must end."""
        if not self._call.may_go_on or self.seconds >= self._patience:
            return False
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**self._attempt)
        self._attempt += 1
        await self._sleep(self._jitter() * longest)
        return True
