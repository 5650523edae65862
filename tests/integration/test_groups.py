"""Entities that refer to themselves and to each other in circles, compared with SQL on the source."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.artifacts import Store
from accession.audit import audit_target
from accession.errors import RefusedError
from accession.mapping import load_mapping
from accession.run import show_summary
from accession.run.report_page import describe_verdict
from conftest import Library
from driver import Driver
from tables import create_tables, edit, later, make_driver, read, scan_all, select

SCHEMA = """
CREATE TABLE team (code TEXT PRIMARY KEY, lead INTEGER REFERENCES person, parent TEXT REFERENCES team);
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, born TEXT, boss INTEGER REFERENCES person, team TEXT NOT NULL);
CREATE TABLE badge (id INTEGER PRIMARY KEY, person INTEGER REFERENCES person, text TEXT);
INSERT INTO team VALUES ('a', 1, NULL), ('b', 3, 'a'), ('c', NULL, 'b');
INSERT INTO person VALUES (1, 'Ada', NULL, 1, 'a'), (2, 'Bo', '1990-01-01', 1, 'a'), (3, 'Cy', NULL, 2, 'b'),
    (4, 'Di', NULL, NULL, 'c'), (5, 'Eva', NULL, 4, 'c');
INSERT INTO badge VALUES (1, 1, 'one'), (2, 5, 'two'), (3, NULL, 'three');
"""
MAPPING = """
name: firm
entities:
  badge:
    source: {table: badge, key: id}
    target: {table: "Badges-{environment}", key: {id: keep}}
    attributes:
      person: {column: person, references: person, optional: true}
      text: {column: text, type: string}
  team:
    source: {table: team, key: code}
    target: {table: "Teams-{environment}", key: {code: keep}}
    attributes:
      lead: {column: lead, references: person, optional: true}
      parent: {column: parent, references: team, optional: true}
    indexes: {by-lead: [lead]}
  person:
    source: {table: person, key: id}
    target: {table: "People-{environment}", key: person_id}
    attributes:
      name: {column: name, type: string}
      born: {column: born, type: date}
      boss: {column: boss, references: person, optional: true}
      team: {column: team, references: team}
    indexes: {by-boss: [boss, name]}
    identity: [[name]]
