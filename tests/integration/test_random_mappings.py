"""Random histories over random mappings: whatever the language says, the tables hold what the model says.

A seed makes a schema, a mapping over it, rows, and the steps of a history. A failure prints all of them. To play one
seed alone:

    ACCESSION_SEED=17 python -m pytest tests/integration/test_random_mappings.py
"""

import json
import os
import random
import re
import sqlite3
from contextlib import closing
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.errors import RefusedError
from accession.mapping import load_mapping
from accession.target import load_state
from conftest import Library, LocalAws, make_library
from driver import Driver
from mapping_model import COUNTS, Item, ItemKey, Model, Plan, Row, RowKey, Rows, Tables
from random_mappings import DECLARED, Reference, World, make_world, write_mapping, write_schema
from second_auditor import find_damage
from tables import create_tables
from verify_register import Target

QUICK_SEEDS, QUICK_ROUNDS, SLOW_ROUNDS = 6, 1, 4
SEED = os.environ.get("ACCESSION_SEED")
QUICK = [int(SEED)] if SEED else range(QUICK_SEEDS)
SLOW = () if SEED else range(QUICK_SEEDS, QUICK_SEEDS + 200)

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
NAME = re.compile(r"<[^<>]*>")
DRAWN: dict[str, tuple[Any, ...]] = {
    "s": ("x", "x", "y", "z", "", None),
    "n": (1, 2, 3, None),
    "d": ("2026-01-05", "2026-01-06", None),
    "w": (1, 1, 1, 0),
}
BAD: dict[str, Any] = {"s": b"\0", "n": "many", "d": "never"}
KEYS: dict[str, tuple[Any, ...]] = {
    "rowid": (1, 2, 3, 4, 5, 6),
    "id": (1, 2, 3, 4, 5, 10),
    "code": ("k1", "k2", "K 3", "4", "é"),
    "a": ("a", "b"),
    "b": (1, 2, 10),
    "c": ("p", "q"),
}
EDITS = ("insert", "insert", "delete", "set", "set", "refer", "rekey", "swap", "reuse", "spoil", "mend", "filter")


