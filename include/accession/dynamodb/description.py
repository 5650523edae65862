"""What DescribeTable says of a table."""

from dataclasses import dataclass
from typing import Any


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


def read_description(found: dict[str, Any]) -> TableDescription:
    """Read the `Table` of an answer to DescribeTable."""
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in found["AttributeDefinitions"]}
    key, *rest = _key_names(found["KeySchema"])
    indexes = found.get("GlobalSecondaryIndexes") or []
    return TableDescription(
        name=found["TableName"],
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


def _key_names(schema: list[dict[str, str]]) -> tuple[str, ...]:
    return tuple(entry["AttributeName"] for entry in sorted(schema, key=lambda entry: entry["KeyType"] != "HASH"))