"""


@pytest.fixture
def firm(library: Library, tmp_path: Path) -> Driver:
    return make_driver(library, tmp_path, SCHEMA, MAPPING)


def expect_firm(driver: Driver, without: str = "''") -> None:
    """Compare every table with the source, but for the people, teams and badges of these names, codes and texts."""
    people = {
        item["name"]: (item["born"], names.get(item.get("boss")), item["team"])
        for names in [{key: item["name"] for (key,), item in read(driver, "person", "person_id").items()}]
        for item in read(driver, "person", "person_id").values()
    }
    query = (
        "SELECT name, born, (SELECT name FROM person b WHERE b.id = p.boss), team FROM person p "
        f"WHERE name NOT IN ({without})"
    )
    assert people == {name: tuple(rest) for name, *rest in select(driver, query)}
    ids = {item["name"]: key for (key,), item in read(driver, "person", "person_id").items()}
    ids[None] = None
    query = f"SELECT code, (SELECT name FROM person WHERE id = lead), parent FROM team WHERE code NOT IN ({without})"
    assert {key: (item.get("lead"), item["parent"]) for (key,), item in read(driver, "team", "code").items()} == {
        code: (ids[lead], parent) for code, lead, parent in select(driver, query)
    }
    query = (
        "SELECT b.id, (SELECT name FROM person p WHERE p.id = b.person), text FROM badge b "
        f"WHERE text NOT IN ({without})"
    )
    assert {key: (item["person"], item["text"]) for (key,), item in read(driver, "badge", "id").items()} == {
        key: (ids[name], text) for key, name, text in select(driver, query)
    }


def test_a_group_is_staged_together_and_its_references_hold(firm: Driver) -> None:
    assert firm.mapping.groups == (("team", "person"), ("badge",))
    assert firm.mapping.parents == {"badge": ("person",), "team": (), "person": ()}
    assert firm.run().status == "verified"
    expect_firm(firm)
    assert audit_target(firm.store).ok
    assert later(firm).run().status == "unchanged"


def test_edits_in_a_circle_are_written_alone_and_undone(firm: Driver) -> None:
    firm.run()
    before = scan_all(firm)
    edit(
        firm,
        """
        UPDATE person SET boss = 5 WHERE id = 4;                       -- a circle of two
        INSERT INTO person VALUES (6, 'Flo', NULL, 6, 'd');            -- of one, in a new team whose lead she is
        INSERT INTO team VALUES ('d', 6, 'a');
        DELETE FROM badge WHERE id = 1;
        """,
    )
    second = later(firm)
    assert second.run().status == "verified"
    expect_firm(second)
    counts = {name: second.index(name).counts for name in second.mapping.order}
    assert {name: (c.put, c.updated, c.deleted, c.unchanged) for name, c in counts.items()} == {
        "team": (1, 0, 0, 3), "person": (1, 1, 0, 4), "badge": (0, 0, 1, 2),
    }  # fmt: skip
    assert audit_target(firm.store).ok
    second.undo()
    assert scan_all(firm) == before
    firm.undo()
    assert not any(firm.scan(name) for name in firm.mapping.entities)


def test_a_task_that_dies_between_the_results_of_a_group_is_repeated(
    firm: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DAG gives the maps of the parents to the task of the first entity alone, so that one must do it all again."""
    firm.start()
    claim, claimed = Store.claim, list[str]()

    def die_at_the_second(store: Store, path: str, data: bytes) -> bool:
        if path.endswith("/index.json"):
            claimed.append(path.split("/")[-2])
            if len(claimed) == 2:
                raise RuntimeError("the task dies")
        return claim(store, path, data)

    monkeypatch.setattr(Store, "claim", die_at_the_second)
    with pytest.raises(RuntimeError):
        firm.stage("team")
    assert claimed == ["person", "team"]
    assert firm.steps.folder.find_staged("team") is None
    monkeypatch.undo()
    firm.stage("team")
    firm.steps.stage("person", {})
    firm.stage("badge")
    firm.plan()
    firm.open()
    firm.migrate_all()
    for name in firm.mapping.order:
        firm.verify(name)
    assert firm.end().status == "verified"
    expect_firm(firm)
    assert audit_target(firm.store).ok


@pytest.mark.parametrize(
    ("edits", "without", "rejects"),
    [
        (
            "UPDATE person SET born = 'soon' WHERE id = 4", "'Di', 'Eva', 'two'",
            {"person": {4: "born: born: 'soon' is not a day, such as 2026-01-05",
                        5: "boss: boss 4 refers to a row of person that was rejected itself"},
             "badge": {2: "person: person 5 refers to a row of person that was rejected itself"}},
        ),
        (
            "UPDATE person SET boss = 99 WHERE id = 3", "'Cy', 'b', 'c', 'Di', 'Eva', 'two'",
            {"person": {3: "boss: boss 99 refers to no person",
                        4: "team: team 'c' refers to a row of team that was rejected itself",
                        5: "boss: boss 4 refers to a row of person that was rejected itself"},
             "team": {"b": "lead: lead 3 refers to a row of person that was rejected itself",
                      "c": "parent: parent 'b' refers to a row of team that was rejected itself"},
             "badge": {2: "person: person 5 refers to a row of person that was rejected itself"}},
        ),
        (
            "UPDATE team SET lead = 3 WHERE code = 'a'; UPDATE person SET team = 'x' WHERE id = 3",
            "SELECT name FROM person UNION SELECT code FROM team UNION SELECT text FROM badge WHERE id < 3",
            {"person": {1: "boss: boss 1 refers to a row of person that was rejected itself",
                        2: "boss: boss 1 refers to a row of person that was rejected itself",
                        3: "team: team 'x' refers to no team",
                        4: "team: team 'c' refers to a row of team that was rejected itself",
                        5: "boss: boss 4 refers to a row of person that was rejected itself"},
             "team": {"a": "lead: lead 3 refers to a row of person that was rejected itself",
                      "b": "lead: lead 3 refers to a row of person that was rejected itself",
                      "c": "parent: parent 'b' refers to a row of team that was rejected itself"},
             "badge": {1: "person: person 1 refers to a row of person that was rejected itself",
                       2: "person: person 5 refers to a row of person that was rejected itself"}},
        ),
    ],
)  # fmt: skip
def test_a_reject_goes_round_the_circle(
    firm: Driver, edits: str, without: str, rejects: dict[str, dict[Any, str]]
) -> None:
    edit(firm, edits)
    driver = later(firm, max_rejects=20)
    assert driver.run().status == "verified"
    assert {name: found for name in driver.mapping.order if (found := driver.rejects(name))} == rejects
    expect_firm(driver, without)
    assert later(firm, max_rejects=20).run().status == "unchanged"


