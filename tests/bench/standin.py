"""A stand-in for DynamoDB that costs almost nothing, so that in a measurement the client is what is measured.

    python tests/bench/standin.py certificate.pem   # prints its ports, plain and TLS; ends with its standard input

A write in the fast path is kept as the bytes that came, and answered: nothing is parsed. What came is parsed, counted
and checksummed when somebody asks, outside the measured time. Then it also answers DescribeTable, BatchGetItem, Query
and Scan from what it was sent; a Scan's pages are made beforehand. With a limit it enforces write units a second out of
a bucket as DynamoDB does: what fits is taken, the rest is handed back, and a request of which nothing fits is refused
with its ThrottlingReasons. UpdateItem and DeleteItem are parsed and applied at once.

Spoken: CreateTable, DescribeTable, PutItem, BatchWriteItem (puts), BatchGetItem, Query (equality), Scan, TagResource,
ListTagsOfResource. Anything else is a ValidationException. `StandIn.<Command>` in X-Amz-Target steers it, see
`Server.command`.
"""

import asyncio
import hashlib
import re
import ssl
import sys
import threading
import time
import zlib
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvloop

HEAD_END = b"\r\n\r\n"
LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")
TARGET = re.compile(rb"(?i)\r\nx-amz-target: *(?:DynamoDB_20120810\.)?([\w.]+)")
TABLE = re.compile(rb'"RequestItems": ?{"([^"]+)"|"TableName": ?"([^"]+)"')
PUT = re.compile(rb'"PutRequest"')
PAGE_BYTES = 1_000_000  # API reference, Scan: at most 1 MB a page
BURST_SECONDS = 300  # Developer Guide, "Burst capacity": up to 5 minutes of unused capacity
HOT = "TableWriteKeyRangeThroughputExceeded"
SLOT_SECONDS = 0.1  # resolution of the record of accepted units


@dataclass
class Limits:
    """How a table answers. `units` a second (0: no limit); `stored` units are in the bucket when it begins."""

    latency: float = 0.0
    units: float = 0.0
    stored: float = 0.0
    charge: int = 1  # units for each KB of an item: 1, and 1 more for each index that holds it
    reason: str = "TableWriteMaxOnDemandThroughputExceeded"
    code: str = "ThrottlingException"
    hot: float = 0.0  # the share of the items that are of one hot key range, drawn by their bytes,
    hot_units: float = 0.0  # which takes so many units a second


@dataclass
class Bucket:
    """Units that may be used now: so many a second, those not used are saved up for a while."""

    rate: float = 0.0
    level: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def take(self, units: float) -> bool:
        now = time.monotonic()
        self.level = min(self.level + (now - self.at) * self.rate, BURST_SECONDS * self.rate)
        self.at = now
        if self.level < units:
            return False
        self.level -= units
        return True


