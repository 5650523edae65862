"""The snapshot: one consistent, checked copy of the source with a repeatable digest; and the source's drift from it."""

import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from accession.digest import hash_file
from accession.errors import SourceError
from accession.source.collation import SourceConnection
from accession.source.database import count_in, expect_ok, explaining, quote, reading

log = logging.getLogger(__name__)

STEP_PAGES = 4096  # copied at once, 16 MiB at SQLite's usual page size


@dataclass(frozen=True)
class Snapshot:
    """The content of a snapshot: `rows` of each ordinary table, `foreign_key_violations` by child table, and the
    collations that only the application has."""

    sha256: str
    bytes: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]
    unknown_collations: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceDrift:
    """Whether the source changed since its snapshot, and the rows of each table now, except those dropped since."""

    changed: bool
    rows_now: dict[str, int]


def take_snapshot(path: Path, destination: Path) -> Snapshot:
    """Copy the source as of one moment to `destination` by SQLite's backup API, then check and count the copy.

    The copy includes rows that are still in the WAL, but no open transactions. The source keeps its bytes, times and
    WAL. We copy inside one read transaction: an application in WAL mode can go on writing; in any other mode its
    writes wait. The copy is one file without a WAL, and the same content gives the same bytes (see `_copy`). It gets
    its name only when it is checked and on disk. Raises SourceError.
    """
    with explaining(path), scratch_copy(destination.parent) as copy:
        sha256 = _copy(path, copy)
        with closing(open_snapshot(copy)) as db:
            expect_ok(db, "integrity_check", path)
            tables = sorted(row[1] for row in db.execute("PRAGMA main.table_list") if row[2] == "table")
            tables = [table for table in tables if not table.startswith("sqlite_")]
            snapshot = Snapshot(
                sha256=sha256,
                bytes=copy.stat().st_size,
                rows=count_in(db, tables),
                foreign_key_violations=_count_orphans(db, tables),
                unknown_collations=tuple(sorted(db.unknown)),
            )
        copy.replace(destination)
        sync(destination.parent)
    return snapshot


def open_snapshot(path: Path) -> SourceConnection:
    """Open a snapshot for reading. Only for our own closed copies: it takes no locks.

    Text that is not UTF-8 is read with lone surrogates in place of the bad bytes, which a later step rejects, so that
    it does not fail the whole query.
    """
    address = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    db = sqlite3.connect(address, uri=True, isolation_level=None, factory=SourceConnection)
    try:
        db.execute("PRAGMA temp_store = FILE")  # for the rows of queries, however SQLite was built
        db.register_collations()
    except BaseException:
        db.close()
        raise
    db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return db


def source_changed(path: Path, sha256: str, tables: Iterable[str], scratch: Path) -> SourceDrift:
    """Tell whether the source differs from the snapshot with this digest, and count the rows of these tables.

    We take a second copy and compare digests, since no cheaper way is reliable: time and size miss changes in the WAL,
    the header's change counter does not move in WAL mode, and row counts miss edits. Read-only; `scratch` is a folder.
    Raises SourceError.
    """
    with explaining(path), scratch_copy(scratch) as copy:
        changed = _copy(path, copy) != sha256
        with closing(open_snapshot(copy)) as db:
            names = {name.lower() for (name,) in db.execute("SELECT name FROM sqlite_schema")}
            rows_now = count_in(db, [table for table in tables if table.lower() in names])
    return SourceDrift(changed, rows_now)


def lacks_wal(path: Path) -> bool:
    """Tell whether a database is in WAL mode and has no -wal, like a copy that was made without one.

    In its original place, that is normal once the application has closed it.
    """
    with path.open("rb") as file:
        head = file.read(20)  # the last two bytes are 2 in WAL mode ("Database File Format", 1.3.3)
    return 2 in head[18:] and not Path(f"{path.resolve()}-wal").exists()


def settle_fetched(path: Path, name: str, *, is_checkpointed: bool) -> None:
    """Complete a source that was fetched from `name` with its -wal and -journal: roll the -journal back.

    Only for our own copies. Raises SourceError if the database is in WAL mode and has no -wal, unless `is_checkpointed`
    is set.
    """
    if not is_checkpointed and lacks_wal(path):
        raise SourceError(
            f"{name} is in WAL mode and there is no {name}-wal, so its newest rows may be missing: upload the -wal "
            "beside it, or a copy made by VACUUM INTO. If the application had closed the database before it was "
            "copied, set source_is_checkpointed."
        )
    if Path(f"{path}-journal").exists():
        with explaining(name), closing(sqlite3.connect(path)) as db:
            db.execute("SELECT count(*) FROM sqlite_schema").fetchone()


def _count_orphans(db: SourceConnection, tables: Sequence[str]) -> dict[str, int]:
    counts = {}
    for table in tables:
        db.compared.clear()
        try:
            orphans = sum(1 for _ in db.execute(f"PRAGMA foreign_key_check({quote(table)})"))
            if db.compared:
                log.warning("The foreign keys of %s cannot be checked: only the application has their collation", table)
            else:
                counts[table] = orphans
        except (
            sqlite3.OperationalError
        ) as error:  # a declaration that SQLite never enforces either; staging finds the orphans
            log.warning("The foreign keys of %s cannot be checked: %s", table, error)
    return {table: number for table, number in counts.items() if number}


def _copy(path: Path, copy: Path) -> str:
    """Copy the source by the backup API into one settled file, readable by its owner only; return its SHA-256."""
    copy.touch(mode=0o600)
    with reading(path) as source, closing(sqlite3.connect(copy)) as target:
        # A function is called between the steps, so that Airflow's signals stop a task that copies a large source.
        source.backup(target, pages=STEP_PAGES, progress=lambda *_: None)
        target.execute("PRAGMA journal_mode = DELETE")
    # Two copies of the same content differ in the change counter (24), its echo (92) and the version of the SQLite that
    # wrote last (96). We set them to constants: the counters only have to be equal ("Database File Format").
    with copy.open("r+b") as file:
        for offset, value in ((24, 1), (92, 1), (96, 3_040_000)):
            file.seek(offset)
            file.write(value.to_bytes(4))
    sync(copy)
    return hash_file(copy)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def scratch_copy(folder: Path) -> Iterator[Path]:
    """Yield a free name in a private folder on the same disk. The folder is removed with all its files."""
    with tempfile.TemporaryDirectory(prefix=".accession-", dir=folder) as scratch:
        yield Path(scratch, "copy.db")
