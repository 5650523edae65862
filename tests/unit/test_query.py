"""SQL of a mapping reads the source and nothing else, and its result depends on nothing else."""

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.errors import SourceError
from accession.source import check_queries, describe_query, guarding, materialise_query, open_snapshot

SCHEMA = """
CREATE TABLE note (
    id INTEGER PRIMARY KEY, day DATETIME, done BOOLEAN, text TEXT COLLATE NOCASE, price REAL,
    week TEXT AS (strftime('%Y-%W', day)), CHECK (date(day) > '2000')
);
CREATE INDEX by_month ON note (date(day, 'start of month'));
CREATE VIEW late AS SELECT * FROM note WHERE day < date('now');
CREATE VIEW sample AS SELECT * FROM note WHERE random() % 2;
CREATE VIRTUAL TABLE words USING fts5 (text);
INSERT INTO note VALUES (1, '2026-01-05', 1, 'one', 1.5), (2, '2026-02-01', 0, 'Two', 2), (3, NULL, NULL, NULL, NULL);
INSERT INTO words SELECT text FROM note;
"""
BEYOND = "is not allowed, since its result depends on more than the source. Correct the mapping."
CLOCK = f"without a date, with 'now', 'localtime' or 'utc' {BEYOND}"
READ = "it may do nothing but read the tables of the source. Correct the mapping."


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(SCHEMA)
    return path


@pytest.fixture
def snapshot(source: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_snapshot(source)) as db:
        yield db


def execute(db: sqlite3.Connection, sql: str) -> list[tuple[Any, ...]]:
    with guarding(db, "entities.note.source.query"):
        return db.execute(sql).fetchall()


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        ("SELECT random()", f"random {BEYOND}"),
        ("SELECT hex(randomblob(4))", f"randomblob {BEYOND}"),
        ("SELECT id FROM note ORDER BY RANDOM() LIMIT 1", f"random {BEYOND}"),
        ("SELECT * FROM sample", f"random {BEYOND}"),
        ("SELECT changes(), total_changes()", f"changes {BEYOND}"),
        ("SELECT last_insert_rowid()", f"last_insert_rowid {BEYOND}"),
        ("SELECT sqlite_version()", f"sqlite_version {BEYOND}"),
        ("SELECT load_extension('x')", f"load_extension {BEYOND}"),
        ("SELECT CURRENT_TIMESTAMP", f"current_timestamp {BEYOND}"),
        ("SELECT current_date", f"current_date {BEYOND}"),
        ("SELECT current_time", f"current_time {BEYOND}"),
        ("SELECT date()", f"date() {CLOCK}"),
        ("SELECT time('now')", f"time() {CLOCK}"),
        ("SELECT DATETIME('NOW')", f"datetime() {CLOCK}"),
        ("SELECT julianday(x'6e6f77')", f"julianday() {CLOCK}"),
        ("SELECT unixepoch('now')", f"unixepoch() {CLOCK}"),
        ("SELECT strftime('%Y')", f"strftime() {CLOCK}"),
        ("SELECT datetime(day, 'localtime') FROM note", f"datetime() {CLOCK}"),
        ("SELECT datetime(day, 'utc') FROM note", f"datetime() {CLOCK}"),
        ("SELECT date(text) FROM (SELECT 'no' || substr(text, 1, 0) || 'w' AS text FROM note)", f"date() {CLOCK}"),
        ("SELECT * FROM late", f"date() {CLOCK}"),
        ("SELECT date(CAST(x'c3' AS TEXT))", "a date function is given a text that is not valid Unicode."),
        ("SELECT * FROM head.id_map", READ),
        ("SELECT * FROM temp.sqlite_schema", READ),
        ("SELECT * FROM pragma_table_info('note')", READ),
        ("ATTACH ':memory:' AS other", READ),
        ("PRAGMA user_version", READ),
        ("CREATE TEMP TABLE x (y)", READ),
        ("DELETE FROM note", READ),
        ("BEGIN", READ),
        ("UPDATE note SET text = 1", "SQLite refuses it (attempt to write a readonly database)."),
        ("SELECT 1; SELECT 2", "SQLite refuses it (You can only execute one statement at a time.)."),
        ("SELECT ?", "SQLite refuses it (Incorrect number of bindings supplied."),
        ("SELECT txet FROM note", "SQLite refuses it (no such column: txet)."),
        ("SELECT json('{')", "SQLite refuses it (malformed JSON)."),
    ],
)
def test_what_is_refused(snapshot: sqlite3.Connection, sql: str, fault: str) -> None:
    snapshot.execute("ATTACH ':memory:' AS head")
    snapshot.execute("CREATE TABLE head.id_map (old_key)")
    with pytest.raises(SourceError) as refused:
        execute(snapshot, sql)
    assert str(refused.value).startswith(f"entities.note.source.query: {fault}")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT date(day), date(day, '+1 month', 'weekday 1'), strftime('%s %%', day), unixepoch(day) FROM note",
        "SELECT date('tomorrow'), date(NULL), time(0.25), julianday(2461000), datetime(1, 'unixepoch') FROM note",
        "SELECT id FROM note WHERE date(day, 'start of month') = '2026-01-01'",
        "SELECT id, week FROM note",
        "SELECT count(*), sum(price), group_concat(text), json_group_array(json_object('a', text)) FROM note",
        "SELECT row_number() OVER (ORDER BY id), lag(text) OVER (ORDER BY id) FROM note",
        "SELECT value FROM note, json_each('[1, 2]')",
        "SELECT count(*) FROM note, json_each('[1, 2]')",
        "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 5) SELECT x FROM n",
        "SELECT rowid FROM words WHERE words MATCH 'one'",
        "VALUES (1), (2)",
    ],
)
def test_what_is_allowed_has_the_result_that_sqlite_gives(snapshot: sqlite3.Connection, source: Path, sql: str) -> None:
    with closing(sqlite3.connect(source)) as db:
        assert execute(snapshot, sql) == db.execute(sql).fetchall()


