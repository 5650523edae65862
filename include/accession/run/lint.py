"""Check a mapping against a source, without a run: what is wrong, and which rows would be rejected, and why."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from sqlite3 import Connection
from uuid import uuid4

from accession.errors import SourceError
from accession.items import Reject, RowKey, find_mask
from accession.mapping import Entity, Mapping
from accession.run.group import spread_rejects, survey_rows
from accession.run.inputs import Inputs
from accession.run.relation import make_relations, name_field, name_relation, read_affinities
from accession.run.source_rows import SourceRows
from accession.run.survey import Survey
from accession.run.table_keys import open_keys
from accession.source import SourceConnection, check_key, explaining, list_columns, open_snapshot, quote, take_snapshot
from accession.validation import explain_unknown

# The values in a reason, which is counted as one whatever they are. A key is shown without quotes.
VALUE = re.compile(r"(?<=\bits key ).*|'.*?'|•••\w*|\d[\d,.]*", re.DOTALL)
ANY_TIME = "2000-01-01T00:00:00+00:00"  # of a run


@dataclass
class Tally:
    """What would become of the rows of an entity. `rejects` has, by column and kind of reason, the number of rejected
    rows and the first reason, in which sensitive values are masked."""

    rows: int
    rejects: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)

    @property
    def rejected(self) -> int:
        """Return the number of rows that would be rejected."""
        return sum(number for number, _ in self.rejects.values())

    def add(self, reject: Reject) -> None:
        """Count a reject."""
        reason = str(reject)
        kind = reject.column, VALUE.sub("", reason)
        shown = reason if reason.startswith(reject.column) else f"{reject.column}: {reason}"
        number, first = self.rejects.get(kind, (0, shown))
        self.rejects[kind] = number + 1, first


@dataclass(frozen=True)
class Findings:
    """The faults of a mapping, each of which begins with its field; and the tally of each entity, if there are none."""

    faults: tuple[str, ...]
    tallies: dict[str, Tally]


def lint_mapping(mapping: Mapping, source: Path, folder: Path) -> Findings:
    """Check a mapping against a copy of a source, which is made in `folder`.

    Rows are read, as by a first run into empty tables, if the mapping has no fault. Nothing is written to the source.
    Raises SourceError if the source itself cannot be read.
    """
    backup = folder / "backup.db"
    take_snapshot(source, backup)
    with explaining(source):
        found = (_find_faults(mapping, entity, source, backup) for entity in mapping.entities.values())
        faults = tuple(dict.fromkeys(chain.from_iterable(found)))  # children repeat a fault of their parent's query
        return Findings(faults, {} if faults else _count_rejects(mapping, backup, folder))


def _find_faults(mapping: Mapping, entity: Entity, source: Path, backup: Path) -> list[str]:
    try:
        with closing(open_snapshot(backup)) as snapshot:
            faults = list(_check_columns(mapping, entity, snapshot))
            return faults or [*_check_key(mapping, entity, snapshot, source), *_check_order(mapping, entity, backup)]
    except SourceError as error:
        return [str(error)]


def _check_columns(mapping: Mapping, entity: Entity, snapshot: Connection) -> Iterator[str]:
    """Yield a fault for each column that does not exist, or one for a table that does not."""
    name, source = f"entities.{entity.name}", entity.source
    if source.table is not None:
        tables = [
            table for (table,) in snapshot.execute("SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')")
        ]
        if source.table.lower() not in map(str.lower, tables):
            yield explain_unknown(source.table, tables, f"{name}.source.table: there is no table {source.table}") + "."
            return
    if source.query is not None:
        known = list_columns(snapshot, name_field(entity), source.query)
    else:
        known = list(read_affinities(snapshot, mapping, entity))
    for where, columns in _list_uses(mapping, entity):
        for column in columns:
            if column.lower() not in map(str.lower, known):
                problem = f"{where}: {entity.origin} has no column {column}"
                yield explain_unknown(column, known, problem) + "."


def _list_uses(mapping: Mapping, entity: Entity) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each field of the mapping that names columns of an entity's rows, with these columns."""
    name = f"entities.{entity.name}"
    if not entity.source.has_rowid:
        yield f"{name}.source.key", entity.source.keys
    for part in entity.key_parts:
        if part.name not in entity.attributes:
            named = part.template.columns if part.template is not None else (part.column,) if part.column else ()
            yield f"{name}.target.key.{part.name}", tuple(set(named) - set(entity.source.keys))
    for attribute, about in entity.attributes.items():
        yield f"{name}.attributes.{attribute}.{'column' if about.template is None else 'value'}", about.columns
    for child in mapping.entities.values():
        for attribute, about in child.attributes.items():
            if about.parent == entity.name and about.by is not None:
                yield f"entities.{child.name}.attributes.{attribute}.references.by", (about.by,)


