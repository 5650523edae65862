"""The key of a table: which columns identify a row, and what the key of its item is made of."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from accession.draft.names import make_unique, show_name
from accession.draft.schema import TableSchema
from accession.draft.values import Values
from accession.items import MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES
from accession.source import quote

SEPARATORS = "#|~/;"
NUMBER, STRING = "number", "string"


@dataclass(frozen=True)
class Key:
    """The key of a table. `columns` are those of the source, empty for the rowid; `parts` are the attributes of the
    item's key, with what they are made of. `passed_over` is the first key that cannot be one, with the reason."""

    columns: tuple[str, ...]
    parts: Mapping[str, str]
    passed_over: str = ""

    @property
    def is_new_id(self) -> bool:
        """Whether the item's key is a new id."""
        return list(self.parts.values()) == ["new_id"]

    def keeps(self, column: str) -> bool:
        """Tell whether a part of the key is the value of a column."""
        return self.parts.get(column) == "keep"


class Keyless(Exception):
    """Nothing identifies the rows of a table. The message completes "left out, as …"."""


def find_key(
    db: sqlite3.Connection, table: TableSchema, values: Mapping[str, Values], entity: str, *, new_ids: bool
) -> Key:
    """Return the key of a table: its primary key, else its shortest unique key, else the rowid with a new id.

    A key is passed over if a row of the source could not be found by it. Raises Keyless.
    """
    passed_over = ""
    for columns in table.unique_keys:
        is_primary = columns == table.primary_key
        if not is_primary and not all(table.columns[column].is_null_refused for column in columns):
            continue
        separator = _find_separator(db, table, values, columns)
        fault = _find_fault(db, table, values, columns, separator)
        if fault is None:
            return Key(columns, _make_parts(table, values, columns, separator, entity, new_ids=new_ids), passed_over)
        passed_over = passed_over or f"{', '.join(map(show_name, columns))} {fault}"
    if not table.has_rowid:
        raise Keyless("one whose rows nothing identifies" + (f" ({passed_over})" if passed_over else ""))
    return replace_key(table, entity, (), passed_over)


def replace_key(table: TableSchema, entity: str, columns: tuple[str, ...], passed_over: str = "") -> Key:
    """Return a key of new ids for rows that these columns identify. It may have the name of the column that it
    replaces, unless that column is needed."""
    is_needed = len(table.columns) == 1 or any(set(columns) & set(one.columns) for one in table.foreign_keys)
    replaced = set(columns) if len(columns) == 1 and not is_needed else set()
    return Key(columns, {make_unique(f"{entity}_id", table.columns.keys() - replaced): "new_id"}, passed_over)


def find_key_type(values: Values) -> str:
    """Return the type of a column as a kept key."""
    is_number = values.kinds == {int} and values.choice.name != STRING  # a time or a flag, too
    return NUMBER if is_number or (values.choice.name == NUMBER and values.kinds <= {int}) else STRING


def _make_parts(
    table: TableSchema,
    values: Mapping[str, Values],
    columns: tuple[str, ...],
    separator: str,
    entity: str,
    *,
    new_ids: bool,
) -> Mapping[str, str]:
    first, *rest = columns
    if new_ids and not rest and find_key_type(values[first]) == NUMBER:
        return replace_key(table, entity, columns).parts
    if len(rest) < 2:
        return dict.fromkeys(columns, "keep")
    name = make_unique("_".join(rest)[:200], table.columns)
    return {first: "keep", name: separator.join(f"{{{column}}}" for column in rest)}


def _find_separator(
    db: sqlite3.Connection, table: TableSchema, values: Mapping[str, Values], columns: Sequence[str]
) -> str:
    """Return a text that stands between the columns of a sort key, and in none of their values."""
    texts = [f"{quote(table.name)}.{quote(column)}" for column in columns[1:] if str in values[column].kinds]
    if len(texts) < 2:  # the only text cannot be taken for an integer
        return SEPARATORS[0]
    for separator in SEPARATORS:
        found = " OR ".join(f"instr({text}, '{separator}')" for text in texts)
        if not db.execute(f"SELECT 1 FROM main.{quote(table.name)} WHERE {found} LIMIT 1").fetchone():
            return separator
    return ""


def _find_fault(
    db: sqlite3.Connection, table: TableSchema, values: Mapping[str, Values], columns: tuple[str, ...], separator: str
) -> str | None:
    """Return why these columns cannot be the key of the items; None if they can. It completes "<columns> …"."""
    found = [values[column] for column in columns]
    if any(one.has_null for one in found):
        return "is NULL in a row"
    if not all(one.kinds <= {int, str} for one in found):
        return "is neither an integer nor text in every row"
    if any(one.has_empty for one in (found if len(found) < 3 else found[:1])):  # in a template it may be
        return "is empty in a row"
    if not all(one.is_sound for one in found) or (len(columns) > 1 and any(one.has_nul for one in found)):
        return "has a character that a key cannot have"
    rest = sum(one.bytes or 20 for one in found[1:]) + max(0, len(found) - 2)
    if found[0].bytes > MAX_PARTITION_KEY_BYTES or rest > MAX_SORT_KEY_BYTES:
        return "is longer than a key of DynamoDB"
    if len(columns) > 2 and (not separator or any(set(column) & set("{}:@") for column in columns[1:])):
        return "cannot be written as a template"
    if any(one.kinds == {int, str} for one in found) and _has_same_texts(db, table, columns):
        return "is a number in one row and the same text in another"
    return None


def _has_same_texts(db: sqlite3.Connection, table: TableSchema, columns: Sequence[str]) -> bool:
    texts = ", ".join(f"CAST({quote(table.name)}.{quote(column)} AS TEXT) COLLATE BINARY" for column in columns)
    query = f"SELECT 1 FROM main.{quote(table.name)} GROUP BY {texts} HAVING count(*) > 1 LIMIT 1"
    return db.execute(query).fetchone() is not None
