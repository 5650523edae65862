"""JSON documents: nested DynamoDB values with exact numbers; and lists of texts as string sets."""

import json
from decimal import Decimal
from typing import Any

from accession.column_types.numbers import normalize_number, parse_number
from accession.column_types.values import NULL, SqliteValue, TypedValue, ValueProblem, refuse_class

# Developer Guide, "Quotas in Amazon DynamoDB": nested 32 levels deep. The service counts the attribute itself as the
# first level, so the innermost value is at most on level 32.
MAX_DEPTH = 32


def to_json(value: SqliteValue) -> TypedValue:
    """Convert JSON text to nested values: objects to maps, arrays to lists, numbers exactly."""
    if type(value) is not str:
        raise refuse_class(value, "json")
    try:
        parsed = json.loads(
            value,
            parse_int=parse_number,
            parse_float=parse_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_double_names,
        )
    except (json.JSONDecodeError, RecursionError):
        raise ValueProblem("is not JSON") from None
    return _nest(parsed, 1)


def to_string_set(separator: str, value: SqliteValue) -> TypedValue:
    """Convert a JSON array of texts, or a text whose elements stand between separators, to a string set.

    An empty list becomes NULL, since DynamoDB has no empty set. An element that occurs twice is refused: a set would
    drop it.
    """
    if type(value) is not str:
        raise refuse_class(value, "string_set")
    elements = value.split(separator) if separator and value else _read_list(value) if value else []
    if not elements:
        return NULL
    if len(set(elements)) < len(elements):
        raise ValueProblem("has an element twice, which a set cannot hold")
    return {"SS": sorted(elements)}


def _read_list(text: str) -> list[str]:
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueProblem("is not a JSON array") from None
    if not isinstance(elements, list) or not all(isinstance(element, str) for element in elements):
        raise ValueProblem("is not a JSON array of texts")
    return elements


def _refuse_constant(name: str) -> None:
    raise ValueProblem(f"holds {name}, which is not JSON")


def _refuse_double_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueProblem("holds an object that has a name twice")
    if "" in fields:
        raise ValueProblem("holds an object with an empty name, and DynamoDB wants at least one character")
    return fields


def _nest(value: Any, depth: int) -> TypedValue:
    if depth > MAX_DEPTH - isinstance(value, dict | list):
        raise ValueProblem(f"is nested more than the {MAX_DEPTH} levels that DynamoDB holds")
    match value:
        case None:
            return NULL
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case Decimal():
            return {"N": normalize_number(value)}
        case list():
            return {"L": [_nest(element, depth + 1) for element in value]}
        case _:
            return {"M": {name: _nest(field, depth + 1) for name, field in value.items()}}
