"""The network between a process and DynamoDB: slow, lossy, throttled. It stands in the place of HttpTransport.

A request is bytes that travel, are applied at a moment that the scheduler picks, and are answered at a later one. A
client that waited for READ_SECONDS gives up. Its request may still be applied, but not later than IN_FLIGHT_SECONDS
after it was sent: that is what the rules of ownership assume of the network and the service.
"""

import asyncio
from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import Any
from zlib import crc32

import orjson
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, ReadTimeoutError

from accession.aws import READ_SECONDS
from accession.dynamodb import DynamoDB
from accession.dynamodb.connection import Answer
from simulation.dynamodb import ERROR, DynamoDBService
from simulation.faults import REASONS, Climate
from simulation.loop import SimulatedRunner
from simulation.world import Process

IN_FLIGHT_SECONDS = READ_SECONDS
WRITES = ("BatchWriteItem", "PutItem", "UpdateItem", "DeleteItem")
LONGEST_LEASE = 120.0  # seconds for a connection with credentials
UNANSWERED = ("late", "dropped", "lost answer", "500 after it")
CODES = ("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded")

Meddle = Callable[[str, str, list[str]], None]
"""What the application does beside a request: called with when, the table and the keys of the request."""


class SimulatedTransport:
    """The way of one DynamoDB object of one process."""

    def __init__(self, process: Process, service: DynamoDBService, climate: Climate, meddle: Meddle) -> None:
        self._process, self._service, self._climate, self._meddle = process, service, climate, meddle
        self._world = process.world
        self._loop = asyncio.get_running_loop()

    async def lease(self) -> Any:
        if self._world.chance(self._climate.slow_credentials):
            self._world.counts["slow credentials"] += 1
            await asyncio.sleep(self._world.spread(0.1, LONGEST_LEASE))
        return object()

    def release(self, connection: Any) -> None:
        pass

    def is_ready(self, connection: Any) -> bool:
        return True

    def close(self) -> None:
        pass

    def post(self, connection: Any, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        answer: asyncio.Future[Answer] = self._loop.create_future()
        _Exchange(self, answer, operation, body).begin()
        return answer


@lru_cache(maxsize=8)
def list_fates(climate: Climate, is_batch: bool) -> list[tuple[str, float]]:
    """Return what may become of a request, and how often."""
    rates = {
        "refused": climate.lost_request / 2,
        "lost request": climate.lost_request / 2,
        "lost answer": climate.lost_answer,
        "late": climate.late,
        "dropped": climate.dropped,
        "500": climate.error / 2,
        "500 after it": climate.error / 2,
        "throttled": climate.throttle,
        "partial": climate.partial if is_batch else 0.0,
    }
    return [(fate, rate) for fate, rate in rates.items() if rate]


class _Exchange:
    """One request and its answer."""

    def __init__(self, way: SimulatedTransport, answer: "asyncio.Future[Answer]", operation: str, body: bytes) -> None:
        self.process, self.world, self.climate = way._process, way._world, way._climate
        self.service, self.meddle, self.loop = way._service, way._meddle, way._loop
        self.answer, self.operation, self.body = answer, operation, body
        self.is_write = operation in WRITES
        self.fate = self.draw_fate()
        self.table, self.keys = self.find_keys()
        self.known_at = {(self.table, key): self.process.read_at.get((self.table, key), 0.0) for key in self.keys}

    def draw_fate(self) -> str:
        for fate, rate in list_fates(self.climate, self.operation.startswith("Batch")):
            if self.world.chance(rate):
                return fate
        return ""

    def find_keys(self) -> tuple[str, list[str]]:
        request = orjson.loads(self.body)
        if "RequestItems" not in request:
            name = request.get("TableName", "")
            table = self.service.tables.get(name)
            entries = [request[field] for field in ("Item", "Key") if field in request]
        else:
            ((name, wanted),) = request["RequestItems"].items()
            table = self.service.tables.get(name)
            entries = wanted["Keys"] if isinstance(wanted, dict) else [entry["PutRequest"]["Item"] for entry in wanted]
        return name, [table.show_key(entry) for entry in entries] if table else []

    def begin(self) -> None:
        world, climate = self.world, self.climate
        world.counts["DynamoDB requests"] += 1
        if self.fate:
            world.counts[f"DynamoDB {self.fate}"] += 1
        world.after(0, partial(self.process.meet, f"with {self.operation} on its way"))
        there = world.spread(0.001, 0.02)
        if world.chance(climate.slow):
            there = world.spread(0.5, IN_FLIGHT_SECONDS)
        self.loop.call_later(READ_SECONDS, self.give_up)
        if self.fate in ("late", "dropped"):
            there = world.spread(0.5, IN_FLIGHT_SECONDS)
        world.after(there, self.arrive)
        if self.fate == "dropped":
            self.reply(ConnectionClosedError(endpoint_url="simulated"))

    def give_up(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(ReadTimeoutError(endpoint_url="simulated", error="the answer took too long"))

    def arrive(self) -> None:
        """The request is with the service, or is not."""
        world, climate = self.world, self.climate
        match self.fate:
            case "refused":
                return self.reply(EndpointConnectionError(endpoint_url="simulated"))
            case "lost request":
                return self.reply(ConnectionClosedError(endpoint_url="simulated"))
            case "500":
                return self.reply(Answer(500, orjson.dumps({"__type": ERROR + "InternalServerError"}), True))
            case "throttled":
                return self.reply(self.throttle())
        if self.is_write and world.chance(climate.application):
            self.meddle("before", self.table, self.keys)
        if self.is_write:
            self.process.known_at |= self.known_at
        result = self.apply()
        if self.is_write and world.chance(climate.application):
            self.meddle("after", self.table, self.keys)
        if self.fate in UNANSWERED:
            self.process.unanswered |= {(self.table, key) for key in self.keys}
        match self.fate:
            case "late" | "dropped":
                self.note("applied, no answer")
                return None
            case "lost answer":
                return self.reply(ConnectionClosedError(endpoint_url="simulated"))
            case "500 after it":
                return self.reply(Answer(500, orjson.dumps({"__type": ERROR + "InternalServerError"}), True))
        return self.reply(result)

    def throttle(self) -> Answer:
        world = self.world
        reasons = world.random.sample(REASONS, world.random.choice((0, 1, 1, 2)))
        error = {
            "__type": ERROR + world.random.choice(CODES),
            "ThrottlingReasons": [{"reason": reason, "resource": "arn"} for reason in reasons],
        }
        return Answer(400, orjson.dumps(error), True)

    def apply(self) -> Answer:
        request, taken = orjson.loads(self.body), None
        if self.fate == "partial":
            request, taken = self.cut(request)
        if self.operation in ("Scan", "Query") and self.world.chance(self.climate.pages):
            request["Limit"] = self.world.random.randint(1, 3)
        status, body = self.service.execute(self.operation, orjson.dumps(request), self.process)
        if not self.is_write:
            self.process.read_at |= {(self.table, key): self.world.now for key in self.keys}
        if taken is not None and status == 200:
            field = "UnprocessedItems" if self.operation == "BatchWriteItem" else "UnprocessedKeys"
            body = orjson.dumps(orjson.loads(body) | {field: taken})
        return Answer(status, body, True)

    def cut(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split a batch into what is taken, at least one entry, and what is left over."""
        ((name, wanted),) = request["RequestItems"].items()
        entries = wanted if isinstance(wanted, list) else wanted["Keys"]
        left = [entry for entry in entries[1:] if self.world.chance(0.5)]
        taken = [entry for entry in entries if entry not in left]
        if isinstance(wanted, list):
            return request | {"RequestItems": {name: taken}}, {name: left} if left else {}
        rest = {name: wanted | {"Keys": left}} if left else {}
        return request | {"RequestItems": {name: wanted | {"Keys": taken}}}, rest

    def reply(self, result: Answer | Exception) -> None:
        self.note(f"{result.status}" if isinstance(result, Answer) else type(result).__name__)
        back = self.world.spread(0.001, 0.02)
        if self.world.chance(self.climate.slow):
            back = self.world.spread(0.5, 20.0)
        self.world.after(back, partial(self.deliver, result))

    def deliver(self, result: Answer | Exception) -> None:
        if not self.process.is_alive or self.loop.is_closed():
            self.process.unanswered |= {(self.table, key) for key in self.keys}
            return
        self.loop.call_soon_threadsafe(self.settle, result)
        self.process.meet(f"after {self.operation}")

    def settle(self, result: Answer | Exception) -> None:
        if self.answer.done():
            return
        if isinstance(result, Answer):
            self.answer.set_result(result)
        else:
            self.answer.set_exception(result)

    def note(self, outcome: str) -> None:
        shown = " ".join(key[:8] for key in self.keys)
        self.world.note(
            self.process.name,
            f"dynamodb {self.operation} {self.table} [{shown}] {crc32(self.body):08x} → {self.fate or outcome}",
        )


def open_dynamodb(process: Process, service: DynamoDBService, climate: Climate, meddle: Meddle) -> DynamoDB:
    """Return a DynamoDB of the library that lives in a simulated process."""

    async def open_transport() -> Any:
        return SimulatedTransport(process, service, climate, meddle)

    client: Any = SimpleNamespace(meta=SimpleNamespace(region_name="nowhere"))
    return DynamoDB(
        client,
        clock=process.monotonic,
        sleep=asyncio.sleep,
        jitter=process.host.chance.random,
        make_runner=partial(SimulatedRunner, process),
        open_transport=open_transport,
    )