def test_an_item_that_is_there_stays_and_its_children_with_it(firm: Driver) -> None:
    firm.run()
    before = read(firm, "person", "person_id")
    edit(firm, "UPDATE person SET born = 'soon', boss = NULL WHERE id = 4; INSERT INTO badge VALUES (4, 4, 'four')")
    second = later(firm, max_rejects=1)
    assert second.run().status == "verified"
    assert second.rejects("person") == {4: "born: born: 'soon' is not a day, such as 2026-01-05"}
    assert read(firm, "person", "person_id") == before
    ids = {item["name"]: key for (key,), item in before.items()}
    assert read(firm, "badge", "id")[(4,)]["person"] == ids["Di"]


def test_a_row_that_is_too_large_only_with_its_parents_key_takes_its_children_along(
    library: Library, tmp_path: Path
) -> None:
    """The survey cannot know the length of a kept key that comes later."""
    source, path = tmp_path / "tree.db", tmp_path / "tree.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("CREATE TABLE node (name TEXT PRIMARY KEY, up TEXT REFERENCES node, text TEXT)")
        last = "z" * 2000
        rows = [("a", last, "x" * (400 * 1024 - 1500)), ("b", "a", "b"), ("c", "b", "c"), ("d", last, "d")]
        db.executemany("INSERT INTO node VALUES (?,?,?)", [*rows, (last, None, "root")])
    path.write_text("""
name: tree
entities:
  node:
    source: {table: node, key: name}
    target: {table: "Nodes-{environment}", key: {name: keep}}
    attributes:
      up: {column: up, references: node, optional: true}
      text: {column: text, type: string}
""")
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=9)
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    assert sorted(driver.rejects("node")) == ["a", "b", "c"]
    assert {key for (key,) in read(driver, "node", "name")} == {"d", last}
    assert audit_target(driver.store).ok


def test_a_long_chain_is_rejected_in_one_go(library: Library, tmp_path: Path) -> None:
    source, path = tmp_path / "list.db", tmp_path / "list.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("CREATE TABLE node (id INTEGER PRIMARY KEY, up INTEGER REFERENCES node, day TEXT)")
        rows = ((number, number - 1, "2026-01-01") for number in range(2, 3001))
        db.executemany("INSERT INTO node VALUES (?,?,?)", [(1, 1, "never"), *rows, (4000, 4000, None)])
    path.write_text("""
name: list
entities:
  node:
    source: {table: node, key: id}
    target: {table: "Links-{environment}", key: {id: keep}}
    attributes:
      up: {column: up, references: node}
      day: {column: day, type: date}
""")
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=3000)
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    assert len(driver.rejects("node")) == 3000
    assert read(driver, "node", "id") == {(4000,): {"up": 4000, "day": None}}


def test_a_reject_whose_item_is_outdated_is_told_in_every_run(firm: Driver) -> None:
    firm.run()
    edit(firm, "UPDATE badge SET person = 99 WHERE id = 2")
    for status in ("unchanged", "unchanged"):
        driver = later(firm, max_rejects=1)
        report = driver.run()
        assert (report.status, report.totals["rejected"], report.totals["outdated"]) == (status, 1, 1)
        assert "1 rejected but with an outdated item in the target" in report.note
        assert (
            show_summary(report)
            .splitlines()[0]
            .endswith("but 1 item in the target is outdated, since its row is rejected: see rejects.csv")
        )
        assert describe_verdict(report).startswith("Not all is well: ")
        assert driver.store.get(driver.steps.folder.path("rejects.csv")).count(b"\n") == 2
    with pytest.raises(RefusedError, match="1 rows cannot be migrated and 0 are allowed"):
        later(firm).run()


