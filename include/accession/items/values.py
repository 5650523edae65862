"""SQLite value → DynamoDB attribute value, one function a type. Pure and exact: a value that cannot be what the mapping
says raises ValueProblem with the reason; none is guessed, rounded or dropped.

To add a type: write its function, add a line to CONVERTERS and to `Type` in mapping.py, and its cases to
tests/unit/test_values.py.
"""

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal, localcontext
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

from accession.mapping import Attribute

TYPE_NAMES = {int: "an integer", float: "a real number", str: "text", bytes: "a BLOB", type(None): "NULL"}

SqliteValue = int | float | str | bytes | None
TypedValue = dict[str, Any]
Converter = Callable[[Any], TypedValue]

NULL: TypedValue = {"NULL": True}

# Amazon DynamoDB Developer Guide, "Supported data types and naming rules": 38 significant digits, 1E-130 to 9.99…E+125.
MAX_DIGITS = 38
MIN_EXPONENT = -130
MAX_EXPONENT = 125
# Developer Guide, "Quotas in Amazon DynamoDB": nested 32 levels deep. The service counts the attribute itself as the
# first level, so that the innermost value is at most on level 32.
MAX_DEPTH = 32

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?", re.ASCII)
TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(?P<fraction>\.\d+)?)?(?P<offset> ?([zZ]|[+-]\d\d:?\d\d))?)?",
    re.ASCII,
)
EPOCH = datetime(1970, 1, 1)  # in UTC, naive
JULIAN_EPOCH_MILLISECONDS = 210_866_760_000_000  # 1970-01-01T00:00Z as a Julian day, 2440587.5, in milliseconds


class ValueProblem(Exception):
    """A value cannot be what the mapping says. The message completes "<value> …" and holds no value."""


def _name(value: SqliteValue) -> str:
    return TYPE_NAMES[type(value)]


def to_string(value: SqliteValue) -> TypedValue:
    """Text as it is; an integer as its digits, since SQLite keeps some texts so (a title 1984 in a STRING column)."""
    if type(value) is str:
        return {"S": value}
    if type(value) is int:
        return {"S": str(value)}
    raise ValueProblem(f"is {_name(value)} where the mapping says string")


def normalize_number(number: Decimal) -> str:
    """The one text of a number: plain digits where these are short, else with an exponent. Raises ValueProblem."""
    if not number.is_finite():
        raise ValueProblem("is not a finite number, which DynamoDB cannot hold")
    if not number:
        return "0"
    # Before any arithmetic, which would round what is beyond Python's own range.
    if not MIN_EXPONENT <= number.adjusted() <= MAX_EXPONENT:
        raise ValueProblem("is outside DynamoDB's number range, 1E-130 to 9.99E+125")
    with localcontext() as context:
        context.prec = MAX_DIGITS + len(number.as_tuple().digits)
        number = number.normalize()
    if len(number.as_tuple().digits) > MAX_DIGITS:
        raise ValueProblem(f"has more than the {MAX_DIGITS} significant digits that DynamoDB holds")
    return format(number, "f") if -MAX_DIGITS <= number.adjusted() <= MAX_DIGITS else str(number)


def to_number(value: SqliteValue) -> TypedValue:
    """Integers, reals by their shortest exact text, and text that is a number; never a float on the way."""
    if type(value) is int:
        return {"N": str(value)}
    if type(value) is float:
        return {"N": normalize_number(Decimal(repr(value)))}
    if type(value) is str:
        return {"N": normalize_number(_parse_number(value))}
    raise ValueProblem(f"is {_name(value)} where the mapping says number")


def _parse_number(text: str) -> Decimal:
    if not NUMBER.fullmatch(text):
        raise ValueProblem("is not a number")
    return Decimal(text)


def to_boolean(value: SqliteValue) -> TypedValue:
    """0 and 1, as number or text, and true and false in any case."""
    if type(value) is int and value in (0, 1):
        return {"BOOL": value == 1}
    if type(value) is str and value.lower() in ("0", "1", "true", "false"):
        return {"BOOL": value.lower() in ("1", "true")}
    raise ValueProblem("is neither 0 nor 1, true nor false")


