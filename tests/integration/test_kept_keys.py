"""Keys as they are: kept, of one or two attributes, made by templates; and references to them. The tables are compared
with what SQL says of the source, by code that shares nothing with the transforms."""

import gzip
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.errors import AccessionError, SourceError
from accession.items import find_key_schemas
from accession.mapping import load_mapping
from accession.run import Run
from accession.run.relation import find_affinities
from conftest import Library
from driver import Driver
from second_auditor import find_damage
from tables import define_table, edit, later, make_driver, read, scan_all, select
from verify_register import Target

SCHEMA = """
CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE album (code TEXT PRIMARY KEY, title TEXT, artist_id INTEGER REFERENCES artist, producer TEXT);
CREATE TABLE track (album TEXT REFERENCES album, nr INTEGER, title TEXT, days TEXT, tags TEXT, PRIMARY KEY (album, nr));
CREATE TABLE play (id INTEGER PRIMARY KEY, album TEXT, nr INTEGER, at TEXT, FOREIGN KEY (album, nr) REFERENCES track);
CREATE TABLE log (line TEXT, level INTEGER);
INSERT INTO artist VALUES (1, 'Nina'), (2, 'Abbey'), (-3, 'Odetta');
INSERT INTO album VALUES ('A-1', 'Pastel', 1, 'Abbey'), ('b 2', '', NULL, NULL), ('雪', 'Snow', -3, 'Nina');
INSERT INTO track VALUES ('A-1', 1, 'One', '2026-01-05', 'x,y'), ('A-1', 10, 'Ten', NULL, ''),
    ('雪', 2, 'Two', '2025-12-31 00:00:00', 'z');
INSERT INTO play VALUES (7, 'A-1', 10, 'now'), (8, '雪', 2, 'then'), (9, NULL, 2, 'never');
INSERT INTO log VALUES ('started', 1), ('ended', 1), ('noise', 0);
"""
MAPPING = """
name: music
entities:
  artist:
    source: {table: artist, key: id}
    target: {table: "Artists-{environment}", key: {id: keep}}
    attributes:
      name: {column: name, type: string}
  album:
    source: {table: album, key: code}
    target: {table: "Albums-{environment}", key: {pk: "ALBUM#{code}"}}
    attributes:
      title: {column: title, type: string}
      artist: {column: artist_id, references: artist, optional: true}
      producer: {column: producer, references: {entity: artist, by: name}, optional: true}
      label: {value: "{title} by {@artist}", type: string}
    indexes: {by-artist: [artist, title]}
  track:
    source: {table: track, key: [album, nr]}
    target: {table: "Tracks-{environment}", key: {album: keep, sk: "TRACK#{nr:04}"}}
    attributes:
      album: {column: album, references: album}
      title: {column: title, type: string}
      day: {column: days, type: date}
      tags: {column: tags, type: string_set, separator: ","}
  play:
    source: {table: play, key: id}
    target: {table: "Plays-{environment}", key: play_id}
    attributes:
      track: {column: [album, nr], references: {entity: track, part: sk}, optional: true}
      at: {column: at, type: string}
  log:
    source: {table: log, key: rowid, where: "level > 0"}
    target: {table: "Log-{environment}", key: log_id}
    attributes:
      line: {column: line, type: string}
    identity: [[line]]
"""


@pytest.fixture
def music(library: Library, tmp_path: Path) -> Driver:
    return make_driver(library, tmp_path, SCHEMA, MAPPING)


def expect_music(driver: Driver) -> None:
    """Compare every table with the source."""
    assert read(driver, "artist", "id") == {
        (key,): {"name": name} for key, name in select(driver, "SELECT id, name FROM artist")
    }
    albums = {}
    query = "SELECT code, title, artist_id, (SELECT id FROM artist WHERE name = producer) FROM album"
    for code, title, artist, producer in select(driver, query):
        item = albums[f"ALBUM#{code}",] = {"title": title, "artist": artist, "producer": producer}
        if artist is None:
            del item["artist"]
        else:
            item["label"] = f"{title} by {artist}"
        if title == "":
            del item["title"]
    assert read(driver, "album", "pk") == albums
    assert read(driver, "track", "album", "sk") == {
        (f"ALBUM#{album}", f"TRACK#{nr:04}"): {
            "title": title, "day": day and day[:10], "tags": sorted(tags.split(",")) if tags else None,
        }
        for album, nr, title, day, tags in select(driver, "SELECT * FROM track")
    }  # fmt: skip
    plays = sorted((item["at"], item["track"]) for item in read(driver, "play", "play_id").values())
    wanted = select(driver, "SELECT at, CASE WHEN album IS NOT NULL THEN printf('TRACK#%04d', nr) END FROM play")
    assert plays == sorted(wanted)
    lines = sorted(item["line"] for item in read(driver, "log", "log_id").values())
    assert lines == sorted(line for (line,) in select(driver, "SELECT line FROM log WHERE level > 0"))


def test_keys_are_kept_and_references_hold_them(music: Driver) -> None:
    report = music.run()
    assert report.status == "verified"
    expect_music(music)
    again = later(music)
    assert again.run().status == "unchanged"


