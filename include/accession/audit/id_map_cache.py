"""Look things up in ID maps: download them once, cache them by their digest in a folder of bounded size. Read-only.

A map is queried with SQL, so a run with a million rejects takes no more memory than a run without any.
"""

import os
import sqlite3
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from accession.artifacts import Store, open_id_map
from accession.errors import StoreError
from accession.items import MASK, KeyMask, show_row_key

CACHE_BYTES = 2 * 1024**3
MAP_BYTES = 1024**3  # a larger map is not downloaded for a page

_cache_lock = threading.Lock()  # held while the files of the cache change, never during a download
_map_locks = WeakValueDictionary[str, threading.Lock]()  # by digest: a map is downloaded once


class FoundEntry(NamedTuple):
    """An entry of an ID map, for a person."""

    entity: str
    old_key: str
    generation: int
    latest: bool
    new_id: str
    state: str
    first_seen: str
    written: bool


class ListedRow(NamedTuple):
    """A rejected row, or an item kept as the application changed it. For such an item `column` is its new id."""

    old_key: str
    column: str
    reason: str


class ListPage(NamedTuple):
    """A page of a list: its lines, and the number of lines in the whole list."""

    lines: list[ListedRow]
    total: int


@contextmanager
def open_cached_map(store: Store, path: str, sha256: str) -> Iterator[sqlite3.Connection]:
    """Open a finished ID map with that digest. Raises StoreError if it is gone, damaged or too large."""
    place = _find_folder() / f"{sha256}.db"
    with _find_map_lock(sha256):
        connection = _open_cached(place) or _open_downloaded(store, path, sha256, place)
    with closing(connection):
        yield connection


def search_ids(
    connection: sqlite3.Connection, mask: KeyMask, entity: str, wanted: str, limit: int = 50
) -> list[FoundEntry]:
    """Return entries whose old key or new id is `wanted`, the latest generation first. Secret keys are found by what is
    shown of them alone."""
    where = "old_key = ?1 OR new_id IN (?1, lower(?1))"
    if mask.secret is not None:
        connection.create_function("covered", 1, mask.cover, deterministic=True)
        where, wanted = "?1 IN (covered(old_key), covered(new_id))", MASK + wanted.removeprefix(MASK)
    found = connection.execute(
        "SELECT old_key, generation, latest, new_id, state, first_seen, written FROM id_map "
        f"WHERE {where} ORDER BY generation DESC LIMIT ?2",
        (wanted, limit),
    )
    return [
        FoundEntry(entity, mask.show(key), generation, bool(latest), mask.show(new_id), state, seen, bool(written))
        for key, generation, latest, new_id, state, seen, written in found
    ]


def search_rejects(connection: sqlite3.Connection, mask: KeyMask, wanted: str, page: int, size: int) -> ListPage:
    """Return a page of the rejects with `wanted` in key, column or reason. Pages count from 1."""
    text = "coalesce(CAST(covered(old_key) AS TEXT), '') || ' ' || source_column || ' ' || reason"
    where = f"(?1 = '' OR instr(lower({text}), lower(?1)))"
    columns = "covered(old_key), source_column, reason"
    return _read_page(connection, mask, columns, "rejects", where, "rowid", wanted, page, size)


def search_conflicts(connection: sqlite3.Connection, mask: KeyMask, wanted: str, page: int, size: int) -> ListPage:
    """Return a page of the items kept as the application changed them, with `wanted` in old key or new id."""
    text = "CAST(covered(old_key) AS TEXT) || ' ' || covered(new_id)"
    where = f"state = 'kept_conflict' AND (?1 = '' OR instr({text}, lower(?1)))"
    columns = "covered(old_key), covered(new_id), 'changed by the application, kept as it is'"
    return _read_page(connection, mask, columns, "id_map", where, "entry", wanted, page, size)


def _read_page(
    connection: sqlite3.Connection,
    mask: KeyMask,
    columns: str,
    table: str,
    where: str,
    order: str,
    wanted: str,
    page: int,
    size: int,
) -> ListPage:
    """Return a page of a list. It is searched for what is shown, or it could be asked for a secret key bit by bit."""
    connection.create_function("covered", 1, mask.cover, deterministic=True)
    total: int = connection.execute(f"SELECT count(*) FROM {table} WHERE {where}", (wanted,)).fetchone()[0]
    rows = connection.execute(
        f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT ?2 OFFSET ?3",
        (wanted, size, (page - 1) * size),
    )
    return ListPage([ListedRow(show_row_key(key), column, reason) for key, column, reason in rows], total)


def _find_map_lock(sha256: str) -> threading.Lock:
    """Return the lock of one map, which no other map shares."""
    with _cache_lock:
        return _map_locks.setdefault(sha256, threading.Lock())


def _open_cached(place: Path) -> sqlite3.Connection | None:
    """Open a map of the cache, or return None if it is not there."""
    with _cache_lock:
        return _open_now(place) if place.exists() else None


def _open_downloaded(store: Store, path: str, sha256: str, place: Path) -> sqlite3.Connection:
    """Download a map into the cache and open it."""
    size = store.measure(path)
    if size is None:
        raise StoreError(f"{store.uri(path)} is missing: it was removed. Run `make audit`.")
    if size > MAP_BYTES:
        raise StoreError(
            f"{store.uri(path)} has {size / 1024**3:.1f} GiB, too much for a page: download it with "
            "`aws s3 cp` and open it with sqlite3."
        )
    partial = place.with_name(f"{sha256}.{os.getpid()}.partial")
    try:
        store.download(path, partial, sha256)
        with _cache_lock:
            _make_room(place.parent, size)
            return _open_now(partial.replace(place))
    finally:
        partial.unlink(missing_ok=True)


def _open_now(place: Path) -> sqlite3.Connection:
    """Open a map so that it stays readable if it is removed from the cache, and mark it as used last."""
    place.touch()
    connection = open_id_map(place)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def _find_folder() -> Path:
    """Return a folder that only this user can write to, since a file in it is trusted by its name."""
    folder = Path(tempfile.gettempdir()) / f"accession-id-maps-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise StoreError(f"{folder} belongs to another user or is open to others: remove it.")
    return folder


def _make_room(folder: Path, size: int) -> None:
    """Remove the least recently used maps until `size` more bytes fit."""
    maps = sorted(folder.glob("*.db"), key=lambda file: file.stat().st_mtime)
    held = sum(file.stat().st_size for file in maps)
    for file in maps:
        if held + size <= CACHE_BYTES:
            return
        held -= file.stat().st_size
        file.unlink()