def to_binary(value: SqliteValue) -> TypedValue:
    """A BLOB, as base64."""
    if type(value) is bytes:
        return {"B": base64.b64encode(value).decode("ascii")}
    raise ValueProblem(f"is {_name(value)} where the mapping says binary")


def to_timestamp(zone: ZoneInfo | None, numbers: str, value: SqliteValue) -> TypedValue:
    """ISO 8601 in UTC. Naive text is in `zone` (None: UTC); a bare number is what `numbers` says."""
    if type(value) is str:
        moment = _parse_timestamp(value, zone)
    elif type(value) is int or type(value) is float:
        moment = _count_timestamp(value, numbers)
    else:
        raise ValueProblem(f"is {_name(value)} where the mapping says timestamp")
    return {"S": f"{moment.isoformat()}+00:00"}


def _parse_timestamp(text: str, zone: ZoneInfo | None) -> datetime:
    """The moment in UTC, naive."""
    match = TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueProblem("is not a date or time in SQLite's usual forms, such as 2026-01-05 12:34:56")
    fraction, offset = match.group("fraction", "offset")
    if fraction and len(fraction) > 7:
        if fraction[7:].strip("0"):
            raise ValueProblem("is finer than a microsecond, the finest that a timestamp holds")
        text = text.replace(fraction, fraction[:7])
    if offset:  # may stand apart, as SQLite reads and Ruby writes it; `fromisoformat` wants it close
        text = text[: -len(offset)] + offset.strip().upper()
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            if zone is None:
                return moment
            moment = _locate(moment, zone)
        return moment.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise ValueProblem("is not a date or time that exists") from None


def _locate(moment: datetime, zone: ZoneInfo) -> datetime:
    first, second = (moment.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    if first.utcoffset() != second.utcoffset():
        skipped = first.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment
        raise ValueProblem(
            f"{'does not exist' if skipped else 'happens twice'} in {zone.key}, where the clock is moved then"
        )
    return first


def _count_timestamp(value: float, numbers: str) -> datetime:
    """Epoch numbers to the nearest microsecond; Julian days to the nearest millisecond, as SQLite itself counts
    them. In UTC, naive."""
    number = Decimal(repr(value))
    if not number.is_finite():
        raise ValueProblem("is not a finite number")
    match numbers:
        case "julian_day":
            microseconds = (round(number * 86_400_000) - JULIAN_EPOCH_MILLISECONDS) * 1000
        case "epoch_milliseconds":
            microseconds = round(number * 1000)
        case _:
            microseconds = round(number * 1_000_000)
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        raise ValueProblem("is outside the years 1 to 9999") from None


def to_json(value: SqliteValue) -> TypedValue:
    """JSON text as nested DynamoDB values: objects as maps, arrays as lists, numbers exact."""
    if type(value) is not str:
        raise ValueProblem(f"is {_name(value)} where the mapping says json")
    try:
        parsed = json.loads(
            value,
            parse_int=_parse_number,
            parse_float=_parse_number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_double_names,
        )
    except (json.JSONDecodeError, RecursionError):
        raise ValueProblem("is not JSON") from None
    return _nest(parsed, 1)


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


def to_auto(value: SqliteValue) -> TypedValue:
    """By SQLite's storage class: INTEGER and REAL as number, TEXT as string, BLOB as binary."""
    if type(value) is str:
        return {"S": value}
    return to_binary(value) if type(value) is bytes else to_number(value)


CONVERTERS: dict[str, Converter] = {
    "string": to_string,
    "number": to_number,
    "boolean": to_boolean,
    "binary": to_binary,
    "json": to_json,
    "auto": to_auto,
}


def choose_converter(attribute: Attribute, timezone: str) -> Converter:
    """The function that converts the values of `attribute`; not for references."""
    if attribute.type == "timestamp":
        zone = None if timezone == "UTC" else ZoneInfo(timezone)
        return partial(to_timestamp, zone, attribute.numbers)
    return CONVERTERS[attribute.type or ""]
