"""The SQLite source: open it without changing it, check it, count its rows.

Only this module opens sources; `snapshot.py` copies an open one, `restore.py` puts a backup back. A source is a local
file here: the caller downloads an `s3://` source first. It is opened with `mode=ro`, so nothing changes it, and never
with `immutable=1`, which misses every row that is still in the WAL.
"""

import difflib
import fcntl
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from accession.database_file import MAGIC, SIDE_FILES
from accession.errors import SourceError
from accession.source.collation import SourceConnection

BUSY_SECONDS = 30.0  # how long we wait for a lock of the application
LOCK_BYTES = (512, 0x40000000)  # length and start of all of SQLite's locks in a file (os.h: PENDING_BYTE and on)
ROWID = "rowid"


@dataclass(frozen=True)
class Column:
    """A column as the file declares it; `affinity` is TEXT, NUMERIC, INTEGER, REAL or BLOB."""

    name: str
    declared_type: str
    affinity: str
    not_null: bool
    primary_key: bool


@dataclass(frozen=True)
class TableShape:
    """A table or view as the file declares it. `columns` are in declared order, named as the caller spelled them."""

    name: str
    columns: dict[str, Column]
    unique: frozenset[frozenset[str]]

    def key_is_unique(self, *columns: str) -> bool:
        """Tell whether the schema itself (primary key or unique index) keeps these columns free of duplicates."""
        key = {column.lower() for column in columns}
        return any(unique <= key for unique in self.unique)


def check_source(
    path: Path, tables: Mapping[str, Sequence[str]], keys: Sequence[tuple[str, Sequence[str]]] = ()
) -> dict[str, TableShape]:
    """Check that the file is an undamaged SQLite database with these tables (or views) and columns. Read-only.

    Names match as in SQLite, in any case. `keys` has tables with the columns of a key; if the schema does not keep them
    unique, their values are counted. Raises SourceError, one sentence with its remedy, at the first failure.
    """
    with reading(path) as db:
        expect_ok(db, "quick_check", path)
        names = {
            name.lower(): name
            for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        }
        shapes = {}
        for table, columns in tables.items():
            if table.lower() not in names:
                near = difflib.get_close_matches(table.lower(), names, n=3) or sorted(names)[:10]
                has = ", ".join(names[name] for name in near) or "no tables at all"
                raise SourceError(
                    f"{path} has no table {table} (it has {has}): name the right file, or correct the mapping."
                )
            wanted = [key for name, key in keys if name == table]
            asked = [*columns, *(column for key in wanted for column in key if key != (ROWID,))]
            shape = _read_shape(db, table, asked)
            for column in asked:
                if column not in shape.columns:
                    has = ", ".join(shape.columns)
                    raise SourceError(
                        f"Table {table} in {path} has no column {column} (it has {has}): correct the mapping."
                    )
            for key in wanted:
                _check_key(db, path, shape, key)
            shapes[table] = shape
        return shapes


def check_key(db: sqlite3.Connection, path: Path, table: str, key: Sequence[str]) -> None:
    """Check a key of a table in the source at `path`, or in the copy of it that is open. Raises SourceError."""
    _check_key(db, path, _read_shape(db, table, key), key)


def _check_key(db: sqlite3.Connection, path: Path, shape: TableShape, key: Sequence[str]) -> None:
    """Raise SourceError if the columns of a key identify no row: their values repeat, or there is no rowid."""
    if key == (ROWID,):
        try:
            db.execute(f"SELECT rowid FROM {quote(shape.name)} LIMIT 0")
        except sqlite3.OperationalError:
            raise SourceError(
                f"{shape.name} in {path} has no rowid, since it is a view or WITHOUT ROWID: name its key columns."
            ) from None
        return
    if shape.key_is_unique(*key):
        return
    columns = [f"{quote(shape.name)}.{quote(column)}" for column in key]
    groups = ", ".join(f"{column} COLLATE BINARY" for column in columns)
    known = " AND ".join(f"{column} IS NOT NULL" for column in columns)
    query = f"SELECT 1 FROM {quote(shape.name)} WHERE {known} GROUP BY {groups} HAVING count(*) > 1"
    if db.execute(query).fetchone():
        raise SourceError(
            f"Key {'column' if len(key) == 1 else 'columns'} {', '.join(key)} of table {shape.name} in {path} "
            f"{'holds a value' if len(key) == 1 else 'hold the same values'} more than once: "
            "name a column that is unique as the key, or remove the duplicates."
        )


