"""The description of a table, from DescribeTable."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class IndexKey(NamedTuple):
    """The key of an index. Each part has one to four attributes (Developer Guide, "Multi-attribute keys pattern")."""

    partition: tuple[str, ...]
    sort: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return all attributes of the key, those of the partition key first."""
        return self.partition + self.sort

    @property
    def is_simple(self) -> bool:
        """Return whether the key is one partition key and at most one sort key."""
        return len(self.partition) == 1 and len(self.sort) <= 1

    def __str__(self) -> str:
        if self.is_simple:
            return ", ".join(self.names)
        return ", ".join([f"{name} (HASH)" for name in self.partition] + [f"{name} (RANGE)" for name in self.sort])


@dataclass(frozen=True)
class TableDescription:
    """A table as DescribeTable knows it; its indexes by name, each with its key, its status and its projection.

    A projection is `all`, `keys`, or the sorted names of the attributes that are projected beside the keys.
    """

    name: str
    arn: str
    status: str
    key: str
    key_type: str
    sort_key: str | None
    indexes: dict[str, IndexKey]
    index_status: dict[str, str]
    attribute_types: dict[str, str]
    projections: dict[str, str | tuple[str, ...]]

    @property
    def schema(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the attributes of the key, the partition key first, and their types."""
        names = (self.key, self.sort_key) if self.sort_key else (self.key,)
        return names, tuple(self.attribute_types[name] for name in names)


def read_description(found: dict[str, Any]) -> TableDescription:
    """Read the `Table` of an answer to DescribeTable."""
    types = {entry["AttributeName"]: entry["AttributeType"] for entry in found["AttributeDefinitions"]}
    (key,), rest = _read_key(found["KeySchema"])
    indexes = found.get("GlobalSecondaryIndexes") or []
    return TableDescription(
        name=found["TableName"],
        arn=found["TableArn"],
        status=found["TableStatus"],
        key=key,
        key_type=types[key],
        sort_key=rest[0] if rest else None,
        indexes={index["IndexName"]: _read_key(index["KeySchema"]) for index in indexes},
        # MiniStack leaves the status out of tables that a stack made.
        index_status={index["IndexName"]: index.get("IndexStatus", "ACTIVE") for index in indexes},
        attribute_types=types,
        projections={index["IndexName"]: _read_projection(index["Projection"]) for index in indexes},
    )


def _read_key(schema: list[dict[str, str]]) -> IndexKey:
    return IndexKey(
        *(tuple(entry["AttributeName"] for entry in schema if entry["KeyType"] == kind) for kind in ("HASH", "RANGE"))
    )


def _read_projection(projection: dict[str, Any]) -> str | tuple[str, ...]:
    match projection.get("ProjectionType", "ALL"):
        case "ALL":
            return "all"
        case "KEYS_ONLY":
            return "keys"
        case _:
            return tuple(sorted(projection["NonKeyAttributes"]))
