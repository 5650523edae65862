"""How an entity's items are made: a plan for each attribute, worked out once, so that a row takes few steps. Pure."""

from collections.abc import Iterator
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass

from accession.column_types import COLUMN_TYPES, Converter, KeyType, TypedValue
from accession.items.composed import Composed, Place
from accession.items.keys import KeySchema
from accession.items.typed_json import TypedItem
from accession.mapping import Entity, Mapping, Placeholder, Template

TO_KEY: dict[KeyType, Converter] = {"S": COLUMN_TYPES["string"].bind(), "N": COLUMN_TYPES["number"].bind()}

# Amazon DynamoDB Developer Guide, "Service quotas": key lengths in bytes of UTF-8.
MAX_PARTITION_KEY_BYTES = 2048
MAX_SORT_KEY_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Field:
    """An attribute made from a column: the value at `position` in the row, converted. `default` is for NULL and ''."""

    name: str
    column: str
    position: int
    convert: Converter
    default: TypedValue | None
    is_index_key: bool
    is_key: bool


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute that holds the key of a parent, which is at `resolved` in the row as a text of type `kind`.

    The old key is at `positions`.
    """

    name: str
    columns: tuple[str, ...]
    parent: str
    positions: tuple[int, ...]
    resolved: int
    kind: KeyType
    is_optional: bool
    is_index_key: bool


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """The plans for all attributes of an entity. Its rows hold the values of `entity.columns` in that order, followed
    by the keys that `entity.references` resolve to (None: unknown), in their order."""

    fields: tuple[Field, ...]
    references: tuple[Reference, ...]
    composed: tuple[Composed, ...]
    constants: TypedItem
    first_seen: tuple[str, ...]  # attributes that may hold the time of first sight
    key_limits: tuple[tuple[str, int], ...]  # index keys and the most bytes that each may have
    part_limits: tuple[tuple[tuple[str, ...], int], ...]  # the same for parts of index keys with several attributes

    @classmethod
    def make(cls, entity: Entity, mapping: Mapping, schemas: AnyMapping[str, KeySchema]) -> "ItemPlan":
        """Plan the items of an entity. `schemas` has the keys of the entity and of its parents."""
        planner = _Planner(entity, mapping, schemas)
        return cls(
            fields=planner.plan_fields(),
            references=tuple(planner.plan_reference(name, number) for number, name in enumerate(entity.references)),
            composed=planner.plan_templates(),
            constants={
                name: attribute.default_value
                for name, attribute in entity.attributes.items()
                if not attribute.columns and attribute.default_value is not None
            },
            first_seen=tuple(name for name, attribute in entity.attributes.items() if attribute.is_first_seen),
            key_limits=planner.find_key_limits(),
            part_limits=planner.find_part_limits(),
        )


class _Planner:
    """Plans the attributes of one entity."""

    def __init__(self, entity: Entity, mapping: Mapping, schemas: AnyMapping[str, KeySchema]) -> None:
        self.entity, self.mapping, self.schemas = entity, mapping, schemas
        self.positions = {column: position for position, column in enumerate(entity.columns)}
        self.keys = frozenset(entity.target.keys)
        self.indexes, self.index_keys = mapping.indexes[entity.name], mapping.index_keys[entity.name]

    def plan_fields(self) -> tuple[Field, ...]:
        """Plan the attributes that are converted columns, those of the key included."""
        planned = [
            self._plan_field(name, column, attribute.make_converter(self.mapping.timezone), attribute.default_value)
            for name, attribute in self.entity.attributes.items()
            if isinstance(column := attribute.column, str) and not attribute.references
        ]
        for part in self.entity.key_parts:
            if part.column and part.name not in self.entity.attributes:
                convert = TO_KEY[self.schemas[self.entity.name].find_type(part.name)]
                planned.append(self._plan_field(part.name, part.column, convert, None))
        return tuple(planned)

    def _plan_field(self, name: str, column: str, convert: Converter, default: TypedValue | None) -> Field:
        is_index_key = name in self.index_keys
        return Field(name, column, self.positions[column], convert, default, is_index_key, name in self.keys)

    def plan_reference(self, name: str, number: int) -> Reference:
        """Plan the reference with that number."""
        attribute = self.entity.attributes[name]
        assert attribute.parent is not None
        return Reference(
            name,
            attribute.columns,
            attribute.parent,
            tuple(self.positions[column] for column in attribute.columns),
            len(self.positions) + number,
            self.schemas[attribute.parent].find_type(attribute.part),
            attribute.optional,
            name in self.index_keys,
        )

    def plan_templates(self) -> tuple[Composed, ...]:
        """Plan the attributes that templates make, those of the key included."""
        planned = [
            self._plan_template(name, attribute.template, "N" if attribute.type == "number" else "S")
            for name, attribute in self.entity.attributes.items()
            if attribute.template is not None
        ]
        planned += [
            self._plan_template(part.name, part.template, "S") for part in self.entity.key_parts if part.template
        ]
        return tuple(planned)

    def _plan_template(self, name: str, template: Template, kind: KeyType) -> Composed:
        pieces = tuple(piece if isinstance(piece, str) else self._place(piece) for piece in template.pieces)
        return Composed(name, pieces, kind, name in self.keys, name in self.index_keys)

    def _place(self, place: Placeholder) -> Place:
        if place.of_attribute:
            return Place(place.name, None, self.entity.attributes[place.name].columns, place.width)
        return Place(place.name, self.positions[place.name], (place.name,), place.width)

    def find_key_limits(self) -> tuple[tuple[str, int], ...]:
        """Return the most bytes that each key may have: the least of its places in the table and its indexes. A new id
        is a UUID and needs no check."""
        limits: dict[str, int] = {}
        places = [*zip(self.entity.target.keys, (MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES), strict=False)]
        places += [(name, limit) for names, limit in self._list_index_parts() for name in names]
        for name, limit in places:
            if self.entity.may_have(name) and not self._is_new_id(name):
                limits[name] = min(limit, limits.get(name, limit))
        return tuple(limits.items())

    def find_part_limits(self) -> tuple[tuple[tuple[str, ...], int], ...]:
        """Return the most bytes that the attributes of a part may have together, for parts of several attributes."""
        return tuple((names, limit) for names, limit in self._list_index_parts() if len(names) > 1)

    def _list_index_parts(self) -> Iterator[tuple[tuple[str, ...], int]]:
        """Yield the parts of the keys of all indexes, and the most bytes that each may have."""
        for index in self.indexes:
            yield index.partition, MAX_PARTITION_KEY_BYTES
            yield index.sort, MAX_SORT_KEY_BYTES

    def _is_new_id(self, name: str) -> bool:
        """Tell whether an attribute holds a new id, of the entity itself or of a parent."""
        attribute = self.entity.attributes.get(name)
        if attribute is None:
            return self.entity.target.find_part(name).is_new_id
        if attribute.parent is None:
            return False
        return self.mapping.entities[attribute.parent].target.find_part(attribute.part).is_new_id
