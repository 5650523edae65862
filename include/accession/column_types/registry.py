"""The registry of column types: each is one function and one entry here.

The mapping checks a type's name, default, options and use in index keys against its entry, the item builder takes its
converter from it, preflight its key type, and docs/mapping.md is made from it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from zoneinfo import ZoneInfo

from accession.column_types.documents import to_json, to_string_set
from accession.column_types.numbers import read_number_default, to_number
from accession.column_types.scalars import (
    read_boolean_default,
    read_string_default,
    to_auto,
    to_binary,
    to_boolean,
    to_string,
)
from accession.column_types.timestamps import read_timestamp_default, to_date, to_timestamp
from accession.column_types.values import Converter, KeyType, TypedValue, ValueProblem
from accession.validation import list_words


@dataclass(frozen=True)
class Default:
    """Which defaults a type takes. `read` makes the typed value of one, or raises ValueProblem; `takes` completes
    "The default may be …"."""

    read: Callable[[object], TypedValue]
    takes: str


@dataclass(frozen=True)
class Option:
    """A key of an attribute that only some types have. Without `choices` any text will do."""

    doc: str
    default: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnType:
    """How the values of a column become DynamoDB values.

    `convert` takes the value last; before it the time zone if `in_zone`, then the options in their order. It is exact:
    a value that cannot be what the mapping says raises ValueProblem; nothing is guessed, rounded or dropped. `key_type`
    is the type as an index key, None if the values have no single type that a key may have. `doc` is one or two
    sentences for the documentation.
    """

    name: str
    convert: Callable[..., TypedValue]
    doc: str
    key_type: KeyType | None = None
    default: Default | None = None
    options: Mapping[str, Option] = field(default_factory=dict)
    in_zone: bool = False

    def bind(self, options: Mapping[str, str] | None = None, timezone: str = "UTC") -> Converter:
        """Return the function that converts the values of one attribute. Options left out have their defaults."""
        zone = None if timezone == "UTC" else ZoneInfo(timezone)
        chosen = [(options or {}).get(name, option.default) for name, option in self.options.items()]
        arguments = [zone, *chosen] if self.in_zone else chosen
        return partial(self.convert, *arguments) if arguments else self.convert

    def read_default(self, default: object) -> TypedValue:
        """Return the typed value of a default. Raises ValueProblem, which completes "<default> …"."""
        if self.default is None:
            raise ValueProblem(f"cannot be the default of a {self.name}, which has no default")
        try:
            return self.default.read(default)
        except ValueProblem as problem:
            raise ValueProblem(
                f"cannot be the default of a {self.name}: it {problem}; give {self.default.takes}"
            ) from None

    def check_option(self, name: str, value: object) -> None:
        """Raise ValueProblem, which completes "<option> …", if an option of this type cannot have the value."""
        choices = self.options[name].choices
        if not isinstance(value, str):
            raise ValueProblem("must be text")
        if choices and value not in choices:
            raise ValueProblem(f"must be {list_words(choices)}")


_TYPES = (
    ColumnType(
        "string",
        to_string,
        "Text as it is, and an integer as its digits.",
        key_type="S",
        default=Default(read_string_default, "text"),
    ),
    ColumnType(
        "number",
        to_number,
        "An integer, a real number, or text that is a number; exact, never rounded.",
        key_type="N",
        default=Default(read_number_default, "a number of at most 38 digits, between 1E-130 and 9.99E+125"),
    ),
    ColumnType(
        "boolean",
        to_boolean,
        "0 and 1 as a number or as text, and true and false in any case.",
        default=Default(read_boolean_default, "true or false"),
    ),
    ColumnType("binary", to_binary, "A BLOB.", key_type="B"),
    ColumnType(
        "timestamp",
        to_timestamp,
        "Text in SQLite's usual forms, or a number as `numbers` says; stored as ISO 8601 text in UTC. Text without an "
        "offset is in the mapping's `timezone`, and hours that the clock skips or repeats there are rejected.",
        key_type="S",
        default=Default(read_timestamp_default, "first_seen, the time at which the row was first seen"),
        options={
            "numbers": Option(
                "what a bare number means",
                default="epoch_seconds",
                choices=("epoch_seconds", "epoch_milliseconds", "julian_day"),
            )
        },
        in_zone=True,
    ),
    ColumnType(
        "date",
        to_date,
        "A day as text, YYYY-MM-DD, also with midnight as its time; stored as YYYY-MM-DD. No time zone moves it.",
        key_type="S",
    ),
    ColumnType("json", to_json, "JSON text as nested values: objects as maps, arrays as lists, numbers exact."),
    ColumnType(
        "string_set",
        to_string_set,
        "A JSON array of texts, or a text with a `separator`, as a set. An empty list is NULL, since DynamoDB has no "
        "empty set; an element that occurs twice is a reject.",
        options={"separator": Option("what stands between the elements of a text", default="")},
    ),
    ColumnType(
        "auto",
        to_auto,
        "By SQLite's storage class: INTEGER and REAL as a number, TEXT as a string, BLOB as a binary.",
    ),
)

COLUMN_TYPES: dict[str, ColumnType] = {column_type.name: column_type for column_type in _TYPES}
