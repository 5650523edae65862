"""The rows of an entity in the snapshot: read them with what they refer to, and make of each an item or a reject.

One SQL statement joins each row with the new ids of its parents and with the head's record for its key, so memory does
not grow with the number of rows.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, Self

from accession.artifacts import Entry, attach, count_entries, gather_id_maps
from accession.items import (
    Converted,
    ItemBuilder,
    ItemKey,
    Orphan,
    Prepared,
    Reject,
    RowKey,
    Table,
    find_key_schemas,
    find_mask,
    is_unicode,
    join_key,
    show_key,
)
from accession.run.inputs import Inputs
from accession.run.match import Match, Recorded, Replaced, Same, match_kept, match_recorded
from accession.run.relation import find_affinities, make_relations
from accession.run.staging_query import MapNames, StagingQuery
from accession.run.survey import Link, Survey
from accession.source import open_snapshot

# Parents' maps that are attached one by one. sqlite.org "Limits": ten databases at once; three others are the ID map of
# the last run, the survey of a group, and a file that holds the maps of all further parents.
MAX_MAPS = 7


class Row(NamedTuple):
    """A row as it was read. `key` has the values of the source's key, `repeats` tells that the row before has the same,
    and `recorded` is the head's record for it."""

    key: tuple[RowKey, ...]
    values: tuple[Any, ...]
    recorded: Recorded | None
    repeats: bool

    @property
    def old_key(self) -> RowKey:
        """Return the key as one value, as ID maps and rejects have it."""
        return self.key[0] if len(self.key) == 1 else show_key(self.key)

    @property
    def held(self) -> Recorded | None:
        """Return the record of the item that stays in the target if the row is rejected."""
        if self.recorded is None or self.recorded.state == "tombstone" or self.repeats:
            return None
        return self.recorded


class Made(NamedTuple):
    """What a row becomes: its item, its entry in the ID map, and how it matches the head's record."""

    match: Match
    entry: Entry
    prepared: Prepared
    adjusted: int


