"""What the tables must hold, said once more in plain Python, from the design and nothing else.

A thing is named `entity/row id/generation`; the model writes that name wherever the product writes its UUID. Rows are
dicts of what SQLite holds, items are DynamoDB's typed JSON.
"""

import re
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

Row = dict[str, Any]
Item = dict[str, dict[str, Any]]
Tables = dict[str, dict[str, Item]]
Rows = dict[str, dict[int, Row]]


@dataclass(frozen=True)
class Spec:
    """The mapping's line on one entity: key and other attributes, those an index wants, those that say it is the
    same."""

    key: str
    texts: tuple[str, ...]
    indexed: tuple[str, ...]
    identity: tuple[tuple[str, ...], ...]
    stamp: str
    references: dict[str, str] = field(default_factory=dict)

    @property
    def attributes(self) -> set[str]:
        """Every attribute that is ours."""
        return {self.key, *self.texts, self.stamp, *self.references, *(["rating"] if self.references else [])}


SPECS = {
    "user": Spec(
        key="user_id",
        texts=("username", "email", "password_hash"),
        indexed=("username", "email"),
        identity=(("username",), ("email",)),
        stamp="created_at",
    ),
    "book": Spec(
        key="book_id",
        texts=("isbn", "title", "author", "genre", "cover_image_url", "description"),
        indexed=("isbn",),
        identity=(("isbn",), ("title", "author")),
        stamp="created_at",
    ),
    "user_book": Spec(
        key="user_book_id",
        texts=("status", "sync_status"),
        indexed=("user_id", "book_id"),
        identity=(("user_id", "book_id"),),
        stamp="date_added",
        references={"user_id": "user", "book_id": "book"},
    ),
}


class Bad(Exception):
    """The row cannot be migrated."""


@dataclass(frozen=True)
class Entry:
    """What is known of one thing after a run. `written` is the whole item as we last left it, None when we never wrote
    it; `said` is what the source said then."""

    state: str
    first_seen: str
    identity: tuple[Any, ...]
    written: Item | None
    said: Item | None

    @property
    def is_there(self) -> bool:
        return self.state != "tombstone"


Entries = dict[str, dict[tuple[int, int], Entry]]


@dataclass(frozen=True)
class Change:
    """One item to be written: `before` as staging read it, `after` as it shall be."""

    entity: str
    name: str
    op: str
    before: Item | None
    after: Item | None
    thing: tuple[int, int]


@dataclass
class Plan:
    """What a run would do. `entries` are those after it, if all goes well."""

    changes: list[Change]
    entries: Entries
    counts: dict[str, dict[str, int]]
    kept: list[Change]  # conflicts that stay as they are

    def total(self, count: str) -> int:
        return sum(counts[count] for counts in self.counts.values())


COUNTS = ("source_rows", "put", "updated", "unchanged", "deleted", "rejected", "conflicts", "adjusted")


def name_thing(entity: str, thing: tuple[int, int]) -> str:
    return f"{entity}/{thing[0]}/{thing[1]}"


def write_text(value: Any) -> dict[str, Any]:
    if value is None:
        return {"NULL": True}
    if not isinstance(value, str):
        raise Bad
    return {"S": value}


def write_number(value: Any) -> dict[str, Any]:
    if value is None:
        return {"NULL": True}
    if not isinstance(value, int):
        raise Bad
    return {"N": str(value)}


def write_date(value: str) -> dict[str, Any]:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", value):
        raise Bad
    return {"S": value.replace(" ", "T") + "+00:00"}


def transform(entity: str, row: Row, parents: dict[str, dict[int, str]]) -> tuple[Item, int]:
    """The item but for its key and a date that is missing, and how many index keys were left out. Raises Bad."""
    spec = SPECS[entity]
    item: Item = {}
    adjusted = 0
    for name, parent in spec.references.items():
        if row[name] not in parents[parent]:
            raise Bad
        item[name] = {"S": parents[parent][row[name]]}
    for name in spec.texts:
        value = row[name]
        if name == "genre" and value in (None, ""):
            value = "Unknown"
        if name in spec.indexed and value in (None, ""):
            adjusted += 1
        else:
            item[name] = write_text(value)
    if spec.references:
        item["rating"] = write_number(row["rating"])
        if row["date_added"] not in (None, ""):
            item["date_added"] = write_date(row["date_added"])
    return item, adjusted


def find_identity(entity: str, item: Item) -> tuple[Any, ...]:
    """One value per alternative; None where an attribute is missing."""
    return tuple(
        tuple(item[name]["S"] for name in names) if all(name in item for name in names) else None
        for names in SPECS[entity].identity
    )


def is_same(old: tuple[Any, ...], new: tuple[Any, ...]) -> bool:
    """Another thing only if all alternatives differ; what is missing on a side matches nothing."""
    if all(value is None for value in old) or all(value is None for value in new):
        return True
    return any(a is not None and a == b for a, b in zip(old, new, strict=True))


