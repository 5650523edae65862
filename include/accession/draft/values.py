"""The values of a table's columns, all of them: which column type takes every one, and what else a draft must know.

A type takes a value if its own converter does, so a drafted attribute rejects no value of the drafted source. Memory
does not grow with the number of rows.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import orjson

from accession.column_types import COLUMN_TYPES, Converter, SqliteValue, ValueProblem
from accession.draft.schema import Column, TableSchema
from accession.items import MAX_ITEM_BYTES, is_unicode
from accession.source import quote

ROWS_AT_ONCE = 100
SHOWN_BYTES = 2049  # of a BLOB: enough to know whether it can be a key
# The storage classes that a type takes whatever the value is. Other values are tried one by one.
SURE: Mapping[str, frozenset[type]] = {
    "string": frozenset({int, str}),
    "number": frozenset({int}),
    "binary": frozenset({bytes}),
    "auto": frozenset({int, str, bytes}),
}
# The least numbers that are taken for a time if the column is declared as one: in 1973, and that in milliseconds.
EPOCHS = {"epoch_seconds": 10**8, "epoch_milliseconds": 10**11}
LEAST_LISTS = 4  # one text in four has a comma if a column has lists; in prose and in names, fewer have
LISTED = re.compile(r"[^,\n]{1,40}(,[^,\n]{1,40})+")


@dataclass(frozen=True)
class Choice:
    """A column type that may be drafted: its name and options; whether it needs a value to be chosen; the storage
    classes that it may be given; and the most characters that a text may have."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    needs_value: bool = False
    kinds: frozenset[type] = frozenset({int, float, str, bytes})
    longest: int | None = None


TEXT_ONLY, NUMBERS = frozenset({str}), frozenset({int, float})
TIMES = (
    Choice("timestamp", kinds=frozenset({int, str})),
    Choice("timestamp", {"numbers": "epoch_milliseconds"}, kinds=frozenset({int})),
)
# A text is a time if all of its values are, a number is not; nothing is changed in a column of several kinds.
BY_VALUE = (
    Choice("number", needs_value=True, kinds=NUMBERS),
    Choice("string", needs_value=True, kinds=TEXT_ONLY),
    Choice("binary", needs_value=True, kinds=frozenset({bytes})),
    Choice("auto"),
)


@dataclass(frozen=True)
class Values:
    """What is known of a column's values: the type that takes all of them, and the storage classes other than NULL.

    `bytes` is the length of the longest. `is_sound` is False if no type takes them all: text that is not Unicode, or
    numbers beyond DynamoDB's range. `looks_like` is "json" or "list" for texts that hold either.
    """

    choice: Choice
    kinds: frozenset[type]
    has_null: bool
    has_empty: bool
    has_nul: bool
    bytes: int
    is_sound: bool
    looks_like: str = ""

    @property
    def is_large(self) -> bool:
        """Whether a value alone is larger than an item may be."""
        return self.bytes > MAX_ITEM_BYTES


def read_values(db: sqlite3.Connection, table: TableSchema) -> dict[str, Values]:
    """Read all rows of a table, and return what is known of each column."""
    trials = {name: _Trial(column) for name, column in table.columns.items()}
    for rows in _read_rows(db, table):
        for trial, values in zip(trials.values(), zip(*rows, strict=True), strict=True):
            trial.add(values)
    return {name: trial.close(_has_large(db, table, name, trial)) for name, trial in trials.items()}


def _read_rows(db: sqlite3.Connection, table: TableSchema) -> Iterator[list[tuple[SqliteValue, ...]]]:
    columns = (f"{quote(table.name)}.{quote(name)}" for name in table.columns)
    # An empty BLOB stays as it is: `substr` makes NULL of it.
    is_long = f"typeof({{0}}) = 'blob' AND length({{0}}) > {SHOWN_BYTES}"
    shown = (f"iif({is_long.format(one)}, substr({one}, 1, {SHOWN_BYTES}), {one})" for one in columns)
    rows = db.execute(f"SELECT {', '.join(shown)} FROM main.{quote(table.name)}")
    while found := rows.fetchmany(ROWS_AT_ONCE):
        yield found


def _has_large(db: sqlite3.Connection, table: TableSchema, name: str, trial: "_Trial") -> bool:
    """Tell whether a BLOB, of which only the beginning was read, is larger than an item may be."""
    if bytes not in trial.kinds:
        return False
    query = f"SELECT 1 FROM main.{quote(table.name)} WHERE length({quote(table.name)}.{quote(name)}) > {MAX_ITEM_BYTES}"
    return db.execute(f"{query} LIMIT 1").fetchone() is not None


