"""Collations: a reference finds its parent as SQLite compares the parent's key, and those of the application alone."""

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.draft import draft_mapping
from accession.errors import SourceError
from accession.mapping import load_mapping
from accession.run.inputs import fetch_inputs
from accession.run.source_rows import SourceRows
from accession.source import check_source, restore_source, take_snapshot
from conftest import Library
from driver import Driver
from tables import create_tables

FOLDED = """
CREATE TABLE lang (code TEXT PRIMARY KEY COLLATE NOCASE, name TEXT COLLATE RTRIM UNIQUE);
CREATE TABLE term (lang TEXT COLLATE NOCASE, nr INTEGER, word TEXT, PRIMARY KEY (lang, nr));
CREATE TABLE use (id INTEGER PRIMARY KEY, lang TEXT REFERENCES lang, nr INTEGER, named TEXT REFERENCES lang (name),
    FOREIGN KEY (lang, nr) REFERENCES term);
INSERT INTO lang VALUES ('EN', 'English'), ('Nb', 'Bokmål '), ('X', X'00');
INSERT INTO term VALUES ('en', 1, 'word'), ('NB', 2, 'ord');
INSERT INTO use VALUES (1, 'eN', 1, 'English  '), (2, 'nb', 2, 'Bokmål'), (3, 'en', 1, NULL);
"""
FOLDED_MAPPING = """
name: words
entities:
  lang:
    source: {table: lang, key: code}
    target: {table: "Langs-{environment}", key: {code: keep}}
    attributes: {name: {column: name, type: string}}
  term:
    source: {table: term, key: [lang, nr]}
    target: {table: "Terms-{environment}", key: {lang: keep, nr: keep}}
    attributes:
      lang: {column: lang, references: lang}
      word: {column: word, type: string}
  use:
    source: {table: use, key: id}
    target: {table: "Uses-{environment}", key: {id: keep}}
    attributes:
      lang: {column: lang, references: lang}
      term: {column: [lang, nr], references: {entity: term, part: lang}}
      named: {column: named, references: {entity: lang, by: name}, optional: true}
"""

CARDS = """
CREATE TABLE notetypes (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE unicase CHECK (name <> 'none'));
CREATE UNIQUE INDEX idx_notetypes_name ON notetypes (name);
CREATE TABLE fields (ntid INTEGER, ord INTEGER, name TEXT COLLATE unicase, PRIMARY KEY (ntid, ord)) WITHOUT ROWID;
CREATE UNIQUE INDEX idx_fields_name ON fields (name, ntid);
CREATE TABLE tags (tag TEXT NOT NULL PRIMARY KEY COLLATE unicase, usn INTEGER) WITHOUT ROWID;
CREATE TABLE notes (id INTEGER PRIMARY KEY, tag TEXT REFERENCES tags, kind TEXT, text TEXT DEFAULT 'COLLATE x');
CREATE INDEX idx_notes ON notes (kind);
"""
CARDS_MAPPING = """
name: cards
entities:
  notetype:
    source: {table: notetypes, key: id}
    target: {table: "Notetypes-{environment}", key: {id: keep}}
    attributes: {name: {column: name, type: string}}
  field:
    source: {table: fields, key: [ntid, ord]}
    target: {table: "Fields-{environment}", key: {ntid: keep, ord: keep}}
    attributes: {name: {column: name, type: string}, ntid: {column: ntid, references: notetype}}
  tag:
    source: {table: tags, key: tag}
    target: {table: "Tags-{environment}", key: {tag: keep}}
    attributes: {usn: {column: usn, type: number}}
  note:
    source: {table: notes, key: id}
    target: {table: "Notes-{environment}", key: {id: keep}}
    attributes:
      tag: {column: tag, references: tag, optional: true}
      kind: {column: kind, references: {entity: notetype, by: name}}
"""


def compare_cases(one: str, other: str) -> int:
    """Compare as the application does. In no case do both orders agree: it is reversed, so a search by SQLite's own
    would miss."""
    a, b = one.casefold(), other.casefold()
    return (a < b) - (a > b)


def edit(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.create_collation("unicase", compare_cases)
        db.executescript(script)


def prepare(library: Library, folder: Path, text: str, script: str) -> Callable[..., Driver]:
    source, file = folder / "source.db", folder / "mapping.yaml"
    edit(source, script)
    file.write_text(text)
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)

    def make(text: str = text, **params: Any) -> Driver:
        file.write_text(text)
        return Driver(library, source, mapping=load_mapping(file), **params)

    return make


