"""The survey of a group: which rows of it can be migrated, and with which keys, before any of them is staged.

Entities that refer to each other in a circle cannot be staged one after the other, and neither can entities whose keys
may collide: whether a row can be migrated depends on rows that come later. So a first pass over all rows of the group
finds their keys and their rejects. The consequences are worked out here, in SQL, on disk: rows whose keys collide are
rejected, and so are rows that refer to a rejected one, and so on. Staging then finds the group's own parents in the
survey, as it finds other parents in their ID maps.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple, Self

from accession.artifacts import declare_keys
from accession.items import ItemKey, KeyMask, RowKey, clean_key
from accession.run.batches import split_batches
from accession.run.staging_query import MapNames

SCHEMA = """
CREATE TABLE map_{number} (
    old_key {affinity} NOT NULL UNIQUE,  -- not PRIMARY KEY, which takes no text if the affinity is INTEGER
    new_id TEXT NOT NULL,
    held TEXT,                       -- the key of its item in the target; NULL if it has none
    state TEXT NOT NULL,
    {parts}latest INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX map_{number}_id ON map_{number} (new_id);
CREATE TABLE rejects_{number} (old_key);
CREATE INDEX rejects_{number}_key ON rejects_{number} (old_key);
CREATE TABLE collisions_{number} (old_key NOT NULL PRIMARY KEY, reason TEXT NOT NULL);
"""
# `removed` are rows that cannot be migrated and have no item. `links` are the references between rows of the group. A
# rejected row that has an item (`is_held`) keeps it, so its children are valid. `kept` has the keys of such items that
# other rows may have.
SHARED = """
CREATE TABLE removed (member INTEGER, old_key, PRIMARY KEY (member, old_key)) WITHOUT ROWID;
CREATE TABLE links (member INTEGER, old_key, is_held INTEGER, parent INTEGER, parent_key);
CREATE INDEX links_parent ON links (parent, parent_key);
CREATE TABLE claims (new_id TEXT, is_there INTEGER, member INTEGER, old_key);
CREATE TABLE kept (member INTEGER, old_key, new_id TEXT);
"""
SPREAD = """
WITH RECURSIVE gone (member, old_key) AS (
    SELECT member, old_key FROM removed
    UNION
    SELECT l.member, l.old_key FROM gone g JOIN links l ON l.parent = g.member AND l.parent_key = g.old_key
    WHERE NOT l.is_held
) INSERT OR IGNORE INTO removed SELECT member, old_key FROM gone
"""
HELD = """
SELECT DISTINCT l.old_key FROM links l JOIN removed r ON l.parent = r.member AND l.parent_key = r.old_key
WHERE l.is_held AND l.member = ?
"""
BATCH = 2000


class Surveyed(NamedTuple):
    """A row as the first pass found it: its key in the source, its key in the target, the key of the item that it has
    there, and whether it can be migrated."""

    old_key: RowKey
    new_id: ItemKey | None
    held: ItemKey | None
    is_valid: bool


class Link(NamedTuple):
    """A reference within the group: a valid row, whether it has an item in the target, and its parent's row; None if
    there is no such row."""

    old_key: RowKey
    is_held: int
    parent_key: RowKey | None


class Survey:
    """The survey of entities, in a SQLite file. `masks` covers the keys of each; `encoding` is that of the source."""

    def __init__(self, path: Path, masks: Mapping[str, KeyMask], encoding: str) -> None:
        self._path, self._masks = path, masks
        self.members = {name: number for number, name in enumerate(masks)}
        self._names = tuple(masks)
        self._collided: set[str] = set()
        self.moved: set[str] = set()  # members of which a rejected row keeps another key than was found for it
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute(f'PRAGMA encoding = "{encoding}"')
        # Others read what was written while more is written, and nothing of it is needed after a crash.
        self._db.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;")
        self._db.executescript(SHARED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        yield
        self._db.execute("COMMIT")

    def attach_to(self, connection: sqlite3.Connection) -> None:
        """Make the survey readable as `survey`."""
        connection.execute("ATTACH ? AS survey", (f"{self._path.absolute().as_uri()}?mode=ro",))

    def name_map(self, member: str) -> MapNames:
        """Return the names of a member's tables, for queries."""
        number = self.members[member]
        return MapNames(f"survey.map_{number}", f"survey.rejects_{number}")

    def create_map(self, member: str, affinities: Sequence[str]) -> None:
        """Create the tables of a member, whose key columns have these affinities."""
        declared, parts = declare_keys(affinities)
        number = self.members[member]
        self._db.executescript(SCHEMA.format(number=number, affinity=declared, parts=parts))
        if parts:
            names = ", ".join(f"key_{part}" for part in range(len(affinities)))
            self._db.execute(f"CREATE INDEX map_{number}_key ON map_{number} ({names})")

    def add(self, member: str, rows: Iterable[Surveyed]) -> None:
        """Add all rows of a member."""
        number = self.members[member]
        for batch in split_batches(rows, BATCH):
            entries = [
                (row.old_key, row.new_id, row.held, "live" if row.is_valid else "held_reject")
                for row in batch
                if row.new_id is not None
            ]
            rejects = [(clean_key(row.old_key),) for row in batch if not row.is_valid]
            with self._transaction():
                query = f"INSERT INTO map_{number} (old_key, new_id, held, state) VALUES (?,?,?,?)"
                self._db.executemany(query, entries)
                self._db.executemany(f"INSERT INTO rejects_{number} VALUES (?)", rejects)

    def reject_collisions(self, members: Sequence[str]) -> None:
        """Reject rows that have the key of another row of these members, which share a table.

        An item that is in the table keeps its key. If there is none, all rows of the key are rejected.
        """
        maps = " UNION ALL ".join(
            f"SELECT {number} AS member, old_key, new_id, held IS new_id AS is_there FROM map_{number}"
            for number in map(self.members.__getitem__, members)
        )
        counted = f"SELECT *, count(*) OVER (PARTITION BY new_id) AS count FROM ({maps})"
        query = f"SELECT new_id, is_there, member, old_key FROM ({counted}) WHERE count > 1 ORDER BY 1, 2 DESC, 3, 4"
        self._db.execute(f"INSERT INTO claims {query}")
        claims = self._db.execute("SELECT * FROM claims ORDER BY rowid")
        with self._transaction():
            for key, rows in groupby(claims, key=itemgetter(0)):
                self._reject_claims(key, ((member, old_key, is_there) for _, is_there, member, old_key in rows))
            self._db.execute("DELETE FROM claims")

    def _reject_claims(self, key: str, claims: Iterator[tuple[int, RowKey, int]]) -> None:
        first, second = islice(claims, 2)
        for number, old_key, is_there in chain((first, second), claims):
            if is_there:
                continue
            other = second if (number, old_key) == first[:2] else first
            self._reject_taker(number, old_key, key, other[:2])

    def _reject_taker(self, number: int, old_key: RowKey, key: str, other: tuple[int, RowKey]) -> None:
        """Reject a row whose key is also that of another one."""
        own, others = (self._masks[self._names[one]] for one in (number, other[0]))
        mask = own if own.secret else others  # the key of one tells that of the other
        reason = f"its key {mask.show(key)} is also that of {self._names[other[0]]} {mask.show(other[1])}"
        self._db.execute(f"INSERT OR IGNORE INTO collisions_{number} VALUES (?,?)", (old_key, reason))
        self._collided.add(self._names[number])
        self._remove(number, [old_key])

    def reject_takers(self, tables: Iterable[Sequence[str]]) -> None:
        """Reject the rows that have the key of an item which a rejected row keeps. `tables` are the members that share
        one."""
        mates = {self.members[name]: [self.members[mate] for mate in names] for names in tables for name in names}
        with self._transaction():
            while kept := self._db.execute("SELECT * FROM kept").fetchall():
                self._db.execute("DELETE FROM kept")
                for number, old_key, key in kept:
                    for mate in mates.get(number, ()):
                        query = f"SELECT old_key FROM map_{mate} WHERE new_id = ? AND state = 'live'"
                        for (taker,) in self._db.execute(query, (key,)).fetchall():
                            self._reject_taker(mate, taker, key, (number, old_key))

    def find_collision(self, member: str, old_key: RowKey) -> str | None:
        """Return why the key of a row collides; None if it does not."""
        if member not in self._collided:
            return None
        query = f"SELECT reason FROM collisions_{self.members[member]} WHERE old_key = ?"
        found = self._db.execute(query, (old_key,)).fetchone()
        return found[0] if found else None

    def reject(self, member: str, old_keys: Iterable[RowKey]) -> None:
        """Reject rows of a member."""
        with self._transaction():
            self._remove(self.members[member], old_keys)

    def _remove(self, number: int, old_keys: Iterable[RowKey]) -> None:
        """Reject rows. Those that have an item in the target keep it, and their children can refer to it."""
        for old_key in old_keys:
            query = f"SELECT held, new_id FROM map_{number} WHERE old_key = ?"
            held, new_id = self._db.execute(query, (old_key,)).fetchone() or (None, None)
            if held is None:
                self._db.execute("INSERT OR IGNORE INTO removed VALUES (?,?)", (number, old_key))
                continue
            update = f"UPDATE map_{number} SET state = 'held_reject', new_id = held WHERE old_key = ?"
            self._db.execute(update, (old_key,))
            if held != new_id:
                self._db.execute("INSERT INTO kept VALUES (?,?,?)", (number, old_key, held))
                self.moved.add(self._names[number])

    @property
    def has_removed(self) -> bool:
        """Tell whether any row was rejected whose children are to be rejected, too."""
        return bool(self._db.execute("SELECT EXISTS (SELECT 1 FROM removed)").fetchone()[0])

    @property
    def has_kept(self) -> bool:
        """Tell whether any row was rejected that keeps an item whose key another row may have."""
        return bool(self._db.execute("SELECT EXISTS (SELECT 1 FROM kept)").fetchone()[0])

    def correct(self, member: str, keys: Iterable[tuple[RowKey, ItemKey]]) -> bool:
        """Correct the keys of valid rows of a member. Return whether any of them was wrong."""
        query = f"UPDATE map_{self.members[member]} SET new_id = ?2 WHERE old_key = ?1 AND new_id != ?2"
        with self._transaction():
            return self._db.executemany(query, keys).rowcount > 0

    def add_links(self, member: str, parent: str, links: Iterable[Link]) -> None:
        """Add the references of a member's valid rows to an entity of the group."""
        numbers = self.members[member], self.members[parent]
        with self._transaction():
            self._db.executemany(
                "INSERT INTO links VALUES (?,?,?,?,?)",
                ((numbers[0], link.old_key, link.is_held, numbers[1], link.parent_key) for link in links),
            )

    def spread(self) -> None:
        """Reject the rows that refer to a rejected one, and so on."""
        self._db.execute(SPREAD)
        for number in self.members.values():
            with self._transaction():
                self._remove(number, (old_key for (old_key,) in self._db.execute(HELD, (number,))))
                removed = f"SELECT old_key FROM removed WHERE member = {number}"
                self._db.execute(f"DELETE FROM map_{number} WHERE old_key IN ({removed})")
                self._db.execute(f"INSERT INTO rejects_{number} {removed}")
        self._db.executescript("DELETE FROM links; DELETE FROM removed;")

    def has_key(self, member: str, key: ItemKey) -> bool:
        """Tell whether a valid row of a member has a key in the target."""
        query = f"SELECT 1 FROM map_{self.members[member]} WHERE new_id = ? AND state = 'live'"
        return self._db.execute(query, (key,)).fetchone() is not None

    def is_valid(self, member: str, old_key: RowKey) -> bool:
        """Tell whether a row can be migrated, as far as the survey knows."""
        query = f"SELECT 1 FROM map_{self.members[member]} WHERE old_key = ? AND state = 'live'"
        try:
            return self._db.execute(query, (old_key,)).fetchone() is not None
        except UnicodeEncodeError:
            return False
