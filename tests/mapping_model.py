"""What the tables of a random mapping must hold, said once more in plain Python.

The model writes the name `<entity/old key/generation>` wherever the product writes a UUID. It knows the groups of the
mapping, and nothing else of the product.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

from random_mappings import DECLARED, WHERE, Part, Piece, Reference, Spec, World

Item = dict[str, dict[str, Any]]
ItemKey = tuple[tuple[str, str], ...]  # the type and the text of each attribute
RowKey = tuple[Any, ...]
Row = dict[str, Any]
Rows = dict[str, dict[RowKey, Row]]  # by the table of the source
Tables = dict[str, dict[ItemKey, Item]]  # by the table of the target
Place = tuple[str, RowKey]  # an entity and the key of a row

COUNTS = ("source_rows", "put", "updated", "unchanged", "deleted", "rejected", "conflicts")
NULL = {"NULL": True}
NEVER: Item = {"": {"S": "never written by us"}}  # `written` of an item that was there before us


class Bad(Exception):
    """The row cannot be migrated."""


@dataclass(frozen=True)
class Entry:
    """What is known of one thing after a run: its item as we last left it, and what the source said then."""

    row: RowKey
    generation: int
    is_latest: bool
    key: ItemKey
    identity: tuple[Any, ...]
    written: Item | None
    said: Item | None
    state: str = "live"  # or kept_conflict, kept_delete, held


@dataclass(frozen=True)
class Change:
    target: str
    key: ItemKey
    before: Item | None
    after: Item | None


@dataclass
class Plan:
    """What a run would do."""

    entries: dict[str, list[Entry]]
    generations: dict[Place, int]
    changes: list[Change] = field(default_factory=list)
    rejected: dict[str, set[Any]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Made:
    """A valid row: its item, its key, and how it matches what is known of it."""

    item: Item
    key: ItemKey
    identity: tuple[Any, ...]
    generation: int
    is_same: bool


def name_row(key: RowKey) -> Any:
    """The key of a row as one value."""
    return key[0] if len(key) == 1 else json.dumps(list(key), ensure_ascii=False, separators=(",", ":"))


def is_same_thing(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    known, found = ({a for a in alternatives if a is not None} for alternatives in (one, other))
    return one == other or not known or not found or bool(known & found)


class Model:
    """The tables, and what is known of each thing. `groups` are those of the mapping."""

    def __init__(self, world: World, groups: tuple[tuple[str, ...], ...]) -> None:
        self.world, self.groups = world, groups
        self.tables: Tables = {spec.target: {} for spec in world.specs.values()}
        self.entries: dict[str, list[Entry]] = {name: [] for name in world.specs}
        self.generations: dict[Place, int] = {}

    def plan(self, rows: Rows, on_conflict: str, deletes: str) -> Plan:
        self.on_conflict, self.deletes = on_conflict, deletes
        self.rows = {
            name: {key: row for key, row in rows[spec.source].items() if WHERE[spec.where](row)}
            for name, spec in self.world.specs.items()
        }
        self.valid: dict[Place, Made] = {}
        self.rejects: set[Place] = set()
        for group in self.groups:
            self.settle_group(group)
        self.plans = Plan({name: [] for name in self.world.specs}, dict(self.generations))
        self.takers = {(self.world.specs[name].target, made.key) for (name, _), made in self.valid.items()}
        for name in self.world.specs:
            self.plan_entity(name)
        return self.plans

    # Which rows can be migrated

    def find_recorded(self, place: Place) -> Entry | None:
        name, key = place
        return next((entry for entry in self.entries[name] if entry.row == key and entry.is_latest), None)

    def settle_group(self, group: tuple[str, ...]) -> None:
        """Reject what cannot be converted, then rows that want one key, then their children, until no more follow."""
        unknown = set(group)
        for name in group:
            self.convert_rows(name, frozenset(unknown))
            unknown.remove(name)
        while self.reject_collisions(group) | self.reject_orphans(group):
            pass

    def convert_rows(self, name: str, guessed: frozenset[str]) -> bool:
        before = len(self.rejects)
        for key, row in self.rows[name].items():
            if (name, key) not in self.rejects:
                try:
                    self.valid[name, key] = self.make(self.world.specs[name], key, row, guessed)
                except Bad:
                    self.reject((name, key))
        return len(self.rejects) > before

    def reject(self, place: Place) -> None:
        self.rejects.add(place)
        self.valid.pop(place, None)

    def reject_collisions(self, group: tuple[str, ...]) -> bool:
        claims: dict[tuple[str, ItemKey], list[tuple[Place, bool]]] = {}
        for name in group:
            for key in self.rows[name]:
                held = self.find_recorded((name, key))
                made = self.valid.get((name, key))
                wanted = made.key if made else held.key if held else None
                if wanted is not None:
                    claim = ((name, key), held is not None and held.key == wanted)
                    claims.setdefault((self.world.specs[name].target, wanted), []).append(claim)
        losers = [place for rivals in claims.values() if len(rivals) > 1 for place, is_there in rivals if not is_there]
        for place in losers:
            self.reject(place)
        return bool(losers)

    def reject_orphans(self, group: tuple[str, ...]) -> bool:
        has_rejected = False
        while any(self.convert_rows(name, frozenset()) for name in group):
            has_rejected = True
        return has_rejected

    # Row → item

    def resolve(self, reference: Reference, row: Row, guessed: frozenset[str]) -> dict[str, Any] | None:
        """The value of a reference; None if it is NULL. Raises Bad."""
        values = tuple(row[column] for column in reference.columns)
        if None in values:
            if reference.optional:
                return None
            raise Bad
        if reference.parent in guessed:
            return {"S": "a guess"}
        parent = self.world.specs[reference.parent]
        for key, other in self.rows[parent.name].items():
            if tuple(other[column] for column in reference.by) == values:
                made, held = self.valid.get((parent.name, key)), self.find_recorded((parent.name, key))
                found = made.key if made else held.key if held else None
                if found is not None:
                    kind, text = found[[part.name for part in parent.parts].index(reference.part)]
                    return {kind: text}
        raise Bad

    def make(self, spec: Spec, key: RowKey, row: Row, guessed: frozenset[str]) -> Made:
        indexed = self.world.find_index_keys(spec.target)
        item: Item = {}
        texts = {"s": row["s"], "n": row["n"], "d": row["d"]}
        for name, value in texts.items():
            if isinstance(value, bytes) or value in ("many", "never"):
                raise Bad
            if not (name in indexed and value in (None, "")):
                item[name] = NULL if value is None else {"N": str(value)} if name == "n" else {"S": value}
        for reference in spec.references:
            value = self.resolve(reference, row, guessed)
            if value is not None or reference.name not in indexed:
                item[reference.name] = value or NULL
        if spec.value and (text := self.fill(spec.value, item, row)) is not None:
            item["v"] = {"S": text}
        identity = tuple(
            None
            if any(item.get(name, NULL) == NULL for name in names)
            else (names, *(json.dumps(item[name]) for name in names))
            for names in spec.identity
        )
        parts = [None if part.is_new_id else self.make_part(part, item, row) for part in spec.parts]
        recorded = self.find_recorded((spec.name, key))
        generation = self.generations.get((spec.name, key), -1) + 1
        is_same = recorded is not None and is_same_thing(recorded.identity, identity)
        if recorded is not None and is_same:
            generation = recorded.generation
        made = self.name_parts(spec, key, generation, parts)
        if spec.new_id is None or (is_same and recorded and recorded.key != made):
            is_same = recorded is not None and recorded.key == made
            if recorded and not is_same:  # another key has another new id
                generation = self.generations.get((spec.name, key), -1) + 1
                made = self.name_parts(spec, key, generation, parts)
        item |= {part.name: {kind: text} for part, (kind, text) in zip(spec.parts, made, strict=True)}
        return Made(item, made, identity, generation, is_same)

    @staticmethod
    def name_parts(spec: Spec, key: RowKey, generation: int, parts: list[tuple[str, str] | None]) -> ItemKey:
        own = ("S", f"<{spec.name}/{name_row(key)}/{generation}>")
        return tuple(own if part is None else part for part in parts)

    def make_part(self, part: Part, item: Item, row: Row) -> tuple[str, str]:
        if part.column:
            return "N" if DECLARED[part.column] == "INTEGER" else "S", str(row[part.column])
        if part.attribute:
            [(kind, text)] = item[part.name].items()
            return kind, text
        text = self.fill(part.pieces, item, row)
        if not text:
            raise Bad
        return "S", text

    @staticmethod
    def fill(pieces: tuple[Piece, ...], item: Item, row: Row) -> str | None:
        """The text of a template; None if a part of it is NULL."""
        text = ""
        for piece in pieces:
            if isinstance(piece, str):
                text += piece
                continue
            kind, name = piece
            if kind == "column":
                value = row[name]
                if isinstance(value, bytes):
                    raise Bad
            else:
                value = None if item.get(name, NULL) == NULL else next(iter(item[name].values()))
            if value is None:
                return None
            text += str(value)
        return text

    # What is to be done

    def plan_entity(self, name: str) -> None:
        counts = self.plans.counts[name] = dict.fromkeys(COUNTS, 0)
        counts["source_rows"] = len(self.rows[name])
        rejected = {key for other, key in self.rejects if other == name}
        counts["rejected"] = len(rejected)
        self.plans.rejected[name] = {name_row(key) for key in rejected}
        gone = [entry for entry in self.entries[name] if entry.row not in self.rows[name] or not entry.is_latest]
        for key in self.rows[name]:
            recorded = self.find_recorded((name, key))
            if key in rejected:
                if recorded:
                    self.plans.entries[name].append(replace(recorded, state="held"))
                continue
            made = self.valid[name, key]
            if self.world.specs[name].new_id:
                self.plans.generations[name, key] = max(self.generations.get((name, key), 0), made.generation)
            if recorded and not made.is_same:
                gone.append(replace(recorded, is_latest=False))
            self.plan_row(name, key, made, recorded if made.is_same else None)
        for entry in gone:
            self.plan_deletion(name, entry)

    def plan_row(self, name: str, key: RowKey, made: Made, recorded: Entry | None) -> None:
        target, counts = self.world.specs[name].target, self.plans.counts[name]
        add = self.plans.entries[name].append
        if recorded and recorded.said == made.item:
            counts["unchanged"] += 1
            add(replace(recorded, identity=made.identity, state="live"))
            return
        former = None if recorded else self.find_former(target, made.key)
        before = self.tables[target].get(made.key)
        entry = Entry(key, made.generation, True, made.key, made.identity, made.item, made.item)
        if before == made.item:
            counts["unchanged"] += 1
            add(entry)
            return
        known = recorded or former
        if before != (known.written if known else None) and not (former and before is None):
            counts["conflicts"] += 1
            if self.on_conflict != "overwrite":
                kept = (recorded.written, recorded.said) if recorded else (NEVER, None)
                add(replace(entry, written=kept[0], said=kept[1], state="kept_conflict"))
                return
        foreign = {} if former else {
            n: v for n, v in (before or {}).items() if n not in self.world.specs[name].attributes
        }  # fmt: skip
        counts["updated" if before else "put"] += 1
        after = foreign | made.item
        add(replace(entry, written=after))
        self.plans.changes.append(Change(target, made.key, before, after))

    def find_former(self, target: str, key: ItemKey) -> Entry | None:
        return next((entry for place, entry in self.list_entries() if place == target and entry.key == key), None)

    def list_entries(self) -> Iterator[tuple[str, Entry]]:
        for name, entries in self.entries.items():
            for entry in entries:
                yield self.world.specs[name].target, entry

    def plan_deletion(self, name: str, entry: Entry) -> None:
        target, counts = self.world.specs[name].target, self.plans.counts[name]
        if (target, entry.key) in self.takers or entry.written == NEVER:
            return
        before = self.tables[target].get(entry.key)
        if self.deletes == "delete" and before is None:
            return
        if self.deletes == "delete":
            counts["conflicts"] += before != entry.written
            if before == entry.written or self.on_conflict == "overwrite":
                counts["deleted"] += 1
                self.plans.changes.append(Change(target, entry.key, before, None))
                return
        self.plans.entries[name].append(replace(entry, state="kept_delete"))

    def find_lost(self, plan: Plan) -> list[ItemKey]:
        """The items of rows that did not change, if somebody deleted them."""
        return [
            entry.key
            for name, entries in plan.entries.items()
            for entry in entries
            if entry.state == "live" and entry.key not in self.tables[self.world.specs[name].target]
        ]

    def commit(self, plan: Plan) -> None:
        """The changes are made."""
        self.tables = deepcopy(self.tables)
        for change in plan.changes:
            if change.after is None:
                del self.tables[change.target][change.key]
            else:
                self.tables[change.target][change.key] = change.after
        self.entries, self.generations = plan.entries, plan.generations
