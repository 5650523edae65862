"""Entities that share a table: single-table design, with parents and children side by side."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.errors import VerificationError
from conftest import Library
from driver import Driver
from second_auditor import find_damage
from tables import edit, later, make_driver, plain, scan_all, select
from verify_register import Target

SCHEMA = """
CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE album (id INTEGER PRIMARY KEY, title TEXT, artist INTEGER REFERENCES artist);
CREATE TABLE fan (mail TEXT PRIMARY KEY, name TEXT);
CREATE TABLE guest (mail TEXT PRIMARY KEY, name TEXT);
INSERT INTO artist VALUES (1, 'Nina'), (2, 'Odetta');
INSERT INTO album VALUES (1, 'Pastel', 1), (2, 'Wild', 1), (3, 'Tin', 2);
INSERT INTO fan VALUES ('a@x', 'Ada'), ('b@x', 'Bo');
INSERT INTO guest VALUES ('g@x', 'Gus');
"""
MAPPING = """
name: stage
entities:
  artist:
    source: {table: artist, key: id}
    target: {table: "Stage-{environment}", key: {pk: "ARTIST#{id}", sk: "#META"}}
    attributes: {name: {column: name, type: string}}
  album:
    source: {table: album, key: id}
    target: {table: "Stage-{environment}", key: {pk: "{@artist}", sk: "ALBUM#{id:04}"}}
    attributes:
      artist: {column: artist, references: {entity: artist, part: pk}}
      title: {column: title, type: string}
  fan:
    source: {table: fan, key: mail}
    target: {table: "Stage-{environment}", key: {pk: "PERSON#{mail}", sk: "#META"}}
    attributes: {name: {column: name, type: string}}
  guest:
    source: {table: guest, key: mail}
    target: {table: "Stage-{environment}", key: {pk: "PERSON#{mail}", sk: "#META"}}
    attributes: {called: {column: name, type: string}}
