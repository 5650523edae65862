"""SQLite value → DynamoDB value: exact, or rejected with its reason; nothing else ever happens."""

import base64
import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.column_types import COLUMN_TYPES, Converter, ValueProblem, normalize_number
from accession.column_types.documents import MAX_DEPTH, to_json
from accession.column_types.numbers import to_number
from accession.column_types.scalars import to_auto, to_binary, to_boolean, to_string
from accession.mapping import Attribute

TYPES = list(COLUMN_TYPES)

integers = st.integers(-(2**63), 2**63 - 1)
reals = st.floats(allow_nan=False)  # SQLite keeps NaN as NULL
texts = st.text(st.characters(exclude_categories=[]), max_size=40)
blobs = st.binary(max_size=40)
numerals = st.from_regex(r"[+-]?[0-9]{1,60}(\.[0-9]{0,50})?([eE][+-]?[0-9]{1,8})?", fullmatch=True)
dates = st.from_regex(
    r"\d{4}-[01]\d-[0-3]\d([T ][0-2]\d:[0-6]\d(:[0-6]\d(\.\d{1,9})?)?)?( ?[zZ]|[+-]\d\d:?\d\d)?", fullmatch=True
)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | reals | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
).map(json.dumps)
values = integers | reals | texts | blobs | numerals | dates | documents


def timestamp(zone: str = "UTC", **options: Any) -> Converter:
    return Attribute(column="c", type="timestamp", **options).make_converter(zone)


def converter(type_name: str) -> Converter:
    return COLUMN_TYPES[type_name].bind()


# Whatever SQLite holds


@pytest.mark.parametrize("type_name", TYPES)
@given(value=values)
def test_any_value_is_converted_or_refused_with_a_reason(type_name: str, value: Any) -> None:
    try:
        converted = converter(type_name)(value)
    except ValueProblem as problem:
        assert str(problem).startswith(("is ", "has ", "holds ", "does ", "happens "))
    else:
        assert len(converted) == 1


@given(value=integers | reals | texts | blobs)
def test_auto_gives_back_the_very_value_and_its_storage_class(value: Any) -> None:
    """Through a real SQLite file's eyes: what comes out is what went in."""
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE t (c)")
        try:
            db.execute("INSERT INTO t VALUES (?)", (value,))
        except UnicodeEncodeError:
            return  # a lone surrogate cannot be bound; test_odd_data has invalid UTF-8
        stored = db.execute("SELECT c FROM t").fetchone()[0]
    try:
        ((kind, content),) = to_auto(stored).items()
    except ValueProblem:
        assert isinstance(stored, float)
        assert stored in (float("inf"), float("-inf")) or not 1e-130 <= abs(stored) < 1e126
        return
    match stored:
        case int() | float():
            assert kind == "N"
            assert Decimal(content) == Decimal(repr(stored))
            assert type(stored)(content) == stored
        case str():
            assert (kind, content) == ("S", stored)
        case bytes():
            assert kind == "B"
            assert base64.b64decode(content, validate=True) == stored


@given(numeral=numerals)
def test_a_number_in_text_is_exact_and_has_one_writing(numeral: str) -> None:
    exact = Decimal(numeral)
    try:
        text = to_number(numeral)["N"]
    except ValueProblem:
        digits = "".join(map(str, exact.as_tuple().digits)).strip("0")
        in_range = exact == 0 or -130 <= exact.adjusted() <= 125
        assert len(digits) > 38 or not in_range or len(numeral.lower().rpartition("e")[2].lstrip("+-")) > 6
    else:
        assert Decimal(text) == exact
        assert normalize_number(Decimal(text)) == text


@given(document=documents)
def test_json_comes_back_as_it_was(document: str) -> None:
    try:
        converted = to_json(document)
    except ValueProblem:
        return
    assert plain(converted) == json.loads(document, parse_float=Decimal, parse_int=Decimal)


def plain(value: dict[str, Any]) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "M":
            return {name: plain(field) for name, field in content.items()}
        case "L":
            return [plain(element) for element in content]
        case "N":
            return Decimal(content)
        case "NULL":
            return None
        case _:
            return content


@given(moment=st.datetimes(), offset=st.integers(-14 * 60, 14 * 60), separator=st.sampled_from(" T"))
def test_a_timestamp_is_the_same_moment(moment: datetime, offset: int, separator: str) -> None:
    sign, minutes = ("-" if offset < 0 else "+"), abs(offset)
    text = f"{moment.isoformat(separator)}{sign}{minutes // 60:02}:{minutes % 60:02}"
    try:
        expected = (moment - timedelta(minutes=offset)).replace(tzinfo=UTC)
    except OverflowError:
        with pytest.raises(ValueProblem):
            timestamp()(text)
    else:
        assert datetime.fromisoformat(timestamp()(text)["S"]) == expected


# string


@pytest.mark.parametrize("text", ["", "Emma", "雪国", "👩‍💻", "a\0b", "Cie\u0301nega", " spaces ", "\ufeff"])
def test_text_stays_as_it_is(text: str) -> None:
    assert to_string(text) == {"S": text}