def test_two_that_refer_to_each_other_and_not_to_themselves_are_staged_together(
    library: Library, tmp_path: Path
) -> None:
    source, path = tmp_path / "pair.db", tmp_path / "pair.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript("""
            CREATE TABLE left (id INTEGER PRIMARY KEY, other INTEGER);
            CREATE TABLE right (id INTEGER PRIMARY KEY, other INTEGER);
            INSERT INTO left VALUES (1, 7), (2, NULL), (3, 9);
            INSERT INTO right VALUES (7, 2), (8, 3);
        """)
    path.write_text("""
name: pair
entities:
  left:
    source: {table: left, key: id}
    target: {table: "Left-{environment}", key: {id: keep}}
    attributes: {other: {column: other, references: right, optional: true}}
  right:
    source: {table: right, key: id}
    target: {table: "Right-{environment}", key: {id: keep}}
    attributes: {other: {column: other, references: left, optional: true}}
""")
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=2)
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    assert driver.rejects("left") == {3: "other: other 9 refers to no right"}
    assert driver.rejects("right") == {8: "other: other 3 refers to a row of left that was rejected itself"}
    assert read(driver, "left", "id") == {(1,): {"other": 7}, (2,): {"other": None}}
    assert read(driver, "right", "id") == {(7,): {"other": 2}}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le"])
def test_a_row_may_refer_to_more_parents_than_sqlite_attaches(library: Library, tmp_path: Path, encoding: str) -> None:
    """Ten of them, and itself; the last one in the file that is made of the maps of all further parents."""
    source, path = tmp_path / "many.db", tmp_path / "many.yaml"
    entities, columns, attributes = [], ["id INTEGER PRIMARY KEY", "self REFERENCES child"], []
    with closing(sqlite3.connect(source)) as db, db:
        db.execute(f'PRAGMA encoding = "{encoding}"')
        for number in range(10):
            db.execute(f"CREATE TABLE parent_{number} (a TEXT, b INTEGER, day TEXT, PRIMARY KEY (a, b))")
            rows = [("é", number, None), ("x", 7, "never" if number == 9 else None)]
            db.executemany(f"INSERT INTO parent_{number} VALUES (?,?,?)", rows)
            columns += [f"a{number} TEXT", f"b{number} INTEGER"]
            entities.append(f"""
  parent_{number}:
    source: {{table: parent_{number}, key: [a, b]}}
    target: {{table: "Parents{number}-{{environment}}", key: {{id: "P{number}#{{a}}#{{b}}"}}}}
    attributes: {{day: {{column: day, type: date}}}}""")
            attributes.append(f"      p{number}: {{column: [a{number}, b{number}], references: parent_{number}}}")
        db.execute(f"CREATE TABLE child ({', '.join(columns)})")
        good = [value for number in range(10) for value in ("é", number)]
        db.execute(f"INSERT INTO child VALUES ({', '.join('?' * 22)})", [1, 1, *good])
        db.execute(f"INSERT INTO child VALUES ({', '.join('?' * 22)})", [2, 1, *good[:-2], "x", 7])
        db.execute(f"INSERT INTO child VALUES ({', '.join('?' * 22)})", [3, 1, *good[:-2], "é", 7])
    path.write_text(
        "name: many\nentities:"
        + "".join(entities)
        + """
  child:
    source: {table: child, key: id}
    target: {table: "Children-{environment}", key: {id: keep}}
    attributes:
      self: {column: self, references: child, optional: true}
"""
        + "\n".join(attributes)
    )
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=9)
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    assert driver.rejects("child") == {
        2: "a9, b9: a9, b9 'x', 7 refers to a row of parent_9 that was rejected itself",
        3: "a9, b9: a9, b9 'é', 7 refers to no parent_9",
    }
    item = {f"p{number}": f"P{number}#é#{number}" for number in range(10)}
    assert read(driver, "child", "id") == {(1,): {"self": 1, **item}}
    edit(driver, "UPDATE parent_9 SET day = NULL; UPDATE child SET b0 = 0")
    second = later(driver, max_rejects=9)
    assert second.run().status == "verified"
    assert (list(second.rejects("child")), len(second.scan("child"))) == ([3], 2)
