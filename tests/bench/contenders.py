"""The load as others do it, each in a process of its own; prints what it cost as JSON.

    python tests/bench/contenders.py batch_writer items.jsonl BookLibrary-UserBooks-bench 10000

Each reads the prepared items lazily from a file, one JSON object a line, as plain Python values, and writes them in the
way its own documentation shows. Nothing is tuned beyond that, and no result is checked here: the server counts.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Any

from measure import measured

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import WriteRequestUnionTypeDef

Item = dict[str, Any]
Load = Callable[[Iterator[Item]], None]


def put_loop(table: str) -> Load:
    """The owner's script: one put for each row, through the boto3 resource."""
    import boto3

    target = boto3.resource("dynamodb").Table(table)

    def load(items: Iterator[Item]) -> None:
        for item in items:
            target.put_item(Item=item)

    return load


def batch_writer(table: str) -> Load:
    """boto3's own batch writer."""
    import boto3

    target = boto3.resource("dynamodb").Table(table)

    def load(items: Iterator[Item]) -> None:
        with target.batch_writer() as batch:
            for item in items:
                batch.put_item(Item=item)

    return load


def airflow_hook(table: str) -> Load:
    """Airflow's DynamoDBHook.write_batch_data."""
    from airflow.providers.amazon.aws.hooks.dynamodb import DynamoDBHook

    key = "user_book_id"
    hook = DynamoDBHook(aws_conn_id="aws_default", table_keys=[key], table_name=table)
    hook.get_conn()  # cached: not part of the load

    def load(items: Iterator[Item]) -> None:
        hook.write_batch_data(items)

    return load


def awswrangler(table: str) -> Load:
    """awswrangler.dynamodb.put_items; it takes a list, so the list is part of it."""
    import awswrangler as wr

    def load(items: Iterator[Item]) -> None:
        wr.dynamodb.put_items(items=list(items), table_name=table)

    return load


def threads(table: str) -> Load:
    """A plain pool of 16 threads, each sending batch_write_item with what was left over until nothing is."""
    import boto3
    from boto3.dynamodb.types import TypeSerializer
    from botocore.config import Config

    client = boto3.client("dynamodb", config=Config(max_pool_connections=16))
    serialize = TypeSerializer().serialize

    def write(batch: list[Item]) -> None:
        left: Mapping[str, Sequence[WriteRequestUnionTypeDef]] = {
            table: [{"PutRequest": {"Item": {n: serialize(v) for n, v in item.items()}}} for item in batch]
        }
        while left:
            left = client.batch_write_item(RequestItems=left)["UnprocessedItems"]

    def load(items: Iterator[Item]) -> None:
        batches = iter(lambda: list(islice(items, 25)), [])
        with ThreadPoolExecutor(16) as pool:
            while some := list(islice(batches, 64)):  # a bound on what is held
                list(pool.map(write, some))

    return load


def scan(table: str) -> Load:
    """Not a load: a paginated, consistent scan with boto3's deserialiser, which compares nothing."""
    import boto3

    pages = boto3.resource("dynamodb").meta.client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True)

    def read(_: Iterator[Item]) -> None:
        sum(len(page["Items"]) for page in pages)

    return read


def read_items(path: str, count: int) -> Iterator[Item]:
    with open(path, "rb") as file:  # noqa: PTH123
        for line in islice(file, count):
            yield json.loads(line, parse_float=Decimal)


CONTENDERS: dict[str, Callable[[str], Load]] = {
    function.__name__: function for function in (put_loop, batch_writer, airflow_hook, awswrangler, threads, scan)
}

if __name__ == "__main__":
    name, path, table, count = sys.argv[1:5]
    work = CONTENDERS[name](table)
    with measured() as cost:
        work(read_items(path, int(count)))
    print(json.dumps({"rows": int(count)} | cost))