def test_an_integer_in_a_text_column_is_its_digits() -> None:
    assert to_string(1984) == {"S": "1984"}


# number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (-7, "-7"),
        (2**63 - 1, "9223372036854775807"),
        (-(2**63), "-9223372036854775808"),
        (0.1, "0.1"),
        (-0.0, "0"),
        (1e2, "100"),
        (4.5, "4.5"),
        (1e22, "10000000000000000000000"),
        (1e125, "1E+125"),
        (5e-130, "5E-130"),
        ("1e2", "100"),
        ("-0.0", "0"),
        ("+5", "5"),
        ("007", "7"),
        (".5", "0.5"),
        ("5.", "5"),
        ("1.50", "1.5"),
        ("1E-130", "1E-130"),
        ("0." + "0" * 129 + "1", "1E-130"),
        ("9" * 38, "9" * 38),
        ("9" * 38 + "0" * 88, "9." + "9" * 37 + "E+125"),
        ("-0." + "1" * 38, "-0." + "1" * 38),
        ("0e999999", "0"),
    ],
)
def test_numbers_have_one_exact_text(value: Any, text: str) -> None:
    assert to_number(value) == {"N": text}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("inf"), "finite"),
        (float("-inf"), "finite"),
        (1e126, "range"),
        (-1.7e308, "range"),
        (5e-324, "range"),
        ("9" * 39, "38 significant digits"),
        ("1E+126", "range"),
        ("1E-131", "range"),
        ("12e999999", "range"),  # beyond what Python's own decimals hold
        ("0." + "0" * 60 + "1e-999999", "range"),  # would round to 0 without a word
        ("1e9999999", "is not a number"),
        ("abc", "is not a number"),
        ("", "is not a number"),
        (" 5", "is not a number"),
        ("5\n", "is not a number"),
        ("1_000", "is not a number"),
        ("1,5", "is not a number"),
        ("٣", "is not a number"),
        ("0x10", "is not a number"),
        ("NaN", "is not a number"),
        ("Infinity", "is not a number"),
        (b"5", "a BLOB"),
    ],
)
def test_what_is_no_number_of_dynamodb_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueProblem, match=reason):
        to_number(value)


# boolean, binary


@pytest.mark.parametrize("value", [1, "1", "true", "TRUE"])
def test_true(value: Any) -> None:
    assert to_boolean(value) == {"BOOL": True}


@pytest.mark.parametrize("value", [0, "0", "false", "False"])
def test_false(value: Any) -> None:
    assert to_boolean(value) == {"BOOL": False}


@pytest.mark.parametrize("value", [2, -1, 1.0, "yes", "t", "", b"\1"])
def test_neither_true_nor_false(value: Any) -> None:
    with pytest.raises(ValueProblem, match="neither"):
        to_boolean(value)


def test_a_blob_is_base64() -> None:
    assert to_binary(b"\x00\xff") == {"B": "AP8="}
    assert to_binary(b"") == {"B": ""}


@pytest.mark.parametrize(
    ("convert", "value", "reason"),
    [
        (to_string, b"x", "is a BLOB where the mapping says string"),
        (to_string, 1.5, "is a real number where the mapping says string"),
        (to_binary, "x", "is text where the mapping says binary"),
        (to_binary, 1, "is an integer where the mapping says binary"),
        (to_json, 1, "is an integer where the mapping says json"),
        (timestamp(), b"x", "is a BLOB where the mapping says timestamp"),
    ],
)
def test_another_storage_class_is_refused_by_name(convert: Converter, value: Any, reason: str) -> None:
    with pytest.raises(ValueProblem, match=reason):
        convert(value)


# timestamp


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2026-01-05 12:34:56.123456", "2026-01-05T12:34:56.123456+00:00"),
        ("2026-01-05 12:34:56", "2026-01-05T12:34:56+00:00"),
        ("2026-01-05 12:34:56.5", "2026-01-05T12:34:56.500000+00:00"),
        ("2026-01-05 12:34:56.123456000", "2026-01-05T12:34:56.123456+00:00"),
        ("2026-01-05 12:34", "2026-01-05T12:34:00+00:00"),
        ("2026-01-05", "2026-01-05T00:00:00+00:00"),
        ("2026-01-05T12:34:56Z", "2026-01-05T12:34:56+00:00"),
        ("2026-01-05 12:34 z", "2026-01-05T12:34:00+00:00"),
        ("2026-01-05 00:30:00+02:00", "2026-01-04T22:30:00+00:00"),
        ("2026-01-05 12:34:56 +0200", "2026-01-05T10:34:56+00:00"),
        ("2026-01-05 12:34:56.5-09:30", "2026-01-05T22:04:56.500000+00:00"),
        ("2024-02-29", "2024-02-29T00:00:00+00:00"),
        (0, "1970-01-01T00:00:00+00:00"),
        (-1, "1969-12-31T23:59:59+00:00"),
        (1767616496, "2026-01-05T12:34:56+00:00"),
        (1767616496.25, "2026-01-05T12:34:56.250000+00:00"),
    ],
)
def test_sqlite_dates_become_iso_8601_in_utc(value: Any, text: str) -> None:
    assert timestamp()(value) == {"S": text}


