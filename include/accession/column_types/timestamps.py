"""Timestamps: SQLite's usual ways to store a moment, as ISO 8601 in UTC; and days."""

import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

from accession.column_types.values import SqliteValue, TypedValue, ValueProblem, refuse_class

FIRST_SEEN = "first_seen"
# Compared by identity: it stands for the time at which the row was first seen, until that is filled in.
FIRST_SEEN_MARK: TypedValue = {"S": ""}

TIMESTAMP = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(?P<fraction>\.\d+)?)?(?P<offset> ?([zZ]|[+-]\d\d:?\d\d))?)?",
    re.ASCII,
)
DATE = re.compile(r"(?P<day>\d{4}-\d\d-\d\d)([T ]00:00(:00(\.0+)?)?)?", re.ASCII)
EPOCH = datetime(1970, 1, 1)  # in UTC, naive
JULIAN_EPOCH_MILLISECONDS = 210_866_760_000_000  # 1970-01-01T00:00Z as a Julian day, 2440587.5, in milliseconds


def to_timestamp(zone: ZoneInfo | None, numbers: str, value: SqliteValue) -> TypedValue:
    """Convert to ISO 8601 in UTC. Text without an offset is in `zone` (None: UTC); `numbers` says what a bare number
    means."""
    if type(value) is str:
        moment = _parse_timestamp(value, zone)
    elif type(value) is int or type(value) is float:
        moment = _count_timestamp(value, numbers)
    else:
        raise refuse_class(value, "timestamp")
    return {"S": f"{moment.isoformat()}+00:00"}


def to_date(value: SqliteValue) -> TypedValue:
    """Convert a day to YYYY-MM-DD: text that is a date, also with midnight as its time. No time zone moves it."""
    if type(value) is not str:
        raise refuse_class(value, "date")
    match = DATE.fullmatch(value)
    if match is None:
        raise ValueProblem("is not a day, such as 2026-01-05")
    try:
        date.fromisoformat(match["day"])
    except ValueError:
        raise ValueProblem("is not a day that exists") from None
    return {"S": match["day"]}


def read_timestamp_default(value: object) -> TypedValue:
    """Return the mark for the time of first sight, the one default of a timestamp. Raises ValueProblem."""
    if value != FIRST_SEEN:
        raise ValueProblem(f"is not {FIRST_SEEN}")
    return FIRST_SEEN_MARK


def _parse_timestamp(text: str, zone: ZoneInfo | None) -> datetime:
    """Return the moment in UTC, naive."""
    match = TIMESTAMP.fullmatch(text)
    if match is None:
        raise ValueProblem("is not a date or time in SQLite's usual forms, such as 2026-01-05 12:34:56")
    fraction, offset = match.group("fraction", "offset")
    if fraction and len(fraction) > 7:
        if fraction[7:].strip("0"):
            raise ValueProblem("is finer than a microsecond, the finest that a timestamp holds")
        text = text.replace(fraction, fraction[:7])
    if offset:  # SQLite reads and Ruby writes a space before the offset; `fromisoformat` does not take it
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
    """Return the moment of a bare number in UTC, naive: epoch numbers to the nearest microsecond, Julian days to the
    nearest millisecond, as SQLite itself counts them."""
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
