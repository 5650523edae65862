"""Several ID maps in one file: for the proof of a table that entities share, and for an entity with many parents."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

from accession.artifacts.id_map import COLUMNS, attach, open_id_map

FIELDS = "new_id, old_key, checksum, state, written"


def merge_id_maps(path: Path, files: Mapping[str, Path]) -> Path:
    """Write a map with the entries of several entities, which share a table, for the proof of it.

    A key that one entity gave up and that another has belongs to the other.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
        connection.execute(f"CREATE TABLE id_map (entry INTEGER PRIMARY KEY, entity, {FIELDS})")
        for entity, file in files.items():
            with closing(open_id_map(file)) as one:
                rows = one.execute(f"SELECT ?, {FIELDS} FROM id_map ORDER BY entry", (entity,))
                connection.execute("BEGIN")
                connection.executemany(f"INSERT INTO id_map (entity, {FIELDS}) VALUES (?,?,?,?,?,?)", rows)
                connection.execute("COMMIT")
        connection.execute("CREATE INDEX id_map_new_id ON id_map (new_id)")
        has_key = "SELECT new_id FROM id_map WHERE state != 'tombstone'"
        connection.execute(f"DELETE FROM id_map WHERE state = 'tombstone' AND new_id IN ({has_key})")
    return path


def gather_id_maps(path: Path, files: Iterable[Path]) -> None:
    """Write a file with a copy of each of these maps: map_0 and rejects_0, map_1 and rejects_1, and so on.

    Keys compare in them as in the maps. The maps have one text encoding, and so has the file.
    """
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path, isolation_level=None, uri=True)) as connection:
        for number, file in enumerate(files):
            if number == 0:
                with closing(open_id_map(file)) as one:
                    [encoding] = one.execute("PRAGMA encoding").fetchone()
                connection.execute(f'PRAGMA encoding = "{encoding}"')
                connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            attach(connection, file, "one")
            [declared] = connection.execute("SELECT sql FROM one.sqlite_schema WHERE name = 'id_map'").fetchone()
            connection.execute(declared.replace("id_map", f"map_{number}", 1))
            connection.execute("BEGIN")
            connection.execute(f"INSERT INTO map_{number} ({COLUMNS}) SELECT {COLUMNS} FROM one.id_map ORDER BY entry")
            connection.execute(f"CREATE TABLE rejects_{number} AS SELECT old_key FROM one.rejects")
            connection.execute(f"CREATE INDEX rejects_{number}_key ON rejects_{number} (old_key)")
            columns = connection.execute(f"PRAGMA table_xinfo(map_{number})").fetchall()
            if parts := [name for _, name, *_ in columns if name.startswith("key_")]:
                connection.execute(f"CREATE INDEX map_{number}_key ON map_{number} ({', '.join(parts)})")
            connection.execute("COMMIT")
            connection.execute("DETACH one")
