"""The schema of a source: its tables with columns, keys, foreign keys and indexes, as SQLite describes them.

Names are spelled as the table spells them. What cannot be migrated is left out, with the reason.
"""

import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from accession.items import is_unicode
from accession.source import find_affinity, quote

# Tables in which the modules of SQLite keep the content of a virtual table, as sqlite.org names them: FTS3 to 5, RTREE.
SHADOWS = re.compile(r"_(content|segments|segdir|docsize|stat|data|idx|config|node|rowid|parent)$")
# A key in YAML is on one line and has at most 1,024 characters, escapes included (YAML 1.1, 9.3.2).
MAX_NAME = 150


@dataclass(frozen=True)
class Column:
    """A column that can be read. `is_null_refused` tells whether the schema itself keeps NULL out."""

    name: str
    declared: str
    affinity: str
    is_null_refused: bool


@dataclass(frozen=True)
class ForeignKey:
    """A declared foreign key. `to` is empty if it refers to the primary key of `table`; `id` is SQLite's number."""

    id: int
    columns: tuple[str, ...]
    table: str
    to: tuple[str, ...]


@dataclass(frozen=True)
class TableIndex:
    """An index over plain columns and all rows."""

    columns: tuple[str, ...]
    is_unique: bool


@dataclass(frozen=True)
class TableSchema:
    """An ordinary table. `has_rowid` tells whether SQLite's number of a row has the name rowid there, and `unreadable`
    has the columns that are left out, each with the reason."""

    name: str
    columns: Mapping[str, Column]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    indexes: tuple[TableIndex, ...]
    has_rowid: bool
    unreadable: Mapping[str, str]

    @cached_property
    def _spelling(self) -> dict[bytes, str]:
        return {fold_case(name): name for name in self.columns}

    def find_columns(self, names: Iterable[str]) -> tuple[str, ...] | None:
        """Return these columns as the table spells them; None if one of them cannot be read."""
        found = [self._spelling.get(fold_case(name)) for name in names]
        return None if None in found else tuple(name for name in found if name is not None)

    @property
    def unique_keys(self) -> list[tuple[str, ...]]:
        """The columns that the schema keeps unique: the primary key, then UNIQUE indexes, the shortest first."""
        indexes = sorted((one.columns for one in self.indexes if one.is_unique), key=len)
        return list(dict.fromkeys((*filter(None, [self.primary_key]), *indexes)))


def fold_case(name: str) -> bytes:
    """Return what two names have in common that are one to SQLite, which knows the case of ASCII letters only."""
    return name.encode(errors="surrogateescape").lower()


@dataclass(frozen=True)
class Schema:
    """The tables of a source, in the order in which they were made, and what is left out: name and reason."""

    tables: tuple[TableSchema, ...]
    left_out: Mapping[str, str]


def read_schema(db: sqlite3.Connection) -> Schema:
    """Read the schema of an open source. Read-only."""
    listed = {row[1]: row[2:5] for row in db.execute("PRAGMA main.table_list")}
    names = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table','view')")]
    unknown = [name.lower() for name in names if listed[name][0] == "virtual" and not _is_module_known(db, name)]
    tables, left_out = [], {}
    for name in names:
        if name.startswith("sqlite_"):
            continue
        kind, _, is_without_rowid = listed[name]
        if kind == "view":
            left_out[name] = "a view"
        elif kind == "virtual":
            left_out[name] = "a virtual table"
        elif kind == "shadow" or (SHADOWS.search(name) and SHADOWS.sub("", name).lower() in unknown):
            left_out[name] = "the content of a virtual table"
        elif not name or not is_unicode(name):
            left_out[name] = "one whose name no mapping can have"
        else:
            try:
                table = _read_table(db, name, has_rowid=not is_without_rowid)
            except sqlite3.Error as error:
                left_out[name] = f"one that SQLite cannot read ({error})"
                continue
            if table.columns:
                tables.append(table)
            else:
                left_out[name] = "one without a column that can be read"
    return Schema(tuple(tables), left_out)


