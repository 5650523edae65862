"""Values on both sides: as SQLite holds them and as DynamoDB's typed JSON writes them, {"S": "Emma"}. Pure."""

from collections.abc import Callable
from typing import Any, Literal

SqliteValue = int | float | str | bytes | None
TypedValue = dict[str, Any]
Converter = Callable[[Any], TypedValue]
KeyType = Literal["S", "N", "B"]

NULL: TypedValue = {"NULL": True}

CLASS_NAMES = {int: "an integer", float: "a real number", str: "text", bytes: "a BLOB", type(None): "NULL"}


class ValueProblem(Exception):
    """A value cannot be what the mapping says. The message completes "<value> …" and never contains the value."""


def refuse_class(value: SqliteValue, type_name: str) -> ValueProblem:
    """Return the problem of a value whose storage class the column type does not read."""
    return ValueProblem(f"is {CLASS_NAMES[type(value)]} where the mapping says {type_name}")
