"""DynamoDB in the process: tables in dicts, and the operations that the library calls, as bytes in and bytes out.

A call of `execute` is one moment. What the service does at several moments is cut by the caller: a batch into its
items, a scan into pages. Indexes follow their table later, by `lag` seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import orjson

from simulation.expressions import Condition, InvalidExpressionError, Item, normalize, update
from simulation.world import Process

ERROR = "com.amazonaws.dynamodb.v20120810#"
BATCH_WRITES, BATCH_READS = 25, 100  # API reference, BatchWriteItem and BatchGetItem

Watch = Callable[[str, str, Item | None, Item | None, Process | str | None], None]


class ServiceError(Exception):
    """An answer that is an error."""

    def __init__(self, code: str, message: str = "", more: dict[str, Any] | None = None) -> None:
        super().__init__(code)
        self.status = 400
        self.body = orjson.dumps({"__type": ERROR + code, "message": message or code, **(more or {})})


@dataclass
class Table:
    """A table: its key, its indexes as tuples of key attributes, and its items by their keys as text."""

    name: str
    key: tuple[str, ...]
    indexes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    items: dict[str, Item] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    followers: dict[str, dict[str, Item]] = field(default_factory=dict)  # index → key → item
    pending: list[tuple[float, str, str, Item | None]] = field(default_factory=list)  # when, index, key, image

    def find_key(self, item: Item) -> str:
        """Return the text of an item's key. Raises ServiceError if an attribute of it is missing or of another type."""
        for name in self.key:
            if self.types.get(name, "S") not in item.get(name, {}):
                raise ServiceError("ValidationException", "The provided key element does not match the schema")
        return self.show_key(item)

    def show_key(self, item: Item) -> str:
        texts = [str(next(iter(normalize(item[name]).values()))) for name in self.key]
        return texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()

    def write_key(self, key: str) -> Item:
        texts = [key] if len(self.key) == 1 else orjson.loads(key)
        return {name: {self.types.get(name, "S"): text} for name, text in zip(self.key, texts, strict=True)}