def test_edits_are_written_alone_and_undone(music: Driver) -> None:
    music.run()
    before = scan_all(music)
    edit(
        music,
        """
        UPDATE artist SET name = 'Nina S.' WHERE id = 1;
        UPDATE album SET producer = 'Nina S.' WHERE code = '雪';
        UPDATE album SET artist_id = NULL WHERE code = 'A-1';
        DELETE FROM track WHERE nr = 10; UPDATE play SET nr = 1 WHERE id = 7;
        INSERT INTO track VALUES ('b 2', 3, 'New', NULL, 'p');
        UPDATE log SET level = 0 WHERE line = 'started';
        """,
    )
    second = later(music)
    report = second.run()
    assert report.status == "verified"
    expect_music(second)
    counts = {name: second.index(name).counts for name in second.mapping.entities}
    assert [(c.put, c.updated, c.deleted) for c in counts.values()] == [
        (0, 1, 0), (0, 1, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1),
    ]  # fmt: skip
    second.undo()
    assert scan_all(music) == before
    music.undo()
    assert not any(music.scan(name) for name in music.mapping.entities)


def test_a_key_that_comes_back_is_the_same_key(music: Driver) -> None:
    music.run()
    edit(music, "DELETE FROM play WHERE id = 8; DELETE FROM track WHERE nr = 2")
    later(music).run()
    edit(music, "INSERT INTO track VALUES ('雪', 2, 'Again', NULL, ''); INSERT INTO play VALUES (8, '雪', 2, 'again')")
    third = later(music)
    assert third.run().status == "verified"
    expect_music(third)


@pytest.mark.parametrize(
    ("edits", "entity", "rejects"),
    [
        ("INSERT INTO track VALUES ('A-1', NULL, 'x', NULL, '')", "track",
         {'["A-1",null]': "album, nr: a part of the key is neither an integer nor text"}),
        ("INSERT INTO track VALUES ('A-1', -1, 'x', NULL, '')", "track",
         {'["A-1",-1]': "nr: sk: -1 is not a whole number from 0 with at most 4 digits"}),
        ("INSERT INTO track VALUES ('A-1', 12345, 'x', NULL, '')", "track",
         {'["A-1",12345]': "nr: sk: 12345 is not a whole number from 0 with at most 4 digits"}),
        ("INSERT INTO album VALUES ('a' || char(0) || 'b', 'x', NULL, NULL);"
         "INSERT INTO track SELECT code, 1, 'x', NULL, '' FROM album WHERE title = 'x'", "track",
         {'["a\\u0000b",1]': "album, nr: a part of the key has a NUL character"}),
        ("INSERT INTO track VALUES ('none', 1, 'x', NULL, '')", "track",
         {'["none",1]': "album: album 'none' refers to no album"}),
        ("INSERT INTO track VALUES ('A-1', 3, 'x', 'noon', '')", "track",
         {'["A-1",3]': "days: day: 'noon' is not a day, such as 2026-01-05"}),
        ("INSERT INTO track VALUES ('A-1', 3, 'x', NULL, 'a,a')", "track",
         {'["A-1",3]': "tags: tags: 'a,a' has an element twice, which a set cannot hold"}),
        ("INSERT INTO album VALUES ('c', 'x', 99, NULL)", "album",
         {"c": "artist_id: artist_id 99 refers to no artist"}),
        ("INSERT INTO album VALUES ('c', 'x', NULL, 'Nobody')", "album",
         {"c": "producer: producer 'Nobody' refers to no artist"}),
        ("INSERT INTO play VALUES (10, 'A-1', 99, 'x')", "play",
         {10: "album, nr: album, nr 'A-1', 99 refers to no track"}),
        ("INSERT INTO play VALUES (10, X'00', 99, 'x')", "play",
         {10: "album, nr: album, nr a BLOB of 1 bytes, 99 refers to no track"}),
    ],
)  # fmt: skip
def test_a_row_that_cannot_have_its_key_is_a_reject(
    music: Driver, edits: str, entity: str, rejects: dict[Any, str]
) -> None:
    edit(music, edits)
    driver = later(music, max_rejects=5)
    driver.run()
    assert driver.rejects(entity) == rejects


