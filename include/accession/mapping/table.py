"""Tables of DynamoDB, as a mapping file declares them: their keys and their indexes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from accession.column_types import KeyType
from accession.mapping.entity import MAX_INDEXES, Entity
from accession.mapping.key import AttributeName, Name
from accession.validation import LIST, TEXT, StrictModel, explain_unknown, tell_kind

# Amazon DynamoDB Developer Guide: "Multi-attribute keys pattern", and "Quotas", projected attributes of all indexes.
MAX_PART_ATTRIBUTES = 4
MAX_PROJECTED = 100

KEY_TYPES: dict[str, KeyType] = {"string": "S", "number": "N"}

Projection = Literal["all", "keys"] | tuple[str, ...]
"""What an index holds: whole items, the keys of the table and of the index, or these and the attributes named."""


@dataclass(frozen=True)
class Index:
    """A global secondary index of a table. Each part of its key has one to four attributes."""

    name: str
    partition: tuple[str, ...]
    sort: tuple[str, ...] = ()
    projection: Projection = "all"

    @property
    def names(self) -> tuple[str, ...]:
        """Return the attributes of the key. An item that lacks one of them is not in the index."""
        return self.partition + self.sort


Part = Annotated[
    Annotated[Name, Tag(TEXT)]
    | Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_PART_ATTRIBUTES), Tag(LIST)],
    Discriminator(tell_kind),
]
Project = Annotated[
    Annotated[Literal["all", "keys"], Tag(TEXT)] | Annotated[tuple[Name, ...], Field(min_length=1), Tag(LIST)],
    Discriminator(tell_kind),
]
IndexName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{3,255}$")]


class TableIndex(StrictModel):
    """A global secondary index of a table."""

    key: Annotated[tuple[Part, ...], Field(min_length=1, max_length=2)] = Field(
        description="partition key and, if there is one, sort key: each an attribute, or a list of up to four"
    )
    project: Project = Field(
        "all", description="what the index holds: all, keys, or a list of attributes beside the keys"
    )


class TargetTable(StrictModel):
    """A DynamoDB table, which entities may share, if an index needs more than a list of attributes, or the types of the
    key are to be said."""

    key: Annotated[dict[AttributeName, Literal["string", "number"]], Field(min_length=1, max_length=2)] = Field(
        description="partition key and, if there is one, sort key, with their types: string or number"
    )
    indexes: Annotated[dict[IndexName, TableIndex], Field(max_length=MAX_INDEXES)] = Field(
        default_factory=dict, description="look-ups the application makes; an item that lacks a key is not in the index"
    )

    @property
    def key_types(self) -> tuple[KeyType, ...]:
        """Return the types of the key's attributes."""
        return tuple(KEY_TYPES[kind] for kind in self.key.values())

    @cached_property
    def all_indexes(self) -> tuple[Index, ...]:
        """Return the indexes."""
        found = []
        for name, index in self.indexes.items():
            parts = [(part,) if isinstance(part, str) else part for part in index.key]
            found.append(Index(name, parts[0], parts[1] if len(parts) > 1 else (), index.project))
        return tuple(found)


def unite_indexes(entities: Iterable[Entity]) -> tuple[Index, ...]:
    """Return the indexes that the entities of one table list themselves."""
    listed = {name: names for entity in entities for name, names in entity.indexes.items()}
    return tuple(Index(name, names[:1], names[1:]) for name, names in listed.items())


FindType = Callable[[Entity, str], KeyType | None]
"""Returns the type that an attribute of an entity has as a key; None if a column of the source decides it."""