def test_an_index_over_a_date_is_used(snapshot: sqlite3.Connection) -> None:
    sql = "EXPLAIN QUERY PLAN SELECT id FROM note WHERE date(day, 'start of month') = '2026-01-01'"
    execute(snapshot, "SELECT 1")
    assert "USING INDEX by_month" in str(snapshot.execute(sql).fetchall())


def test_nothing_is_guarded_after_the_block_but_dates(snapshot: sqlite3.Connection) -> None:
    execute(snapshot, "SELECT 1")
    assert snapshot.execute("SELECT count(random())").fetchone() == (1,)
    snapshot.execute("CREATE TEMP TABLE x (y)")
    with pytest.raises(sqlite3.OperationalError):
        snapshot.execute("SELECT date('now')")


def test_a_fault_of_the_disk_is_no_fault_of_the_mapping(snapshot: sqlite3.Connection) -> None:
    execute(snapshot, "SELECT 1")
    snapshot.execute("CREATE TEMP TABLE x (y)")
    snapshot.execute("PRAGMA temp.max_page_count = 20")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        execute(snapshot, "INSERT INTO temp.x SELECT zeroblob(1000000)")


def test_a_query_without_end_lets_a_signal_stop_it(snapshot: sqlite3.Connection) -> None:
    """As Airflow's time limit does. Nothing else would: SQLite's own loop runs no code of ours."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGUSR1, stop)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        with pytest.raises(sqlite3.OperationalError, match="interrupted"):
            execute(snapshot, "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n")
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_a_column_has_the_affinity_of_what_it_is(snapshot: sqlite3.Connection) -> None:
    query = "SELECT n.*, CAST(id AS TEXT) AS name, id + 0 AS number, max(id) AS most FROM note n GROUP BY id -- all"
    columns = ("id", "Day", "done", "text", "price", "name", "number", "most")
    assert describe_query(snapshot, "", query, columns) == {
        "id": "INTEGER", "day": "NUMERIC", "done": "NUMERIC", "text": "TEXT", "price": "REAL", "name": "TEXT",
        "number": "BLOB", "most": "BLOB",
    }  # fmt: skip
    assert snapshot.execute("SELECT * FROM temp.sqlite_schema").fetchall() == []


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("SELECT id, day FROM note", "SQLite refuses it (no such column: q.text)."),
        ("SELECT text FROM note;", 'SQLite refuses it (near ";": syntax error).'),
        ("DELETE FROM note", 'SQLite refuses it (near "DELETE": syntax error).'),
        ("SELECT random() AS text", f"random {BEYOND}"),
    ],
)
def test_a_query_is_checked_in_the_source_before_a_run(source: Path, query: str, fault: str) -> None:
    before = source.read_bytes()
    with pytest.raises(SourceError) as refused:
        check_queries(source, {"entities.note.source.query": (query, ("text",))})
    assert str(refused.value).startswith(f"entities.note.source.query: {fault}")
    assert source.read_bytes() == before
    assert list(source.parent.iterdir()) == [source]


MIXED = """
SELECT id, day, done, text, price FROM note
UNION ALL SELECT '007', '2026', 'x', 5, '2.50' UNION ALL VALUES (NULL, x'00', 1, 1e300, 'a' || char(0))
"""


def test_values_stay_as_the_query_gives_them_but_for_the_affinity_of_the_key(snapshot: sqlite3.Connection) -> None:
    columns = ("id", "day", "done", "text", "price")
    materialise_query(snapshot, "", MIXED, "rows", columns, ("id",), ())
    read = "SELECT {}, typeof(day), quote(day), done, typeof(done), quote(text), quote(price) FROM {} ORDER BY rowid"
    found = snapshot.execute(read.format("quote(id)", "temp.rows")).fetchall()
    ids = [row[0] for row in found]
    assert ids == ["1", "2", "3", "7", "NULL"]
    direct = "typeof(day), quote(day), done, typeof(done), quote(text), quote(price)"
    assert [row[1:] for row in found] == snapshot.execute(f"SELECT {direct} FROM ({MIXED})").fetchall()


def test_rows_of_a_query_are_on_disk_and_found_by_index(snapshot: sqlite3.Connection) -> None:
    materialise_query(snapshot, "", "SELECT id || '-' AS k, text FROM note", "rows", ("k", "text"), ("k",), ("text",))
    plan = "EXPLAIN QUERY PLAN SELECT * FROM temp.rows WHERE {} = 'x'"
    assert "USING INDEX key of rows" in str(snapshot.execute(plan.format("k")).fetchall())
    assert "USING INDEX text of rows" in str(snapshot.execute(plan.format("text")).fetchall())
    assert snapshot.execute("PRAGMA temp_store").fetchone() == (1,)


def test_a_column_that_references_use_has_each_value_once(snapshot: sqlite3.Connection) -> None:
    query = "SELECT id, lower('ONE') AS text FROM note"
    with pytest.raises(SourceError, match=r"its column text, .* more than once: refer to a column that is unique"):
        materialise_query(snapshot, "", query, "rows", ("id", "text"), ("id",), ("text",))