class SourceRows:
    """The rows of one entity, made from `inputs`. Files are open until the `with` block ends.

    The parents in `survey`, which are staged together with the entity, are found there.
    """

    def __init__(self, inputs: Inputs, name: str, survey: Survey | None = None) -> None:
        mapping, head = inputs.mapping, inputs.head
        self.survey = survey
        self.entity = mapping.entities[name]
        self.head = head.id_map if head is not None else None
        self.shares_identity = head is None or bool(set(head.identity) & set(self.entity.identity))
        # Those that we write, in this run and in earlier ones.
        self.attributes = set(self.entity.attributes) | set(head.attributes if head is not None else ())
        self._started_at = inputs.started_at
        self._keys = len(self.entity.source.keys)
        self._width = self._keys + len(self.entity.columns) + len(self.entity.references)
        with ExitStack() as opening:
            self.snapshot = opening.enter_context(closing(open_snapshot(inputs.backup)))
            make_relations(self.snapshot, mapping, self.entity)
            self.query = StagingQuery(self.snapshot, mapping, self.entity, self._attach_maps(inputs.maps))
            schemas = find_key_schemas(mapping, find_affinities(self.snapshot, mapping))
            self.builder = ItemBuilder(self.entity, mapping, schemas, inputs.namespace)
            self.table = Table(inputs.table, self.builder.key, find_mask(mapping, name, inputs.namespace))
            self.count = self.query.count_rows()
            self._files = opening.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    @property
    def most_lines(self) -> int:
        """Return the most lines that the change set can have."""
        return self.count + (count_entries(self.head) if self.head else 0)

    def _attach_maps(self, files: Mapping[str, Path]) -> dict[str, MapNames]:
        """Attach the ID maps of the parents and of the head. Return the names of the parents' tables."""
        names = {}
        if self.survey is not None:
            names = {member: self.survey.name_map(member) for member in self.survey.members}
            self.survey.attach_to(self.snapshot)
        parents = [parent for parent in dict.fromkeys(self.entity.references.values()) if parent not in names]
        for number, parent in enumerate(parents[:MAX_MAPS]):
            attach(self.snapshot, files[parent], f"parent_{number}")
            names[parent] = MapNames(f"parent_{number}.id_map", f"parent_{number}.rejects")
        if others := parents[MAX_MAPS:]:
            gathered = files[others[0]].with_name(f"parents_of_{self.entity.name}.db")
            gather_id_maps(gathered, map(files.__getitem__, others))
            attach(self.snapshot, gathered, "parents")
            for number, parent in enumerate(others):
                names[parent] = MapNames(f"parents.map_{number}", f"parents.rejects_{number}")
        if self.head is not None:
            attach(self.snapshot, self.head, "head")
        return names

    def read(self, *, guessed: frozenset[str] = frozenset()) -> Iterator[Row]:
        """Yield the rows in key order. References to the entities in `guessed` get a key that no row has."""
        width, keys = self._width, self._keys
        previous: tuple[RowKey, ...] = ()
        for row in self.snapshot.execute(self.query.select_rows(has_head=self.head is not None, guessed=guessed)):
            key = row[:keys]
            recorded = Recorded(*row[width:]) if len(row) > width and row[width] is not None else None
            repeats = key == previous and list(map(type, key)) == list(map(type, previous))
            yield Row(key, row[keys:width], recorded, repeats)
            previous = key

    def list_links(self) -> list[tuple[str, str]]:
        """Return the references within the group: attribute and entity."""
        members = self.survey.members if self.survey is not None else ()
        return [(name, parent) for name, parent in self.entity.references.items() if parent in members]

    def read_links(self, name: str) -> Iterator[Link]:
        """Yield a reference within the group, for each valid row that has one."""
        return map(Link._make, self.snapshot.execute(self.query.select_links(name)))

    def read_gone(self) -> Iterator[tuple[RowKey, Recorded, int]]:
        """Yield the records of the head that have no row: the key, the record, and whether it is the latest."""
        if self.head is not None:
            for old_key, *recorded, latest in self.snapshot.execute(self.query.select_gone()):
                yield old_key, Recorded(*recorded), latest

    def make(self, row: Row) -> Made:
        """Make the item of a row, and match the row with the head's record. Raises Reject."""
        old_key = self._read_key(row.key)
        if row.repeats:
            raise Reject(self.entity.source.key_name, "the key occurs twice")
        converted = self.builder.convert(row.values)
        match, key = self._match(row.recorded, converted, old_key)
        if self.survey is not None and (collision := self.survey.find_collision(self.entity.name, old_key)):
            raise Reject(self.entity.source.key_name, collision)
        first_seen = match.recorded.first_seen if type(match) is Same else self._started_at
        prepared = self.builder.complete(converted, key, first_seen)
        identity, checksum = converted.identity, prepared.checksum
        entry = Entry(old_key, match.generation, 1, key, identity, checksum, None, first_seen, "live", 1)
        return Made(match, entry, prepared, converted.adjusted)

    def _read_key(self, values: tuple[RowKey, ...]) -> int | str:
        """Return the key of a row as one value. Raises Reject."""
        if len(values) == 1:
            [value] = values
            if type(value) not in (int, str) or value == "":
                raise Reject(self.entity.source.key_name, "the key is neither an integer nor text")
            return value  # type: ignore[return-value]  # it is one of the two
        if not all(type(value) in (int, str) for value in values):
            raise Reject(self.entity.source.key_name, "a part of the key is neither an integer nor text")
        texts = [value for value in values if isinstance(value, str)]
        if not all(map(is_unicode, texts)):
            raise Reject(self.entity.source.key_name, "the key is not valid Unicode")
        if any("\0" in text for text in texts):  # SQLite's json_extract, which reads the ID map, would end there
            raise Reject(self.entity.source.key_name, "a part of the key has a NUL character")
        return join_key(values)

    def _match(self, recorded: Recorded | None, converted: Converted, old_key: int | str) -> tuple[Match, ItemKey]:
        """Return how a row matches the head's record, and the key of its item. Raises Reject."""
        if self.entity.new_id is None:
            key = self.builder.find_key(converted, old_key, 0)
            return match_kept(recorded, key), key
        match = match_recorded(recorded, converted.identity, shares_identity=self.shares_identity)
        if type(match) is Same and len(self.entity.key_parts) == 1:
            return match, match.recorded.new_id
        key = self.builder.find_key(converted, old_key, match.generation)
        if type(match) is Same and key != match.recorded.new_id:
            # The other part of the key changed. An id is never given twice, so the row gets a new one with it.
            match = Replaced(match.recorded)
            key = self.builder.find_key(converted, old_key, match.generation)
        return match, key

    def explain(self, row: Row, reject: Reject) -> Reject:
        """Return a reject with its reason in full. If the parent of an orphan was rejected, the reason says so, unless
        another parent does not exist at all, which comes first."""
        if not isinstance(reject, Orphan):
            return reject
        explained = [(self._is_rejected(orphan), orphan) for orphan in self.builder.find_orphans(row.values)]
        is_rejected, orphan = min(explained, key=itemgetter(0))
        if None in orphan.old_key:
            return Reject(orphan.column, f"{orphan.column} is NULL, it must refer to a row of {orphan.parent}")
        if is_rejected:
            return Reject(
                orphan.column,
                f"{orphan.column} {orphan.shown} refers to a row of {orphan.parent} that was rejected itself",
            )
        return orphan

    def _is_rejected(self, orphan: Orphan) -> bool:
        """Tell whether the parent of an orphan was rejected. A text that is not Unicode cannot be bound in a query."""
        is_bound = all(is_unicode(value) for value in orphan.old_key if isinstance(value, str))
        return None not in orphan.old_key and is_bound and self.query.is_rejected(orphan.reference, orphan.old_key)
