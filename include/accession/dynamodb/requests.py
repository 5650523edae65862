"""Requests of many tasks on one event loop: writes go at one shared rate and under the fence, and all are counted."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import Any

import orjson

from accession.dynamodb.answers import ThrottledError
from accession.dynamodb.backoff import RETRY_SECONDS, Backoff
from accession.dynamodb.crew import find_call
from accession.dynamodb.poll import Poll
from accession.dynamodb.rate import Limit, Rate
from accession.dynamodb.retry import Sender
from accession.dynamodb.throttles import Throttles
from accession.dynamodb.transport import Transport

FENCE_SECONDS = 1.0  # the greatest age of the fence's answer when a write goes out
FENCE_AHEAD_SECONDS = 0.5  # the age at which it is asked again, so that nobody waits for it
CAP_SECONDS, CAP_AHEAD_SECONDS = 5.0, 0.1  # the same for a cap that is a function


class Requests:
    """Read and write at the rate that a table, the account and the user's cap allow.

    `write_units`, `read_units` and `throttled` count what was consumed and refused so far. `check` and a cap that is a
    function may block: they are asked in `executor`. For the other parameters and the errors see DynamoDB and Sender.
    """

    def __init__(
        self,
        open_transport: Callable[[], Awaitable[Transport]],
        region: str,
        executor: Executor,
        *,
        write_units_per_second: float | Callable[[], float] | None = None,
        limit: Limit | None = None,
        read_units_per_second: float | None = None,
        check: Callable[[], None] | None = None,
        fence_seconds: float = FENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._sender = Sender(open_transport, region, clock=clock, sleep=sleep, jitter=jitter)
        self._clock = clock
        self.read_units = self.write_units = 0.0
        cap = write_units_per_second
        self._cap = Poll(cap, executor, clock) if callable(cap) else None
        self._rate = Rate(self._find_cap if callable(cap) else cap, limit=limit, clock=clock, sleep=sleep)
        self._read_rate = Rate(read_units_per_second, clock=clock, sleep=sleep) if read_units_per_second else None
        self._check, self._fence_seconds = Poll(check, executor, clock) if check else None, fence_seconds
        self._throttles = Throttles(self._rate, clock)

    @property
    def throttled(self) -> int:
        """Return the number of requests that were refused so far, wholly or in part."""
        return self._throttles.count

    @property
    def limit(self) -> Limit | None:
        """Return the limit of the table that was found; None if there was no throttle."""
        return self._rate.limit

    def backoff(self) -> Backoff:
        """Return waits for a call that tries again and again."""
        return self._sender.backoff()

    def close(self) -> None:
        """Drop all connections."""
        self._sender.close()

    async def write(
        self,
        operation: str,
        table: str,
        body: bytes,
        units: float,
        *,
        wait_for_hot: bool = True,
        at_once: bool = False,
        repeats: bool = True,
        is_fenced: bool = True,
    ) -> dict[str, Any]:
        """Send a write of about `units` until DynamoDB accepts or refuses it.

        Without `wait_for_hot`, raises ThrottledError for a hot key range. `at_once`: the first attempt does not wait
        for its turn; the others make up for what it uses. Without `repeats`, raises LostAnswerError if the write may
        have been applied. Without `is_fenced`, the fence is not asked.
        """
        turn = 0.0 if at_once else units

        async def pace() -> None:
            begun = self._clock()
            if self._cap is not None and turn:
                await self._cap.refresh(CAP_AHEAD_SECONDS, CAP_SECONDS)
            if turn:
                await self._rate.acquire(turn)
            find_call().queued_seconds += self._clock() - begun

        def throttled(error: ThrottledError) -> None:
            nonlocal turn
            turn = units
            self._throttles.add(error)
            if error.hot_keys_only and not wait_for_hot:
                raise error

        fence = self._pass_fence if is_fenced and self._check is not None else None
        answer = await self._sender.send(
            operation, table, body, pace=pace, fence=fence, throttled=throttled, is_write=True, repeats=repeats
        )
        consumed = _consumed(answer)
        whole = not answer.get("UnprocessedItems")
        self._rate.accepted(units if consumed is None else consumed, turn, whole)
        self.write_units += consumed or 0.0
        return answer

    def _find_cap(self) -> float | None:
        return self._cap.answer if self._cap is not None else None

    async def _pass_fence(self) -> None:
        assert self._check is not None
        await self._check.refresh(FENCE_AHEAD_SECONDS, self._fence_seconds)

    def leave_over(self) -> bool:
        """Count a write that was applied in part only. Return whether it slows all requests down now."""
        return self._throttles.add(ThrottledError(set()))

    async def read(
        self,
        operation: str,
        table: str,
        body: dict[str, Any],
        decode: Callable[[bytes], dict[str, Any]] = orjson.loads,
        *,
        units: float = 0.0,
        patience: float = RETRY_SECONDS,
    ) -> dict[str, Any]:
        """Send a read of about `units` until it is answered. Without units, it does not wait for its turn."""
        rate = self._read_rate if units else None

        async def pace() -> None:
            assert rate is not None
            begun = self._clock()
            await rate.acquire(units)
            find_call().queued_seconds += self._clock() - begun

        answer = await self._sender.send(
            operation,
            table,
            orjson.dumps(body),
            pace=pace if rate is not None else None,
            throttled=lambda _: self.count_throttle(),
            decode=decode,
            patience=patience,
        )
        consumed = _consumed(answer)
        if rate is not None:
            rate.accepted(units if consumed is None else consumed, units)
        self.read_units += consumed or 0.0
        return answer

    def count_throttle(self) -> None:
        """Count a read that was refused, or answered in part only."""
        self._throttles.count += 1


def _consumed(answer: dict[str, Any]) -> float | None:
    capacity = answer.get("ConsumedCapacity")
    if not capacity:
        return None
    entries = capacity if isinstance(capacity, list) else [capacity]
    return float(sum([entry.get("CapacityUnits", 0.0) for entry in entries]))
