"""The shelf: ID maps fetched for looking things up, kept in a folder of bounded size by their digest. Read-only on S3.

A map is queried in SQL, so that a run with a million rejects costs no more memory than one with none.
"""

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from accession.artifacts import Store, open_id_map
from accession.errors import StoreError

SHELF_BYTES = 2 * 1024**3
MAP_BYTES = 1024**3  # larger maps are not fetched for a page

_lock = threading.Lock()


class FoundEntry(NamedTuple):
    """An entry of an ID map as a person looks it up."""

    entity: str
    old_key: str
    generation: int
    latest: bool
    new_id: str
    state: str
    first_seen: str
    written: bool


class ListedRow(NamedTuple):
    """A row that was left out, or kept as the application has it."""

    old_key: str
    column: str
    reason: str


class ListPage(NamedTuple):
    """A page of a list: its lines, and how many lines the whole list has."""

    lines: list[ListedRow]
    total: int


@contextmanager
def open_map(store: Store, path: str, sha256: str) -> Iterator[sqlite3.Connection]:
    """A finished ID map of that digest. Raises StoreError when it is gone, damaged or too large to be fetched."""
    with _lock:
        connection = open_id_map(_fetch(store, path, sha256))
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # open now: it stays so without its name
    with closing(connection):
        yield connection


def look_up(connection: sqlite3.Connection, entity: str, wanted: str, limit: int = 50) -> list[FoundEntry]:
    """Entries whose old key or new id is `wanted`, the latest generation first."""
    found = connection.execute(
        "SELECT old_key, generation, latest, new_id, state, first_seen, written FROM id_map "
        "WHERE old_key = ?1 OR new_id = lower(?1) ORDER BY generation DESC LIMIT ?2",
        (wanted, limit),
    )
    return [
        FoundEntry(entity, show_key(key), generation, bool(latest), new_id, state, seen, bool(written))
        for key, generation, latest, new_id, state, seen, written in found
    ]


def list_rejects(connection: sqlite3.Connection, wanted: str, page: int, size: int) -> ListPage:
    """Rejects in whose key, column or reason `wanted` occurs; all where it is empty. Pages count from 1."""
    text = "coalesce(CAST(old_key AS TEXT), '') || ' ' || source_column || ' ' || reason"
    where = f"(?1 = '' OR instr(lower({text}), lower(?1)))"
    return _list(connection, "old_key, source_column, reason", "rejects", where, "rowid", wanted, page, size)


def list_kept(connection: sqlite3.Connection, wanted: str, page: int, size: int) -> ListPage:
    """Items that the application changed and that were kept, in whose old key or new id `wanted` occurs."""
    where = "state = 'kept_conflict' AND (?1 = '' OR instr(CAST(old_key AS TEXT) || ' ' || new_id, lower(?1)))"
    columns = "old_key, new_id, 'changed by the application: kept as it is'"
    return _list(connection, columns, "id_map", where, "entry", wanted, page, size)


def _list(
    connection: sqlite3.Connection, columns: str, table: str, where: str, order: str, wanted: str, page: int, size: int
) -> ListPage:
    total: int = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", (wanted,)).fetchone()[0]
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT ?2 OFFSET ?3",
        (wanted, size, (page - 1) * size),
    )
    return ListPage([ListedRow(show_key(key), column, reason) for key, column, reason in rows], total)


def show_key(key: Any) -> str:
    """An old key as people read it; bytes in hexadecimal."""
    return key.hex() if isinstance(key, bytes) else "" if key is None else str(key)


def _fetch(store: Store, path: str, sha256: str) -> Path:
    folder = _find_folder()
    place = folder / f"{sha256}.db"
    if not place.exists():
        size = store.measure(path)
        if size is None:
            raise StoreError(f"{store.uri(path)} is missing: it was removed. Run make audit.")
        if size > MAP_BYTES:
            raise StoreError(
                f"{store.uri(path)} has {size / 1024**3:.1f} GiB, too much for a page: fetch it with `aws s3 cp` and "
                "open it with sqlite3."
            )
        _make_room(folder, size)
        partial = folder / f"{sha256}.{os.getpid()}.partial"
        try:
            store.download(path, partial, sha256).replace(place)
        finally:
            partial.unlink(missing_ok=True)
    place.touch()
    return place


def _find_folder() -> Path:
    """A folder of ours alone: what lies there is trusted by its name."""
    folder = Path(tempfile.gettempdir()) / f"accession-shelf-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreError(f"{folder} belongs to somebody else or is open to others: remove it.")
    return folder


def _make_room(folder: Path, size: int) -> None:
    """Remove what was used longest ago until `size` more fits."""
    maps = sorted(folder.glob("*.db"), key=lambda file: file.stat().st_mtime)
    held = sum(file.stat().st_size for file in maps)
    for file in maps:
        if held + size <= SHELF_BYTES:
            return
        held -= file.stat().st_size
        file.unlink()
