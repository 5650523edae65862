"""A snapshot holds every committed row of one moment, has one digest for one content, and spares the source."""

import hashlib
import signal
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import pytest
from test_source import SCHEMA, make, state

from accession.errors import SourceError
from accession.source import database as source
from accession.source import open_snapshot, snapshot, source_changed, take_snapshot
from accession.source.database import count_rows
from second_process import WAIT, WAL_WRITER, die, run, running

INVALID = "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); INSERT INTO t VALUES "


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the snapshot goes: another folder, so that nothing of it is taken for the source's."""
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "snapshot.db"


def test_a_snapshot_says_what_it_holds(tmp_path: Path, out: Path) -> None:
    path = make(tmp_path / "library.db")
    before = state(path)
    taken = take_snapshot(path, out)
    assert taken.rows == {"user": 1, "user_book": 2}
    assert taken.sha256 == hashlib.sha256(out.read_bytes()).hexdigest()
    assert taken.bytes == out.stat().st_size == path.stat().st_size
    assert taken.foreign_key_violations == {}
    assert stat.S_IMODE(out.stat().st_mode) == 0o600, "it holds password hashes"
    assert list(out.parent.iterdir()) == [out]
    assert state(path) == before


def test_all_rows_in_the_wal_of_a_running_application_are_in_it(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "library.db"
    with running(WAL_WRITER + WAIT, path):
        before = state(path)
        assert take_snapshot(path, out).rows == {"book": 1000}
        assert state(path) == before
    with closing(open_snapshot(out)) as db:
        assert db.execute("SELECT count(DISTINCT title) FROM book").fetchone() == (1000,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert list(out.parent.iterdir()) == [out]


def test_all_rows_in_the_wal_of_a_killed_application_are_in_it(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "library.db"
    die(WAL_WRITER, path)
    before = state(path)
    assert take_snapshot(path, out).rows == {"book": 1000}
    assert state(path) == before


def test_an_open_transaction_is_not_in_it(tmp_path: Path, out: Path) -> None:
    path = tmp_path / "library.db"
    with running(WAL_WRITER + "db.execute(\"INSERT INTO book (title) VALUES ('not yet')\")" + WAIT, path):
        assert take_snapshot(path, out).rows == {"book": 1000}


def test_the_same_content_has_the_same_digest(tmp_path: Path, out: Path) -> None:
    path = make(tmp_path / "library.db")
    first = take_snapshot(path, out).sha256
    assert take_snapshot(path, out).sha256 == first, "again"
    run("db = sqlite3.connect(path)\ndb.execute('PRAGMA journal_mode = WAL')\ndb.close()", path)
    assert take_snapshot(path, out).sha256 == first, "in another journal mode"
    no_change = (
        "db = sqlite3.connect(path)\n"
        "db.execute(\"UPDATE user SET email = 'bob@example.org'\")\n"
        "db.execute(\"UPDATE user SET email = 'ada@example.org'\")\n"
        "db.commit()\n"
    )
    die(no_change, path)
    assert (tmp_path / "library.db-wal").stat().st_size > 0
    assert take_snapshot(path, out).sha256 == first, "with a WAL of unchanged pages"
    run("sqlite3.connect(path).execute('PRAGMA wal_checkpoint')", path)
    assert take_snapshot(path, out).sha256 == first, "after a checkpoint"
    run("sqlite3.connect(path).execute('PRAGMA journal_mode = DELETE')", path)
    before = path.read_bytes()
    run(no_change, path)
    assert path.read_bytes() != before, "the header counts the change"
    assert take_snapshot(path, out).sha256 == first, "after a write that ends in the same values"
    assert take_snapshot(out, out.with_name("second.db")).sha256 == first, "of a snapshot, as after a restore"
    run("db = sqlite3.connect(path)\ndb.execute(\"UPDATE user SET email = 'b'\")\ndb.commit()", path)
    assert take_snapshot(path, out).sha256 != first, "one value changed"


def test_the_settled_header_is_one_that_sqlite_trusts_and_writes_on(tmp_path: Path, out: Path) -> None:
    take_snapshot(make(tmp_path / "library.db"), out)
    with closing(sqlite3.connect(out)) as db:
        db.execute("INSERT INTO user_book VALUES (9, 9, 9)")
        db.commit()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert count_rows(out, ["user_book"]) == {"user_book": 3}


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_source_that_is_written_all_the_time_gives_one_moment(
    tmp_path: Path, out: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "STEP_PAGES", 4)  # many steps, so that the writer falls between them
    path = tmp_path / "library.db"
    writer = f"""
db = sqlite3.connect(path, isolation_level=None, timeout=30)
db.execute("PRAGMA journal_mode = {mode}")
db.execute("PRAGMA synchronous = OFF")
db.execute("CREATE TABLE a (n INTEGER, pad TEXT)")
db.execute("CREATE TABLE b (n INTEGER, pad TEXT)")
for n in range(10**9):
    db.execute("BEGIN")
    db.execute("INSERT INTO a VALUES (?, ?)", (n, "x" * 900))
    db.execute("UPDATE a SET n = n + 1 WHERE rowid = ?", (n // 2,))
    db.execute("INSERT INTO b SELECT n, pad FROM a WHERE rowid = last_insert_rowid()")
    db.execute("UPDATE b SET n = n + 1 WHERE rowid = ?", (n // 2,))
    db.execute("COMMIT")
    if n == 300:
        print("ready", flush=True)
"""
    with running(writer, path) as process:
        for _ in range(5):
            rows = take_snapshot(path, out).rows
            assert rows["a"] == rows["b"] > 300
            with closing(open_snapshot(out)) as db:
                assert db.execute("SELECT (SELECT sum(n) FROM a) = (SELECT sum(n) FROM b)").fetchone() == (1,)
        deadline = time.monotonic() + 20
        while count_rows(path, ["a"])["a"] == rows["a"]:
            assert process.poll() is None, "the writer was never disturbed"
            assert time.monotonic() < deadline, "and goes on writing"
            time.sleep(0.02)  # it gives way to a reader for up to 0.1 s


def test_a_signal_stops_the_copying(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Airflow stops a task that takes too long."""
    monkeypatch.setattr(snapshot, "STEP_PAGES", 1)
    path = make(tmp_path / "library.db", "CREATE TABLE t (x); INSERT INTO t VALUES (zeroblob(200000000))")
    sizes: list[int] = []

    def stop(*_: object) -> None:
        sizes.append(sum(copy.stat().st_size for copy in out.parent.glob(".accession-*/copy.db")))
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            take_snapshot(path, out)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sizes[0] < path.stat().st_size / 2
    assert list(out.parent.iterdir()) == []


def test_a_source_that_stays_locked(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BUSY_SECONDS", 0.2)
    path = make(tmp_path / "library.db")
    with (
        running("db = sqlite3.connect(path, isolation_level=None)\ndb.execute('BEGIN EXCLUSIVE')" + WAIT, path),
        pytest.raises(SourceError, match="stayed locked"),
    ):
        take_snapshot(path, out)
    assert list(out.parent.iterdir()) == []


def test_orphans_are_counted_and_do_not_stop_it(tmp_path: Path, out: Path) -> None:
    path = make(
        tmp_path / "library.db",
        """CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE loan (id INTEGER PRIMARY KEY, user_id REFERENCES user, friend TEXT REFERENCES user (name));
        CREATE TABLE pair (a PRIMARY KEY REFERENCES user, b REFERENCES nowhere) WITHOUT ROWID;
        INSERT INTO user VALUES (1, 'ada');
        INSERT INTO pair VALUES (1, NULL), (2, NULL), (3, NULL);""",
    )
    taken = take_snapshot(path, out)
    assert taken.foreign_key_violations == {"pair": 2}
    assert taken.rows == {"user": 1, "loan": 0, "pair": 3}, (
        "loan declares a key that SQLite cannot check: no reason to stop"
    )


def test_damage_that_only_integrity_check_finds_stops_it(tmp_path: Path, out: Path) -> None:
    path = make(tmp_path / "library.db", "CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT); CREATE INDEX i ON t (x);")
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            """INSERT INTO t VALUES (1, 'a'), (2, 'b'); PRAGMA writable_schema = ON;
            UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t (x) WHERE id > 1' WHERE name = 'i';"""
        )
    with pytest.raises(SourceError, match=r"is damaged \(integrity_check: .*\): restore it from a backup"):
        take_snapshot(path, out)
    assert list(out.parent.iterdir()) == [], "no half or bad snapshot ever has its name"


def test_a_destination_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "library.db")
    with pytest.raises(SourceError, match="No such file or directory"):
        take_snapshot(path, tmp_path / "no" / "such" / "folder.db")


def test_an_older_snapshot_is_replaced_whole(tmp_path: Path, out: Path) -> None:
    take_snapshot(make(tmp_path / "library.db"), out)
    take_snapshot(make(tmp_path / "other.db", "CREATE TABLE other (id)"), out)
    assert count_rows(out, ["other"]) == {"other": 0}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_every_text_comes_out_as_it_went_in(tmp_path: Path, out: Path, encoding: str) -> None:
    texts = [
        "",
        "a\0b",
        "\0",
        "Žluťoučký kůň",
        "図書館",
        "📚",
        "\ufeffx",
        "\r\n",
        "x" * 1_000_000,
        None,
        5,
        2.5,
        b"\xff\0",
    ]
    path = tmp_path / "text.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA encoding = '{encoding}'")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, x)")
        db.executemany("INSERT INTO t (x) VALUES (?)", [(text,) for text in texts])
        db.commit()
    take_snapshot(path, out)
    with closing(open_snapshot(out)) as db:
        assert [x for (x,) in db.execute("SELECT x FROM t ORDER BY id")] == texts


