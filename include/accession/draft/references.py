"""The references of a draft: which declared foreign keys a mapping can follow, and why it cannot follow the others."""

import sqlite3
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from accession.draft.keys import Key
from accession.draft.names import make_unique, show_name
from accession.draft.schema import ForeignKey, Schema, TableSchema, fold_case
from accession.draft.values import Values
from accession.mapping import MAX_REFERENCES
from accession.source import quote


@dataclass(frozen=True)
class Table:
    """A table that is drafted: its schema, its values, the name of its entity and its key."""

    schema: TableSchema
    values: Mapping[str, Values]
    entity: str
    key: Key


@dataclass(frozen=True)
class Reference:
    """A reference to `parent`: the columns that it is found by; another unique column of the parent that they hold; and
    the part of the parent's key that it takes."""

    parent: str
    columns: tuple[str, ...]
    by: str = ""
    part: str = ""
    is_optional: bool = False


@dataclass(frozen=True)
class References:
    """The references of one table by attribute, and notes by column: why a foreign key is left as a value, or how many
    rows refer to nothing."""

    found: dict[str, Reference] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


class Misfit(Exception):
    """A mapping cannot follow a foreign key. The message completes "a foreign key to …"."""


class ReferenceFinder:
    """Finds the references of tables, one after the other, so that no keys are made of each other in a circle."""

    def __init__(self, db: sqlite3.Connection, schema: Schema, tables: Iterable[Table]) -> None:
        self.db, self.schema = db, schema
        self.tables = {fold_case(table.schema.name): table for table in tables}
        self.key_parents: dict[str, set[str]] = {}  # entity → those whose keys its key or identity is made of

    def find(self, table: Table) -> References:
        """Return the references of a table."""
        references = References()
        orphans = self._count_orphans(table.schema)
        for foreign_key in table.schema.foreign_keys:
            notes = references.notes.setdefault(foreign_key.columns[0], [])
            parent, count = show_name(foreign_key.table), orphans.get(foreign_key.id, 0)
            try:
                found = self._follow(table, foreign_key, references, count)
            except Misfit as misfit:
                notes.append(f"A foreign key to {parent}, drafted as a plain value: {misfit}.")
                continue
            references.found.update(found)
            for name in found:
                if _is_key(table, name):
                    self.key_parents.setdefault(table.entity, set()).add(found[name].parent)
            if count:
                refer = "rows refer" if count > 1 else "row refers"
                notes.append(f"Decide: {count:,} {refer} to no {parent}, and will be rejected.")
        return references

    def may_identify(self, table: Table, parent: str) -> bool:
        """Tell whether the identity of a table may be made of a parent's key, and take note of it."""
        if self._reaches(parent, table.entity):
            return False
        self.key_parents.setdefault(table.entity, set()).add(parent)
        return True

    def _follow(
        self, table: Table, foreign_key: ForeignKey, references: References, orphans: int
    ) -> dict[str, Reference]:
        """Return the references that a foreign key becomes, by attribute. Raises Misfit."""
        parent = self._find_parent(foreign_key)
        to = parent.schema.find_columns(foreign_key.to or parent.schema.primary_key)
        if not to or len(to) != len(foreign_key.columns):
            raise Misfit("it names other columns than the key of that table")
        if orphans and orphans == self._count_present(table.schema, foreign_key.columns):
            raise Misfit("none of its values is in that table")
        if len(references.found) >= MAX_REFERENCES - 1:  # it may become two, one for each part of the parent's key
            raise Misfit(f"an entity has at most {MAX_REFERENCES} references")
        if set(to) == set(parent.key.columns):
            pairs = dict(zip(to, foreign_key.columns, strict=True))
            columns = tuple(pairs[column] for column in parent.key.columns)
            taken = {*table.schema.columns, *table.key.parts, *references.found}
            found = _refer_to_key(parent, columns, taken)
        elif to in parent.schema.unique_keys and len(to) == 1 == len(parent.key.parts):
            found = {foreign_key.columns[0]: Reference(parent.entity, foreign_key.columns, by=to[0])}
        else:
            raise Misfit("it names columns that are not the key of its items")
        settled: dict[str, Reference] = {}
        misfits: dict[str, Misfit] = {}
        for name in (name for name in found if name not in references.found):
            try:
                settled[name] = self._settle(table, name, found[name], parent)
            except Misfit as misfit:
                misfits[name] = misfit
        if not settled:
            raise next(reversed(misfits.values()), Misfit("its columns belong to another foreign key, too"))
        for name, one in misfits.items():
            whole = f"A part of the foreign key to {show_name(foreign_key.table)}, drafted as a plain value"
            references.notes.setdefault(name, []).append(f"{whole}: {one}.")
        return settled

    def _find_parent(self, foreign_key: ForeignKey) -> Table:
        parent = self.tables.get(fold_case(foreign_key.table))
        if parent is not None:
            return parent
        reasons = {fold_case(name): reason for name, reason in self.schema.left_out.items()}
        raise Misfit(f"it is left out, {reasons.get(fold_case(foreign_key.table), 'since there is no such table')}")

    def _settle(self, table: Table, name: str, reference: Reference, parent: Table) -> Reference:
        """Return a reference that loses nothing, or that leaves the table's key as it is. Raises Misfit."""
        own = [table.schema.columns[column] for column in reference.columns if column not in table.key.columns]
        may_be_null = any(not column.is_null_refused or table.values[column.name].has_null for column in own)
        if _is_key(table, name) and self._reaches(parent.entity, table.entity):
            raise Misfit("keys or identities would be made of each other in a circle")
        if name in table.key.parts:
            if may_be_null:
                raise Misfit("it may be NULL, and it is in the key")
            if reference.by or parent.key.is_new_id:
                raise Misfit("the key of its items is another value, and this one is in the key, which is kept")
        elif name in reference.columns and self._is_half_null(table.schema, name, reference.columns):
            raise Misfit("a row has a value in one of its columns and NULL in another")
        return Reference(reference.parent, reference.columns, reference.by, reference.part, may_be_null)

    def _reaches(self, start: str, goal: str) -> bool:
        """Tell whether keys are made of other keys on a way from one entity to another."""
        reached, waiting = {start}, [start]
        while waiting:
            found = self.key_parents.get(waiting.pop(), set()) - reached
            reached |= found
            waiting += found
        return goal in reached

    def _count_orphans(self, table: TableSchema) -> dict[int, int]:
        """Return how many rows break each foreign key, as far as SQLite can tell."""
        counts: dict[int, int] = {}
        try:
            for _, _, _, number in self.db.execute(f"PRAGMA main.foreign_key_check({quote(table.name)})"):
                counts[number] = counts.get(number, 0) + 1
        except sqlite3.OperationalError:  # a declaration that SQLite does not enforce either
            return {}
        return counts

    def _count_present(self, table: TableSchema, columns: Sequence[str]) -> int:
        present = " AND ".join(f"{quote(table.name)}.{quote(column)} NOT NULL" for column in columns)
        count: int = self.db.execute(f"SELECT count(*) FROM main.{quote(table.name)} WHERE {present}").fetchone()[0]
        return count

    def _is_half_null(self, table: TableSchema, name: str, columns: Sequence[str]) -> bool:
        names = {column: f"{quote(table.name)}.{quote(column)}" for column in columns}
        others = " OR ".join(f"{text} IS NULL" for column, text in names.items() if column != name) or "0"
        query = f"SELECT 1 FROM main.{quote(table.name)} WHERE {names[name]} NOT NULL AND ({others}) LIMIT 1"
        return self.db.execute(query).fetchone() is not None


def _refer_to_key(parent: Table, columns: tuple[str, ...], taken: Container[str]) -> dict[str, Reference]:
    """Return the references to a parent's key, whose columns are in the parent's order, by attribute.

    A new id that takes the place of several columns needs an attribute of its own, whose name is not taken.
    """
    if len(parent.key.parts) == 1:
        [part] = parent.key.parts
        return {columns[0] if len(columns) == 1 else make_unique(part, taken): Reference(parent.entity, columns)}
    kept = zip(parent.key.columns, columns, strict=True)
    return {own: Reference(parent.entity, columns, part=column) for column, own in kept if parent.key.keeps(column)}


def _is_key(table: Table, name: str) -> bool:
    """Tell whether the key of the items, or the identity that stands for a key, is made of an attribute."""
    return name in table.key.parts or not table.key.columns