@pytest.fixture
def words(library: Library, tmp_path: Path) -> Callable[..., Driver]:
    return prepare(library, tmp_path, FOLDED_MAPPING, FOLDED)


@pytest.fixture
def cards(library: Library, tmp_path: Path) -> Callable[..., Driver]:
    rows = [(number, f"{'Tag' if number % 2 else 'tag'}{number}", f"kind{number % 20}") for number in range(200)]
    more = "".join(
        [f"INSERT INTO notetypes VALUES ({number}, 'kind{number}');" for number in range(20)]
        + [f"INSERT INTO fields VALUES ({number}, 0, 'Front'), ({number}, 1, 'back');" for number in range(20)]
        + [f"INSERT INTO tags VALUES ('{tag}', {number});" for number, tag, _ in rows]
        + [f"INSERT INTO notes VALUES ({number}, '{tag}', '{kind}', '');" for number, tag, kind in rows]
    )
    return prepare(library, tmp_path, CARDS_MAPPING, CARDS + more)


def read(driver: Driver, entity: str, *names: str) -> list[tuple[Any, ...]]:
    """The values of some attributes of every item, without their types."""
    return sorted(tuple(next(iter(item[name].values())) for name in names) for item in driver.scan(entity))


def test_a_reference_finds_its_parent_as_sqlite_compares_and_the_item_holds_the_parents_spelling(
    words: Callable[..., Driver],
) -> None:
    driver = words(max_rejects=1)
    assert driver.run().status == "verified"
    with closing(sqlite3.connect(driver.source)) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    assert driver.rejects("lang") == {"X": "name: name: a BLOB of 1 bytes is a BLOB where the mapping says string"}
    assert read(driver, "term", "lang", "nr", "word") == [("EN", "1", "word"), ("Nb", "2", "ord")]
    assert read(driver, "use", "id", "lang", "term", "named") == [
        ("1", "EN", "EN", "EN"), ("2", "Nb", "Nb", "Nb"), ("3", "EN", "EN", True),
    ]  # fmt: skip
    again = words(max_rejects=1)
    again.run()
    assert all(again.index(name).counts.unchanged == again.index(name).counts.source_rows for name in ("term", "use"))


def test_a_child_in_another_case_of_a_rejected_parent_says_so(words: Callable[..., Driver]) -> None:
    driver = words(max_rejects=9)
    edit(
        driver.source,
        "INSERT INTO term VALUES ('x', 9, 'x'); INSERT INTO use VALUES (4, 'x', 9, NULL), (5, 'zz', 1, NULL)",
    )
    driver.run()
    assert driver.rejects("use") == {
        4: "lang: lang 'x' refers to a row of lang that was rejected itself",
        5: "lang: lang 'zz' refers to no lang",
    }


def open_rows(driver: Driver, entity: str, folder: Path) -> SourceRows:
    """The rows of an entity that the driver has staged, with its parents' maps."""
    id_maps = {parent: driver.index(parent).id_map for parent in driver.mapping.parents[entity]}
    return SourceRows(fetch_inputs(driver.steps, entity, folder, id_maps), entity)


def test_the_index_of_the_parents_key_serves_the_search(words: Callable[..., Driver], tmp_path: Path) -> None:
    driver = words(max_rejects=9)
    driver.stage_all()
    with open_rows(driver, "use", tmp_path) as rows:
        query = rows.query.select_rows(has_head=False)
        plan = [row[3] for row in rows.snapshot.execute(f"EXPLAIN QUERY PLAN {query}")]
    assert [line for line in plan if line.startswith("SCAN")] == ["SCAN s"]
    assert {re.findall(r"INDEX (\w+)", line)[0] for line in plan if line.startswith("SEARCH q")} == {
        "sqlite_autoindex_lang_1", "sqlite_autoindex_lang_2", "sqlite_autoindex_term_1",
    }  # fmt: skip
    assert all("AUTOMATIC" not in line for line in plan)