def test_text_that_is_not_utf_8_is_seen_and_spares_its_neighbours(tmp_path: Path, out: Path) -> None:
    bad = "(1, 'good'), (2, CAST(X'616263FF' AS TEXT)), (3, CAST(X'EDA080' AS TEXT)), (4, 'also good')"
    take_snapshot(make(tmp_path / "bad.db", INVALID + bad), out)
    with closing(open_snapshot(out)) as db:
        rows = dict(db.execute("SELECT id, x FROM t"))
    assert (rows[1], rows[4]) == ("good", "also good")
    assert rows[2] == "abc\udcff"
    for row in (2, 3):
        with pytest.raises(UnicodeEncodeError):
            rows[row].encode()


def test_half_a_character_in_utf_16_is_seen(tmp_path: Path, out: Path) -> None:
    script = "PRAGMA encoding = 'UTF-16le';" + INVALID + "(1, 'good'), (2, CAST(X'610000D8' AS TEXT))"
    take_snapshot(make(tmp_path / "bad.db", script), out)
    with closing(open_snapshot(out)) as db:
        rows = dict(db.execute("SELECT id, x FROM t"))
    assert rows[1] == "good"
    with pytest.raises(UnicodeEncodeError):
        rows[2].encode()


def test_a_snapshot_cannot_be_written_through_its_connection(tmp_path: Path, out: Path) -> None:
    take_snapshot(make(tmp_path / "library.db"), out)
    with closing(open_snapshot(out)) as db, pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM user")


