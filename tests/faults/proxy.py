"""An HTTP proxy in front of a DynamoDB endpoint that breaks things as told, and counts what it broke.

In a test:

    with Proxy(aws.endpoint, Faults(throttle=0.3, cut_after=0.1)) as proxy:
        client = boto3.client("dynamodb", endpoint_url=proxy.endpoint)
        ...
        proxy.faults = Faults()      # from now on, nothing breaks
    assert proxy.counts["throttled"] > 0

For other processes: `python tests/faults/proxy.py --upstream http://127.0.0.1:4566 --port 4567 throttle=0.3`. Then `GET
/_faults` answers settings and counts, and `POST /_faults` with a JSON object changes settings.

Only DynamoDB requests are touched (those with an X-Amz-Target); S3 and the rest pass through unharmed.
"""

import argparse
import asyncio
import contextlib
import json
import random
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self
from urllib.parse import urlsplit

HOT_KEYS = "TableWriteKeyRangeThroughputExceeded"
TABLE_LIMIT = "TableWriteMaxOnDemandThroughputExceeded"
PROVISIONED = "TableWriteProvisionedThroughputExceeded"
ACCOUNT = "TableWriteAccountLimitExceeded"


@dataclass(frozen=True)
class Faults:
    """Shares of requests, 0 to 1, except where it says otherwise."""

    throttle: float = 0.0  # refused with ThrottlingException or ProvisionedThroughputExceededException
    throttle_reasons: tuple[str, ...] = (HOT_KEYS,)  # one of them in each refusal; () for refusals without reasons
    unprocessed: float = 0.0  # of batches: some items or keys are handed back, the rest goes on
    error_before: float = 0.0  # 500 or 503, nothing applied
    error_after: float = 0.0  # 500 or 503 although it was applied
    deny: float = 0.0  # refused with AccessDeniedException
    cut_before: float = 0.0  # connection closed, nothing applied
    cut_after: float = 0.0  # connection closed although it was applied
    damaged: float = 0.0  # a byte of the answer is another one than was sent
    checksums: bool = True  # damaged answers carry the checksum of what was sent
    hot: str = ""  # a text: items that hold it are of a hot key range, which takes nothing
    latency: float = 0.0  # seconds added to every request
    only: tuple[str, ...] = ()  # these operations, e.g. ("BatchWriteItem",); () for all