def check_target_table(name: str, table: TargetTable, entities: Sequence[Entity], find_type: FindType) -> None:
    """Check a declared table against the entities that go there. Raises ValueError at the first fault."""
    for entity in entities:
        where = f"entities.{entity.name}"
        if entity.target.keys != tuple(table.key):
            wanted = " and then ".join(table.key)
            raise ValueError(f"{where}.target.key: must be {wanted}, as tables.{name}.key says")
        if entity.indexes:
            raise ValueError(f"{where}.indexes: {name} is listed under tables; list its indexes there")
        for part in entity.key_parts:
            made = find_type(entity, part.name)
            if made is None and part.name in entity.attributes:
                raise ValueError(_explain_unknown_type(f"{where}.target.key.{part.name}", entity, part.name))
            if made not in (None, KEY_TYPES[table.key[part.name]]):
                wanted = "number" if made == "N" else "string"
                raise ValueError(f"tables.{name}.key.{part.name}: must be {wanted}, as {entity.name} makes it")
    _check_indexes(f"tables.{name}.indexes", table, entities, find_type)


def check_shared_table(entities: Sequence[Entity], find_type: FindType) -> None:
    """Check entities that share a table, which is not declared. Raises ValueError at the first fault."""
    table = entities[0].target.table
    for name in entities[0].target.keys:
        types = {entity.name: find_type(entity, name) for entity in entities}
        _expect_one_type(f"entities.{entities[-1].name}.target.key", name, types)
    listed: dict[str, tuple[str, tuple[str, ...]]] = {}
    for entity in entities:
        for index, names in entity.indexes.items():
            where = f"entities.{entity.name}.indexes.{index}"
            owner, others = listed.setdefault(index, (entity.name, names))
            if others != names:
                raise ValueError(f"{where}: {owner} lists another index of that name for {table}; rename one of them")
            for name in names:
                if name not in entity.target.keys:
                    _check_index_key(where, name, entities, find_type)
    if len(listed) > MAX_INDEXES:
        raise ValueError(
            f"entities: {len(listed)} indexes are listed for {table}, and a DynamoDB table has at most {MAX_INDEXES}; "
            "remove those that no look-up needs"
        )


def _check_indexes(where: str, table: TargetTable, entities: Sequence[Entity], find_type: FindType) -> None:
    known = dict.fromkeys([*table.key, *(name for entity in entities for name in entity.attributes)])
    projected = 0
    for index in table.all_indexes:
        place = f"{where}.{index.name}"
        if len(set(index.names)) < len(index.names):
            raise ValueError(f"{place}.key: an attribute is listed twice")
        for name in index.names:
            _expect_known(f"{place}.key", name, known)
            if name not in table.key:
                _check_index_key(f"{place}.key", name, entities, find_type, is_declared=True)
        if isinstance(index.projection, tuple):
            for name in index.projection:
                _expect_known(f"{place}.project", name, known)
                if name in table.key or name in index.names:
                    raise ValueError(f"{place}.project: {name} is a key, which every index holds; leave it out")
            projected += len(index.projection)
    if projected > MAX_PROJECTED:
        raise ValueError(
            f"{where}: they project {projected} attributes together, and at most {MAX_PROJECTED} are possible; "
            "project all instead"
        )


def _expect_known(where: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise ValueError(explain_unknown(name, known, f"{where}: {name} is not an attribute of this table's entities"))


def _check_index_key(
    where: str, name: str, entities: Sequence[Entity], find_type: FindType, *, is_declared: bool = False
) -> None:
    """Check that all entities that have an attribute make it as one type of key, which a declared table must know."""
    types: dict[str, KeyType | None] = {}
    for entity in entities:
        if name in entity.attributes:
            entity.check_index_key(where, name)
            types[entity.name] = find_type(entity, name)
            if is_declared and types[entity.name] is None:
                raise ValueError(_explain_unknown_type(where, entity, name))
    _expect_one_type(where, name, types)


def _expect_one_type(where: str, name: str, types: Mapping[str, KeyType | None]) -> None:
    """Raise ValueError if entities make an attribute of different types, so far as the mapping says."""
    texts, numbers = ([entity for entity, made in types.items() if made == kind] for kind in ("S", "N"))
    if texts and numbers:
        raise ValueError(f"{where}: {name} is text in {texts[0]} and a number in {numbers[0]}; give it one type")


def _explain_unknown_type(where: str, entity: Entity, name: str) -> str:
    return (
        f"{where}: the type of {name} is that of the key of {entity.attributes[name].parent}, which the mapping does "
        "not say; declare it under attributes there, or that table under tables"
    )