def test_keys_that_only_case_tells_apart_are_never_mistaken(library: Library, tmp_path: Path) -> None:
    """Without a unique index, the column's collation could find two parents, so keys are compared byte by byte."""
    make = prepare(
        library, tmp_path, FOLDED_MAPPING,
        FOLDED.replace("PRIMARY KEY COLLATE NOCASE", "COLLATE NOCASE") + "INSERT INTO lang VALUES ('en', 'x');",
    )  # fmt: skip
    driver = make(max_rejects=9)
    assert driver.run().status == "verified"
    assert read(driver, "term", "lang", "nr") == [("en", "1")]
    assert driver.rejects("term") == {'["NB",2]': "lang: lang 'NB' refers to no lang"}


def test_two_rows_whose_references_make_one_key_stop_the_run(library: Library, tmp_path: Path) -> None:
    make = prepare(
        library, tmp_path, FOLDED_MAPPING,
        FOLDED.replace("lang TEXT COLLATE NOCASE, nr", "lang TEXT, nr") + "INSERT INTO term VALUES ('EN', 1, 'again');",
    )  # fmt: skip
    driver = make(max_rejects=9)
    with pytest.raises(SourceError, match=r"Two rows have the same key in the target: .*\."):
        driver.run()
    assert driver.scan("term") == []


def test_a_source_with_a_collation_of_its_application_migrates(cards: Callable[..., Driver], tmp_path: Path) -> None:
    driver = cards()
    report = driver.run()
    assert report.status == "verified"
    assert report.snapshot.unknown_collations == ("unicase",)
    assert read(driver, "tag", "tag", "usn") == sorted((f"{'Tag' if n % 2 else 'tag'}{n}", str(n)) for n in range(200))
    assert len(read(driver, "field", "ntid", "ord")) == 40
    assert read(driver, "note", "id", "tag", "kind") == sorted(
        (str(n), f"{'Tag' if n % 2 else 'tag'}{n}", str(n % 20)) for n in range(200)
    )
    page = driver.store.get(driver.steps.folder.path("report.html")).decode()
    assert page.count("unicase <small>known to the application only") == 1

    edit(driver.source, "UPDATE tags SET usn = -1 WHERE tag = 'tag4'; DELETE FROM notes WHERE id = 9;"
                        "DELETE FROM tags WHERE tag = 'Tag9'; INSERT INTO tags VALUES ('new', 7);")  # fmt: skip
    second = cards()
    assert second.run().status == "verified"
    counts = second.index("tag").counts
    assert (counts.put, counts.updated, counts.deleted, counts.unchanged) == (1, 1, 1, 198)
    assert second.steps.find_drift(second.source).changed is False
    second.undo()
    assert audit_target(second.store).ok
    manifest = driver.manifest.snapshot
    backup = driver.store.download(driver.store.path(manifest.uri), tmp_path / "backup.db")
    restore_source(backup, tmp_path / "restored.db", manifest.sha256, manifest.rows)


def test_the_draft_of_such_a_source_migrates(library: Library, tmp_path: Path) -> None:
    source, file = tmp_path / "cards.db", tmp_path / "cards.yaml"
    edit(source, f"{CARDS} INSERT INTO tags VALUES ('x', 1), ('Y', 2); INSERT INTO notes VALUES (1, 'Y', 'a', 't');")
    file.write_text(draft_mapping(source, "cards").text)
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    driver = Driver(library, source, mapping=mapping)
    assert driver.run().status == "verified"
    assert read(driver, "tags", "tag", "usn") == [("Y", "2"), ("x", "1")]


def test_a_reference_to_a_key_of_that_collation_is_compared_byte_by_byte(cards: Callable[..., Driver]) -> None:
    driver = cards(max_rejects=9)
    edit(driver.source, "UPDATE notes SET tag = 'TAG4' WHERE id = 4; UPDATE notes SET kind = 'KIND5' WHERE id = 5;")
    driver.run()
    assert driver.rejects("note") == {
        4: "tag: tag 'TAG4' refers to no tag",
        5: "kind: kind 'KIND5' refers to no notetype",
    }


@pytest.mark.parametrize("where", ["tag > 'b'", "tag = 'TAG4'"])
def test_a_condition_that_needs_the_collation_is_refused(cards: Callable[..., Driver], where: str) -> None:
    text = CARDS_MAPPING.replace("{table: tags, key: tag}", f'{{table: tags, key: tag, where: "{where}"}}')
    driver = cards(text)
    driver.start()
    with pytest.raises(SourceError, match=r"^entities.tag.source compares by the collation unicase, .*\.$"):
        driver.stage("tag")
    assert driver.steps.folder.find_staged("tag") is None


