"""DynamoDB: tables, fast batch writes, conditional writes, reads, parallel scan.

Everything speaks DynamoDB's typed JSON as it is on the wire, as bytes or parsed by orjson: {"a": {"S": "x"}, "b":
{"B": "<base64>"}}; never boto3's parsed form. Partition keys are strings. Limits are from the Developer Guide, "Quotas
in Amazon DynamoDB", and from the API reference of each operation.

Repeating is safe everywhere: a request that may have been applied before its connection broke is sent again, and its
own effect is not mistaken for somebody else's.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, TypeVar

import msgspec
import orjson

from accession.dynamodb.batch_writer import BatchWriter
from accession.dynamodb.conditions import build_delete, build_put, build_update
from accession.dynamodb.requests import Paced
from accession.dynamodb.retry import ConditionFailedError
from accession.errors import TransientError
from accession.items import TypedItem, TypedValue
from accession.threads import run_all, stopped

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")
R = TypeVar("R")

PARSED_ITEMS = 64  # of a page at once: what they take stays in the processor's cache until they are done with
BATCH_KEYS = 100  # API reference, BatchGetItem
LOOK_SECONDS = 20.0  # patience of a preflight that finds nobody at the endpoint


@dataclass(frozen=True)
class TableDescription:
    """A table as DescribeTable knows it; an index as its key attributes in order, and its status."""

    name: str
    arn: str
    status: str
    key: str
    key_type: str
    sort_key: str | None
    indexes: dict[str, tuple[str, ...]]
    index_status: dict[str, str]
    attribute_types: dict[str, str]


class DynamoDB:
    """Reads and writes through one boto3 client (see `client_config`), `in_flight` requests at once.

    `write_units_per_second` caps all writes of this object together; a function is asked again and again. `check` is
    called just before each write request goes out; what it raises stops the writer. Safe for many threads. Raises
    TargetError for a missing table, AccessError for credentials and permissions, TransientError when DynamoDB failed
    for 300 s, PermanentError else.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        *,
        write_units_per_second: float | Callable[[], float] | None = None,
        in_flight: int = 16,
        check: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._requests = Paced(
            client,
            write_units_per_second=write_units_per_second,
            check=check,
            clock=clock,
            sleep=sleep,
            jitter=jitter,
        )
        self._client, self._in_flight = client, in_flight

    def fenced(
        self, check: Callable[[], None], write_units_per_second: float | Callable[[], float] | None = None
    ) -> "DynamoDB":
        """Return another connection by the same client, which calls `check` before each write and keeps to the cap."""
        return type(self)(
            self._client, check=check, write_units_per_second=write_units_per_second, in_flight=self._in_flight
        )

    @property
    def consumed_write_units(self) -> float:
        """Write units that DynamoDB charged so far, indexes included."""
        return self._requests.write_units

    @property
    def consumed_read_units(self) -> float:
        """Read units that DynamoDB charged so far."""
        return self._requests.read_units

    @property
    def throttled(self) -> int:
        """Requests that DynamoDB refused so far, wholly or in part, because they came too fast."""
        return self._requests.throttled

    # Tables

    def describe_table(self, name: str) -> TableDescription:
        """Keys, indexes and status of a table. Read-only. Raises TargetError when there is none."""
        body = orjson.dumps({"TableName": name})
        found = self._requests.wire.send("DescribeTable", name, body, patience=LOOK_SECONDS)["Table"]
        types = {entry["AttributeName"]: entry["AttributeType"] for entry in found["AttributeDefinitions"]}
        key, *rest = _key_names(found["KeySchema"])
        indexes = found.get("GlobalSecondaryIndexes") or []
        return TableDescription(
            name=name,
            arn=found["TableArn"],
            status=found["TableStatus"],
            key=key,
            key_type=types[key],
            sort_key=rest[0] if rest else None,
            indexes={index["IndexName"]: _key_names(index["KeySchema"]) for index in indexes},
            # MiniStack leaves the status out of tables that a stack made.
            index_status={index["IndexName"]: index.get("IndexStatus", "ACTIVE") for index in indexes},
            attribute_types=types,
        )

    def is_empty(self, table: str) -> bool:
        """Whether a table holds no item at all, by a strongly consistent look. Read-only."""
        return not any(self._pages("Scan", table, {"ConsistentRead": True, "Limit": 1}))

    # Writes

    def put_items(
        self, table: str, puts: Iterable[tuple[str, bytes]], written: Callable[[int], None] | None = None
    ) -> int:
        """Put every item, and return how many.

        `puts` are (key, item as typed JSON), taken as they are needed, a few batches ahead. An item that is there
        already is replaced. `written` is called in this thread with the number of further items that are in the table.
        Items of a hot key range go last, so that the others need not wait for them. Raises TransientError, naming how
        many are not written, when nothing got through for 300 s.
        """
        return BatchWriter(self._requests, table, self._in_flight).put_all(puts, written)

    def update_item(self, table: str, key_name: str, key: str, before: TypedItem, after: TypedItem) -> bool:
        """Change an item from `before` to `after`, in the attributes in which they differ and no other.

        An attribute that `after` lacks is removed. False, and nothing changed, when the item is gone or one of those
        attributes (the first 70) holds neither its value before nor the one after: so it is safe to repeat.
        """
        try:
            self._write_one("UpdateItem", table, build_update(key_name, key, before, after))
        except ConditionFailedError:
            return False
        return True

    def put_absent_item(self, table: str, key_name: str, item: TypedItem) -> bool:
        """Put an item where nothing is. False, and nothing changed, when something is there."""
        try:
            self._write_one("PutItem", table, build_put(key_name, item))
        except ConditionFailedError as error:
            key = item[key_name]["S"]
            return error.repeated and self.read_items(table, key_name, [key]).get(key) == item
        return True

    def delete_item(self, table: str, key_name: str, key: str, before: TypedItem) -> bool:
        """Delete an item that still is as `before` says, in every attribute of it (the first 140).

        False, and nothing changed, when it differs or is gone. Attributes that `before` lacks are not looked at.
        """
        try:
            self._write_one("DeleteItem", table, build_delete(key_name, key, before))
        except ConditionFailedError as error:
            return error.repeated and not self.read_items(table, key_name, [key])
        return True

    def _write_one(self, operation: str, table: str, request: dict[str, Any]) -> None:
        body = orjson.dumps({"TableName": table, "ReturnConsumedCapacity": "TOTAL", **request})
        self._requests.write(operation, table, body, -(-len(body) // 1024))

    # Reads

    def read_items(self, table: str, key_name: str, keys: Sequence[str]) -> dict[str, TypedItem]:
        """The items with these keys, by key; strongly consistent. Keys may repeat; one without an item is absent."""
        distinct = list(dict.fromkeys(keys))
        chunks = (distinct[start : start + BATCH_KEYS] for start in range(0, len(distinct), BATCH_KEYS))
        found: dict[str, TypedItem] = {}
        for _, items in self.run_all(chunks, lambda chunk: self._read_chunk(table, key_name, chunk)):
            found.update((item[key_name]["S"], item) for item in items)
        return found

    def _read_chunk(self, table: str, key_name: str, keys: list[str]) -> list[TypedItem]:
        items: list[TypedItem] = []
        left: list[TypedItem] = [{key_name: {"S": key}} for key in keys]
        backoff = self._requests.backoff()
        while True:
            body = {
                "RequestItems": {table: {"Keys": left, "ConsistentRead": True}},
                "ReturnConsumedCapacity": "TOTAL",
            }
            answer = self._requests.read("BatchGetItem", table, body)
            got = answer["Responses"].get(table, [])
            items += got
            left = answer.get("UnprocessedKeys", {}).get(table, {}).get("Keys", [])
            if not left:
                return items
            if got:
                backoff.progress()
            else:
                self._requests.count_throttle()
            if stopped() or not backoff.wait():
                raise TransientError(
                    f"{len(left)} keys of table {table} are not read: DynamoDB left them unprocessed for "
                    f"{backoff.seconds:.0f} s: raise its capacity"
                )

    def scan_pages(self, table: str, segment: int, total_segments: int) -> Iterator[Iterator[list[TypedItem]]]:
        """The items of one segment of a table, page by page, as DynamoDB cuts them (1 MB); strongly consistent.

        A page comes in lists of a few items, which are parsed as they are taken. Read-only.
        """
        request = {"ConsistentRead": True, "Segment": segment, "TotalSegments": total_segments}
        for items in self._pages("Scan", table, request, _decode_scanned):
            yield _parse(table, items)

    def query_keys(self, table: str, index: str, key_name: str, values: dict[str, TypedValue]) -> list[str]:
        """The table keys that a look-up through an index finds; `values` are the index's key attributes. Read-only.

        An index lags behind its table, by fractions of a second as a rule: ask again before believing an absence.
        """
        names = {f"#{number}": name for number, name in enumerate(values)}
        request = {
            "IndexName": index,
            "KeyConditionExpression": " AND ".join(f"#{number} = :{number}" for number in range(len(values))),
            "ProjectionExpression": "#k",
            "ExpressionAttributeNames": {"#k": key_name} | names,
            "ExpressionAttributeValues": {f":{number}": value for number, value in enumerate(values.values())},
        }
        return [item[key_name]["S"] for page in self._pages("Query", table, request) for item in page]

    def _pages(
        self,
        operation: str,
        table: str,
        request: dict[str, Any],
        decode: Callable[[bytes], dict[str, Any]] = orjson.loads,
    ) -> Iterator[list[Any]]:
        start: dict[str, Any] = {}
        while True:
            body = {"TableName": table, "ReturnConsumedCapacity": "TOTAL"} | request | start
            answer = self._requests.read(operation, table, body, decode)
            if answer["Items"]:
                yield answer["Items"]
            if not answer.get("LastEvaluatedKey"):  # an empty page is not the last one
                return
            start = {"ExclusiveStartKey": answer["LastEvaluatedKey"]}

    def run_all(self, calls: Iterable[T], function: Callable[[T], R]) -> Iterator[tuple[T, R]]:
        """`function` of every call, `in_flight` at once, lazily, in the order in which they end; see threads.py."""
        return run_all(calls, function, self._in_flight)


class _Scanned(TypedDict):
    """What is read of a Scan's answer; its items stay bytes."""

    Items: list[msgspec.Raw]
    LastEvaluatedKey: NotRequired[TypedItem]
    ConsumedCapacity: NotRequired[dict[str, Any]]


_SCANNED = msgspec.json.Decoder(_Scanned)


def _decode_scanned(body: bytes) -> dict[str, Any]:
    return {**_SCANNED.decode(body)}


def _parse(table: str, items: list[msgspec.Raw]) -> Iterator[list[TypedItem]]:
    for start in range(0, len(items), PARSED_ITEMS):
        try:
            yield orjson.loads(b"[%b]" % b",".join(items[start : start + PARSED_ITEMS]))
        except orjson.JSONDecodeError as error:
            raise TransientError(f"an item of table {table} came damaged over the network: try again") from error


def _key_names(schema: list[dict[str, str]]) -> tuple[str, ...]:
    return tuple(entry["AttributeName"] for entry in sorted(schema, key=lambda entry: entry["KeyType"] != "HASH"))
