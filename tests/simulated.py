"""Simulated time: an event loop that never waits, a DynamoDB that lives in it, and a client of ours between the two.

Everything that happens is decided by a seed, so that the same seed gives the same requests at the same times.
"""

import asyncio
import random
import selectors
import zlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from types import SimpleNamespace
from typing import Any, TypeVar, TypeVarTuple

import orjson
from botocore.exceptions import ConnectionClosedError

from accession.dynamodb import DynamoDB
from accession.dynamodb.connection import Answer
from accession.items import KeySchema, Table

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

SOME = Table("Some", KeySchema(("id",)))


class _Selector(selectors.SelectSelector):
    """Lets time pass where a loop would wait for sockets."""

    loop: "SimulatedLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("nothing is left that could ever happen")
        self.loop.now += max(timeout, 0.0)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nothing is left to do. What is asked beside it takes
    `beside_seconds`."""

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now, self.beside_seconds = 0.0, 0.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], R], *args: *Ts) -> asyncio.Future[R]:
        future: asyncio.Future[R] = self.create_future()

        def call() -> None:
            if future.done():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 -- handed on to those who wait
                future.set_exception(error)

        self.call_later(self.beside_seconds, call)
        return future


class SimulatedRunner:
    """Runs coroutines in the caller's own thread."""

    executor: Any = None

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        return self.loop.run_until_complete(coroutine)

    def close(self, clean: Callable[[], None]) -> None:
        clean()


class SimulatedTransport:
    """A DynamoDB of one table, as seen through its transport: slow, and failing in `faults` of all requests.

    `trace` holds the time, the operation and a checksum of each request; `items` what was written. `applied` is called
    with the operation of each request that was applied, before its answer is sent or lost.
    """

    def __init__(self, loop: SimulatedLoop, seed: int, *, faults: float = 0.0, connect_seconds: float = 0.01) -> None:
        self._loop, self._random = loop, random.Random(seed)
        self._faults, self._connect_seconds = faults, connect_seconds
        self.trace: list[tuple[float, str, int]] = []
        self.items: dict[str, Any] = {}
        self.active = self.most_active = 0
        self.applied: Callable[[str], None] = lambda _: None

    async def lease(self) -> object:
        await asyncio.sleep(self._random.random() * self._connect_seconds)
        return object()

    def release(self, connection: object) -> None:
        pass

    def is_ready(self, connection: object) -> bool:
        return True

    async def renew_credentials(self) -> bool:
        return False

    def close(self) -> None:
        pass

    def post(self, connection: object, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        self.trace.append((self._loop.time(), operation, zlib.crc32(body)))
        answer = self._loop.create_future()
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        self._loop.call_later(0.005 + 0.01 * self._random.random(), self._answer, answer, operation, body)
        return answer

    def _answer(self, answer: "asyncio.Future[Answer]", operation: str, body: bytes) -> None:
        self.active -= 1
        if answer.done():
            return
        point = self._random.random() / self._faults if self._faults else 1.0
        if point < 0.15:
            answer.set_exception(ConnectionClosedError(endpoint_url="simulated"))
            return
        if 0.3 <= point < 0.6:
            answer.set_result(Answer(400, b'{"__type":"ThrottlingException"}', True))
            return
        result = self._apply(operation, orjson.loads(body), leaves_one=0.6 <= point < 1.0)
        self.applied(operation)
        if point < 0.3:
            answer.set_exception(ConnectionClosedError(endpoint_url="simulated"))
        else:
            answer.set_result(Answer(400 if "__type" in result else 200, orjson.dumps(result), True))

    def _apply(self, operation: str, body: dict[str, Any], *, leaves_one: bool) -> dict[str, Any]:
        if operation == "PutItem":
            key = body["Item"]["id"]["S"]
            if key in self.items:
                return {"__type": "ConditionalCheckFailedException"}
            self.items[key] = body["Item"]
            return {"ConsumedCapacity": {"TableName": body["TableName"], "CapacityUnits": 1.0}}
        ((table, requests),) = body["RequestItems"].items()
        if operation == "BatchGetItem":
            keys = [key["id"]["S"] for key in requests["Keys"]]
            return {"Responses": {table: [self.items[key] for key in keys if key in self.items]}}
        taken = len(requests) - 1 if leaves_one else len(requests)
        for request in requests[:taken]:
            item = request["PutRequest"]["Item"]
            self.items[item["id"]["S"]] = item
        left = {table: requests[taken:]} if requests[taken:] else {}
        capacity = [{"TableName": table, "CapacityUnits": float(taken)}]
        return {"UnprocessedItems": left, "ConsumedCapacity": capacity}


def open_simulated(transport: SimulatedTransport, loop: SimulatedLoop, seed: int = 1, **options: Any) -> DynamoDB:
    """Return a DynamoDB that knows no other time than the loop's."""

    async def open_transport() -> Any:
        return transport

    client: Any = SimpleNamespace(meta=SimpleNamespace(region_name="nowhere"))
    return DynamoDB(
        client,
        clock=loop.time,
        jitter=random.Random(seed).random,
        make_runner=lambda: SimulatedRunner(loop),
        open_transport=open_transport,
        **options,
    )
