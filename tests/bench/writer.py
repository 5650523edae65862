"""Writes made items over TLS with the library that PYTHONPATH names, this one or version 0.1.0; prints what it cost.

python tests/bench/writer.py https://127.0.0.1:4567 certificate.pem Some 100000
"""

import json
import sys
from typing import Any

import boto3
from measure import measured

from accession import items
from accession.dynamodb import DynamoDB, client_config

ITEM = (
    b'{"id":{"S":"%036d"},"user_id":{"S":"5e0f6cf6-0d6c-4a63-9f3f-2a6c1c1f6d11"},"book_id":{"S":"9b1f7a52-6f43-4c4e-8b7e'
    b'-7d0a3b1c2e55"},"rating":{"N":"4"},"status":{"S":"reading"},"added":{"S":"2026-01-01T00:00:00Z"},"notes":{"S":"Read'
    b' in two evenings; the ending is worth the wait."}}'
)


def main(endpoint: str, certificate: str, table: str, rows: int) -> None:
    client = boto3.client("dynamodb", endpoint_url=endpoint, verify=certificate, config=client_config())
    dynamodb = DynamoDB(client)
    puts = [(f"{number:036d}", ITEM % number) for number in range(rows)]
    target: Any = items.Table(table, items.KeySchema(("id",))) if hasattr(items, "Table") else table  # 0.1.0: the name
    with measured() as cost:
        outcome: Any = dynamodb.put_items(target, iter(puts))
    print(json.dumps({"rows": getattr(outcome, "written", outcome)} | cost))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
