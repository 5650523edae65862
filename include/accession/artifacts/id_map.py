"""The ID map: one SQLite file per entity and run that gives the new id of each old key and the checksum of its item.

Dependent entities join through it, the next run compares with it, verification proves it, and an auditor can open it:

    sqlite3 user.db "SELECT new_id FROM id_map WHERE old_key = 17 AND latest"

A row id that SQLite used again has an entry for each generation. The latest one is the row that the source holds now.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

from accession.errors import SourceError
from accession.items import ItemKey, KeyMask, RowKey

EntryState = Literal["live", "kept_conflict", "kept_delete", "held_reject", "tombstone"]

# A parent in one of these states is in the source and in the target, so a child can refer to it.
RESOLVING = "('live', 'kept_conflict', 'held_reject')"

SCHEMA = """
CREATE TABLE id_map (
    entry INTEGER PRIMARY KEY,
    old_key {affinity} NOT NULL,
    generation INTEGER NOT NULL,
    latest INTEGER NOT NULL,         -- 1: what the source holds now under this key
    new_id TEXT NOT NULL,
    identity BLOB NOT NULL,          -- eight bytes an alternative, keyed with the target's namespace
    checksum BLOB NOT NULL,          -- SHA-256 of the item as last written
    row_checksum BLOB,               -- of the item as the source makes it, where that differs (attributes kept)
    first_seen TEXT NOT NULL,
    state TEXT NOT NULL,
    written INTEGER NOT NULL,        -- 1: put, updated or deleted by the run of this file
    {parts}UNIQUE (old_key, generation)
);
CREATE TABLE rejects (
    old_key,
    source_column TEXT NOT NULL,
    reason TEXT NOT NULL,
    held INTEGER NOT NULL            -- 1: migrated earlier; its item stays as it was
);
"""

OPEN = KeyMask()  # what a map of an entity without secret keys needs
COLUMNS = "old_key, generation, latest, new_id, identity, checksum, row_checksum, first_seen, state, written"


class Entry(NamedTuple):
    """One row of the map, without its number."""

    old_key: RowKey
    generation: int
    latest: int
    new_id: ItemKey
    identity: bytes
    checksum: bytes
    row_checksum: bytes | None
    first_seen: str
    state: EntryState
    written: int


def create_id_map(path: Path, affinity: str | Sequence[str], encoding: str = "UTF-8") -> sqlite3.Connection:
    """Create an empty map whose old keys compare as a column of `affinity` does. `finish_id_map` makes it durable.

    A key of several columns has several affinities. It is one text in `old_key`, and its values are in key_0, key_1 and
    so on. `encoding` is that of the source, because SQLite attaches only databases of the same text encoding.
    """
    declared, parts = declare_keys((affinity,) if isinstance(affinity, str) else affinity)
    path.unlink(missing_ok=True)
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f'PRAGMA encoding = "{encoding}"')
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        connection.executescript(SCHEMA.format(affinity=declared, parts=parts))
        connection.execute("BEGIN")
    except BaseException:
        connection.close()
        raise
    return connection


def declare_keys(affinities: Sequence[str]) -> tuple[str, str]:
    """Return the declared type of `old_key`, and the declarations of key_0, key_1, … if the key has several columns."""
    if len(affinities) == 1:
        return affinities[0], ""
    parts = (
        f"key_{number} {affinity} AS (json_extract(old_key, '$[{number}]')) VIRTUAL,\n    "
        for number, affinity in enumerate(affinities)
    )
    return "TEXT", "".join(parts)


def add_entries(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Append entries. Raises SourceError if two have the same key and generation."""
    try:
        connection.executemany(f"INSERT INTO id_map ({COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?)", entries)
    except sqlite3.IntegrityError as error:
        raise SourceError(
            f"Two rows have the same key ({error}): make the key column of the mapping unique. If its declared type "
            "changed since the last run, declare it as before, so that each row keeps its id."
        ) from error


def copy_tombstones(connection: sqlite3.Connection, head: Path) -> None:
    """Copy the tombstones of the head's map. They stay for ever, so that no generation is used again."""
    connection.execute("COMMIT")
    attach(connection, head, "head")
    connection.execute("BEGIN")
    connection.execute(
        f"""INSERT INTO id_map ({COLUMNS})
        SELECT old_key, generation,
            latest AND NOT EXISTS (SELECT 1 FROM id_map n WHERE n.old_key = h.old_key AND n.generation > h.generation),
            new_id, identity, checksum, row_checksum, first_seen, state, 0
        FROM head.id_map h WHERE state = 'tombstone' ORDER BY old_key, generation"""
    )
    connection.execute("COMMIT")
    connection.execute("DETACH head")
    connection.execute("BEGIN")