@dataclass
class Table:
    """What was sent to one table, first as it came, later as items."""

    description: dict[str, Any]
    raw: deque[bytes] = field(default_factory=deque)
    items: dict[str, bytes] = field(default_factory=dict)
    sent: int = 0
    pages: dict[tuple[int, str | None], bytes] = field(default_factory=dict)
    cut: tuple[int, int] = (0, 0)  # how the pages are made: segments, and items a page (0: as many as fit)
    indexes: dict[str, dict[tuple[str, ...], list[str]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        name: str = next(
            entry["AttributeName"] for entry in self.description["KeySchema"] if entry["KeyType"] == "HASH"
        )
        return name

    def settle(self) -> None:
        """Parse what came since the last time. Items are kept by key: the last one stands, as in DynamoDB."""
        if self.raw:
            self.cut = (0, 0)
        key, schemas = self.key, self._schemas()
        while self.raw:  # large items are not held twice
            request = orjson.loads(self.raw.popleft())
            entries = [request["Item"]] if "Item" in request else None
            if entries is None:
                ((_, requests),) = request["RequestItems"].items()
                entries = [entry["PutRequest"]["Item"] for entry in requests]
            for item in entries:
                self.sent += 1
                self.items[item[key]["S"]] = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
                for name, attributes in schemas.items():
                    if all(attribute in item for attribute in attributes):
                        values = tuple(str(item[attribute].get("S")) for attribute in attributes)
                        self.indexes.setdefault(name, defaultdict(list))[values].append(item[key]["S"])

    def change(self, operation: str, request: dict[str, Any]) -> bytes | None:
        """Update or delete an item, and return what it was; None if there is none."""
        self.settle()
        key = request["Key"][self.key]["S"]
        before = self.items.pop(key, None)
        if before is None:
            return None
        self.pages.clear()
        self.cut = (0, 0)
        if operation == "UpdateItem":
            item = orjson.loads(before)
            names, values = request["ExpressionAttributeNames"], request["ExpressionAttributeValues"]
            sets, _, removes = request["UpdateExpression"].removeprefix("SET ").partition("REMOVE ")
            for name, value in (clause.strip().split(" = ") for clause in sets.split(",") if clause):
                item[names[name]] = values[value]
            for name in removes.split(", ") if removes else ():
                item.pop(names[name], None)
            self.items[key] = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
        return before

    def _schemas(self) -> dict[str, tuple[str, ...]]:
        indexes = self.description.get("GlobalSecondaryIndexes") or []
        return {index["IndexName"]: tuple(e["AttributeName"] for e in index["KeySchema"]) for index in indexes}

    def checksum(self) -> str:
        """The same for the same items, whatever their order and that of their attributes."""
        self.settle()
        total = sum(int.from_bytes(hashlib.blake2b(item, digest_size=16).digest()) for item in self.items.values())
        return f"{total % 2**128:032x}"

    def make_pages(self, segments: int, limit: int = 0) -> None:
        """Answers of a parallel scan, by segment and the key that the page before ended with."""
        self.settle()
        self.pages.clear()
        self.cut = (segments, limit)
        keys = list(self.items)
        for segment in range(segments):
            start: str | None = None
            page, size = list[bytes](), 0
            for key in keys[segment * len(keys) // segments : (segment + 1) * len(keys) // segments]:
                item = self.items[key]
                page.append(item)
                # About what DynamoDB counts: names and values without the JSON around them.
                size += len(item) - 9 * (item.count(b'":{"') + 1)
                if size >= PAGE_BYTES or len(page) == limit:
                    self.pages[segment, start] = answer(200, self._page(page, key))
                    start, page, size = key, [], 0
            self.pages[segment, start] = answer(200, self._page(page, None))

    def _page(self, items: list[bytes], last: str | None) -> bytes:
        tail = b"" if last is None else b',"LastEvaluatedKey":' + orjson.dumps({self.key: {"S": last}})
        units = sum(map(len, items)) // 4096 + 1
        return b'{"Items":[%b],"Count":%d,"ScannedCount":%d,"ConsumedCapacity":{"CapacityUnits":%d}%b}' % (
            b",".join(items), len(items), len(items), units, tail,
        )  # fmt: skip


def answer(status: int, body: bytes) -> bytes:
    """An HTTP response, with the checksum that DynamoDB sends."""
    reason = b"OK" if status == 200 else b"Bad Request"
    return (
        b"HTTP/1.1 %d %b\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\nx-amz-crc32: %d\r\n"
        b"x-amzn-RequestId: STANDIN\r\n\r\n%b" % (status, reason, len(body), zlib.crc32(body), body)
    )


class Server:
    """The state behind all connections."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.limits = Limits()
        self.requests = self.throttled = 0
        self.slots: dict[int, float] = defaultdict(float)
        self.refusals: dict[int, int] = defaultdict(int)
        self.asked: dict[int, int] = defaultdict(int)
        self.bucket, self.hot = Bucket(), Bucket()
        self._batch_answers: dict[tuple[bytes, int], bytes] = {}

    def handle(self, target: bytes, body: bytes) -> bytes:
        self.requests += 1
        if target in {b"BatchWriteItem", b"PutItem"}:
            return self.write(target, body)
        if target in {b"UpdateItem", b"DeleteItem"}:
            return self.change(target.decode(), orjson.loads(body))
        name = target.decode()
        try:
            if name.startswith("StandIn."):
                return answer(
                    200, orjson.dumps(self.command(name.removeprefix("StandIn."), orjson.loads(body or b"{}")))
                )
            return self.read(name, orjson.loads(body))
        except (KeyError, StopIteration, orjson.JSONDecodeError) as error:
            return refuse("ValidationException", f"the stand-in does not speak {name} so: {error!r}")

    # Writes

    def write(self, target: bytes, body: bytes) -> bytes:
        found = TABLE.search(body)
        assert found
        name = found[1] or found[2]
        table = self.tables.get(name.decode())
        if table is None:
            return refuse("ResourceNotFoundException", "Cannot do operations on a non-existent table")
        if self.limits.units:
            return self.write_limited(table, name, target, body)
        table.raw.append(body)
        count = len(PUT.findall(body)) or 1
        key = (name if target == b"BatchWriteItem" else b"", count)
        if key not in self._batch_answers:
            self._batch_answers[key] = self.accept(key[0], count * self.limits.charge, b"{}")
        return self._batch_answers[key]

    @staticmethod
    def accept(name: bytes, units: float, left: bytes) -> bytes:
        capacity = b'{"TableName":"%b","CapacityUnits":%.1f}' % (name, units)
        if not name:
            return answer(200, b'{"ConsumedCapacity":%b}' % capacity)
        return answer(200, b'{"UnprocessedItems":%b,"ConsumedCapacity":[%b]}' % (left, capacity))

    def write_limited(self, table: Table, name: bytes, target: bytes, body: bytes) -> bytes:
        slot = int(time.monotonic() / SLOT_SECONDS)
        self.asked[slot] += 1
        request = orjson.loads(body)
        batch = target == b"BatchWriteItem"
        entries = request["RequestItems"][name.decode()] if batch else [{"PutRequest": {"Item": request["Item"]}}]
        taken, left, used, reasons = [], [], 0.0, set()
        for entry in entries:
            data = orjson.dumps(entry["PutRequest"]["Item"])
            units = -(-len(data) // 1024) * self.limits.charge
            is_hot = zlib.crc32(data) < self.limits.hot * 2**32
            if is_hot and not self.hot.take(units):
                left.append(entry)
                reasons.add(HOT)
            elif self.bucket.take(units):
                used += units
                taken.append(entry)
            else:
                left.append(entry)
                reasons.add(self.limits.reason)
        self.slots[slot] += used
        if left:
            self.throttled += 1
            self.refusals[slot] += 1
        if not taken:
            return refuse(
                self.limits.code,
                "Throughput exceeds the current capacity of your table.",
                [
                    {"reason": reason, "resource": f"arn:aws:dynamodb:us-east-1:000000000000:table/{name.decode()}"}
                    for reason in sorted(reasons)
                ],
            )
        table.raw.append(orjson.dumps({"RequestItems": {name.decode(): taken}}))
        return self.accept(name if batch else b"", used, orjson.dumps({name.decode(): left} if left else {}))

    def change(self, operation: str, request: dict[str, Any]) -> bytes:
        """Update or delete an item. If it is there, the rest of the condition counts as met: nobody else writes."""
        before = self.tables[request["TableName"]].change(operation, request)
        if before is None:
            return refuse("ConditionalCheckFailedException", "The conditional request failed")
        removed = b"" if operation == "UpdateItem" else b'"Attributes":%b,' % before
        return answer(200, b'{%b"ConsumedCapacity":{"CapacityUnits":%d}}' % (removed, -(-len(before) // 1024)))

    # Reads

    def read(self, operation: str, request: dict[str, Any]) -> bytes:
        if operation == "CreateTable":
            name = request["TableName"]
            request |= {"TableStatus": "ACTIVE", "TableArn": f"arn:aws:dynamodb:us-east-1:000000000000:table/{name}"}
            for index in request.get("GlobalSecondaryIndexes", ()):
                index["IndexStatus"] = "ACTIVE"
            self.tables[name] = Table(request)
            return answer(200, orjson.dumps({"TableDescription": request}))
        if operation == "BatchGetItem":
            return self.batch_get(request)
        name = request["ResourceArn"].rpartition("/")[2] if "ResourceArn" in request else request["TableName"]
        if name not in self.tables:
            return refuse("ResourceNotFoundException", "Requested resource not found")
        table = self.tables[name]
        if operation == "DescribeTable":
            return answer(200, orjson.dumps({"Table": table.description}))
        if operation == "Scan":
            return self.scan(table, request)
        if operation == "Query":
            return self.query(table, request)
        if operation == "TagResource":
            table.tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
            return answer(200, b"")
        if operation == "ListTagsOfResource":
            tags = [{"Key": key, "Value": value} for key, value in table.tags.items()]
            return answer(200, orjson.dumps({"Tags": tags}))
        raise KeyError(operation)

    def scan(self, table: Table, request: dict[str, Any]) -> bytes:
        if request.get("Limit") == 1:
            table.settle()
            item = next(iter(table.items.values()), None)
            return answer(200, table._page([item] if item else [], None))
        cut = (request.get("TotalSegments", 1), request.get("Limit", 0))
        table.settle()
        if table.cut != cut:
            table.make_pages(*cut)
        start = request.get("ExclusiveStartKey")
        return table.pages[request.get("Segment", 0), start[table.key]["S"] if start else None]

    def query(self, table: Table, request: dict[str, Any]) -> bytes:
        table.settle()
        values = tuple(value["S"] for value in request["ExpressionAttributeValues"].values())
        keys = table.indexes.get(request["IndexName"], {}).get(values, [])
        items = [orjson.dumps({table.key: {"S": key}}) for key in keys]
        return answer(200, table._page(items, None))

    def batch_get(self, request: dict[str, Any]) -> bytes:
        ((name, wanted),) = request["RequestItems"].items()
        table = self.tables[name]
        table.settle()
        found = [table.items[key[table.key]["S"]] for key in wanted["Keys"] if key[table.key]["S"] in table.items]
        return answer(
            200,
            b'{"Responses":{%b:[%b]},"UnprocessedKeys":{},"ConsumedCapacity":[{"CapacityUnits":%d}]}'
            % (orjson.dumps(name), b",".join(found), len(wanted["Keys"])),
        )

    # Steering

    def command(self, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """`Set` the limits; `Empty` a table; `Pages` of a scan; `Report` what came; `Record` of accepted units."""
        match name:
            case "Set":
                stored = request.get("stored")
                self.limits = Limits(**({**vars(self.limits), **request}))
                level = self.bucket.level if stored is None else stored
                self.bucket, self.hot = Bucket(self.limits.units, level), Bucket(self.limits.hot_units)
                self._batch_answers.clear()
            case "Empty":
                self.tables[request["table"]] = Table(self.tables[request["table"]].description)
                self.requests = self.throttled = 0
                for record in (self.slots, self.refusals, self.asked):
                    record.clear()
            case "Pages":
                self.tables[request["table"]].make_pages(request["segments"], request["limit"])
            case "Report":
                table = self.tables[request["table"]]
                checksum = table.checksum()
                return {"items": len(table.items), "sent": table.sent, "checksum": checksum, "requests": self.requests,
                        "throttled": self.throttled, "cpu": time.process_time()}  # fmt: skip
            case "Record":
                first = min(self.asked, default=0)
                slots = range(first, max(self.asked, default=-1) + 1)
                return {
                    "seconds": SLOT_SECONDS,
                    "start": first * SLOT_SECONDS,
                    "units": [self.slots.get(slot, 0) for slot in slots],
                    "requests": [self.asked.get(slot, 0) for slot in slots],
                    "refused": [self.refusals.get(slot, 0) for slot in slots],
                }
            case _:
                raise KeyError(name)
        return {"now": time.monotonic(), "cpu": time.process_time()}


def refuse(code: str, message: str, reasons: list[dict[str, str]] | None = None) -> bytes:
    """An error as DynamoDB words it."""
    body = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message}
    return answer(400, orjson.dumps(body | ({"ThrottlingReasons": reasons} if reasons else {})))


class Connection(asyncio.Protocol):
    """One HTTP connection, kept alive."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.pending, self.total = bytearray(), 0  # of a request that has not come whole, and how long it will be

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self.pending:  # a large body: its end is known
            self.pending += data
            if len(self.pending) < self.total:
                return
            data = bytes(self.pending)
        end = data.find(HEAD_END)
        head = data[: end + 2]
        length = LENGTH.search(head) if end >= 0 else None
        self.total = end + 4 + (int(length[1]) if length else 0) if end >= 0 else 0
        if end < 0 or len(data) < self.total:
            self.pending = bytearray(data)
            return
        target = TARGET.search(head)
        reply = self.server.handle(target[1] if target else b"", data[end + 4 : self.total])
        self.pending = bytearray(data[self.total :])
        self.total = 0
        if self.server.limits.latency and not (target and target[1].startswith(b"StandIn.")):
            self.loop.call_later(self.server.limits.latency, self.send, reply)
        else:
            self.send(reply)

    def send(self, reply: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(reply)


async def serve(certificate: str) -> None:
    loop = asyncio.get_running_loop()
    server, ended = Server(), asyncio.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    listeners = [
        await loop.create_server(lambda: Connection(server, loop), "127.0.0.1", 0, backlog=256, ssl=tls)
        for tls in (None, context)
    ]
    print(*(listener.sockets[0].getsockname()[1] for listener in listeners), flush=True)

    def wait_for_owner() -> None:
        sys.stdin.buffer.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_owner, daemon=True).start()
    await ended.wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