"""


@pytest.fixture
def stage(library: Library, tmp_path: Path) -> Driver:
    return make_driver(library, tmp_path, SCHEMA, MAPPING)


def expect_stage(driver: Driver, without: str = "''") -> None:
    wanted: dict[Any, dict[str, Any]] = {}
    wanted |= {(f"ARTIST#{key}", "#META"): {"name": name} for key, name in select(driver, "SELECT * FROM artist")}
    for key, title, artist in select(driver, "SELECT * FROM album"):
        wanted[f"ARTIST#{artist}", f"ALBUM#{key:04}"] = {"title": title, "artist": f"ARTIST#{artist}"}
    for table, name in (("fan", "name"), ("guest", "called")):
        for mail, value in select(driver, f"SELECT * FROM {table} WHERE name NOT IN ({without})"):
            wanted[f"PERSON#{mail}", "#META"] = {name: value}
    items = [{name: plain(value) for name, value in item.items()} for item in driver.scan("artist")]
    assert {(item.pop("pk"), item.pop("sk")): item for item in items} == wanted


def export(driver: Driver, folder: Path, change: Callable[[str], str] = str) -> list[str]:
    """What the auditor finds in the bucket and in an export of the table."""
    for path in driver.store.list():
        (folder / "bucket" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "bucket" / path).write_bytes(driver.store.get(path))
    (folder / "export").mkdir(exist_ok=True)
    with gzip.open(folder / "export/a.json.gz", "wt") as lines:
        lines.writelines(change(json.dumps({"Item": item})) + "\n" for item in driver.scan("artist"))
    target = Target(folder / "bucket")
    target.verify(dict.fromkeys(driver.mapping.entities, folder / "export"))
    assert find_damage(folder / "bucket") == set()
    assert audit_target(driver.store).ok
    return target.findings


def test_entities_share_a_table_and_those_that_may_collide_are_staged_together(stage: Driver, tmp_path: Path) -> None:
    assert stage.mapping.groups == (("artist",), ("fan", "guest"), ("album",))
    assert [stage.mapping.needs_survey(name) for name in stage.mapping.order] == [False, True, True, False]
    report = stage.run()
    assert report.status == "verified"
    assert [entity.verified for entity in report.entities.values()] == [2, 2, 1, 3]
    [table] = report.tables.values()
    assert (table.entities, table.unexpected) == (stage.mapping.order, 0)
    expect_stage(stage)
    assert export(stage, tmp_path) == []
    assert len(export(stage, tmp_path, lambda line: line.replace("Wild", "Tame"))) == 4
    assert later(stage).run().status == "unchanged"


def test_rows_of_two_entities_with_one_key_are_rejected(stage: Driver) -> None:
    edit(stage, "INSERT INTO guest VALUES ('a@x', 'Ann')")
    driver = later(stage, max_rejects=2)
    assert driver.run().status == "verified"
    key = 'mail: its key ["PERSON#a@x","#META"] is also that of'
    assert (driver.rejects("fan"), driver.rejects("guest")) == ({"a@x": f"{key} guest a@x"}, {"a@x": f"{key} fan a@x"})
    expect_stage(stage, "'Ada', 'Ann'")
    edit(stage, "DELETE FROM fan WHERE mail = 'a@x'")
    assert later(stage).run().status == "verified"
    expect_stage(stage)


def test_a_key_goes_from_one_entity_to_another_in_one_update_and_back(stage: Driver, tmp_path: Path) -> None:
    stage.run()
    before = scan_all(stage)
    edit(
        stage,
        """
        INSERT INTO guest SELECT * FROM fan WHERE mail = 'a@x'; DELETE FROM fan WHERE mail = 'a@x';
        INSERT INTO fan SELECT * FROM guest WHERE mail = 'g@x'; DELETE FROM guest WHERE mail = 'g@x';
        UPDATE album SET artist = 2 WHERE id = 2; INSERT INTO guest VALUES ('new@x', 'New');
        """,
    )
    second = later(stage)
    assert second.run().status == "verified"
    expect_stage(second)
    changes = sorted((c.op, c.key) for name in ("fan", "guest") for c in second.changes(name))
    assert changes == [
        ("put", '["PERSON#new@x","#META"]'),
        ("update", '["PERSON#a@x","#META"]'),
        ("update", '["PERSON#g@x","#META"]'),
    ]
    assert export(second, tmp_path) == []
    assert later(stage).run().status == "unchanged"
    second.undo()
    assert scan_all(stage) == before
    stage.undo()
    assert stage.scan("artist") == []


def alter(driver: Driver, pk: str, sk: str, **values: str | None) -> None:
    """Change an item behind our back; without values, remove it."""
    client, table = driver.library.aws.client("dynamodb"), f"Stage-{driver.library.environment}"
    key = {"pk": {"S": pk}, "sk": {"S": sk}}
    if values:
        client.put_item(TableName=table, Item=key | {name: {"S": value} for name, value in values.items()})
    else:
        client.delete_item(TableName=table, Key=key)


@pytest.mark.parametrize(
    ("pk", "sk", "values", "problem", "entity"),
    [
        ("ARTIST#1", "ALBUM#0002", {"title": "x"}, "1 mismatched", "album"),
        ("PERSON#b@x", "#META", {}, "1 missing", "fan"),
        ("PERSON#z@x", "#META", {"name": "Zoe"}, "1 unexpected", "artist"),
    ],
)
def test_the_proof_of_a_table_finds_what_was_altered(
    stage: Driver, pk: str, sk: str, values: dict[str, str], problem: str, entity: str
) -> None:
    stage.stage_all()
    stage.plan()
    stage.open()
    stage.migrate_all()
    alter(stage, pk, sk, **values)
    for name in stage.mapping.order:
        with pytest.raises(VerificationError, match=problem):
            stage.verify(name)
    found = stage.steps.folder.find_verifications(stage.mapping.order)
    assert not any(proof.ok for proof in found.values())
    kind = problem.split()[1]
    assert [name for name, proof in found.items() if getattr(proof, kind)] == [entity]
    whole = {"artist": 2, "album": 3, "fan": 2, "guest": 1}
    expected = {name: count - (name == entity and kind != "unexpected") for name, count in whole.items()}
    assert {name: proof.verified for name, proof in found.items()} == expected
