"""The guard: SQL that a mapping brings may only read the source, and must find the same rows each time.

Functions such as random() are refused by name. A date function is refused only if it needs the clock or the time zone
of the machine, which its arguments decide. So each call of one is made where SQLite itself refuses that: in a generated
column of a database in memory.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from accession.errors import SourceError
from accession.source.database import open_memory, quote

# No write fits into a SELECT, and the file is opened for reading. But json_each and its like declare their columns by
# what the authorizer is told is a write, and ours is the INSERT that takes up the rows of a query.
ACTIONS = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
    sqlite3.SQLITE_INSERT,
    sqlite3.SQLITE_UPDATE,
}
# sqlite.org "PRAGMA function_list": SQLITE_DETERMINISTIC and SQLITE_DIRECTONLY. `match` is the operator of full-text
# search, which is declared without flags.
UNSAFE = """
SELECT name FROM pragma_function_list
WHERE type = 's' AND (NOT flags & 0x800 OR flags & 0x80000) AND name <> 'match'
"""
DATES = """
SELECT DISTINCT name FROM pragma_function_list
WHERE name IN ('date', 'time', 'datetime', 'julianday', 'unixepoch', 'strftime', 'timediff')
"""
OTHER_FAULTS = tuple(
    f"SQLITE_{fault}" for fault in ("FULL", "IOERR", "CORRUPT", "NOMEM", "BUSY", "LOCKED", "INTERRUPT")
)
BEYOND = "is not allowed, since its result depends on more than the source"
STEPS = 1_000_000  # of SQLite's virtual machine, between two calls of a function that lets signals stop the task


@contextmanager
def guarding(db: sqlite3.Connection, field: str) -> Iterator[None]:
    """Hold the SQL that is executed in the block to reading the main database, and to what is the same each time.

    The date functions of the connection stay guarded after the block. Any fault of SQLite is raised as a SourceError
    that names `field`, except those of disk, file and locks, and an interruption.
    """
    unsafe = {name for (name,) in db.execute(UNSAFE)}
    faults: list[str] = []
    for (name,) in db.execute(DATES).fetchall():
        db.create_function(name, -1, partial(_call_purely, name, faults), deterministic=True)

    def authorize(action: int, first: str | None, second: str | None, database: str | None, _view: str | None) -> int:
        if action == sqlite3.SQLITE_FUNCTION and second in unsafe:
            faults.append(f"{second} {BEYOND}")
        elif action == sqlite3.SQLITE_PRAGMA and first == "data_version":  # full-text search reads it
            return sqlite3.SQLITE_OK
        elif action not in ACTIONS or (action == sqlite3.SQLITE_READ and database not in ("main", None)):
            faults.append("it may do nothing but read the tables of the source")
        else:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    db.set_authorizer(authorize)
    db.set_progress_handler(lambda: 0, STEPS)
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorname", "").startswith(OTHER_FAULTS):
            raise
        if "user-defined function" in str(error):  # of all functions, only ours are called so, and Python reads Unicode
            faults.append("a date function is given a text that is not valid Unicode")
        fault = faults[0] if faults else f"SQLite refuses it ({error})"
        raise SourceError(f"{field}: {fault}. Correct the mapping.") from error
    finally:
        db.set_progress_handler(None, STEPS)
        db.set_authorizer(None)


def _call_purely(name: str, faults: list[str], *values: Any) -> Any:
    """Return what one of SQLite's date functions makes of these values. A call that is refused goes to `faults`."""
    try:
        return open_memory().execute(_prepare_call(name, len(values)), values).fetchone()[0]
    except sqlite3.OperationalError as error:
        if "non-deterministic" in str(error):
            faults.append(f"{name}() without a date, with 'now', 'localtime' or 'utc' {BEYOND}")
        raise


@cache
def _prepare_call(name: str, number: int) -> str:
    """Return the statement that calls a function with this number of arguments."""
    table, columns = quote(f"{name} {number}"), [f"a{position}" for position in range(number)]
    made = f"made AS ({name}({', '.join(columns)})) STORED"
    open_memory().execute(
        f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(['id INTEGER PRIMARY KEY', *columns, made])})"
    )
    return f"REPLACE INTO {table} VALUES ({', '.join(['1', *'?' * number])}) RETURNING made"