class _Trial:
    """Tries the types that a column may have on its values."""

    def __init__(self, column: Column) -> None:
        self.choices = [(one, COLUMN_TYPES[one.name].bind(one.options)) for one in list_choices(column)]
        self.kinds: set[type] = set()
        self.has_null = self.has_empty = self.has_nul = False
        self.is_unicode = self.is_number = True
        self.bytes = 0
        self.likes = {"json", "list"} if column.affinity == "TEXT" else set()
        self.texts = self.lists = 0

    def add(self, values: Sequence[SqliteValue]) -> None:
        present = [value for value in values if value is not None]
        self.has_null |= len(present) < len(values)
        if not present:
            return
        kinds = set(map(type, present))
        self.kinds |= kinds
        texts = [value for value in present if isinstance(value, str)]
        blobs = [value for value in present if isinstance(value, bytes)]
        if texts:
            self._measure(texts)
        if blobs:
            self.bytes = max(self.bytes, *map(len, blobs))
            self.has_empty |= b"" in blobs
        are_numbers = self._are_numbers(present) if float in kinds else True
        self.is_number &= are_numbers
        self.choices = [
            (choice, convert)
            for choice, convert in self.choices
            if kinds <= choice.kinds
            and (
                are_numbers if choice.name == "number" and kinds <= NUMBERS else _fits(choice, convert, kinds, present)
            )
        ]

    def _are_numbers(self, values: Sequence[SqliteValue]) -> bool:
        """Tell whether DynamoDB's range has all real numbers."""
        number = COLUMN_TYPES["number"].bind()
        return all(_takes(number, value) for value in values if isinstance(value, float))

    def _measure(self, texts: list[str]) -> None:
        self.has_empty |= "" in texts
        joined = "\n".join(texts)
        self.has_nul |= "\0" in joined
        self.is_unicode &= is_unicode(joined)
        encoded = texts if joined.isascii() else [text.encode(errors="surrogateescape") for text in texts]
        self.bytes = max(self.bytes, *map(len, encoded))
        texts = [text for text in texts if text]
        self.texts += len(texts)
        if "json" in self.likes and not all(map(_is_document, texts)):
            self.likes.discard("json")
        if "list" in self.likes:
            lists = [text for text in texts if "," in text]
            self.lists += len(lists)
            if not all(map(LISTED.fullmatch, lists)):
                self.likes.discard("list")

    def close(self, has_large: bool) -> Values:
        chosen = next(choice for choice, _ in self.choices if self.kinds or not choice.needs_value)
        is_list = "list" in self.likes and 0 < self.texts <= self.lists * LEAST_LISTS
        is_json = "json" in self.likes and self.texts > 0
        looks_like = "json" if is_json else "list" if is_list else ""
        return Values(
            choice=chosen,
            kinds=frozenset(self.kinds),
            has_null=self.has_null,
            has_empty=self.has_empty,
            has_nul=self.has_nul,
            bytes=MAX_ITEM_BYTES + 1 if has_large else self.bytes,
            is_sound=self.is_unicode and self.is_number,
            looks_like=looks_like if chosen.name == "string" else "",
        )


def list_choices(column: Column) -> tuple[Choice, ...]:
    """Return the types that a column may have, the most telling first. The last takes everything."""
    declared = column.declared.upper()
    is_text = column.affinity == "TEXT" or "STRING" in declared
    found: list[Choice] = []
    if "BOOL" in declared or "TINYINT(1)" in declared:
        found.append(Choice("boolean"))
    elif "JSON" in declared:
        found.append(Choice("json"))
    elif "DATETIME" in declared or "TIMESTAMP" in declared:
        found += TIMES
    elif "DATE" in declared:
        found += [Choice("date"), *TIMES]
    elif is_text:
        found += [
            Choice("date", needs_value=True, kinds=TEXT_ONLY, longest=len("2026-01-05")),
            Choice("timestamp", needs_value=True, kinds=TEXT_ONLY),
        ]
    if is_text:
        found.append(Choice("string", kinds=frozenset({int, str})))
    elif column.affinity == "BLOB" and declared:
        found.append(Choice("binary"))
    elif column.affinity != "BLOB":
        found.append(Choice("number"))
    named = {one.name for one in found}
    return (*found, *(one for one in BY_VALUE if one.name not in named))


def _fits(choice: Choice, convert: Converter, kinds: set[type], values: Sequence[SqliteValue]) -> bool:
    """Tell whether a type takes all values, which are of these storage classes, and may be given them."""
    if kinds <= SURE.get(choice.name, frozenset()) or choice.name == "auto":
        return True
    if choice.longest is not None and any(isinstance(one, str) and len(one) > choice.longest for one in values):
        return False
    if choice.name == "timestamp" and int in kinds:
        least = EPOCHS[choice.options.get("numbers", "epoch_seconds")]
        if any(isinstance(value, int) and value < least for value in values):
            return False
    return all(_takes(convert, value) for value in values)


def _takes(convert: Converter, value: SqliteValue) -> bool:
    """Tell whether a converter takes a value, and what it makes of it can be stored."""
    try:
        typed = convert(value)
        if "M" in typed or "L" in typed:  # texts in a document may be invalid, though the document is not
            orjson.dumps(typed)
    except (ValueProblem, orjson.JSONEncodeError):
        return False
    return True


def _is_document(text: str) -> bool:
    return text[0] in "{[" and _takes(COLUMN_TYPES["json"].bind(), text)
