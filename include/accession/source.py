"""SQLite: check a source, take and open its snapshot, see it drift, put a backup back.

Only this module opens SQLite sources. A source is a local file here: who has an `s3://` source downloads it first, and
uploads what `restore_source` placed. Nothing but `restore_source` ever changes a source: it is opened with `mode=ro`,
never with `immutable=1`, which was seen to miss every row that is still in the WAL.
"""

import difflib
import fcntl
import hashlib
import logging
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

from accession.errors import SourceError

log = logging.getLogger(__name__)

BUSY_SECONDS = 30.0  # how long a lock of the application is waited for
STEP_PAGES = 4096  # pages copied between two calls of `progress`: 16 MiB at SQLite's usual page size
MAGIC = b"SQLite format 3\0"  # sqlite.org "Database File Format", 1.3
LOCK_BYTES = (512, 0x40000000)  # length and start of all of SQLite's locks in a file (os.h: PENDING_BYTE and on)
SIDE_FILES = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Column:
    """A column as declared; `affinity` is TEXT, NUMERIC, INTEGER, REAL or BLOB."""

    name: str
    declared_type: str
    affinity: str
    not_null: bool
    primary_key: bool


@dataclass(frozen=True)
class TableShape:
    """A table or view as the file declares it; columns under the spelling of who asked, in declared order."""

    name: str
    columns: dict[str, Column]
    unique: frozenset[str]

    def key_is_unique(self, column: str) -> bool:
        """Whether the schema itself (primary key or unique index) keeps this column free of duplicates."""
        return column.lower() in self.unique


@dataclass(frozen=True)
class Snapshot:
    """What a snapshot holds; `rows` per ordinary table, `foreign_key_violations` per child table that has any."""

    sha256: str
    bytes: int
    page_size: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]


@dataclass(frozen=True)
class Drift:
    """Whether the source changed since its snapshot, and the rows per table then and now (a dropped table is left out)."""

    changed: bool
    rows_then: dict[str, int]
    rows_now: dict[str, int]


@dataclass(frozen=True)
class RestoreResult:
    """Where the files that stood in the place of the backup are now; empty when the backup was in place already."""

    moved_aside: tuple[Path, ...]


def check_source(
    path: Path, tables: Mapping[str, Sequence[str]], keys: Mapping[str, str] | None = None
) -> dict[str, TableShape]:
    """Check that the file is a sound SQLite database with these tables (or views) and columns. Read-only.

    Names match as in SQLite, whatever their case. `keys` names the key column per table; where the schema does not
    keep it unique, its values are counted. Raises SourceError, one sentence with its remedy, at the first failure.
    """
    with _reading(path) as db:
        _expect_ok(db, "quick_check", path)
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
                    f"{path} has no table {table} (it has {has}): name the right file, or mend the mapping."
                )
            shape = _read_shape(db, table, columns)
            for column in columns:
                if column not in shape.columns:
                    has = ", ".join(shape.columns)
                    raise SourceError(
                        f"Table {table} in {path} has no column {column} (it has {has}): mend the mapping."
                    )
            key = (keys or {}).get(table)
            if key and not shape.key_is_unique(key):
                column = f"{quote(table)}.{quote(key)}"
                doubles = (
                    f"SELECT 1 FROM {quote(table)} WHERE {column} IS NOT NULL GROUP BY {column} HAVING count(*) > 1"  # noqa: S608
                )
                if db.execute(doubles).fetchone():
                    raise SourceError(
                        f"Key column {key} of table {table} in {path} holds a value more than once: "
                        "name a column that is unique as the key, or remove the duplicates."
                    )
            shapes[table] = shape
        return shapes