class Model:
    """The tables, what is known of them, and how that changes."""

    def __init__(self) -> None:
        self.tables: Tables = {entity: {} for entity in SPECS}
        self.entries: Entries = {entity: {} for entity in SPECS}

    def plan(self, rows: Rows, now: str, deletes: str = "delete", on_conflict: str = "refuse") -> Plan:
        """What a run does to the tables as they are now. Changes nothing."""
        return _Planning(self, now, deletes, on_conflict).plan(rows)


class _Planning:
    def __init__(self, model: Model, now: str, deletes: str, on_conflict: str) -> None:
        self.tables, self.now, self.deletes, self.on_conflict = model.tables, now, deletes, on_conflict
        self.plans = Plan([], deepcopy(model.entries), {e: dict.fromkeys(COUNTS, 0) for e in SPECS}, [])

    def plan(self, rows: Rows) -> Plan:
        parents: dict[str, dict[int, str]] = {}
        deletions = []
        for entity in SPECS:
            parents[entity], gone = self.plan_entity(entity, rows[entity], parents)
            deletions.append((entity, gone))
        for entity, gone in reversed(deletions):  # children first
            for thing in gone:
                self.plan_deletion(entity, thing)
        return self.plans

    def plan_entity(
        self, entity: str, rows: dict[int, Row], parents: dict[str, dict[int, str]]
    ) -> tuple[dict[int, str], list[tuple[int, int]]]:
        """Put or update what the rows say. The names that references resolve to, and the things that are gone."""
        entries, counts = self.plans.entries[entity], self.plans.counts[entity]
        names: dict[int, str] = {}
        staying = set()
        for row_id, row in sorted(rows.items()):
            counts["source_rows"] += 1
            latest = max((thing for thing in entries if thing[0] == row_id), default=None)
            known = entries[latest] if latest is not None and entries[latest].is_there else None
            try:
                item, adjusted = transform(entity, row, parents)
            except Bad:
                counts["rejected"] += 1
                if known:
                    assert latest
                    entries[latest] = replace(known, state="held_reject")
                    staying.add(latest)
                    names[row_id] = name_thing(entity, latest)
                continue
            counts["adjusted"] += adjusted
            identity = find_identity(entity, item)
            if known is None or not is_same(known.identity, identity):
                thing = (row_id, latest[1] + 1 if latest else 0)
                known = Entry("live", self.now, identity, None, None)
            else:
                assert latest
                thing = latest
            names[row_id] = name_thing(entity, thing)
            staying.add(thing)
            entries[thing] = replace(known, state="live", identity=identity)
            item.setdefault(SPECS[entity].stamp, {"S": known.first_seen})
            self.plan_item(entity, thing, item | {SPECS[entity].key: {"S": names[row_id]}})
        gone = [thing for thing, entry in entries.items() if entry.is_there and thing not in staying]
        return names, gone

    def plan_item(self, entity: str, thing: tuple[int, int], item: Item) -> None:
        entries, counts = self.plans.entries[entity], self.plans.counts[entity]
        entry = entries[thing]
        if entry.said == item:
            counts["unchanged"] += 1
            return
        name = name_thing(entity, thing)
        current = self.tables[entity].get(name)
        if current == item:  # the application made the same change
            counts["unchanged"] += 1
            entries[thing] = replace(entry, written=item, said=item)
            return
        # What the application added survives; what was ours and is no longer said goes.
        added = {n: v for n, v in (current or {}).items() if n not in SPECS[entity].attributes}
        change = Change(entity, name, "update" if current else "put", current, added | item, thing)
        if self.settle(change, current == entry.written, "updated" if current else "put"):
            entries[thing] = replace(entry, written=change.after, said=item)

    def plan_deletion(self, entity: str, thing: tuple[int, int]) -> None:
        entries = self.plans.entries[entity]
        entry = entries[thing]
        if entry.written is None:  # it was there before us, and is not ours to delete
            entries[thing] = replace(entry, state="tombstone")
            return
        if self.deletes == "keep":
            entries[thing] = replace(entry, state="kept_delete")
            return
        name = name_thing(entity, thing)
        current = self.tables[entity].get(name)
        if current is None:
            entries[thing] = replace(entry, state="tombstone")
            return
        if self.settle(Change(entity, name, "delete", current, None, thing), current == entry.written, "deleted"):
            entries[thing] = replace(entry, state="tombstone")

    def settle(self, change: Change, is_ours: bool, count: str) -> bool:
        """Whether the change is made: never over the application's work, unless told to."""
        counts = self.plans.counts[change.entity]
        counts["conflicts"] += not is_ours
        if is_ours or self.on_conflict == "overwrite":
            counts[count] += 1
            self.plans.changes.append(change)
            return True
        self.plans.kept.append(change)
        entries = self.plans.entries[change.entity]
        entries[change.thing] = replace(entries[change.thing], state="kept_conflict")
        return False
