"""`make lint-mapping` finds each fault of a mapping at once, with its line, and what would be rejected, without AWS."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accession.cli.lint import lint_files
from accession.cli.main import main
from accession.errors import MappingError, SourceError
from accession.mapping import find_line

SCHEMA = """
CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT, born TEXT, secret TEXT);
CREATE TABLE album (id INTEGER PRIMARY KEY, artist INTEGER, title TEXT);
CREATE TABLE track (album INTEGER, nr INTEGER, title TEXT);
INSERT INTO artist VALUES (1, 'Nina', '1933-02-21', 'x'), (2, 'Abbey', NULL, NULL), (3, 'Odetta', '1930-12-31', '7');
INSERT INTO album VALUES (1, 1, 'Pastel'), (2, 3, 'Blues');
INSERT INTO track VALUES (1, 2, 'Two'), (1, 1, 'One'), (2, 1, 'Only');
"""
MAPPING = """\
name: music
entities:
  artist:
    source: {table: artist, key: id}
    target: {table: "Artists-{environment}", key: {id: keep}}
    attributes:
      name: {column: name, type: string}
      born:
        column: born
        type: date
      secret: {column: secret, type: string, sensitive: true}
  album:
    source:
      key: id
      query: |
        SELECT id, artist, (SELECT json_group_array(title)
            FROM (SELECT title FROM track WHERE album = a.id ORDER BY nr)) AS tracks FROM album a
    target: {table: "Albums-{environment}", key: {id: keep}}
    attributes:
      artist: {column: artist, references: artist}
      tracks: {column: tracks, type: json}
    indexes: {by-artist: [artist]}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "music.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)
    return path


def lint(source: Path, capsys: pytest.CaptureFixture[str], *changes: tuple[str, str], edits: str = "") -> list[str]:
    """Lint MAPPING with texts replaced, and return the exit code and what was printed, without the file's path."""
    text, path = MAPPING, source.with_suffix(".yaml")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(edits)
    code = lint_files([path], source)
    return [str(code), *(line.removeprefix(f"{path}:") for line in capsys.readouterr().out.splitlines())]


