"""Groups: entities that must be staged together, since none of them can come first."""

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter

from accession.mapping.entity import Entity

Mates = Mapping[str, Sequence[Entity]]
"""The entities of each target table."""


def find_groups(entities: Mapping[str, Entity], mates: Mates) -> tuple[tuple[str, ...], ...]:
    """Return the names of all entities in groups, parents first. In a group, an entity stands before those whose key or
    identity is made of its key. Raises CycleError if these run in a circle."""
    reached = {name: _reach(name, entities, mates) for name in entities}
    groups = {
        name: tuple(other for other in entities if other == name or (name in reached[other] and other in reached[name]))
        for name in entities
    }
    keys = tuple(TopologicalSorter({name: entity.key_parents for name, entity in entities.items()}).static_order())
    links = {
        group: {groups[parent] for name in group for parent in entities[name].references.values()} - {group}
        for group in groups.values()
    }
    return tuple(tuple(sorted(group, key=keys.index)) for group in TopologicalSorter(links).static_order())


def _reach(name: str, entities: Mapping[str, Entity], mates: Mates) -> set[str]:
    """Return the entities that one must follow, directly or through others; itself only if there is a circle."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        entity = entities[waiting.pop()]
        rivals = (other.name for other in mates[entity.target.table] if _may_collide(entity, other))
        found = {*entity.references.values(), *rivals} - reached
        reached |= found
        waiting += found
    return reached


def _may_collide(one: Entity, other: Entity) -> bool:
    """Tell whether rows of two entities of one table could have one key. They cannot if a part of the key or ends
    with different texts, as in "USER#{id}" and "BOOK#{id}"."""
    if one.name == other.name:
        return False
    return all(
        _overlap(mine.start, its.start) and _overlap(mine.end[::-1], its.end[::-1])
        for mine, its in zip(one.key_parts, other.key_parts, strict=True)
    )


def _overlap(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)
