"""Items as DynamoDB's typed JSON, {"title": {"S": "Emma"}}, binary as base64: canonical form, checksum, size. Pure."""

import hashlib
import re
from decimal import Decimal
from typing import Any

import orjson

from accession.column_types import TypedValue, normalize_number

TypedItem = dict[str, Any]

_ODD_NUMBER = re.compile(rb'"N":"(?!(?:0|[1-9][0-9]{0,37})")')  # all but plain natural numbers


def canonical_json(item: TypedItem) -> bytes:
    """Return the one serialisation of an item: names sorted, numbers normalised, sets sorted."""
    data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
    if _may_differ(data):
        item = {name: _canonical(value) for name, value in item.items()}
        data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
    return data


def _may_differ(data: bytes) -> bool:
    """Tell whether JSON with sorted names may not be canonical yet: it has a set, or a number other than a plain
    natural one. Quotes inside texts are escaped, so a text never looks like either."""
    # Searching for a single byte is fast, and items without lists have no bracket.
    return _ODD_NUMBER.search(data) is not None or (b"[" in data and b'S":[' in data)


def _canonical(value: TypedValue) -> TypedValue:
    if "S" in value:
        return value
    ((kind, content),) = value.items()
    match kind:
        case "N":
            return {"N": canonical_number(content)}
        case "M":
            return {"M": {name: _canonical(field) for name, field in content.items()}}
        case "L":
            return {"L": [_canonical(element) for element in content]}
        case "NS":
            return {"NS": sorted(canonical_number(number) for number in content)}
        case "SS" | "BS":
            return {kind: sorted(content)}
        case _:
            return value


def canonical_number(text: str) -> str:
    """Return the one text of a number that DynamoDB may write in several ways."""
    if text.isdigit() and (text[0] != "0" or text == "0") and len(text) <= 38:
        return text
    return normalize_number(Decimal(text))


def checksum_item(item: TypedItem) -> bytes:
    """Return the SHA-256 of the canonical JSON: the same for an item before it is written and after it is read back."""
    return hashlib.sha256(canonical_json(item)).digest()


def checksum_items(items: list[TypedItem]) -> list[bytes]:
    """Return the checksum of each item; cheaper than `checksum_item`, as all are searched for oddities at once."""
    lines = [orjson.dumps(item, option=orjson.OPT_SORT_KEYS) for item in items]
    if _may_differ(b"\n".join(lines)):
        lines = [canonical_json(item) if _may_differ(line) else line for item, line in zip(items, lines, strict=True)]
    return [hashlib.sha256(line).digest() for line in lines]


def is_same_item(one: TypedItem | None, other: TypedItem | None) -> bool:
    """Tell whether two items are equal, or both are absent."""
    if one is None or other is None:
        return one is other
    return one == other or checksum_item(one) == checksum_item(other)


def measure_item(item: TypedItem) -> int:
    """Return the size in bytes as DynamoDB counts it (Developer Guide, "DynamoDB item sizes and formats")."""
    return sum(len(name.encode()) + measure_value(value) for name, value in item.items())


def measure_value(value: TypedValue) -> int:
    """Return the size in bytes of a value, without its name."""
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(str(content).encode())
        case "N":
            digits = len(str(content).lstrip("-").replace(".", "").strip("0").split("E")[0])
            return (digits + 1) // 2 + 1 + str(content).startswith("-")
        case "B":
            return len(str(content)) * 3 // 4 - str(content).count("=")
        case "M":
            return 3 + sum(len(name.encode()) + 1 + measure_value(field) for name, field in content.items())
        case "L":
            return 3 + sum(1 + measure_value(element) for element in content)
        case "SS":
            return sum(len(element.encode()) for element in content)
        case "NS":
            return sum(measure_value({"N": element}) for element in content)
        case "BS":
            return sum(measure_value({"B": element}) for element in content)
        case _:
            return 1