@dataclass(frozen=True)
class Request:
    """One HTTP request as it came in."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name), "")

    @property
    def operation(self) -> str:
        """`BatchWriteItem`, or "" when it is not for DynamoDB."""
        target = self.header("x-amz-target")
        return target.rpartition(".")[2] if target.startswith("DynamoDB_") else ""


class Proxy:
    """The proxy in a thread of its own, while the `with` block lasts. `faults` may be replaced at any time.

    `applied` is called with the operation and the body of each request that was applied, before its answer is sent or
    lost: there the application may do something in between.
    """

    def __init__(self, upstream: str, faults: Faults | None = None, *, port: int = 0, seed: int = 1) -> None:
        address = urlsplit(upstream)
        self._upstream = (address.hostname or "127.0.0.1", address.port or 80)
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="faults-proxy", daemon=True)
        self.faults, self.port = faults or Faults(), port
        self.counts: Counter[str] = Counter()  # requests, BatchWriteItem, throttled, cut_after, ...
        self.applied: Callable[[str, bytes], None] = lambda _, __: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**25), self._loop
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended = ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        with contextlib.closing(writer), contextlib.suppress(*ended):
            while (request := await read_request(reader, writer)) is not None:
                answer = self._control(request) if request.target == "/_faults" else await self._answer(request)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()

    def _control(self, request: Request) -> bytes:
        if request.method == "POST":
            self.faults = with_settings(self.faults, json.loads(request.body))
        return respond(200, {"faults": asdict(self.faults), "counts": dict(self.counts)})

    async def _answer(self, request: Request) -> bytes | None:
        """The answer's bytes; None to cut the connection."""
        operation, faults = request.operation, self.faults
        if not operation or (faults.only and operation not in faults.only):
            answer = await self._forward(request)
            self.applied(operation, request.body)
            return answer
        self.counts["requests"] += 1
        self.counts[operation] += 1
        await asyncio.sleep(faults.latency)
        fault = self._draw(faults)
        if fault:
            self.counts[fault] += 1
        if fault == "throttled":
            return self._refuse(faults.throttle_reasons)
        if fault == "denied":
            return respond(400, {"__type": "com.amazon.coral.service#AccessDeniedException", "Message": "not allowed"})
        if fault == "error_before":
            return self._fail()
        if fault == "cut_before":
            return None
        if operation == "BatchWriteItem" and faults.hot:
            answer = await self._forward_cold(request, faults.hot)
        elif operation in {"BatchWriteItem", "BatchGetItem"} and self._random.random() < faults.unprocessed:
            answer = await self._forward_part(request, operation)
        else:
            answer = await self._forward(request)
        self.applied(operation, request.body)
        if fault == "damaged":
            return damage(answer, faults.checksums)
        return {"error_after": self._fail(), "cut_after": None}.get(fault, answer)

    def _draw(self, faults: Faults) -> str:
        point = self._random.random()
        for name, share in (
            ("throttled", faults.throttle),
            ("denied", faults.deny),
            ("error_before", faults.error_before),
            ("error_after", faults.error_after),
            ("cut_before", faults.cut_before),
            ("cut_after", faults.cut_after),
            ("damaged", faults.damaged),
        ):
            if point < share:
                return name
            point -= share
        return ""

    def _refuse(self, reasons: tuple[str, ...]) -> bytes:
        code, member = self._random.choice(
            [
                ("ThrottlingException", "throttlingReasons"),
                ("ProvisionedThroughputExceededException", "ThrottlingReasons"),
            ]
        )
        body: dict[str, Any] = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "Throughput exceeded"}
        if reasons:
            body[member] = [{"reason": self._random.choice(reasons), "resource": "arn:aws:dynamodb:::table/any"}]
        return respond(400, body)

    def _fail(self) -> bytes:
        if self._random.random() < 0.5:
            return respond(500, {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError", "message": "oops"})
        return respond(503, {"__type": "com.amazon.coral.availability#ServiceUnavailable", "message": "oops"})

    async def _forward_part(self, request: Request, operation: str) -> bytes:
        """Hand some of the batch's entries back as unprocessed, and forward the others."""
        writes, body = operation == "BatchWriteItem", json.loads(request.body)
        held: dict[str, Any] = {}
        for table, asked in body["RequestItems"].items():
            entries = asked if writes else asked["Keys"]
            if len(entries) < 2:
                continue
            self._random.shuffle(entries)
            count = self._random.randrange(1, len(entries))
            kept_back, entries[:] = entries[:count], entries[count:]
            held[table] = kept_back if writes else {**asked, "Keys": kept_back}
            self.counts["unprocessed_items" if writes else "unprocessed_keys"] += count
        return await self._forward_less(request, body, held, "UnprocessedItems" if writes else "UnprocessedKeys")

    async def _forward_cold(self, request: Request, hot: str) -> bytes:
        """Hand hot items back without a reason, as DynamoDB does; refuse a batch that holds no other."""
        body = json.loads(request.body)
        ((table, entries),) = body["RequestItems"].items()
        held = [entry for entry in entries if hot in json.dumps(entry, ensure_ascii=False)]
        if len(held) == len(entries):
            self.counts["throttled"] += 1
            return self._refuse((HOT_KEYS,))
        self.counts["unprocessed_items"] += len(held)
        entries[:] = [entry for entry in entries if entry not in held]
        return await self._forward_less(request, body, {table: held} if held else {}, "UnprocessedItems")

    async def _forward_less(self, request: Request, body: Any, held: dict[str, Any], member: str) -> bytes:
        """Forward `body` in place of the request's own; `held` is handed back."""
        answer = await self._forward(replace(request, body=json.dumps(body).encode()))
        head, _, payload = answer.partition(b"\r\n\r\n")
        if not held or b" 200 " not in head.partition(b"\r\n")[0]:
            return answer
        result = json.loads(payload)
        result[member] = held
        return respond(200, result)

    async def _forward(self, request: Request) -> bytes:
        reader, writer = await asyncio.open_connection(*self._upstream)
        dropped = {"connection", "content-length", "expect", "transfer-encoding"}
        lines = [f"{request.method} {request.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in request.headers if name.lower() not in dropped]
        lines += ["Connection: close", f"Content-Length: {len(request.body)}", "", ""]
        with contextlib.closing(writer):
            writer.write("\r\n".join(lines).encode("latin-1") + request.body)
            await writer.drain()
            answer = await reader.read(-1)
        head, _, payload = answer.partition(b"\r\n\r\n")
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        if not any(line.lower().startswith((b"content-length:", b"transfer-encoding:")) for line in kept):
            kept.append(b"content-length: %d" % len(payload))
        return b"\r\n".join(kept) + b"\r\n\r\n" + payload


async def read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection; None at its end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ", 2)
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    request = Request(method, target, headers, b"")
    if request.header("expect").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if request.header("transfer-encoding").lower() == "chunked":
        return replace(request, body=b"".join([chunk async for chunk in read_chunks(reader)]))
    return replace(request, body=await reader.readexactly(int(request.header("content-length") or 0)))


async def read_chunks(reader: asyncio.StreamReader) -> Any:
    """The pieces of a chunked body."""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        yield await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readuntil(b"\r\n")


def respond(status: int, body: dict[str, Any]) -> bytes:
    """A DynamoDB answer."""
    payload = json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"HTTP/1.1 {status} Answer\r\ncontent-type: application/x-amz-json-1.0\r\n"
        f"x-amz-crc32: {zlib.crc32(payload)}\r\ncontent-length: {len(payload)}\r\n\r\n"
    )
    return head.encode() + payload


def damage(answer: bytes, checksum: bool) -> bytes:
    """The answer with a byte in its middle that is in no text."""
    head, _, payload = answer.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"x-amz-crc32:")]
    if checksum:
        lines.append(b"x-amz-crc32: %d" % zlib.crc32(payload))
    head = b"\r\n".join(lines)
    middle = len(payload) // 2
    return head + b"\r\n\r\n" + payload[:middle] + b"\xff" + payload[middle + 1 :]


def with_settings(faults: Faults, settings: dict[str, Any]) -> Faults:
    """Faults with some settings replaced; lists become tuples."""
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return replace(faults, **given)


def parse_settings(words: list[str]) -> Iterator[tuple[str, Any]]:
    """`throttle=0.3` and `only=PutItem,Scan` from a command line."""
    for word in words:
        name, _, value = word.partition("=")
        yield name, value.split(",") if name in {"only", "throttle_reasons"} else float(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("faults", nargs="*", help="settings, as throttle=0.3")
    options = parser.parse_args()
    faults = with_settings(Faults(), dict(parse_settings(options.faults)))
    with Proxy(options.upstream, faults, port=options.port, seed=options.seed) as proxy:
        print(f"{proxy.endpoint} -> {options.upstream} with {proxy.faults}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    print(dict(proxy.counts))


if __name__ == "__main__":
    main()
