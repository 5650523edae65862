"""Draft a mapping from a database: every table, with its keys as they are unless new ids are asked for."""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from accession.draft.entity import EntityDraft, draft_entity
from accession.draft.keys import Keyless, find_key, replace_key
from accession.draft.masking import mask_keys
from accession.draft.names import name_entity, name_target, split_words
from accession.draft.references import ReferenceFinder, Table
from accession.draft.schema import Schema, fold_case, read_schema
from accession.draft.text import list_left_out, write_text
from accession.draft.values import read_values
from accession.errors import SourceError
from accession.source import reading


@dataclass(frozen=True)
class Draft:
    """A drafted mapping: its text, its entities, and the tables that are left out, each with the reason."""

    text: str
    entities: tuple[EntityDraft, ...]
    left_out: Mapping[str, str]

    @property
    def questions(self) -> list[str]:
        """What a person must decide, each with its place."""
        return [question for entity in self.entities for question in entity.questions]

    @property
    def left_out_sentences(self) -> list[str]:
        """Which tables are left out, and why."""
        return list_left_out(self.left_out)


def draft_mapping(source: Path, name: str, *, new_ids: bool = False) -> Draft:
    """Read a database as of one moment, and draft the mapping `name` of all its tables. Read-only.

    A drafted mapping loads, and none of its attributes rejects a value of the source that any type could take. With
    `new_ids`, integer keys get new ids. Raises SourceError.
    """
    with reading(source) as db:
        db.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
        schema = read_schema(db)
        left_out = dict(schema.left_out)
        tables = _find_keys(db, schema, left_out, new_ids=new_ids)
        if not tables:
            cure = f"{source} has no table that can be migrated: name the file that the application writes."
            raise SourceError(" ".join([cure, *list_left_out(left_out)]))
        finder = ReferenceFinder(db, replace(schema, left_out=left_out), tables)
        named = {tuple(split_words(table.schema.name)): table for table in tables}
        entities = mask_keys(
            draft_entity(table, target, finder, named, new_ids=new_ids)
            for table, target in zip(tables, _name_targets(name, tables), strict=True)
        )
    return Draft(write_text(name, source.name, entities, left_out), entities, left_out)


def _name_targets(mapping: str, tables: Iterable[Table]) -> list[str]:
    """Return the names of the tables' DynamoDB tables."""
    targets: list[str] = []
    for table in tables:
        targets.append(name_target(mapping, table.entity, targets))
    return [f"{target}-{{environment}}" for target in targets]


def _find_keys(db: sqlite3.Connection, schema: Schema, left_out: dict[str, str], *, new_ids: bool) -> list[Table]:
    """Return the tables that have a key, and add the others to those that are left out."""
    tables: list[Table] = []
    entities: set[str] = set()
    for table in schema.tables:
        entity = name_entity(table.name, entities)
        values = read_values(db, table)
        try:
            key = find_key(db, table, values, entity, new_ids=new_ids)
        except Keyless as keyless:
            left_out[table.name] = str(keyless)
            continue
        entities.add(entity)
        tables.append(Table(table, values, entity, key))
    return _spread_new_ids(tables) if new_ids else tables


def _spread_new_ids(tables: list[Table]) -> list[Table]:
    """Give new ids to the tables whose keys are made of keys that are replaced by new ids."""
    while True:
        replaced = {fold_case(table.schema.name) for table in tables if table.key.is_new_id}
        spread = [_follow_new_ids(table, replaced) for table in tables]
        if spread == tables:
            return tables
        tables = spread


def _follow_new_ids(table: Table, replaced: set[bytes]) -> Table:
    key = table.key
    followed = {c for one in table.schema.foreign_keys if fold_case(one.table) in replaced for c in one.columns}
    if key.is_new_id or followed.isdisjoint(key.columns):
        return table
    return replace(table, key=replace_key(table.schema, table.entity, key.columns, key.passed_over))
