"""The services in the process answer as MiniStack does: the same random requests, the same answers.

What real services do beyond that (lag, short pages, lost answers) is told in docs/simulation.md.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from accession.dynamodb import Delete, PutAbsent, Update, client_config
from accession.items import ItemKey, KeySchema
from conftest import LocalAws
from simulation.dynamodb import DynamoDBService, Table
from simulation.expressions import Item
from simulation.s3 import S3, S3Client

DYNAMODB_REQUESTS, S3_REQUESTS = 1200, 500
SCHEMA = KeySchema(("id",))


class Requests:
    """Random requests of the kinds that the library sends, to a table with few keys and few values."""

    def __init__(self, seed: int, table: str) -> None:
        self.random, self.table = random.Random(seed), table

    def draw(self) -> tuple[str, dict[str, Any]]:
        """Draw an operation and its request."""
        kinds = [self.put_batch, self.get_batch, self.put_absent, self.update, self.delete, self.query, self.faulty]
        return self.random.choice(kinds)()

    def key(self) -> str:
        return f"key-{self.random.randrange(12)}"

    def value(self) -> dict[str, Any]:
        return self.random.choice(
            ({"S": "x"}, {"S": ""}, {"S": "y"}, {"N": "1"}, {"N": "1.50"}, {"N": "-0"}, {"N": "1E2"}, {"NULL": True},
             {"BOOL": False}, {"L": [{"N": "01"}, {"S": "z"}]}, {"M": {"deep": {"N": "2.0"}}}, {"SS": ["b", "a"]})
        )  # fmt: skip

    def item(self, key: str) -> Item:
        names = self.random.sample(("a", "b", "c"), self.random.randint(0, 3))
        item = {"id": {"S": key}, **{name: self.value() for name in names}}
        if self.random.random() < 0.5:
            item["place"] = {"S": self.random.choice(("here", "there"))}
        return item

    def put_batch(self) -> tuple[str, dict[str, Any]]:
        keys = [self.key() for _ in range(self.random.choice((1, 3, 3, 26)))]
        if self.random.random() < 0.8:
            keys = list(dict.fromkeys(keys))
        entries = [{"PutRequest": {"Item": self.item(key)}} for key in keys]
        return "BatchWriteItem", {"RequestItems": {self.table: entries}, "ReturnConsumedCapacity": "TOTAL"}

    def get_batch(self) -> tuple[str, dict[str, Any]]:
        keys = [self.key() for _ in range(self.random.randint(1, 5))]
        if self.random.random() < 0.8:
            keys = list(dict.fromkeys(keys))
        wanted = {"Keys": [SCHEMA.write(ItemKey(key)) for key in keys], "ConsistentRead": True}
        return "BatchGetItem", {"RequestItems": {self.table: wanted}}

    def single(self, write: Any, returned: str) -> tuple[str, dict[str, Any]]:
        more = {"ReturnValues": returned} if self.random.random() < 0.5 else {}
        return write.operation, {"TableName": self.table, **write.build(SCHEMA), **more}

    def put_absent(self) -> tuple[str, dict[str, Any]]:
        key = ItemKey(self.key())
        return self.single(PutAbsent(key, self.item(key)), "ALL_OLD")

    def update(self) -> tuple[str, dict[str, Any]]:
        key = ItemKey(self.key())
        return self.single(Update(key, self.item(key), self.item(key)), "ALL_NEW")

    def delete(self) -> tuple[str, dict[str, Any]]:
        key = ItemKey(self.key())
        before = self.item(key)
        return self.single(Delete(key, self.random.choice((before, {"id": {"S": key}}))), "ALL_OLD")

    def query(self) -> tuple[str, dict[str, Any]]:
        place = self.random.choice(("here", "there", "nowhere"))
        return "Query", {
            "TableName": self.table,
            "IndexName": self.random.choice(("place-index", "place-index", "place-index", "no-index")),
            "KeyConditionExpression": "#0 = :0",
            "ProjectionExpression": "#k0",
            "ExpressionAttributeNames": {"#0": "place", "#k0": "id"},
            "ExpressionAttributeValues": {":0": {"S": place}},
        }

    def faulty(self) -> tuple[str, dict[str, Any]]:
        return self.random.choice(
            (
                ("PutItem", {"TableName": self.table, "Item": {"a": {"S": "no key"}}}),
                ("PutItem", {"TableName": self.table, "Item": {"id": {"N": "1"}}}),
                ("DeleteItem", {"TableName": f"{self.table}-no", "Key": {"id": {"S": "x"}}}),
                ("BatchWriteItem", {"RequestItems": {self.table: []}}),
            )
        )


def ask_ministack(client: Any, operation: str, request: dict[str, Any]) -> Any:
    try:
        answer = getattr(client, xform_name(operation))(**request)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return clean(answer)


def ask_ours(service: DynamoDBService, operation: str, request: dict[str, Any]) -> Any:
    status, body = service.execute(operation, orjson.dumps(request), "test")
    answer = orjson.loads(body)
    return clean(answer) if status == 200 else answer["__type"].rpartition("#")[2]


def clean(answer: dict[str, Any]) -> Any:
    """Drop what is not compared: consumption, and the order of items and of the members of a set."""
    return order({name: one for name, one in answer.items() if name not in ("ResponseMetadata", "ConsumedCapacity")})


def order(value: Any) -> Any:
    """Sort whatever has no order."""
    if isinstance(value, dict):
        return {
            name: sorted(one)
            if name in ("SS", "NS")
            else order_list(one, name != "L")
            if isinstance(one, list)
            else order(one)
            for name, one in value.items()
        }
    return value


def order_list(values: list[Any], has_no_order: bool) -> list[Any]:
    ordered = [order(one) for one in values]
    return sorted(ordered, key=partial(orjson.dumps, option=orjson.OPT_SORT_KEYS)) if has_no_order else ordered


@pytest.fixture
def table(aws: LocalAws, request: pytest.FixtureRequest) -> str:
    name = f"differential-{random.Random(request.node.name).randrange(10**9)}"
    aws.client("dynamodb").create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": n, "AttributeType": "S"} for n in ("id", "place")],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "place-index",
                "KeySchema": [{"AttributeName": "place", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    return name


def test_dynamodb_in_the_process_answers_as_ministack_does(aws: LocalAws, table: str) -> None:
    client = aws.client("dynamodb", config=client_config())
    service = DynamoDBService()
    types = {"id": "S", "place": "S"}
    service.tables[table] = Table(table, ("id",), {"place-index": ("place",)}, types)
    requests = Requests(1, table)
    for number in range(DYNAMODB_REQUESTS):
        operation, request = requests.draw()
        theirs, ours = ask_ministack(client, operation, request), ask_ours(service, operation, request)
        assert ours == theirs, f"request {number}: {operation} {request}"
        if number % 100 == 99:
            scanned = {"TableName": table, "ConsistentRead": True}
            assert ask_ours(service, "Scan", scanned) == ask_ministack(client, "Scan", scanned)


class Objects:
    """Random requests of the kinds that the store sends."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random, self.folder = random.Random(seed), folder
        self.etags = ['"00000000000000000000000000000000"']

    def key(self) -> str:
        return self.random.choice(("a", "a/b", "a/c", "a/c/d", "b", "b/é"))

    def call(self, client: Any, bucket: str, kind: int, key: str, other: str, etag: str, data: bytes) -> Any:
        """Send one request and return what is compared."""
        try:
            match kind:
                case 0:
                    return client.put_object(Bucket=bucket, Key=key, Body=data)["ETag"]
                case 1:
                    return client.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")["ETag"]
                case 2:
                    return client.put_object(Bucket=bucket, Key=key, Body=data, IfMatch=etag)["ETag"]
                case 3:
                    answer = client.get_object(Bucket=bucket, Key=key)
                    return answer["Body"].read(), answer["ETag"]
                case 4:
                    return client.get_object(Bucket=bucket, Key=key, Range="bytes=0-2")["Body"].read()
                case 5:
                    return client.head_object(Bucket=bucket, Key=key)["ContentLength"]
                case 6:
                    client.delete_object(Bucket=bucket, Key=key)
                    return None
                case 7:
                    client.copy({"Bucket": bucket, "Key": key}, bucket, other)
                    return None
                case 8:
                    (self.folder / "up").write_bytes(data)
                    return client.upload_file(str(self.folder / "up"), bucket, key)
                case 9:
                    client.download_file(bucket, key, str(self.folder / "down"))
                    return (self.folder / "down").read_bytes()
                case _:
                    more = {"Delimiter": "/"} if kind == 11 else {}
                    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key, **more)
                    found = list(pages)
                    return (
                        [entry["Key"] for page in found for entry in page.get("Contents", ())],
                        [entry["Prefix"] for page in found for entry in page.get("CommonPrefixes", ())],
                    )
        except ClientError as error:
            return error.response["Error"]["Code"]


def test_s3_in_the_process_answers_as_ministack_does(aws: LocalAws, tmp_path: Path) -> None:
    bucket = "differential"
    theirs = aws.client("s3")
    theirs.create_bucket(Bucket=bucket)
    ours = S3Client(S3())
    requests = Objects(1, tmp_path)
    for number in range(S3_REQUESTS):
        kind, key, other = requests.random.randrange(12), requests.key(), requests.key()
        etag, data = requests.random.choice(requests.etags), requests.random.randbytes(requests.random.randint(3, 9))
        wanted = requests.call(theirs, bucket, kind, key, other, etag, data)
        found = requests.call(ours, bucket, kind, key, other, etag, data)
        assert found == wanted, f"request {number}: kind {kind}, {key}"
        if kind <= 2 and isinstance(found, str) and found.startswith('"'):
            requests.etags = [*requests.etags[-5:], found]