class History:
    """One target, its source, its application, and the model of it."""

    def __init__(self, library: Library, folder: Path, seed: int) -> None:
        self.library, self.folder, self.seed = library, folder, seed
        self.draw = random.Random(f"history {seed}")
        self.world: World = make_world(seed, 5 if seed >= QUICK_SEEDS else 2 if seed % 4 else 4)
        self.source, path = folder / "world.db", folder / "world.yaml"
        path.write_text(write_mapping(self.world))
        self.mapping = load_mapping(path)
        self.rows: Rows = {table: {} for table in self.world.keys}
        self.model = Model(self.world, self.mapping.groups)
        self.names: dict[str, str] = {}
        self.uuids: dict[str, str] = {}
        self.committed: list[tuple[Driver, Model, Tables]] = []
        self.log: list[str] = []
        with closing(sqlite3.connect(self.source)) as db, db:
            db.executescript(write_schema(self.world))
        create_tables(library.aws.client("dynamodb"), self.mapping, self.source, library.environment)

    def play(self, rounds: int) -> None:
        for _ in range(self.draw.randrange(6, 18)):
            self.insert()
        for table, rows in self.rows.items():
            for row in rows.values():
                self.set_references(table, row)  # now that all parents are there
        for _ in range(rounds):
            self.write_source()
            self.run()
            if self.draw.random() < 0.3:
                self.undo()
            if self.draw.random() < 0.3:
                self.use()
            for _ in range(self.draw.randrange(2, 12)):
                step = self.draw.choice(EDITS)
                self.log.append(step)
                getattr(self, step)()
        self.write_source()
        self.run("overwrite", "delete")
        assert not self.run("overwrite", "delete").changes, "a second run without edits writes"
        self.audit()

    # The source

    def write_source(self) -> None:
        with closing(sqlite3.connect(self.source)) as db, db:
            for table, rows in self.rows.items():
                db.execute(f"DELETE FROM {table}")
                for row in rows.values():
                    marks = ", ".join("?" * len(row))
                    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values()))
        shown = (f"  {table} {list(row.values())}" for table, rows in self.rows.items() for row in rows.values())
        self.log.append("\n".join(("the source is", *shown)))

    def pick(self) -> tuple[str, RowKey, Row] | None:
        """A row, which the caller may change."""
        rows = [(table, key, row) for table, rows in self.rows.items() for key, row in rows.items()]
        return self.draw.choice(rows) if rows else None

    def draw_key(self, table: str) -> RowKey:
        return tuple(self.draw.choice(KEYS[name]) for name in self.world.keys[table])

    def make_row(self, table: str, key: RowKey) -> Row:
        taken = {row["u"] for other, row in self.rows[table].items() if other != key}
        free = [f"u{n}" for n in range(8) if f"u{n}" not in taken]
        row = dict(zip(self.world.keys[table], key, strict=True))
        row |= {name: self.draw.choice(values) for name, values in DRAWN.items()}
        row["u"] = self.draw.choice((None, *free, *free, *free))
        self.rows[table][key] = row  # it may refer to itself
        self.set_references(table, row)
        return row

    def set_references(self, table: str, row: Row) -> None:
        for spec in self.world.specs.values():
            if spec.source == table:
                for reference in spec.references:
                    self.set_reference(row, reference)

    def set_reference(self, row: Row, reference: Reference) -> None:
        parents = list(self.rows[reference.table].values())
        chance = self.draw.random()
        values: list[Any] = [99 if DECLARED[column] == "INTEGER" else "none" for column in reference.by]
        if chance < 0.1 and reference.optional:
            values = [None, *values[1:]]
        elif parents and chance < 0.93:
            parent = self.draw.choice(parents)
            values = [parent[column] for column in reference.by]
        row |= dict(zip(reference.columns, values, strict=True))

    def insert(self) -> None:
        table = self.draw.choice(list(self.rows))
        key = self.draw_key(table)
        if key not in self.rows[table]:
            self.make_row(table, key)

    def delete(self) -> None:
        if picked := self.pick():
            del self.rows[picked[0]][picked[1]]

    def set(self) -> None:
        if picked := self.pick():
            name = self.draw.choice(("s", "n", "d"))
            picked[2][name] = self.draw.choice(DRAWN[name])

    def refer(self) -> None:
        if picked := self.pick():
            for spec in self.world.specs.values():
                if spec.source == picked[0] and spec.references:
                    self.set_reference(picked[2], self.draw.choice(spec.references))

    def rekey(self) -> None:
        """A row gets another key, or another unique value."""
        if picked := self.pick():
            table, key, row = picked
            new = self.draw_key(table)
            if self.draw.random() < 0.5 and new not in self.rows[table]:
                self.rows[table][new] = row | dict(zip(self.world.keys[table], new, strict=True))
                del self.rows[table][key]
            else:
                taken = {other["u"] for other in self.rows[table].values()}
                row["u"] = self.draw.choice([f"u{n}" for n in range(8) if f"u{n}" not in taken] or [None])

    def swap(self) -> None:
        """Two rows exchange values that a key may be made of."""
        if picked := self.pick():
            other = self.draw.choice(list(self.rows[picked[0]].values()))
            for name in self.draw.choice((("u",), ("u",), ("s",), ("s", "n"), ("w",))):
                picked[2][name], other[name] = other[name], picked[2][name]

    def reuse(self) -> None:
        if picked := self.pick():
            self.make_row(picked[0], picked[1])

    def spoil(self) -> None:
        if picked := self.pick():
            name = self.draw.choice(list(BAD))
            picked[2][name] = BAD[name]

    def mend(self) -> None:
        for rows in self.rows.values():
            for row in rows.values():
                for name, bad in BAD.items():
                    if row[name] == bad:
                        row[name] = self.draw.choice(DRAWN[name])

    def filter(self) -> None:
        if picked := self.pick():
            picked[2]["w"] = 1 - picked[2]["w"]

    # The application

    def use(self) -> None:
        """The application changes, enriches or deletes an item."""
        items = [(target, key) for target, found in self.model.tables.items() for key in found]
        if not items:
            return
        target, key = self.draw.choice(items)
        how = self.draw.choice(("change", "add", "delete"))
        self.log.append(f"the application: {how} {target} {key!r}")
        item = dict(self.model.tables[target].pop(key))
        client, table = self.library.aws.client("dynamodb"), self.name_table(target)
        names = next(spec.parts for spec in self.world.specs.values() if spec.target == target)
        real: Item = self.rename(item, self.uuids, NAME)
        if how == "delete":
            client.delete_item(TableName=table, Key={part.name: real[part.name] for part in names})
            return
        change: Item = {"s" if how == "change" else "seen": {"S": f"app {self.draw.randrange(1000)}"}}
        self.model.tables[target][key] = item | change
        client.put_item(TableName=table, Item=real | change)

    # Runs

    def name_table(self, target: str) -> str:
        return target.replace("{environment}", self.library.environment)

    @staticmethod
    def rename(item: Item, names: dict[str, str], pattern: re.Pattern[str]) -> Item:
        def rename(value: dict[str, Any]) -> dict[str, Any]:
            return {"S": pattern.sub(lambda m: names.get(m[0], m[0]), value["S"])} if "S" in value else value

        return {name: rename(value) for name, value in item.items()}

    def read_key(self, target: str, item: Item) -> ItemKey:
        parts = next(spec.parts for spec in self.world.specs.values() if spec.target == target)
        return tuple(next(iter(item[part.name].items())) for part in parts)

    def read(self) -> Tables:
        """The tables as they are, UUIDs replaced by names."""
        found: Tables = {}
        for spec in self.world.specs.values():
            pages = self.library.aws.client("dynamodb").get_paginator("scan")
            table = pages.paginate(TableName=self.name_table(spec.target), ConsistentRead=True)
            items = [self.rename(item, self.names, UUID) for page in table for item in page["Items"]]
            found[spec.target] = {self.read_key(spec.target, item): item for item in items}
        return found

    def learn(self, driver: Driver) -> None:
        """Which UUID the product gives to which thing: one for ever, and never to two."""
        for spec in self.world.specs.values():
            if spec.new_id:
                place = [part.name for part in spec.parts].index(spec.new_id)
                for entry in driver.id_map(spec.name):
                    new_id = json.loads(entry.new_id)[place] if len(spec.parts) > 1 else entry.new_id
                    name = f"<{spec.name}/{entry.old_key!s}/{entry.generation}>"
                    assert self.uuids.setdefault(name, new_id) == new_id, name
                    assert self.names.setdefault(new_id, name) == name, name

    def run(self, on_conflict: str | None = None, deletes: str | None = None) -> Plan:
        on_conflict = on_conflict or self.draw.choice(("refuse", "keep", "overwrite"))
        deletes = deletes or self.draw.choice(("delete", "delete", "delete", "keep"))
        self.log.append(f"run on_conflict={on_conflict} deletes={deletes}")
        driver = Driver(
            self.library, self.source, mapping=self.mapping, on_conflict=on_conflict, deletes=deletes,
            max_rejects=1000, allow_renumbered=True, existing_items="keep",
        )  # fmt: skip
        plan = self.model.plan(self.rows, on_conflict, deletes)
        if on_conflict == "refuse" and any(counts["conflicts"] for counts in plan.counts.values()):
            return self.refuse(driver, "conflict", "overwrite", deletes)
        if on_conflict != "keep" and not plan.changes and self.model.find_lost(plan):
            return self.refuse(driver, "are gone", "keep", deletes)
        report = driver.run()
        self.learn(driver)
        for name in self.world.specs:
            assert set(driver.rejects(name)) == plan.rejected[name], f"rejects of {name}"
        self.compare_changes(driver, plan)
        for name, counts in plan.counts.items():
            assert {count: getattr(report.entities[name], count) for count in COUNTS} == counts, name
        assert report.status == ("verified" if plan.changes else "unchanged"), report.reason
        before = self.model
        self.model = Model(self.world, self.mapping.groups)
        self.model.tables, self.model.entries, self.model.generations = (
            before.tables, before.entries, before.generations,
        )  # fmt: skip
        self.model.commit(plan)
        self.compare()
        state = load_state(driver.store)
        assert state
        if state.head == driver.run_name:
            self.committed.append((driver, before, deepcopy(self.model.tables)))
        return plan

    def refuse(self, driver: Driver, message: str, on_conflict: str, deletes: str) -> Plan:
        """The run is refused, and the next one has another policy."""
        with pytest.raises(RefusedError, match=message):
            driver.run()
        assert driver.end(failure="refused").status in ("refused", "failed")
        self.learn(driver)
        self.compare()
        return self.run(on_conflict, deletes)

    def compare_changes(self, driver: Driver, plan: Plan) -> None:
        """The change set has what is to be written and nothing else, and at most one line for a key."""
        wanted = sorted((change.target, change.key) for change in plan.changes)
        found, keys = [], []
        for name, spec in self.world.specs.items():
            for change in driver.changes(name):
                if change.op == "reject":
                    continue
                keys.append((spec.target, change.key))
                if change.op != "conflict":
                    item = change.item or change.before
                    assert item
                    found.append((spec.target, self.read_key(spec.target, self.rename(item, self.names, UUID))))
                    assert change.item != change.before
        assert sorted(found) == wanted
        assert len(keys) == len(set(keys))

    def compare(self) -> None:
        found = self.read()
        for target, items in self.model.tables.items():
            assert found[target] == items, target

    def undo(self) -> None:
        """Undo the last run, if nobody changed anything since."""
        if self.committed and self.committed[-1][2] == self.model.tables:
            driver, before, _ = self.committed.pop()
            self.log.append("undo")
            driver.undo()
            self.model = before
            self.compare()

    def audit(self) -> None:
        """Every auditor finds nothing."""
        store = self.committed[-1][0].store if self.committed else None
        if store is None:
            return
        audit = audit_target(store)
        assert audit.ok, audit.problems
        if self.seed % 4 == 0:
            bucket = self.folder / "bucket"
            for path in store.list():
                (bucket / path).parent.mkdir(parents=True, exist_ok=True)
                (bucket / path).write_bytes(store.get(path))
            target = Target(bucket)
            target.verify({})
            assert target.findings == []
            assert find_damage(bucket) == set()


def check(aws: LocalAws, folder: Path, seed: int, rounds: int) -> None:
    history = History(make_library(aws), folder, seed)
    try:
        history.play(rounds)
    except (Exception, pytest.fail.Exception) as error:
        world = write_schema(history.world) + "\n" + write_mapping(history.world)
        steps = "\n".join(history.log)
        raise AssertionError(f"ACCESSION_SEED={seed} plays this again:\n{world}\n{steps}\n{error}") from error


@pytest.mark.parametrize("seed", QUICK)
def test_a_random_mapping_keeps_all_promises(aws: LocalAws, tmp_path: Path, seed: int) -> None:
    check(aws, tmp_path, seed, SLOW_ROUNDS if seed >= QUICK_SEEDS else QUICK_ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SLOW)
def test_many_random_mappings_keep_all_promises(aws: LocalAws, tmp_path: Path, seed: int) -> None:
    check(aws, tmp_path, seed, SLOW_ROUNDS)