# --- drift ---------------------------------------------------------------------------------------------------------


def test_drift_is_seen_in_the_wal_in_an_edit_and_in_a_dropped_table(tmp_path: Path, out: Path) -> None:
    path = make(tmp_path / "library.db", "PRAGMA journal_mode = WAL;" + SCHEMA)
    taken = take_snapshot(path, out)

    def drift() -> snapshot.SourceDrift:
        return source_changed(path, taken.sha256, taken.rows, out.parent)

    assert drift() == snapshot.SourceDrift(False, taken.rows)
    die("db = sqlite3.connect(path)\ndb.execute(\"UPDATE user SET email = 'x'\")\ndb.commit()", path)
    assert drift() == snapshot.SourceDrift(True, taken.rows), "an edit that moves no row count"
    die("db = sqlite3.connect(path)\ndb.execute('INSERT INTO user_book VALUES (7, 7, 7)')\ndb.commit()", path)
    assert drift().rows_now == {"user": 1, "user_book": 3}
    run("sqlite3.connect(path).execute('DROP TABLE user_book')", path)
    assert drift() == snapshot.SourceDrift(True, {"user": 1})
    assert list(out.parent.iterdir()) == [out]
    path.unlink()
    with pytest.raises(SourceError, match="There is no file"):
        drift()