def test_a_mapping_that_fits(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = source.read_bytes()
    assert lint(source, capsys) == ["0", " it fits the source. Of 5 rows, 0 would be rejected."]
    assert source.read_bytes() == before
    assert sorted(file.name for file in source.parent.iterdir()) == ["music.db", "music.yaml"]


def test_every_fault_is_found_at_once_with_its_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("column: name,", "column: nmae,"), ("column: born", "column: bron"), ("column: tracks", "column: trax")
    assert lint(source, capsys, *changes) == [
        "1",
        "7: entities.artist.attributes.name.column: artist has no column nmae; did you mean name? Known are id, name, "
        "born and secret.",
        "9: entities.artist.attributes.born.column: artist has no column bron; did you mean born? Known are id, name, "
        "born and secret.",
        "21: entities.album.attributes.tracks.column: query of album has no column trax; did you mean tracks? Known "
        "are id, artist and tracks.",
    ]


def test_faults_of_the_file_itself_have_lines_too(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, *lines = lint(source, capsys, ("type: date", "typ: date"), ("[artist]}", "[artits]}"))
    assert code == "1"
    assert [line.split(": ")[0:2] for line in lines] == [
        ["10", "entities.artist.attributes.born.typ"], ["22", "entities.album"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("table: artist,", "table: artits,", "4: entities.artist.source.table: there is no table artits; did you mean "
         "artist? Known are artist, album and track."),
        ("table: artist, key: id", "table: artist, key: born", "4: entities.artist.source.key: Key column born of"),
        ("key: {id: keep}}\n    attributes:\n      name", 'key: {id: "{nr}"}}\n    attributes:\n      name',
         "5: entities.artist.target.key.id: artist has no column nr."),
        ("table: artist,", 'table: artist, where: "nmae > 1",', "4: entities.artist.source.where: SQLite refuses it"),
        ("table: artist,", 'table: artist, where: "born > date()",', "4: entities.artist.source.where: date() without"),
        ("table: artist,", 'table: artist, where: "id IN (SELECT id FROM artist LIMIT 1)",',
         "4: entities.artist.source.where: its column id depends on the order in which SQLite happens to read rows: "
         "write an ORDER BY into what it collects or limits."),
        (" ORDER BY nr", "", "15: entities.album.source.query: its column tracks depends on the order in which SQLite"),
        ("AS tracks FROM album a", "AS tracks FROM album a LIMIT 1", "15: entities.album.source.query: its column id"),
        ("SELECT id, artist,", "SELECT random() id, artist,", "15: entities.album.source.query: random is not allowed"),
        ("references: artist}", "references: {entity: artist, by: nmae}}", "20: entities.album.attributes.artist."
         "references.by: artist has no column nmae; did you mean name?"),
    ],
)  # fmt: skip
def test_each_kind_of_fault(source: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, fault: str) -> None:
    code, line = lint(source, capsys, (old, new), edits="UPDATE artist SET born = '1933-02-21'")
    assert code == "1"
    assert line.startswith(fault)


def test_rows_that_would_be_rejected_are_counted_by_reason(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edits = """
        INSERT INTO artist VALUES (4, 'a', 'soon', NULL), (5, 'b', 'later', NULL), (6, 'c', NULL, x'00');
        INSERT INTO album VALUES (3, 4, ''), (4, 99, ''), (5, 98, ''), (6, NULL, ''), (7, 2, 'fine');
    """
    place, cure = ": entities.", ": correct the rows or the mapping, or allow rejects with max_rejects."
    assert lint(source, capsys, edits=edits) == [
        "0",
        f"3{place}artist: 2 of 6 rows would be rejected (born: 'soon' is not a day, such as 2026-01-05){cure}",
        f"3{place}artist: 1 of 6 rows would be rejected (secret: ••• is a BLOB where the mapping says string){cure}",
        f"12{place}album: 2 of 7 rows would be rejected (artist 99 refers to no artist){cure}",
        f"12{place}album: 1 of 7 rows would be rejected (artist is NULL, it must refer to a row of artist){cure}",
        f"12{place}album: 1 of 7 rows would be rejected "
        f"(artist 4 refers to a row of artist that was rejected itself){cure}",
        " it fits the source. Of 13 rows, 7 would be rejected.",
    ]


def test_limits_of_index_keys_and_repeated_keys_are_rejects(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, *lines = lint(
        source, capsys, ("SELECT id, artist,", "SELECT min(id, 2) AS id, artist,"),
        ("references: artist}", "type: string}"),
        edits="INSERT INTO album VALUES (3, 'x' || printf('%03000d', 1), '')",
    )  # fmt: skip
    assert code == "0"
    assert [line.split(" rows would be rejected ")[-1].split(":")[0] for line in lines[:-1]] == ["(id"]
    _, line, _ = lint(source, capsys, ("references: artist}", "type: string}"))
    assert "(artist has 3,001 bytes; an index key of DynamoDB has at most 2,048)" in line


def test_keys_may_collide_in_several_tables(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, *lines = lint(
        source, capsys, ('Artists-{environment}", key: {id: keep}', 'Artists-{environment}", key: {id: "{name}"}'),
        ('Albums-{environment}", key: {id: keep}', 'Albums-{environment}", key: {id: "{tracks}"}'),
        edits="INSERT INTO artist (id, name) VALUES (4, 'Odetta'), (5, 'Nina');"
              "INSERT INTO album VALUES (3, 2, ''), (4, 2, '')",
    )  # fmt: skip
    assert code == "0"
    assert [line.partition("entities.")[2].partition("): ")[0] for line in lines] == [
        "artist: 4 of 5 rows would be rejected (id: its key Nina is also that of artist 5",
        "album: 2 of 4 rows would be rejected (id: its key [] is also that of album 4",
        "album: 2 of 4 rows would be rejected (artist 1 refers to a row of artist that was rejected itself",
        "",
    ]


def test_a_source_that_cannot_be_read_is_an_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.with_suffix(".yaml").write_text(MAPPING)
    with pytest.raises(SourceError, match="There is no file"):
        lint_files([source.with_suffix(".yaml")], source.with_name("other.db"))
    source.with_suffix(".yaml").write_text("name: [")
    with pytest.raises(MappingError, match=r"line \d: this is not valid YAML"):
        lint_files([source.with_suffix(".yaml")], source)


def test_the_command(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "music.yaml").write_text(MAPPING)
    monkeypatch.setenv("ACCESSION_MAPPINGS", str(tmp_path))
    assert main(["lint-mapping", "--source", str(source), "--mapping", "music"]) == 0
    assert main(["lint-mapping", "--source", str(source), "--mapping", "book_library"]) == 1
    assert main(["lint-mapping", "--mapping", "music"]) == 2
    assert main(["lint-mapping", "--source", str(source), "--mapping", "other"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "SOURCE is missing: make lint-mapping MAPPING=shop SOURCE=/path/to/shop.db."
    assert errors[1].startswith("There is no mapping other: set MAPPING to one of book_library, music")


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("entities.artist.attributes.born.type: x", 10),
        ("entities.artist: attributes.born: x", 8),
        ("entities.artist.attributes.other.type: x", 6),
        ("entities.art: x", 2),
        ("timezone: x", None),
        ("x", None),
    ],
)
def test_a_fault_is_in_the_line_of_its_field_or_of_the_nearest_above(
    tmp_path: Path, fault: str, line: int | None
) -> None:
    (tmp_path / "music.yaml").write_text(MAPPING)
    assert find_line(tmp_path / "music.yaml", fault) == line