class DynamoDBService:
    """The service. `watch` is called with table, key, item before and after, and who wrote."""

    def __init__(self, now: Callable[[], float] = lambda: 0.0, lag: Callable[[], float] = lambda: 0.0) -> None:
        self.tables: dict[str, Table] = {}
        self.now, self.lag = now, lag
        self.watch: Watch = lambda *_: None

    def execute(self, operation: str, body: bytes, who: Process | str | None = None) -> tuple[int, bytes]:
        """Do a request at this moment; return the status and the body of its answer."""
        request = orjson.loads(body)
        try:
            try:
                answer = getattr(self, f"_{operation}")(request, who)
            except (InvalidExpressionError, KeyError) as error:
                raise ServiceError("ValidationException", f"Invalid request: {error}") from error
        except ServiceError as error:
            return error.status, error.body
        return 200, orjson.dumps(answer)

    def find(self, name: str) -> Table:
        """Return a table. Raises ServiceError if there is none."""
        table = self.tables.get(name)
        if table is None:
            raise ServiceError("ResourceNotFoundException", "Requested resource not found")
        return table

    def put(self, table: Table, key: str, item: Item | None, who: Process | str | None) -> Item | None:
        """Set the item of a key, or remove it, and return what was there."""
        before = table.items.get(key)
        if item is None:
            table.items.pop(key, None)
        else:
            table.items[key] = {name: normalize(value) for name, value in item.items()}
        after = table.items.get(key)
        if before != after:
            for index, names in table.indexes.items():
                image = after if after is not None and all(name in after for name in names) else None
                due = self.now() + self.lag()
                later = [when for when, one, other, _ in table.pending if (one, other) == (index, key)]
                table.pending.append((max([due, *later]), index, key, image))  # those of one item stay in order
            self.watch(table.name, key, before, after, who)
        return before

    # Writes

    def _BatchWriteItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        count, keys = 0, set()
        for name, entries in request["RequestItems"].items():
            table = self.find(name)
            for entry in entries:
                count += 1
                key = table.find_key(_key_of(entry))
                if (name, key) in keys:
                    raise ServiceError("ValidationException", "Provided list of item keys contains duplicates")
                keys.add((name, key))
        if not 0 < count <= BATCH_WRITES:
            raise ServiceError("ValidationException", "Too many items requested for the BatchWriteItem call")
        units: dict[str, float] = {}
        for name, entries in request["RequestItems"].items():
            table = self.find(name)
            for entry in entries:
                item = entry.get("PutRequest", {}).get("Item")
                self.put(table, table.find_key(_key_of(entry)), item, who)
                units[name] = units.get(name, 0.0) + measure(item or {})
        consumed = [{"TableName": name, "CapacityUnits": number} for name, number in units.items()]
        return {"UnprocessedItems": {}, **_consumed(request, consumed)}

    def _PutItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        key = table.find_key(request["Item"])
        before = self._check(table, key, request)
        self.put(table, key, request["Item"], who)
        return self._answer(request, before, table.items[key])

    def _DeleteItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        key = table.find_key(request["Key"])
        before = self._check(table, key, request)
        self.put(table, key, None, who)
        return self._answer(request, before, None)

    def _UpdateItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        key = table.find_key(request["Key"])
        before = self._check(table, key, request)
        names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
        after = update(request.get("UpdateExpression", ""), names, values, before or dict(request["Key"]))
        self.put(table, key, after, who)
        return self._answer(request, before, table.items[key])

    def _check(self, table: Table, key: str, request: dict[str, Any]) -> Item | None:
        item = table.items.get(key)
        if text := request.get("ConditionExpression"):
            names, values = request.get("ExpressionAttributeNames", {}), request.get("ExpressionAttributeValues", {})
            if not Condition(text, names, values, item).holds():
                shows = request.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD"
                raise ServiceError("ConditionalCheckFailedException", "", more={"Item": item} if item and shows else {})
        return item

    def _answer(self, request: dict[str, Any], before: Item | None, after: Item | None) -> Any:
        wanted = request.get("ReturnValues", "NONE")
        shown = {"ALL_OLD": before, "ALL_NEW": after}.get(wanted)
        units = max(measure(before or {}), measure(after or {}))
        consumed = _consumed(request, {"TableName": request["TableName"], "CapacityUnits": units})
        return ({"Attributes": shown} if shown else {}) | consumed

    # Reads

    def _BatchGetItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        answers: dict[str, list[Item]] = {}
        for name, wanted in request["RequestItems"].items():
            table = self.find(name)
            keys = [table.find_key(key) for key in wanted["Keys"]]
            if len(set(keys)) != len(keys) or not 0 < len(keys) <= BATCH_READS:
                raise ServiceError("ValidationException", "Provided list of item keys contains duplicates")
            answers[name] = [table.items[key] for key in keys if key in table.items]
        consumed = [{"TableName": name, "CapacityUnits": float(len(found))} for name, found in answers.items()]
        return {"Responses": answers, "UnprocessedKeys": {}, **_consumed(request, consumed)}

    def _GetItem(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        item = table.items.get(table.find_key(request["Key"]))
        return ({"Item": item} if item else {}) | _consumed(request, {"TableName": table.name, "CapacityUnits": 1.0})

    def _Scan(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        segment, segments = request.get("Segment", 0), request.get("TotalSegments", 1)
        found = {key: item for key, item in table.items.items() if crc32(key.encode()) % segments == segment}
        return self._page(table, request, found, None)

    def _Query(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        index = request.get("IndexName")
        if index is not None and index not in table.indexes:
            raise ServiceError("ValidationException", f"The table does not have the specified index: {index}")
        self._follow(table)
        names, values = request["ExpressionAttributeNames"], request["ExpressionAttributeValues"]
        items = table.items if index is None else table.followers.get(index, {})
        text = request["KeyConditionExpression"]
        found = {key: item for key, item in items.items() if Condition(text, names, values, item).holds()}
        shown = request.get("ProjectionExpression")
        return self._page(table, request, found, shown and [names.get(n.strip(), n.strip()) for n in shown.split(",")])

    def _follow(self, table: Table) -> None:
        """Let the indexes see what is due."""
        due = [entry for entry in table.pending if entry[0] <= self.now()]
        table.pending = [entry for entry in table.pending if entry[0] > self.now()]
        for _, index, key, image in due:
            follower = table.followers.setdefault(index, {})
            if image is None:
                follower.pop(key, None)
            else:
                follower[key] = image

    def _page(self, table: Table, request: dict[str, Any], found: dict[str, Item], shown: list[str] | None) -> Any:
        """Return a page of what was found, in the order of the keys' hashes."""
        start = request.get("ExclusiveStartKey")
        keys = sorted(found, key=lambda key: (crc32(key.encode()), key))
        if start:
            last = table.show_key(start)
            keys = [key for key in keys if (crc32(key.encode()), key) > (crc32(last.encode()), last)]
        limit = request.get("Limit", len(keys) + 1)
        page = keys[:limit]
        items = [found[key] for key in page]
        if shown:
            items = [{name: item[name] for name in shown if name in item} for item in items]
        answer: dict[str, Any] = {"Items": items, "Count": len(items), "ScannedCount": len(items)}
        if len(page) == limit:
            answer["LastEvaluatedKey"] = table.write_key(page[-1]) if page else start
        return answer | _consumed(request, {"TableName": table.name, "CapacityUnits": max(len(items) / 2, 0.5)})

    # Tables

    def _DescribeTable(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["TableName"])
        schema = [("HASH", "RANGE")[number > 0] for number in range(len(table.key))]
        return {
            "Table": {
                "TableName": table.name,
                "TableArn": f"arn:aws:dynamodb:nowhere:000000000000:table/{table.name}",
                "TableStatus": "ACTIVE",
                "AttributeDefinitions": [
                    {"AttributeName": n, "AttributeType": t} for n, t in sorted(table.types.items())
                ],
                "KeySchema": [{"AttributeName": n, "KeyType": k} for n, k in zip(table.key, schema, strict=True)],
                "GlobalSecondaryIndexes": [
                    {
                        "IndexName": index,
                        "IndexStatus": "ACTIVE",
                        "Projection": {"ProjectionType": "ALL"},
                        "KeySchema": [
                            {"AttributeName": name, "KeyType": ("HASH", "RANGE")[number > 0]}
                            for number, name in enumerate(names)
                        ],
                    }
                    for index, names in table.indexes.items()
                ],
            }
        }

    def _ListTagsOfResource(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["ResourceArn"].rpartition("/")[2])
        return {"Tags": [{"Key": key, "Value": value} for key, value in sorted(table.tags.items())]}

    def _TagResource(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["ResourceArn"].rpartition("/")[2])
        table.tags |= {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        return {}

    def _UntagResource(self, request: dict[str, Any], who: Any) -> Any:  # noqa: N802
        table = self.find(request["ResourceArn"].rpartition("/")[2])
        for key in request["TagKeys"]:
            table.tags.pop(key, None)
        return {}


def _key_of(entry: dict[str, Any]) -> Item:
    """Return what holds the key in an entry of a batch."""
    key: Item = entry["PutRequest"]["Item"] if "PutRequest" in entry else entry["DeleteRequest"]["Key"]
    return key


def measure(item: Item) -> float:
    """Return the write units of an item: one for each begun KB of its JSON, which is near enough here."""
    return float(-(-len(orjson.dumps(item)) // 1024))


def _consumed(request: dict[str, Any], consumed: Any) -> dict[str, Any]:
    return {"ConsumedCapacity": consumed} if request.get("ReturnConsumedCapacity", "NONE") != "NONE" else {}