def take_snapshot(path: Path, destination: Path, progress: Callable[[int, int], None] | None = None) -> Snapshot:
    """Copy the source as of one moment to `destination` by SQLite's backup API, then check and count the copy.

    Rows still in the WAL are in it; open transactions of others are not. The source keeps its bytes, times and WAL.
    Copied inside one read transaction: a source in WAL mode goes on being written meanwhile; writers of any other wait.
    The copy is one file without a WAL, and the same content gives the same bytes (see `_copy`). It appears under
    its name only when sound and on disk. `progress` gets pages copied and in all. Raises SourceError.
    """
    with _explaining(path), _scratch(destination.parent) as copy:
        sha256 = _copy(path, copy, progress)
        with closing(open_snapshot(copy)) as db:
            _expect_ok(db, "integrity_check", path)
            tables = sorted(row[1] for row in db.execute("PRAGMA main.table_list") if row[2] == "table")
            tables = [table for table in tables if not table.startswith("sqlite_")]
            snapshot = Snapshot(
                sha256=sha256,
                bytes=copy.stat().st_size,
                page_size=db.execute("PRAGMA page_size").fetchone()[0],
                rows=_count(db, tables),
                foreign_key_violations=_count_orphans(db, tables),
            )
        copy.replace(destination)
        _sync(destination.parent)
    return snapshot


def open_snapshot(path: Path) -> sqlite3.Connection:
    """Open a snapshot for reading, with a page cache of 64 MiB. Only for our own closed copies: takes no locks.

    Text that is not UTF-8 comes back with lone surrogates in place of the bad bytes (a later step rejects them)
    instead of failing the whole query.
    """
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    db.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    db.execute("PRAGMA cache_size = -65536")
    return db


def count_rows(path: Path, tables: Sequence[str]) -> dict[str, int]:
    """Count the rows of these tables or views, all as of one moment. Read-only. Raises SourceError."""
    with _reading(path) as db:
        return _count(db, tables)


def compare_source(path: Path, sha256: str, rows_then: Mapping[str, int], scratch: Path) -> Drift:
    """Tell whether the source still is what the snapshot with this digest holds. Read-only; `scratch` is a folder.

    Takes a second copy and compares digests, since nothing cheaper is sound: time and size miss what is in the WAL,
    the header's change counter does not move in WAL mode, and row counts miss edits. Raises SourceError.
    """
    with _explaining(path), _scratch(scratch) as copy:
        changed = _copy(path, copy) != sha256
        with closing(open_snapshot(copy)) as db:
            names = {name.lower() for (name,) in db.execute("SELECT name FROM sqlite_schema")}
            rows_now = _count(db, [table for table in rows_then if table.lower() in names])
    return Drift(changed, dict(rows_then), rows_now)


def restore_source(backup: Path, path: Path, sha256: str, rows: Mapping[str, int]) -> RestoreResult:
    """Put the backup in the place of the source, with the mode and owner of what stood there. Safe to repeat.

    The file, its -wal, -shm and -journal are moved aside together, as `<name>.aside-<n>` and the like, so that they
    stay a database that opens. Refuses while any process holds a lock on the file or has it open. Digest and rows are
    checked before and, through a fresh connection, after. Raises SourceError, and then all files are as they were.
    The restored file is in rollback-journal mode, whatever mode the source was in.
    """
    path = path.resolve()
    if _digest(backup) != sha256:
        raise SourceError(
            f"The backup {backup} does not have the digest that its run recorded: it is damaged; take another run's."
        )
    here = [Path(f"{path}{suffix}") for suffix in ("", *SIDE_FILES)]
    here = [file for file in here if os.path.lexists(file)]
    if here == [path] and _digest(path) == sha256:
        return RestoreResult(())
    moved: dict[Path, Path] = {}
    with _explaining(path), _scratch(path.parent) as copy, _locking(path):
        _expect_unused(path, here)
        shutil.copyfile(backup, copy)
        if path.exists():
            shutil.copymode(path, copy)
            os.chown(copy, path.stat().st_uid, path.stat().st_gid)
        _sync(copy)
        _expect_restored(copy, sha256, rows)
        taken = {file.name for file in path.parent.iterdir()}
        aside = next(f"{path.name}.aside-{n}" for n in count(1) if f"{path.name}.aside-{n}" not in taken)
        try:
            for file in here:
                moved[file] = file.rename(path.with_name(aside + file.name.removeprefix(path.name)))
            copy.rename(path)
            _sync(path.parent)
            _expect_restored(path, sha256, rows)
            _expect_unused(path, list(moved.values()))  # opened between the first look and the move
        except BaseException:
            path.unlink(missing_ok=True)
            for file, target in moved.items():
                target.rename(file)
            raise
    return RestoreResult(tuple(moved.values()))


