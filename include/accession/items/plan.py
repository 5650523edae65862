"""How an entity's items are made: a plan for each attribute, worked out once, so that a row takes few steps. Pure."""

from dataclasses import dataclass

from accession.column_types import Converter, TypedValue
from accession.items.typed_json import TypedItem
from accession.mapping import Attribute, Entity

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


@dataclass(frozen=True, slots=True)
class Reference:
    """An attribute that holds a parent's new id, which is at `resolved` in the row; the old key is at `position`."""

    name: str
    column: str
    parent: str
    position: int
    resolved: int


@dataclass(frozen=True, slots=True)
class ItemPlan:
    """The plans for all attributes of an entity. Its rows hold the values of `entity.columns` in that order, followed
    by the new ids that `entity.references` resolve to (None: unknown), in their order."""

    fields: tuple[Field, ...]
    references: tuple[Reference, ...]
    constants: TypedItem
    first_seen: tuple[str, ...]  # attributes that may hold the time of first sight
    key_limits: tuple[tuple[str, int], ...]  # index keys and the most bytes that each may have

    @classmethod
    def make(cls, entity: Entity, timezone: str) -> "ItemPlan":
        """Plan the items of an entity. `timezone` is the mapping's."""
        positions = {column: position for position, column in enumerate(entity.columns)}
        return cls(
            fields=tuple(
                _plan_field(name, attribute, positions, timezone, entity)
                for name, attribute in entity.attributes.items()
                if attribute.column is not None and not attribute.references
            ),
            references=tuple(
                _plan_reference(name, entity.attributes[name], positions, number)
                for number, name in enumerate(entity.references)
            ),
            constants={
                name: attribute.default_value
                for name, attribute in entity.attributes.items()
                if attribute.column is None and attribute.default_value is not None
            },
            first_seen=tuple(name for name, attribute in entity.attributes.items() if attribute.is_first_seen),
            key_limits=_find_key_limits(entity),
        )


def _plan_field(name: str, attribute: Attribute, positions: dict[str, int], timezone: str, entity: Entity) -> Field:
    assert attribute.column is not None
    return Field(
        name,
        attribute.column,
        positions[attribute.column],
        attribute.make_converter(timezone),
        attribute.default_value,
        name in entity.index_keys,
    )


def _plan_reference(name: str, attribute: Attribute, positions: dict[str, int], number: int) -> Reference:
    assert attribute.column is not None
    assert attribute.references is not None
    return Reference(name, attribute.column, attribute.references, positions[attribute.column], len(positions) + number)


def _find_key_limits(entity: Entity) -> tuple[tuple[str, int], ...]:
    """Return the most bytes that each index key may have: the least of its places in the indexes. A new id is a UUID
    and needs no check."""
    limits: dict[str, int] = {}
    for names in entity.indexes.values():
        for name, limit in zip(names, (MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES), strict=False):
            if name not in entity.references:
                limits[name] = min(limit, limits.get(name, limit))
    return tuple(limits.items())
