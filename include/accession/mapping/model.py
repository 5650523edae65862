"""A mapping file as a whole: its entities, in the order of their references. Validated when it is made."""

from functools import cached_property, partial
from graphlib import CycleError
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from accession.column_types import KeyType
from accession.mapping.entity import NAME, NAME_ALLOWED, Entity
from accession.mapping.groups import find_groups
from accession.mapping.key import ROWID, KeyPart
from accession.mapping.table import Index, TargetTable, check_shared_table, check_target_table, unite_indexes
from accession.validation import StrictModel, collect_faults, explain_unknown, list_words

# sqlite.org "Limits": a join has at most 64 tables. A reference takes up to two, the row and its record two more.
MAX_REFERENCES = 31

NO_PART = KeyPart("")


class Mapping(StrictModel):
    """One mapping file."""

    name: str = Field(pattern=NAME, json_schema_extra=NAME_ALLOWED)
    timezone: str = "UTC"
    schedule: str | None = None
    tables: dict[str, TargetTable] = Field(
        default_factory=dict,
        description="tables by name, as target.table has it, if an index needs more than a list of attributes or the "
        "types of a key are to be said",
    )
    entities: dict[str, Entity]
    sha256: str = Field(exclude=True, description="of the file's bytes; goes into the audit")

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a time zone of the IANA database, such as Europe/Oslo") from None
        return value

    @model_validator(mode="after")
    def _check(self) -> "Mapping":
        if not self.entities:
            raise ValueError("entities: at least one is needed")
        self._check_shared_tables()
        collect_faults(
            partial(self._check_reference, entity, name)
            for entity in self.entities.values()
            for name in entity.references
        )
        collect_faults(partial(self._check_masks, entity) for entity in self.entities.values())
        try:
            _ = self.order
        except CycleError as error:
            circle = " → ".join(error.args[1])
            raise ValueError(
                f"entities: the keys or identities run in a circle: {circle}. A circle of references is possible, but "
                "no key or identity in it may be made of a reference to one of the others"
            ) from None
        for name, entity in self.entities.items():
            if (number := len(entity.references)) > MAX_REFERENCES:
                raise ValueError(f"entities.{name}: has {number} references, and at most {MAX_REFERENCES} are possible")
        self._check_tables()
        return self

    def _check_shared_tables(self) -> None:
        for table, (first, *others) in self.mates.items():
            for entity in others:
                if entity.target.keys != first.target.keys:
                    raise ValueError(
                        f"entities.{entity.name}.target.key: the table {table} has the key "
                        f"{list_words(first.target.keys, 'and')} in {first.name}; give both the same attributes in "
                        "that order, or a table each"
                    )

    def _check_reference(self, child: Entity, name: str) -> None:
        """Refuse a reference to an entity that does not exist, or whose columns or part do not fit the parent's key."""
        attribute, where = child.attributes[name], f"entities.{child.name}.attributes.{name}"
        if child.references[name] not in self.entities:
            problem = f"{where}: there is no entity {child.references[name]}"
            raise ValueError(explain_unknown(child.references[name], self.entities, problem))
        parent = self.entities[child.references[name]]
        wanted = 1 if attribute.by else len(parent.source.keys)
        if len(attribute.columns) != wanted:
            raise ValueError(
                f"{where}: {parent.name} is found by {attribute.by or parent.source.key_name}, so column must name "
                f"{wanted} of this table's columns, in that order"
            )
        parts = parent.target.keys
        if attribute.part is None and len(parts) > 1:
            raise ValueError(f"{where}: the key of {parent.name} has two attributes; say with part which one is meant, "
                             f"{list_words(parts)}")  # fmt: skip
        if attribute.part is not None and attribute.part not in parts:
            raise ValueError(explain_unknown(attribute.part, parts, f"{where}: part: {parent.name} has no such key"))
        if parent.target.find_part(attribute.part).is_new_id and child.target.parts.get(name, NO_PART).column:
            raise ValueError(
                f"{where}: {parent.name} has new ids, so the old value cannot be kept as the key of {child.name}; "
                f'write "{{@{name}}}" in place of keep for the new one, or keep the key of {parent.name}'
            )

    def _check_masks(self, entity: Entity) -> None:
        try:
            entity.expect_masked(self.sensitive_columns[entity.name])
        except ValueError as error:
            raise ValueError(f"entities.{entity.name}: {error}") from None

    def _check_tables(self) -> None:
        for table, mates in self.mates.items():
            if table in self.tables:
                check_target_table(table, self.tables[table], mates, self._find_made_type)
            elif len(mates) > 1:
                check_shared_table(mates, self._find_made_type)
        for table in self.tables.keys() - self.mates.keys():
            raise ValueError(explain_unknown(table, self.mates, f"tables.{table}: no entity has this target.table"))

    @cached_property
    def mates(self) -> dict[str, tuple[Entity, ...]]:
        """Target table → the entities that go there, as in the file."""
        found: dict[str, tuple[Entity, ...]] = {}
        for entity in self.entities.values():
            found[entity.target.table] = (*found.get(entity.target.table, ()), entity)
        return found

    def _find_made_type(self, entity: Entity, name: str) -> KeyType | None:
        """Return the type that an attribute of an entity has as a key; None if a column of the source decides it."""
        attribute = entity.attributes.get(name)
        if attribute is None:
            return None if entity.target.find_part(name).column else "S"
        if attribute.parent is None:
            return attribute.key_type
        parent = self.entities[attribute.parent]
        part = attribute.part or parent.target.keys[0]
        declared = self.tables.get(parent.target.table)
        if declared is not None and part in declared.key:
            return dict(zip(declared.key, declared.key_types, strict=True))[part]
        return self._find_made_type(parent, part)

    @cached_property
    def indexes(self) -> dict[str, tuple[Index, ...]]:
        """Entity → the indexes of its table, whoever lists them."""
        found = {
            table: self.tables[table].all_indexes if table in self.tables else unite_indexes(mates)
            for table, mates in self.mates.items()
        }
        return {name: found[entity.target.table] for name, entity in self.entities.items()}

    @cached_property
    def index_keys(self) -> dict[str, frozenset[str]]:
        """Entity → the attributes that are keys of any index of its table."""
        return {
            entity: frozenset(name for index in found for name in index.names) for entity, found in self.indexes.items()
        }

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Entity names, parents before their children unless they refer to each other in a circle."""
        return tuple(name for group in self.groups for name in group)

    @cached_property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The entities that are staged together, parents first: those that refer to each other in a circle, and those
        of one table whose keys could be the same.

        In a group, an entity stands before those whose key or identity is made of its key. Raises CycleError.
        """
        return find_groups(self.entities, self.mates)

    @cached_property
    def levels(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """The groups by level: those without parents outside, those that refer to these at most, and so on."""
        depth: dict[str, int] = {}
        for group in self.groups:
            own = max((depth[parent] + 1 for parent in self.find_group_parents(group[0])), default=0)
            depth |= dict.fromkeys(group, own)
        deepest = max(depth.values())
        return tuple(tuple(g for g in self.groups if depth[g[0]] == level) for level in range(deepest + 1))

    def find_table_mates(self, name: str) -> tuple[str, ...]:
        """Return the entities that have the table of one, in the order of the groups."""
        mates = {entity.name for entity in self.mates[self.entities[name].target.table]}
        return tuple(other for other in self.order if other in mates)

    def find_group(self, name: str) -> tuple[str, ...]:
        """Return the group of an entity."""
        return next(group for group in self.groups if name in group)

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Entity → the entities of other groups that it refers to, each once."""
        return {
            name: tuple(p for p in dict.fromkeys(entity.references.values()) if p not in self.find_group(name))
            for name, entity in self.entities.items()
        }

    def needs_survey(self, name: str) -> bool:
        """Tell whether the keys and rejects of an entity's group must be known before any of it can be staged."""
        group = self.find_group(name)
        entity = self.entities[name]
        return len(group) > 1 or name in entity.references.values() or not entity.has_unique_key

    def find_group_parents(self, name: str) -> tuple[str, ...]:
        """Return the entities of other groups that any entity of this one's group refers to."""
        return tuple(dict.fromkeys(parent for member in self.find_group(name) for parent in self.parents[member]))

    @cached_property
    def sensitive_columns(self) -> dict[str, frozenset[str]]:
        """Entity → source columns whose values are masked, wherever they are used.

        They are those that the entity says itself, and those that hold a secret key of a parent, or another column of
        the parent that is sensitive.
        """
        found = {}
        for name, entity in self.entities.items():
            columns = set(entity.sensitive_columns)
            for attribute, parent in entity.references.items():
                by = entity.attributes[attribute].by
                hidden = {column.lower() for column in self.entities[parent].sensitive_columns}
                if self.entities[parent].secret or (by and by.lower() in hidden):
                    columns.update(entity.attributes[attribute].columns)
            found[name] = frozenset(columns)
        return found

    def is_sensitive(self, entity: str, name: str) -> bool:
        """Whether an attribute's value is masked: it, a column or an attribute that it is made of is sensitive."""
        attribute = self.entities[entity].attributes[name]
        if attribute.sensitive or not self.sensitive_columns[entity].isdisjoint(attribute.columns):
            return True
        return attribute.template is not None and any(
            self.is_sensitive(entity, named) for named in attribute.template.attributes
        )

    @cached_property
    def source_tables(self) -> dict[str, list[str]]:
        """Source table → columns that are read, for the check of the source."""
        tables: dict[str, dict[str, None]] = {}
        for entity in self.entities.values():
            if entity.source.table is not None:
                read = dict.fromkeys((*entity.source.keys, *entity.columns))
                if entity.source.has_rowid:
                    del read[ROWID]  # no column has that name
                tables.setdefault(entity.source.table, {}).update(read)
        return {table: list(columns) for table, columns in tables.items()}

    @cached_property
    def query_columns(self) -> dict[str, tuple[str, ...]]:
        """Entity that has a query → columns that are read of its rows, each once."""
        found = {}
        for name, entity in self.entities.items():
            if entity.source.query is not None:
                spelled: dict[str, str] = {}
                for column in (*entity.source.keys, *entity.columns, *self.list_found_by(name)):
                    spelled.setdefault(column.lower(), column)
                found[name] = tuple(spelled.values())
        return found

    def list_found_by(self, name: str) -> tuple[str, ...]:
        """Return the columns, other than the key, by which references find an entity's rows."""
        attributes = (attribute for entity in self.entities.values() for attribute in entity.attributes.values())
        return tuple(dict.fromkeys(a.by for a in attributes if a.parent == name and a.by))