@pytest.mark.parametrize(
    "value",
    [
        "some day in spring",
        "",
        "2026-02-30",
        "2026-13-01",
        "0000-01-01",
        "2026-01-05 24:00:00",
        "2026-01-05 12:60",
        "2026-01-05 12:34:56.1234567",  # finer than a microsecond
        "2026-01-05+02:00",  # an offset without a time; Python alone reads it as two o'clock
        "2026-01-05Z",
        "2026-01-05 12:34:56+25:00",
        "2026-1-5",
        "05.01.2026",
        "01/05/2026",
        "20260105",
        "12:34:56",
        "now",
        "2026-01-05 12:34:56\n",
        "2026-W02-1",
        "٢٠٢٦-01-05",
        "0001-01-01 00:00:00+05:00",
        "1767616496",
        float("inf"),
        2**63 - 1,
        1e300,
    ],
)
def test_what_is_no_time_is_refused_and_never_guessed(value: Any) -> None:
    with pytest.raises(ValueProblem):
        timestamp()(value)


def test_bare_numbers_are_what_the_mapping_says() -> None:
    assert timestamp(numbers="epoch_milliseconds")(1767616496250)["S"] == "2026-01-05T12:34:56.250000+00:00"
    assert timestamp(numbers="julian_day")(2440587.5)["S"] == "1970-01-01T00:00:00+00:00"


@given(moment=st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_julian_days_are_read_as_sqlite_reads_them(moment: datetime) -> None:
    text = moment.isoformat(" ", "milliseconds")
    with closing(sqlite3.connect(":memory:")) as db:
        day, back = db.execute("SELECT julianday(?1), strftime('%Y-%m-%dT%H:%M:%f', julianday(?1))", (text,)).fetchone()
    ours = datetime.fromisoformat(timestamp(numbers="julian_day")(day)["S"])
    assert abs(ours - datetime.fromisoformat(back).replace(tzinfo=UTC)) <= timedelta(milliseconds=1)


def test_a_naive_text_is_in_the_mapping_s_time_zone() -> None:
    oslo = timestamp("Europe/Oslo")
    assert oslo("2026-07-01 12:00:00") == {"S": "2026-07-01T10:00:00+00:00"}
    assert oslo("2026-01-01 12:00:00") == {"S": "2026-01-01T11:00:00+00:00"}
    assert oslo("2026-07-01 12:00:00Z") == {"S": "2026-07-01T12:00:00+00:00"}
    assert oslo(0) == {"S": "1970-01-01T00:00:00+00:00"}


def test_hours_that_happen_twice_or_never_are_refused() -> None:
    oslo = timestamp("Europe/Oslo")
    with pytest.raises(ValueProblem, match="does not exist in Europe/Oslo"):
        oslo("2026-03-29 02:30:00")
    with pytest.raises(ValueProblem, match="happens twice in Europe/Oslo"):
        oslo("2026-10-25 02:30:00")


# json


def test_json_nests_with_exact_numbers() -> None:
    document = '{"a": [1, 2.50, 1e2, true, null, "x", ""], "b": {}, "c": 0.1234567890123456789}'
    assert to_json(document) == {
        "M": {
            "a": {"L": [{"N": "1"}, {"N": "2.5"}, {"N": "100"}, {"BOOL": True}, {"NULL": True}, {"S": "x"}, {"S": ""}]},
            "b": {"M": {}},
            "c": {"N": "0.1234567890123456789"},
        }
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("'x'", "is not JSON"),
        ("[" * 100_000 + "]" * 100_000, "is not JSON|nested"),
        ("[NaN]", "holds NaN"),
        ("[-Infinity]", "holds -Infinity"),
        ('{"a": 1, "a": 2}', "a name twice"),
        ('{"": 1}', "an empty name"),
        (f"[{'9' * 39}]", "38 significant digits"),
        ("1e99999999999999999999", "is not a number"),
        ("12e999999", "range"),
        ("[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH, "nested more than the 32 levels"),
    ],
)
def test_what_is_no_json_or_does_not_fit_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueProblem, match=reason):
        to_json(text)


def test_json_may_be_31_containers_deep() -> None:
    depth = MAX_DEPTH - 1
    assert plain(to_json('{"a":' * depth + "1" + "}" * depth))


@pytest.mark.parametrize("type_name", TYPES)
@given(value=values)
def test_no_reason_holds_the_value(type_name: str, value: Any) -> None:
    """Who puts a reason together decides whether the value may be shown."""
    secret = f"s3cret{value}" if isinstance(value, str) else value
    try:
        converter(type_name)(secret)
    except ValueProblem as problem:
        assert "s3cret" not in str(problem)