def count_rows(path: Path, tables: Sequence[str]) -> dict[str, int]:
    """Count the rows of these tables or views, all as of one moment. Read-only. Raises SourceError."""
    with reading(path) as db:
        return count_in(db, tables)


def quote(name: str) -> str:
    """Quote a table or column name for SQL. Write `table.column`: SQLite reads an unknown name alone as text."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def reading(path: Path) -> Iterator[SourceConnection]:
    """Open the source inside one read transaction, and leave nothing behind."""
    _inspect(path)
    path = path.resolve()  # SQLite looks for the WAL beside the real file
    sides = [side for suffix in SIDE_FILES[:2] if not (side := Path(f"{path}{suffix}")).exists()]
    try:
        with (
            explaining(path),
            closing(
                sqlite3.connect(
                    f"{path.as_uri()}?mode=ro",
                    uri=True,
                    timeout=BUSY_SECONDS,
                    isolation_level=None,
                    factory=SourceConnection,
                )
            ) as db,
        ):
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # this fixes the moment that we read
            _expect_whole(db, path)
            db.register_collations()
            yield db
    finally:
        # A read-only connection to a WAL database makes an empty -wal and a -shm, and may not remove them. We do as
        # SQLite does: remove them under the exclusive lock, which fails while another process has the file open.
        if any(side.exists() for side in sides):
            with suppress(OSError), path.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *LOCK_BYTES)
                for side in sides:
                    if not side.name.endswith("-wal") or side.stat().st_size == 0:
                        side.unlink(missing_ok=True)


@cache
def open_memory() -> sqlite3.Connection:
    """Open the one database in memory that this process has, for any thread."""
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


def _inspect(path: Path) -> None:
    """Raise SourceError for faults that are visible without SQLite, which would turn some into an empty database."""
    try:
        mode, size = path.stat().st_mode, path.stat().st_size
        if stat.S_ISDIR(mode):
            raise SourceError(f"{path} is a folder: name the SQLite file in it.")
        if not stat.S_ISREG(mode):
            raise SourceError(f"{path} is not an ordinary file: name the SQLite file itself.")
        with path.open("rb") as file:
            head = file.read(100)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(f"There is no file {path}: check `source`, and that this worker sees its folder.") from error
    except PermissionError as error:
        raise SourceError(
            f"{path} may not be read by this user: give it read permission on file and folder."
        ) from error
    except (OSError, ValueError) as error:  # a loop of links, a name too long, a NUL in it
        raise SourceError(f"{path} cannot be opened ({getattr(error, 'strerror', error)}): check `source`.") from error
    if size == 0:
        raise SourceError(f"{path} is empty (0 bytes): name the file that the application writes.")
    if not head.startswith(MAGIC):
        raise SourceError(f"{path} is not a SQLite database, or it is encrypted: name the database file, decrypted.")
    if len(head) < 100:
        raise SourceError(f"{path} is truncated: it ends inside its header, after {size} bytes; copy it again.")


def _expect_whole(db: sqlite3.Connection, path: Path) -> None:
    """Raise SourceError if the last page is cut short: SQLite would silently fill it up with zeros."""
    wal = Path(f"{path}-wal")
    if wal.exists() and wal.stat().st_size:
        return  # pages may be only in the WAL
    expected = db.execute("PRAGMA page_count").fetchone()[0] * db.execute("PRAGMA page_size").fetchone()[0]
    if path.stat().st_size < expected:
        raise SourceError(
            f"{path} is truncated: {path.stat().st_size} bytes instead of {expected}; copy it again, or restore it "
            "from a backup."
        )


@contextmanager
def explaining(path: Path | str) -> Iterator[None]:
    """Turn an error of SQLite or the file system into a SourceError: one sentence with its remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(_explain(path, error)) from error
    except OSError as error:
        where = f"{error.filename or path}: {error.strerror}"
        raise SourceError(f"Cannot read or write {where}: check the free space and the permissions there.") from error


