"""Requests of many threads through one wire: writes at one shared rate, everything that was consumed counted."""

import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson

from accession.dynamodb.rate import Rate
from accession.dynamodb.retry import Backoff, ThrottledError, Wire

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

HOT_SECONDS = 10.0  # a key range that was hot is taken to be so still


class Paced:
    """Reads and writes at the rate that a table, the account and the user's cap allow. Safe for many threads.

    `write_units`, `read_units` and `throttled` count what was consumed and refused so far. For the parameters and
    errors see DynamoDB.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        *,
        write_units_per_second: float | Callable[[], float] | None = None,
        check: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.wire = Wire(client, clock=clock, sleep=sleep, jitter=jitter)
        self.read_units = self.write_units = 0.0
        self.throttled = 0
        self._rate = Rate(write_units_per_second, clock=clock, sleep=sleep)
        self._check, self._clock = check or (lambda: None), clock
        self._lock = threading.Lock()
        self._hot_until = 0.0
        self._unnamed: int | None = None  # the last throttle that slowed us down, if it came without a reason

    def backoff(self) -> Backoff:
        """Waits for somebody who tries again and again."""
        return self.wire.backoff()

    def write(
        self, operation: str, table: str, body: bytes, units: float, *, wait_for_hot: bool = True, at_once: bool = False
    ) -> dict[str, Any]:
        """Send a write of about `units` until it is a yes or a no.

        Without `wait_for_hot`, raises ThrottledError for a hot key range. `at_once`: the first attempt does not wait
        for its turn; what it uses, the others make up for.
        """
        turn = 0.0 if at_once else units

        def before() -> None:
            if turn:
                self._rate.acquire(turn)
            self._check()

        def throttled(error: ThrottledError) -> None:
            nonlocal turn
            turn = units
            self._slow_down(error)
            if error.hot_keys_only and not wait_for_hot:
                raise error

        answer = self.wire.send(operation, table, body, before=before, throttled=throttled)
        consumed = _consumed(answer)
        whole = not answer.get("UnprocessedItems")
        self._rate.accepted(units if consumed is None else consumed, turn, whole)
        with self._lock:
            self.write_units += consumed or 0.0
        return answer

    def leave_over(self) -> bool:
        """A write was taken in part only: whether this slows everybody down, for the first time since it began.

        What is left over comes without a reason. It is a hot key range where one was named lately; else a limit, until
        a refusal names a hot key range after all.
        """
        return self._slow_down(ThrottledError(set()))

    def _slow_down(self, throttle: ThrottledError) -> bool:
        """Only a limit of the table or the account slows everybody down; whether it does so now."""
        with self._lock:
            self.throttled += 1
            if throttle.reasons:
                self._hot_until = self._clock() + HOT_SECONDS if throttle.hot_keys_only else 0.0
            is_hot = self._clock() < self._hot_until
        if not is_hot:
            number = self._rate.throttled()
            self._unnamed = None if throttle.reasons else number or self._unnamed
            return number is not None
        if self._unnamed is not None and throttle.hot_keys_only:
            self._rate.take_back(self._unnamed)
            self._unnamed = None
        return False

    def read(
        self,
        operation: str,
        table: str,
        body: dict[str, Any],
        decode: Callable[[bytes], dict[str, Any]] = orjson.loads,
    ) -> dict[str, Any]:
        """Send a read until it is answered."""
        data = orjson.dumps(body)
        answer = self.wire.send(operation, table, data, throttled=lambda _: self.count_throttle(), decode=decode)
        with self._lock:
            self.read_units += _consumed(answer) or 0.0
        return answer

    def count_throttle(self) -> None:
        """A read was refused, or taken in part only."""
        with self._lock:
            self.throttled += 1


def _consumed(answer: dict[str, Any]) -> float | None:
    capacity = answer.get("ConsumedCapacity")
    if not capacity:
        return None
    entries = capacity if isinstance(capacity, list) else [capacity]
    return float(sum(entry.get("CapacityUnits", 0.0) for entry in entries))