def test_a_condition_that_names_another_collation_is_taken(cards: Callable[..., Driver]) -> None:
    where = "tag COLLATE NOCASE IN ('TAG4', 'x')"
    driver = cards(CARDS_MAPPING.replace("{table: tags, key: tag}", f'{{table: tags, key: tag, where: "{where}"}}'))
    driver.start()
    driver.stage("tag")
    assert [change.old_key for change in driver.changes("tag")] == ["tag4"]


def test_no_query_of_ours_compares_by_a_collation_of_the_application(
    cards: Callable[..., Driver], tmp_path: Path
) -> None:
    """The stand-in notes each use, and its indexes are not even scanned, since nobody checked what is in them."""
    cards().run()
    edit(cards().source, "DELETE FROM tags WHERE tag = 'tag4'; UPDATE notes SET tag = NULL WHERE tag = 'tag4'")
    driver = cards()
    driver.stage_all()
    for entity in driver.mapping.entities:
        with open_rows(driver, entity, tmp_path) as rows:
            assert len(list(rows.read())) == rows.count
            assert len(list(rows.read_gone())) == (entity == "tag")
            for query in (rows.query.select_rows(has_head=True), rows.query.select_gone()):
                steps = [row[3] for row in rows.snapshot.execute(f"EXPLAIN QUERY PLAN {query}")]
                assert not any(name in step for step in steps for name in ("idx_notetypes", "idx_fields", "tags_1"))
            assert rows.snapshot.compared == set()
            rows.snapshot.execute("SELECT * FROM main.notetypes WHERE name = 'kind1'").fetchall()
            assert rows.snapshot.compared == {"unicase"}, "the stand-in notices"


def test_a_query_that_needs_the_collation_is_refused(cards: Callable[..., Driver]) -> None:
    for query, is_refused in (
        ("SELECT tag, usn FROM tags WHERE tag > 'b'", True),
        ("SELECT name AS tag, count(*) AS usn FROM notetypes GROUP BY name", True),
        ("SELECT tag, usn FROM tags WHERE tag COLLATE NOCASE > 'b'", False),
        ("SELECT t.tag, n.id AS usn FROM tags t JOIN notes n ON n.tag = t.tag COLLATE BINARY", False),
    ):
        driver = cards(CARDS_MAPPING.replace("{table: tags, key: tag}", f"{{query: {json.dumps(query)}, key: tag}}"))
        driver.start()
        if is_refused:
            with pytest.raises(SourceError, match=r"^entities.tag.source compares by the collation unicase, .*\.$"):
                driver.stage("tag")
        else:
            assert driver.stage("tag").counts.put > 100


def test_damage_is_found_although_the_collation_is_unknown(cards: Callable[..., Driver], tmp_path: Path) -> None:
    driver = cards()
    tables = {table: list(columns) for table, columns in driver.mapping.source_tables.items()}
    check_source(driver.source, tables)
    with closing(sqlite3.connect(driver.source)) as db:
        [(root,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'idx_notes'")
        [(size,)] = db.execute("PRAGMA page_size")
        db.execute("PRAGMA writable_schema = ON")
        # Another index is named as that of the table, so its rows are missing.
        db.execute("UPDATE sqlite_schema SET sql = 'CREATE INDEX idx_notes ON notes (tag)' WHERE name = 'idx_notes'")
        db.commit()
    with pytest.raises(SourceError, match=r"is damaged \(integrity_check: .*idx_notes"):
        take_snapshot(driver.source, tmp_path / "copy.db")
    with driver.source.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 100)
    with pytest.raises(SourceError, match="is damaged"):
        check_source(driver.source, tables)


def test_the_manifest_of_an_older_run_has_no_such_field(words: Callable[..., Driver]) -> None:
    driver = words(max_rejects=9)
    driver.start()
    path = driver.steps.folder.path("manifest.json")
    document = json.loads(driver.store.get(path))
    assert document["snapshot"].pop("unknown_collations") == []
    driver.store.put(path, json.dumps(document).encode())
    assert driver.manifest.snapshot.unknown_collations == ()