def _explain(path: Path | str, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorname", "") or ""
    if code == "SQLITE_READONLY_ROLLBACK":
        return (
            f"{path} was left in the middle of a write (hot journal): open it once with the application to repair it."
        )
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return (
            f"{path} is in WAL mode, and its newest rows cannot be read from here ({error}): let this user read the "
            "file and its -wal and write to the folder, or copy both to a folder where it may."
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} stayed locked by another process for {BUSY_SECONDS:g} s: try again when it writes less."
    if code == "SQLITE_NOTADB":
        return f"{path} is not a SQLite database, or it is encrypted: name the database file, decrypted."
    if code.startswith("SQLITE_CORRUPT"):
        return f"{path} is truncated or damaged ({error}): copy it again, or restore it from a backup."
    if code == "SQLITE_FULL":
        return f"No space is left to copy {path}: free some on the worker's disk."
    return f"SQLite cannot read {path} ({error}): open it with the application or `sqlite3`, and fix what that reports."


def expect_ok(db: SourceConnection, check: str, path: Path) -> None:
    """Raise SourceError with the first finding of `quick_check` or `integrity_check`."""
    found = db.find_damage(check)
    if found is not None:
        found = " ".join(found.split())
        raise SourceError(
            f"{path} is damaged ({check}: {found}): restore it from a backup, or recover it with `sqlite3 .recover`."
        )


def _read_shape(db: sqlite3.Connection, table: str, asked: Sequence[str]) -> TableShape:
    spelling = {name.lower(): name for name in asked}
    columns = {}
    for _, name, declared, not_null, _, key, hidden in db.execute(f"PRAGMA table_xinfo({quote(table)})"):
        if hidden != 1:  # 1: hidden column of a virtual table; 2 and 3: generated columns, which are read like others
            wanted = spelling.get(name.lower(), name)
            columns[wanted] = Column(name, declared, find_affinity(declared), bool(not_null), bool(key))
    unique = {frozenset(column.name.lower() for column in columns.values() if column.primary_key)} - {frozenset()}
    for _, index, is_unique, _, partial_index in db.execute(f"PRAGMA index_list({quote(table)})").fetchall():
        members = [row[2] for row in db.execute(f"PRAGMA index_info({quote(index)})")]
        if is_unique and not partial_index and all(members):  # None: an expression
            unique.add(frozenset(member.lower() for member in members))
    return TableShape(table, columns, frozenset(unique))


def find_affinity(declared: str) -> str:
    """Return the affinity according to the rules in sqlite.org "Datatypes In SQLite", 3.1, in their order."""
    words = declared.upper()
    for affinity, marks in (
        ("INTEGER", ["INT"]),
        ("TEXT", ["CHAR", "CLOB", "TEXT"]),
        ("BLOB", ["BLOB"]),
        ("REAL", ["REAL", "FLOA", "DOUB"]),
    ):
        if any(mark in words for mark in marks):
            return affinity
    return "NUMERIC" if words else "BLOB"


def count_in(db: sqlite3.Connection, tables: Sequence[str]) -> dict[str, int]:
    """Count the rows of these tables through an open connection."""
    return {table: db.execute(f"SELECT count(*) FROM {quote(table)}").fetchone()[0] for table in tables}