def finish_id_map(connection: sqlite3.Connection, mask: KeyMask = OPEN) -> None:
    """Index, commit and close the map.

    Raises SourceError if two keys make the same id: 5 and '5' in one column, 5 that was '5' in the last run, or two
    rows whose keys have a reference to the same parent.
    """
    connection.execute("COMMIT")
    connection.execute("CREATE INDEX rejects_old_key ON rejects (old_key)")
    parts = [name for _, name, *_ in connection.execute("PRAGMA table_xinfo(id_map)") if name.startswith("key_")]
    if parts:
        connection.execute(f"CREATE INDEX id_map_key ON id_map ({', '.join(parts)})")
    try:
        connection.execute("CREATE UNIQUE INDEX id_map_new_id ON id_map (new_id)")
    except sqlite3.IntegrityError as error:
        raise SourceError(_explain_same_id(connection, mask)) from error
    connection.close()


def _explain_same_id(connection: sqlite3.Connection, mask: KeyMask) -> str:
    key, other, states = connection.execute(
        "SELECT min(CAST(old_key AS TEXT)), max(CAST(old_key AS TEXT)), group_concat(state) "
        "FROM id_map GROUP BY new_id HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    key, other = mask.show(key), mask.show(other)
    if key != other:
        return (
            f"Two rows have the same key in the target: {key} and {other}. Their references name one parent in two "
            "spellings: correct one of the rows."
        )
    if "tombstone" in states or "kept_delete" in states:  # the last run's entry counts as gone beside the new one
        return (
            f"Key {key} was a number in the last run and is text now, or the other way round: the declared type of the "
            "key column changed. Declare it as before, so that each row keeps its id."
        )
    return (
        "Two keys have the same text, but one is a number and one is text: give them the same type, since new ids are "
        f"made of the text. The first such key is {key}."
    )


def open_id_map(path: Path) -> sqlite3.Connection:
    """Open a finished map, read-only."""
    connection = sqlite3.connect(_address(path), uri=True, check_same_thread=False)
    try:
        connection.execute("PRAGMA cache_size = -8000")
    except BaseException:
        connection.close()
        raise
    return connection


def attach(connection: sqlite3.Connection, path: Path, name: str) -> None:
    """Make a finished map readable as `name` on a connection that was opened with uri=True.

    Raises SourceError if the two have different text encodings.
    """
    try:
        connection.execute(f'ATTACH ? AS "{name}"', (_address(path),))
    except sqlite3.OperationalError as error:
        raise SourceError(
            f"The ID map {path.name} cannot be read beside the source ({error}). If the source was recreated in "
            "another text encoding since the last run, recreate it in the old one (PRAGMA encoding)."
        ) from error


def _address(path: Path) -> str:
    return f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"


def mark_conflicts(path: Path, conflicts: Iterable[tuple[str, bytes | None]]) -> None:
    """Mark the conflicts that a run met while writing in a local copy of its map, so that the next run reports them.

    A conflict is a new id and the checksum of the item as last written; None keeps the checksum of the map. An item
    that was to be deleted becomes `kept_delete`, to which no row refers. If attributes of the application were kept,
    the checksum of the earlier row is unknown, so it becomes one that equals no other.
    """
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(
            "UPDATE id_map SET checksum = coalesce(?2, checksum), "
            "row_checksum = CASE WHEN row_checksum IS NULL THEN NULL ELSE zeroblob(32) END, "
            "state = CASE state WHEN 'tombstone' THEN 'kept_delete' ELSE 'kept_conflict' END WHERE new_id = ?1",
            conflicts,
        )


def sample_keys(id_map: sqlite3.Connection, most: int) -> tuple[str, ...]:
    """Return the keys of at most `most` live items, spread evenly over the map."""
    last: int = id_map.execute("SELECT coalesce(max(entry), 0) FROM id_map").fetchone()[0]
    query = "SELECT new_id FROM id_map WHERE entry >= ? AND state = 'live' ORDER BY entry LIMIT 1"
    starts = range(1, last + 1, max(last // most, 1))
    found = (id_map.execute(query, (start,)).fetchone() for start in starts[:most])
    return tuple(dict.fromkeys(row[0] for row in found if row))


def count_entries(path: Path) -> int:
    """Return the number of entries of a finished map."""
    with closing(open_id_map(path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM id_map").fetchone()[0]
    return count


def has_changed(path: Path, head: Path | None) -> bool:
    """Tell whether the map differs from the head's in any entry, state, checksum or reject."""
    with closing(open_id_map(path)) as connection:
        if head is None:
            return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM id_map)").fetchone()[0])
        attach(connection, head, "head")
        entries = "old_key, generation, latest, new_id, identity, checksum, row_checksum, first_seen, state"
        for table, columns in (("id_map", entries), ("rejects", "old_key, source_column, reason, held")):
            for one, other in (("main", "head"), ("head", "main")):
                query = (
                    f"SELECT EXISTS (SELECT {columns} FROM {one}.{table} EXCEPT SELECT {columns} FROM {other}.{table})"
                )
                if connection.execute(query).fetchone()[0]:
                    return True
        return False
