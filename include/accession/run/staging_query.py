"""The SQL of staging. It reads rows and their records in key order, so that memory does not grow with their number.

The snapshot is `main`, and the head's ID map is attached as `head`.
"""

from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import NamedTuple

from accession.artifacts import RESOLVING
from accession.items import RowKey, show_key
from accession.mapping import Entity, Mapping
from accession.run.match import Recorded
from accession.run.relation import list_searched, name_relation, read_affinities
from accession.source import SourceConnection, quote

GUESS = "'0'"  # in place of a parent's key: as short as keys are, and also a number
RECORDED = ", ".join(f"h.{field}" for field in Recorded._fields)


class MapNames(NamedTuple):
    """The names of the tables, as queries have them, of a parent's ID map or survey: its entries and its rejects."""

    entries: str
    rejects: str


class StagingQuery:
    """The queries for one entity whose relations are made. Its parents have their entries and rejects in `maps`."""

    def __init__(
        self, snapshot: SourceConnection, mapping: Mapping, entity: Entity, maps: AnyMapping[str, MapNames]
    ) -> None:
        self.snapshot, self.mapping, self.entity, self.maps = snapshot, mapping, entity, maps
        self.keys = [quote(column) for column in entity.source.keys]
        self.rows = name_relation(snapshot, entity)
        self.searched = {name: list_searched(snapshot, mapping, entity, name) for name in entity.references}

    def count_rows(self) -> int:
        """Return the number of source rows of the entity."""
        rows: int = self.snapshot.execute(f"SELECT count(*) FROM {self.rows}").fetchone()[0]
        return rows

    def find_key_affinities(self) -> tuple[str, ...]:
        """Return the declared affinity of each key column; an empty string for one that the table does not declare."""
        affinities = read_affinities(self.snapshot, self.mapping, self.entity)
        default = "INTEGER" if self.entity.source.has_rowid else ""
        return tuple(affinities.get(column.lower(), default) for column in self.entity.source.keys)

    def select_rows(self, *, has_head: bool, guessed: frozenset[str] = frozenset()) -> str:
        """Return the query of all rows in key order: key, columns, keys of the parents, and the record of the head.

        The keys of parents in `guessed` are not known yet: GUESS takes their place.

        The plus removes the affinity of a column, so that keys compare as the ID map declares them, and its index can
        be used for every row. SQLite's own foreign keys compare like this too, by the declaration of the parent.
        """
        columns = [f"s.{column}" for column in (*self.keys, *map(quote, self.entity.columns))]
        joins = []
        for number, (name, parent) in enumerate(self.entity.references.items()):
            if parent in guessed:
                columns.append(f"iif({self._has_reference(name)}, {GUESS}, NULL)")
            else:
                columns.append(self._select_parent(number, name))
                joins.append(self._join_parent(number, name))
        if has_head:
            columns.append(RECORDED)
            joins.append(f"LEFT JOIN head.id_map h ON {self._match_keys('h', self.keys, '+s.')} AND h.latest")
        order = ", ".join(f"s.{key}" for key in self.keys)
        return f"SELECT {', '.join(columns)} FROM {self.rows} s {' '.join(joins)} ORDER BY {order}"

    def select_links(self, name: str) -> str:
        """Return the query of a reference within the group, for each valid row that has one, as a `Link`."""
        number = list(self.entity.references).index(name)
        own = self.maps[self.entity.name].entries
        return (
            f"SELECT c.old_key, c.held NOT NULL, p{number}.old_key FROM {self.rows} s "
            f"JOIN {own} c ON {self._match_keys('c', self.keys, '+s.')} AND c.state = 'live' "
            f"{self._join_parent(number, name)} WHERE {self._has_reference(name)}"
        )

    def _has_reference(self, name: str) -> str:
        """Return the condition that no column of a reference is NULL."""
        return " AND ".join(f"s.{quote(column)} NOT NULL" for column in self.entity.attributes[name].columns)

    def _select_parent(self, number: int, name: str) -> str:
        """Return the expression of the parent's key, or of the part of it that the reference takes."""
        attribute = self.entity.attributes[name]
        target = self.mapping.entities[self.entity.references[name]].target
        if len(target.keys) == 1:
            return f"p{number}.new_id"
        return f"json_extract(p{number}.new_id, '$[{target.keys.index(target.find_part(attribute.part).name)}]')"

    def _join_parent(self, number: int, name: str) -> str:
        parent = self.mapping.entities[self.entity.references[name]]
        columns = [quote(column) for column in self.entity.attributes[name].columns]
        resolving = f"AND p{number}.latest AND p{number}.state IN {RESOLVING}"
        join = f"LEFT JOIN {self.maps[parent.name].entries} p{number} ON "
        searched = self.searched[name]
        if not searched:
            return f"{join}{self._match_keys(f'p{number}', columns, '+s.')} {resolving}"
        # The parent's row is found as SQLite compares its columns, then its record by its key, byte by byte.
        same = " AND ".join(f"q{number}.{one} = +s.{column}" for one, column in zip(searched, columns, strict=True))
        keys = [quote(column) for column in parent.source.keys]
        found = f"LEFT JOIN {name_relation(self.snapshot, parent)} q{number} ON {same}"
        return f"{found} {join}{self._match_keys(f'p{number}', keys, f'+q{number}.')} {resolving}"

    @staticmethod
    def _match_keys(record: str, columns: Sequence[str], prefix: str) -> str:
        """Return the condition that a record of an ID map has the key that these columns hold."""
        if len(columns) == 1:
            return f"{record}.old_key = {prefix}{columns[0]}"
        return " AND ".join(f"{record}.key_{number} = {prefix}{column}" for number, column in enumerate(columns))

    def select_gone(self) -> str:
        """Return the query of records of the head that have no row in the source: old key, record, and `latest`.

        It includes items of earlier generations that were kept.
        """
        names = ["old_key"] if len(self.keys) == 1 else [f"key_{number}" for number in range(len(self.keys))]
        same = " AND ".join(f"h.{name} = s.{key} COLLATE BINARY" for name, key in zip(names, self.keys, strict=True))
        return (
            f"SELECT h.old_key, {RECORDED}, h.latest FROM head.id_map h LEFT JOIN {self.rows} s ON {same} "
            f"WHERE h.state != 'tombstone' AND (s.{self.keys[0]} IS NULL OR NOT h.latest) "
            "ORDER BY h.old_key, h.generation"
        )

    def is_rejected(self, reference: str, values: tuple[RowKey, ...]) -> bool:
        """Tell whether the parent row that a reference's columns name was rejected."""
        parent = self.mapping.entities[self.entity.references[reference]]
        if searched := self.searched[reference]:
            keys = ", ".join(quote(column) for column in parent.source.keys)
            rows, same = name_relation(self.snapshot, parent), " AND ".join(f"s.{one} = ?" for one in searched)
            found = self.snapshot.execute(f"SELECT {keys} FROM {rows} s WHERE {same}", values).fetchone()
            if found is None:
                return False
            values = found
        old_key = values[0] if len(values) == 1 else show_key(values)
        query = f"SELECT 1 FROM {self.maps[parent.name].rejects} WHERE old_key = ?"
        return self.snapshot.execute(query, (old_key,)).fetchone() is not None