def _is_module_known(db: sqlite3.Connection, table: str) -> bool:
    """Tell whether this SQLite has the module of a virtual table. Otherwise it does not know its shadow tables."""
    sql = db.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0]
    used = re.search(r"\bUSING\s+[\"'`\[]?(\w+)", sql, re.IGNORECASE)
    known = {name.lower() for (name,) in db.execute("SELECT name FROM pragma_module_list")}
    return used is not None and used[1].lower() in known


def _read_table(db: sqlite3.Connection, name: str, *, has_rowid: bool) -> TableSchema:
    described = db.execute(f"PRAGMA main.table_xinfo({quote(name)})").fetchall()
    primary = [row[1] for row in sorted((row for row in described if row[5]), key=lambda row: row[5])]
    columns: dict[str, Column] = {}
    unreadable: dict[str, str] = {}
    for _, column, declared, not_null, _, place, hidden in described:
        if reason := _find_fault(db, name, column, hidden, columns):
            unreadable[column] = reason
            continue
        is_rowid = has_rowid and len(primary) == 1 and declared.upper() == "INTEGER"
        is_refused = bool(not_null) or bool(place and (is_rowid or not has_rowid))
        columns[column] = Column(column, declared, find_affinity(declared), is_refused)
    read = ", ".join(f"{quote(name)}.{quote(column)}" for column in columns) or "1"
    db.execute(f"SELECT {read} FROM main.{quote(name)} LIMIT 1").fetchall()
    table = TableSchema(name, columns, (), (), (), has_rowid, unreadable)
    return TableSchema(
        name,
        columns,
        table.find_columns(primary) or (),
        tuple(_read_foreign_keys(db, table)),
        tuple(_read_indexes(db, table)),
        has_rowid and "rowid" not in map(str.lower, (*columns, *unreadable)),
        unreadable,
    )


def _find_fault(db: sqlite3.Connection, table: str, column: str, hidden: int, others: Iterable[str]) -> str | None:
    """Return why a column cannot be in a mapping; None if it can."""
    if not column or not is_unicode(column) or len(column) > MAX_NAME:
        return "no mapping can have its name"
    if column.lower() in map(str.lower, others):
        return "another column's name differs from it only by case"
    if hidden:  # a generated column may use a function that only the application has, or fail for some values
        try:
            db.execute(f"SELECT count(typeof({quote(table)}.{quote(column)})) FROM main.{quote(table)}").fetchone()
        except sqlite3.Error as error:
            return f"SQLite cannot compute it ({error})"
    return None


def _read_foreign_keys(db: sqlite3.Connection, table: TableSchema) -> list[ForeignKey]:
    """Return the foreign keys, those of one column first, in the order of the declaration."""
    listed: dict[int, list[Sequence[str | None]]] = {}
    for number, _, parent, column, to, *_ in db.execute(f"PRAGMA main.foreign_key_list({quote(table.name)})"):
        listed.setdefault(number, []).append((parent, column, to))
    found = []
    for number, rows in sorted(listed.items(), reverse=True):  # SQLite lists the last one first
        columns = table.find_columns(str(row[1]) for row in rows)
        if columns:
            found.append(ForeignKey(number, columns, str(rows[0][0]), tuple(str(row[2]) for row in rows if row[2])))
    return sorted(found, key=lambda one: len(one.columns) > 1)


def _read_indexes(db: sqlite3.Connection, table: TableSchema) -> list[TableIndex]:
    found = []
    for _, index, is_unique, _, is_partial in db.execute(f"PRAGMA main.index_list({quote(table.name)})").fetchall():
        members = [row[2] for row in db.execute(f"PRAGMA main.index_info({quote(index)})")]
        if not is_partial and all(members) and (columns := table.find_columns(members)):  # None: an expression
            found.append(TableIndex(columns, bool(is_unique)))
    return list(reversed(found))