def quote(name: str) -> str:
    """Quote a table or column name for SQL. Write `table.column`: alone, SQLite takes an unknown name for a text."""
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the source inside one read transaction, and leave nothing behind."""
    _inspect(path)
    path = path.resolve()  # SQLite looks for the WAL beside the real file
    sides = [side for suffix in SIDE_FILES[:2] if not (side := Path(f"{path}{suffix}")).exists()]
    try:
        with (
            _explaining(path),
            closing(
                sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None)
            ) as db,
        ):
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # only now is the moment of the reading fixed
            yield db
    finally:
        # A read-only connection to a WAL database makes an empty -wal and a -shm, and may not remove them. SQLite
        # itself removes them under the exclusive lock, which nobody gets while any other process has the file open.
        if any(side.exists() for side in sides):
            with suppress(OSError), path.open("r+b") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *LOCK_BYTES)
                for side in sides:
                    if not side.name.endswith("-wal") or side.stat().st_size == 0:
                        side.unlink(missing_ok=True)


def _inspect(path: Path) -> None:
    """Raise SourceError for what can be known without SQLite (which would make some of it an empty database)."""
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
    if size == 0:
        raise SourceError(f"{path} is empty (0 bytes): name the file that the application writes.")
    if not head.startswith(MAGIC):
        raise SourceError(f"{path} is not a SQLite database, or it is encrypted: name the database file, decrypted.")
    if len(head) < 100:
        raise SourceError(f"{path} is truncated: it ends inside its header, after {size} bytes; copy it again.")


@contextmanager
def _explaining(path: Path) -> Iterator[None]:
    """Turn what SQLite or the file system says into one sentence with its remedy."""
    try:
        yield
    except sqlite3.Error as error:
        raise SourceError(_explain(path, error)) from error
    except OSError as error:
        where = f"{error.filename or path}: {error.strerror}"
        raise SourceError(f"Cannot work beside {where}; check the room and the permissions there.") from error


def _explain(path: Path, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorname", "") or ""
    if code == "SQLITE_READONLY_ROLLBACK":
        return f"{path} was left in the middle of a write (hot journal): open it once with the application to mend it."
    if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
        return (
            f"{path} is in WAL mode and its newest rows cannot be read from here ({error}): let this user read the file "
            "and its -wal and write to the folder, or copy both to a folder where it may."
        )
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{path} stayed locked by another process for {BUSY_SECONDS:g} s: try again when it writes less."
    if code == "SQLITE_NOTADB":
        return f"{path} is not a SQLite database, or it is encrypted: name the database file, decrypted."
    if code.startswith("SQLITE_CORRUPT"):
        return f"{path} is truncated or damaged ({error}): copy it again, or restore it from a backup."
    if code == "SQLITE_FULL":
        return f"No room left to copy {path}: free the worker's disk."
    return f"SQLite cannot read {path} ({error}): open it with the application or `sqlite3`, and mend what it says."


def _expect_ok(db: sqlite3.Connection, check: str, path: Path) -> None:
    found = db.execute(f"PRAGMA {check}(1)").fetchone()[0]
    if found != "ok":
        found = " ".join(found.split())
        raise SourceError(f"{path} is damaged ({check}: {found}): restore it from a backup, or `sqlite3 .recover` it.")


def _read_shape(db: sqlite3.Connection, table: str, asked: Sequence[str]) -> TableShape:
    spelling = {name.lower(): name for name in asked}
    columns = {}
    for _, name, declared, not_null, _, key, hidden in db.execute(f"PRAGMA table_xinfo({quote(table)})"):
        if hidden != 1:  # 1: hidden column of a virtual table; 2 and 3 are generated columns, and read like others
            wanted = spelling.get(name.lower(), name)
            columns[wanted] = Column(name, declared, _affinity(declared), bool(not_null), bool(key))
    keys = [column.name.lower() for column in columns.values() if column.primary_key]
    unique = set(keys) if len(keys) == 1 else set()
    for _, index, is_unique, _, partial_index in db.execute(f"PRAGMA index_list({quote(table)})").fetchall():
        members = [row[2] for row in db.execute(f"PRAGMA index_info({quote(index)})")]
        if is_unique and not partial_index and len(members) == 1 and members[0]:  # None: an expression
            unique.add(members[0].lower())
    return TableShape(table, columns, frozenset(unique))


def _affinity(declared: str) -> str:
    """Return the affinity by the rules in sqlite.org "Datatypes In SQLite", 3.1, in their order."""
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


def _count(db: sqlite3.Connection, tables: Sequence[str]) -> dict[str, int]:
    return {table: db.execute(f"SELECT count(*) FROM {quote(table)}").fetchone()[0] for table in tables}  # noqa: S608


def _count_orphans(db: sqlite3.Connection, tables: Sequence[str]) -> dict[str, int]:
    counts = {}
    for table in tables:
        try:
            counts[table] = sum(1 for _ in db.execute(f"PRAGMA foreign_key_check({quote(table)})"))
        except sqlite3.OperationalError as error:  # a declaration that SQLite itself never enforces: staging finds out
            log.warning("The foreign keys of %s cannot be checked: %s", table, error)
    return {table: number for table, number in counts.items() if number}


def _copy(path: Path, copy: Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Copy the source by the backup API into one settled file, readable by its owner only; return its SHA-256."""
    copy.touch(mode=0o600)
    with _reading(path) as source, closing(sqlite3.connect(copy)) as target:
        report = progress or (lambda _done, _all: None)
        source.backup(target, pages=STEP_PAGES, progress=lambda _, left, pages: report(pages - left, pages))
        target.execute("PRAGMA journal_mode = DELETE")
    # What differs between two copies of the same content: the counter of changes (24), its echo (92) and the number of
    # the SQLite that wrote last (96). Set to constants: both counters only have to be equal ("Database File Format").
    with copy.open("r+b") as file:
        for offset, value in ((24, 1), (92, 1), (96, 3_040_000)):
            file.seek(offset)
            file.write(value.to_bytes(4))
    _sync(copy)
    return _digest(copy)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix=".accession-", dir=folder) as scratch:
        yield Path(scratch, "copy.db")


@contextmanager
def _locking(path: Path) -> Iterator[None]:
    """Hold SQLite's exclusive lock without SQLite, which would replay a journal or refuse a damaged file."""
    if not path.exists():
        yield
        return
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *LOCK_BYTES)
        except (BlockingIOError, PermissionError) as error:
            raise SourceError(f"{path} is in use (locked): stop the application, then restore again.") from error
        yield


def _expect_unused(path: Path, files: Sequence[Path]) -> None:
    """Raise SourceError when another process has one of the files open (Linux only; idle connections hold no lock)."""
    wanted = {(file.stat().st_dev, file.stat().st_ino) for file in files}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        process = handle.parts[2]
        with suppress(OSError):
            seen = handle.stat()
            if (seen.st_dev, seen.st_ino) in wanted and process != str(os.getpid()):
                name = Path("/proc", process, "comm").read_text().strip()
                raise SourceError(f"{path} is in use by {name} (process {process}): stop it, then restore again.")


def _expect_restored(path: Path, sha256: str, rows: Mapping[str, int]) -> None:
    if _digest(path) != sha256 or count_rows(path, list(rows)) != dict(rows):
        raise SourceError(f"{path} is not what the backup's run recorded (digest or row counts): use another backup.")