def _check_key(mapping: Mapping, entity: Entity, snapshot: Connection, source: Path) -> Iterator[str]:
    """Yield a fault for each key of a table, of its rows or of references to them, that two rows have."""
    if entity.source.table is not None:
        for key in (entity.source.keys, *((column,) for column in mapping.list_found_by(entity.name))):
            try:
                check_key(snapshot, source, entity.source.table, key)
            except SourceError as error:
                yield f"entities.{entity.name}.source.key: {error}"


def _check_order(mapping: Mapping, entity: Entity, backup: Path) -> Iterator[str]:
    """Yield a fault if the SQL of an entity has another result when SQLite reads rows in reverse."""
    if entity.source.query is None and entity.source.where is None:
        return
    with ExitStack() as files:
        straight, reverse = (files.enter_context(closing(open_snapshot(backup))) for _ in range(2))
        reverse.execute("PRAGMA reverse_unordered_selects = ON")
        yield from _compare(mapping, entity, straight, reverse)


def _compare(mapping: Mapping, entity: Entity, straight: SourceConnection, reverse: SourceConnection) -> Iterator[str]:
    columns = list(dict.fromkeys((*entity.source.keys, *entity.columns)))
    shown = ", ".join(f"quote({quote(column)})" for column in columns)
    order = ", ".join(str(number) for number in range(1, len(columns) + 1))
    rows = []
    for connection in (straight, reverse):
        make_relations(connection, mapping, entity)
        rows.append(connection.execute(f"SELECT {shown} FROM {name_relation(connection, entity)} ORDER BY {order}"))
    for one, other in zip_longest(*rows):
        if one != other:
            differing = [c for c, x, y in zip(columns, one or (), other or (), strict=False) if x != y]
            what = f"column {differing[0]}" if differing else "number of rows"
            yield (
                f"{name_field(entity)}: its {what} depends on the order in which SQLite happens to read rows: write an "
                "ORDER BY into what it collects or limits."
            )
            return


def _count_rejects(mapping: Mapping, backup: Path, folder: Path) -> dict[str, Tally]:
    """Stage all entities as one group, but for the writing."""
    with closing(open_snapshot(backup)) as snapshot:
        encoding = snapshot.execute("PRAGMA encoding").fetchone()[0]
    namespace = uuid4()  # of a target: new ids have one length, and nobody can try secret keys
    masks = {name: find_mask(mapping, name, namespace) for name in mapping.order}
    with Survey(folder / "survey.db", masks, encoding) as survey, ExitStack() as files:
        members = []
        for name in mapping.order:
            table = mapping.entities[name].target.table
            inputs = Inputs(mapping, backup, table, namespace, ANY_TIME)
            members.append(files.enter_context(SourceRows(inputs, name, survey)))
        tables = open_keys(survey, members, files).values()
        survey_rows(survey, members, tables)
        while True:
            tallies = {rows.entity.name: Tally(rows.count) for rows in members}
            late = {rows.entity.name: list(_tally(rows, tallies[rows.entity.name], survey)) for rows in members}
            if not any(late.values()):
                return tallies
            for name, old_keys in late.items():
                survey.reject(name, old_keys)
            spread_rejects(survey, members, tables)


def _tally(rows: SourceRows, tally: Tally, survey: Survey) -> Iterator[RowKey]:
    """Count the rejects of an entity. Yield the keys of those that the survey took for valid."""
    for row in rows.read():
        try:
            rows.make(row)
        except Reject as reject:
            tally.add(rows.explain(row, reject))
            if not row.repeats and survey.is_valid(rows.entity.name, row.old_key):
                yield row.old_key
