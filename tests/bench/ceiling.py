"""What a server takes at all: requests made beforehand, unsigned, over 16 connections; prints what it cost as JSON.

python tests/bench/ceiling.py http://127.0.0.1:4566 items.jsonl BookLibrary-UserBooks-bench 10000
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import islice
from urllib.parse import urlsplit

import orjson
from boto3.dynamodb.types import TypeSerializer
from contenders import Item, read_items
from measure import measured

CONNECTIONS = 16
HEADERS = {
    "X-Amz-Target": "DynamoDB_20120810.BatchWriteItem",
    "Content-Type": "application/x-amz-json-1.0",
    # MiniStack reads account and region from it, and checks nothing.
    "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request",
}


def make_requests(items: Iterator[Item], table: str) -> list[bytes]:
    serialize = TypeSerializer().serialize
    bodies = []
    while batch := list(islice(items, 25)):
        puts = [{"PutRequest": {"Item": {name: serialize(v) for name, v in item.items()}}} for item in batch]
        bodies.append(orjson.dumps({"ReturnConsumedCapacity": "TOTAL", "RequestItems": {table: puts}}))
    return bodies


def send(endpoint: str, bodies: list[bytes]) -> None:
    address = urlsplit(endpoint)
    connection = HTTPConnection(address.hostname or "", address.port)
    for body in bodies:
        connection.request("POST", "/", body, HEADERS)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200 or json.loads(said)["UnprocessedItems"]:
            raise RuntimeError(f"the server answered {answer.status}: {said[:200]!r}")


if __name__ == "__main__":
    endpoint, path, table, count = sys.argv[1:5]
    bodies = make_requests(read_items(path, int(count)), table)
    with measured() as cost, ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, [endpoint] * CONNECTIONS, [bodies[start::CONNECTIONS] for start in range(CONNECTIONS)]))
    print(json.dumps({"rows": int(count)} | cost))
