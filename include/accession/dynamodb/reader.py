"""Reads: items by their keys, pages of scans and queries."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
import orjson

from accession.column_types import TypedValue
from accession.dynamodb.requests import Requests
from accession.errors import TransientError
from accession.items import ItemKey, Table, TypedItem

BATCH_KEYS = 100  # API reference, BatchGetItem
PAGE_UNITS = 256.0  # of a scan's page of 1 MB, strongly consistent (Developer Guide, "Capacity unit consumption")
LOOK_UP_PAGES = 10  # of 1 MB each, that one look-up through an index reads at most


class Place(NamedTuple):
    """The place where a page of a parallel scan begins: its segment, and the last key of the page before."""

    segment: int
    start: TypedItem | None


class Page(NamedTuple):
    """A page of a scan, as DynamoDB cuts them (1 MB). The items are not parsed yet. `next` is None for the last one."""

    items: list[msgspec.Raw]
    next: Place | None


class Reader:
    """Read items through `requests`. Read-only. For the errors see DynamoDB."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def read_chunk(self, table: Table, keys: Sequence[ItemKey]) -> list[TypedItem]:
        """Return the items with these distinct keys, at most BATCH_KEYS; strongly consistent."""
        items: list[TypedItem] = []
        left: list[TypedItem] = [table.key.write(key) for key in keys]
        backoff = self._requests.backoff()
        while True:
            body = {
                "RequestItems": {table.name: {"Keys": left, "ConsistentRead": True}},
                "ReturnConsumedCapacity": "TOTAL",
            }
            answer = await self._requests.read("BatchGetItem", table.name, body, units=float(len(left)))
            got = answer["Responses"].get(table.name, [])
            items += got
            left = answer.get("UnprocessedKeys", {}).get(table.name, {}).get("Keys", [])
            if not left:
                return items
            if got:
                backoff.progress()
            else:
                self._requests.count_throttle()
            if not await backoff.wait():
                raise TransientError(
                    f"{len(left)} keys of table {table.name} are not read: DynamoDB left them unprocessed for "
                    f"{backoff.seconds:.0f} s. Raise its capacity."
                )

    async def scan_page(self, table: str, place: Place, segments: int) -> Page:
        """Return one page of a parallel scan; strongly consistent."""
        request = {"ConsistentRead": True, "Segment": place.segment, "TotalSegments": segments}
        items, last = await self._read_page("Scan", table, request, place.start, _decode_scanned, units=PAGE_UNITS)
        return Page(items, Place(place.segment, last) if last else None)

    async def is_empty(self, table: str) -> bool:
        """Return whether a table holds no item at all, by a strongly consistent read."""
        async for items in self._read_pages("Scan", table, {"ConsistentRead": True, "Limit": 1}):
            if items:
                return False
        return True

    async def finds_item(self, table: Table, index: str, values: dict[str, TypedValue], key: ItemKey) -> bool | None:
        """Tell whether the item with `key` is among those that have these values of an index's key attributes.

        None if it is not in the first LOOK_UP_PAGES pages and there are more.
        """
        key_names = {f"#k{number}": name for number, name in enumerate(table.key.names)}
        names = {f"#{number}": name for number, name in enumerate(values)}
        request = {
            "IndexName": index,
            "KeyConditionExpression": " AND ".join(f"#{number} = :{number}" for number in range(len(values))),
            "ProjectionExpression": ", ".join(key_names),
            "ExpressionAttributeNames": key_names | names,
            "ExpressionAttributeValues": {f":{number}": value for number, value in enumerate(values.values())},
        }
        start = None
        for _ in range(LOOK_UP_PAGES):
            items, start = await self._read_page("Query", table.name, request, start)
            if key in table.key.read_all(items):
                return True
            if not start:
                return False
        return None

    async def _read_pages(self, operation: str, table: str, request: dict[str, Any]) -> AsyncIterator[list[Any]]:
        start = None
        while True:
            items, start = await self._read_page(operation, table, request, start)
            yield items
            if not start:  # an empty page is not the last one
                return

    async def _read_page(
        self,
        operation: str,
        table: str,
        request: dict[str, Any],
        start: TypedItem | None,
        decode: Callable[[bytes], dict[str, Any]] = orjson.loads,
        *,
        units: float = 1.0,
    ) -> tuple[list[Any], TypedItem | None]:
        """Return the items of a page, and the key that it ends with unless it is the last one."""
        body = {"TableName": table, "ReturnConsumedCapacity": "TOTAL"} | request
        answer = await self._requests.read(
            operation, table, body | ({"ExclusiveStartKey": start} if start else {}), decode, units=units
        )
        return answer["Items"], answer.get("LastEvaluatedKey")


class _Scanned(TypedDict):
    """The members of a Scan's answer that are read. Its items stay bytes."""

    Items: list[msgspec.Raw]
    LastEvaluatedKey: NotRequired[TypedItem]
    ConsumedCapacity: NotRequired[dict[str, Any]]


_SCANNED = msgspec.json.Decoder(_Scanned)


def _decode_scanned(body: bytes) -> dict[str, Any]:
    return {**_SCANNED.decode(body)}