@pytest.mark.parametrize("where", ["levle > 0", "level >", "1) UNION SELECT (1"])
def test_a_condition_that_sqlite_refuses_is_one_sentence(music: Driver, tmp_path: Path, where: str) -> None:
    path = tmp_path / "music.yaml"
    path.write_text(MAPPING.replace("level > 0", where))
    driver = Driver(music.library, music.source, mapping=load_mapping(path))
    driver.start()
    with pytest.raises(SourceError, match=r"entities.log.source.where: SQLite refuses it .*\. Correct the mapping\."):
        driver.stage("log")


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ("CREATE TABLE other AS SELECT * FROM artist; INSERT INTO other VALUES (9, 'Nina'); DROP TABLE artist;"
         "ALTER TABLE other RENAME TO artist", "Key column name of table artist .* holds a value more than once"),
        ("ALTER TABLE artist RENAME COLUMN name TO title", "Table artist .* has no column name"),
        ("DROP TABLE log; CREATE TABLE log (line TEXT PRIMARY KEY, level) WITHOUT ROWID", "log .* has no rowid"),
        ("DROP TABLE track; CREATE TABLE track (album, nr, title, days, tags);"
         "INSERT INTO track VALUES ('A-1', 1, 1, 1, 1), ('A-1', 1, 2, 2, 2)",
         "Key columns album, nr of table track .* hold the same values more than once"),
        ("DROP TABLE artist; CREATE TABLE artist (id TEXT PRIMARY KEY, name TEXT UNIQUE)",
         r"has the key id \(N\), the mapping says id \(S\)"),
    ],
)  # fmt: skip
def test_a_source_whose_keys_are_others_is_refused_before_the_run(music: Driver, edits: str, message: str) -> None:
    edit(music, edits)
    with pytest.raises(AccessionError, match=message):
        music.preflight()


def test_a_key_of_two_attributes_has_no_nul_which_would_end_what_a_child_refers_to(
    music: Driver, tmp_path: Path
) -> None:
    path = tmp_path / "music.yaml"
    path.write_text(MAPPING.replace('{pk: "ALBUM#{code}"}', '{pk: "ALBUM#{code}", code: keep}').replace(
        "{column: album, references: album}", "{column: album, references: {entity: album, part: pk}}"
    ))  # fmt: skip
    edit(music, "INSERT INTO album VALUES ('a' || char(0) || 'b', 'x', NULL, NULL);"
                "INSERT INTO track SELECT code, 1, 'x', NULL, '' FROM album WHERE title = 'x'")  # fmt: skip
    driver = Driver(music.library, music.source, mapping=load_mapping(path))
    driver.start()
    for name in ("artist", "album", "track"):
        driver.stage(name)
    assert driver.rejects("album") == {
        "a\0b": "code: pk has a NUL character, which a key of two attributes cannot hold"
    }


def test_a_run_is_undone_although_the_mapping_has_more_entities_by_now(music: Driver, tmp_path: Path) -> None:
    music.run()
    path = tmp_path / "more.yaml"
    path.write_text(MAPPING + """
  label:
    source: {table: artist, key: id}
    target: {table: "Labels-{environment}", key: {id: keep}}
""")  # fmt: skip
    more = load_mapping(path)
    with closing(sqlite3.connect(music.source)) as db:
        schemas = find_key_schemas(more, find_affinities(db, more))
    table = define_table(more, "label", schemas, music.library.environment)
    music.library.aws.client("dynamodb").create_table(**table)
    run = Run.load(music.store, more, music.run_name, music.connect())
    run.check_undo()
    run.undo("the tests")
    assert not any(music.scan(name) for name in music.mapping.entities)


def test_a_child_of_a_rejected_parent_says_so(music: Driver) -> None:
    edit(
        music,
        "INSERT INTO track VALUES ('A-1', 3, 'x', 'noon', ''); INSERT INTO play VALUES (11, 'A-1', 3, 'x');"
        "INSERT INTO artist VALUES (4, X'00'); INSERT INTO album VALUES ('d', 'x', NULL, X'00')",
    )
    driver = later(music, max_rejects=5)
    driver.run()
    assert driver.rejects("play") == {
        11: "album, nr: album, nr 'A-1', 3 refers to a row of track that was rejected itself"
    }


def test_every_auditor_finds_the_target_sound_and_an_altered_item_not(music: Driver, tmp_path: Path) -> None:
    music.run()
    edit(music, "DELETE FROM play WHERE id = 8; DELETE FROM track WHERE nr = 2")
    later(music).run()
    edit(music, "INSERT INTO track VALUES ('雪', 2, 'Again', NULL, ''); UPDATE artist SET name = 'O.' WHERE id = -3")
    last = later(music)
    last.run()
    assert audit_target(music.store).ok
    folder = tmp_path / "bucket"
    for path in music.store.list():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(music.store.get(path))
    exports = {name: tmp_path / f"export-{name}" for name in music.mapping.entities}

    def find(change: Callable[[str], str] = str) -> list[str]:
        for name, place in exports.items():
            place.mkdir(exist_ok=True)
            with gzip.open(place / "a.json.gz", "wt") as lines:
                lines.writelines(
                    change(json.dumps({"Item": item}, ensure_ascii=False)) + "\n" for item in music.scan(name)
                )
        target = Target(folder)
        target.verify(exports)
        return target.findings

    assert find() == []
    assert find_damage(folder) == set()
    [finding] = find(lambda line: line.replace("Again", "Altered"))
    assert finding.startswith("export of track: 1 differ")
    with closing(sqlite3.connect(max(folder.glob(f"runs/{last.run_name}/id_map/track*.db")))) as db, db:
        assert db.execute("SELECT key_0, key_1 FROM id_map WHERE latest AND new_id LIKE '%0002%'").fetchall() == [
            ("雪", 2)
        ]
