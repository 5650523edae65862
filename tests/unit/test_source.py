"""Opening a source never changes it nor loses a row in silence; every failure is one sentence with its remedy."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from accession.errors import SourceError
from accession.source import check_source, quote
from accession.source import database as source
from accession.source.database import count_rows, reading
from second_process import WAIT, WAL_WRITER, die, run, running

SCHEMA = """
CREATE TABLE user (id INTEGER PRIMARY KEY, username VARCHAR(80) NOT NULL UNIQUE, email TEXT, joined DATETIME);
CREATE TABLE user_book (user_id INTEGER, book_id INTEGER, rating FLOATING POINT, PRIMARY KEY (user_id, book_id));
INSERT INTO user VALUES (1, 'ada', 'ada@example.org', '2026-01-05');
INSERT INTO user_book VALUES (1, 1, 3), (1, 2, 4);
"""


def make(path: Path, script: str = SCHEMA) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(script)
    return path


def state(path: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and time of the source and of everything beside it whose name starts like it; the -shm by name only."""
    files = sorted(path.parent.glob("*.db*"))
    return {f.name: (b"", 0) if f.name.endswith("-shm") else (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def refused(path: Path, **tables: list[str]) -> str:
    with pytest.raises(SourceError) as caught:
        check_source(path, tables or {"user": ["id"]})
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return make(tmp_path / "library.db")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that an unprivileged user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="accession-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def as_nobody(path: Path, table: str) -> str:
    """What `count_rows` says to a user without any rights (root, who passes every permission, steps down first)."""
    include = Path(source.__file__).parents[1]
    return run(
        f"""
sys.path.insert(0, {str(include)!r})
from accession.source.database import count_rows
from accession.errors import SourceError
from pathlib import Path
import encodings.idna, urllib.parse
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    print(count_rows(Path(path), [{table!r}])[{table!r}])
except SourceError as error:
    print("refused:", error)
""",
        path,
    )


# --- what is there -------------------------------------------------------------------------------------------------


def test_shapes_say_what_the_file_declares(library: Path) -> None:
    shapes = check_source(library, {"user": ["id", "username"], "user_book": ["rating"]})
    user, user_book = shapes["user"], shapes["user_book"]
    assert list(user.columns) == ["id", "username", "email", "joined"]
    assert user.columns["username"] == source.Column(
        "username", "VARCHAR(80)", "TEXT", not_null=True, primary_key=False
    )
    assert [c.affinity for c in user.columns.values()] == ["INTEGER", "TEXT", "TEXT", "NUMERIC"]
    assert user_book.columns["rating"].affinity == "INTEGER"  # FLOATING POINT holds INT, which SQLite looks for first
    assert user.key_is_unique("id")
    assert user.key_is_unique("username")
    assert not user.key_is_unique("email")
    assert not user_book.key_is_unique("user_id"), "a part of a composite key alone is not unique"


def test_names_match_in_any_case_and_come_back_as_asked(library: Path) -> None:
    shape = check_source(library, {"USER": ["UserName"]}, keys=[("USER", ["ID"])])["USER"]
    assert shape.columns["UserName"].name == "username"
    assert shape.columns["ID"].primary_key


def test_odd_tables_are_read(tmp_path: Path) -> None:
    path = make(
        tmp_path / "odd.db",
        """CREATE TABLE "select ""all"" [x]; --" ("a ""b"" c" TEXT, plain, doubled AS (plain * 2));
        INSERT INTO "select ""all"" [x]; --" VALUES ('x', 1);
        CREATE TABLE compact (code TEXT PRIMARY KEY, v REAL) WITHOUT ROWID;
        INSERT INTO compact VALUES ('a', 1), ('b', 2);
        CREATE VIEW both AS SELECT code, v * 2 AS w FROM compact;
        CREATE UNIQUE INDEX part ON compact (v) WHERE v > 1;""",
    )
    odd = 'select "all" [x]; --'
    shapes = check_source(
        path, {odd: ['a "b" c', "doubled"], "compact": ["code"], "both": ["w"]}, keys=[("both", ["code"])]
    )
    assert shapes["compact"].key_is_unique("code")
    assert not shapes["compact"].key_is_unique("v"), "a partial index proves nothing of the other rows"
    assert shapes[odd].columns["plain"].affinity == "BLOB"
    assert count_rows(path, [odd, "compact", "both"]) == {odd: 1, "compact": 2, "both": 2}


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("name", ["a b.db", "what?.db", "no#1.db", "100%25.db", "Bücher.db", "file:x?mode=rw.db"])
def test_any_file_name_and_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    path = make(tmp_path / name, f"PRAGMA encoding = '{encoding}'; CREATE TABLE book (id); INSERT INTO book VALUES (1)")
    assert count_rows(path, ["book"]) == {"book": 1}
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_link_is_read_with_the_wal_of_the_real_file(tmp_path: Path) -> None:
    (real := tmp_path / "real").mkdir()
    (link := tmp_path / "link.db").symlink_to(real / "library.db")
    die(WAL_WRITER, real / "library.db")
    assert count_rows(link, ["book"]) == {"book": 1000}


# --- the WAL, and leaving no trace ---------------------------------------------------------------------------------


def test_rows_that_are_only_in_the_wal_are_read_beside_a_running_application(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    with running(WAL_WRITER + WAIT, path):
        before = state(path)
        assert (tmp_path / "library.db-wal").stat().st_size > 0
        assert count_rows(path, ["book"]) == {"book": 1000}
        assert state(path) == before


def test_rows_that_a_killed_application_left_in_the_wal_are_read(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    die(WAL_WRITER, path)
    before = state(path)
    assert "library.db-wal" in before
    assert count_rows(path, ["book"]) == {"book": 1000}
    assert state(path) == before
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        assert db.execute("SELECT count(*) FROM book").fetchone() == (0,), "else this test proves nothing"


def test_a_wal_without_its_shm_is_read_and_gets_none(tmp_path: Path) -> None:
    die(WAL_WRITER, tmp_path / "library.db")
    (tmp_path / "library.db-shm").unlink()
    before = state(tmp_path / "library.db")
    assert count_rows(tmp_path / "library.db", ["book"]) == {"book": 1000}
    assert state(tmp_path / "library.db") == before


@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_nothing_stays_behind_beside_a_closed_database(tmp_path: Path, mode: str) -> None:
    path = make(tmp_path / "library.db", f"PRAGMA journal_mode = {mode};" + SCHEMA)
    before = state(path)
    assert list(before) == ["library.db"]
    check_source(path, {"user": ["id"]})
    assert state(path) == before
    with pytest.raises(SourceError):
        check_source(path, {"nothing": []})
    assert state(path) == before


def test_an_application_that_starts_while_we_read_keeps_its_wal(tmp_path: Path) -> None:
    path = make(tmp_path / "library.db", "PRAGMA journal_mode = WAL; CREATE TABLE book (id INTEGER PRIMARY KEY, title)")
    with reading(path) as db:
        process = running(WAL_WRITER.replace('"PRAGMA wal_checkpoint(TRUNCATE)"', '"SELECT 1"') + WAIT, path)
        process.__enter__()
        assert db.execute("SELECT count(*) FROM book").fetchone() == (0,), "the moment of the reading is fixed"
    assert (tmp_path / "library.db-wal").exists()
    assert (tmp_path / "library.db-shm").exists()
    process.__exit__(None, None, None)
    assert count_rows(path, ["book"]) == {"book": 1000}


def test_a_wal_in_a_folder_that_may_not_be_written_is_refused_not_skipped(shared: Path) -> None:
    path = shared / "library.db"
    die(WAL_WRITER, path)
    (shared / "library.db-shm").unlink()
    assert as_nobody(path, "book").startswith(f"refused: {path} is in WAL mode, and its newest rows cannot be read")
    shared.chmod(0o777)
    assert as_nobody(path, "book") == "1000\n"


def test_a_wal_with_its_shm_in_a_read_only_folder_is_read_whole_or_refused(shared: Path) -> None:
    path = shared / "library.db"
    with running(WAL_WRITER + WAIT, path):
        assert as_nobody(path, "book") == "1000\n"
    assert as_nobody(path, "book").startswith(("1000\n", "refused: "))
    (shared / "library.db-wal").chmod(0o600)
    assert as_nobody(path, "book").startswith(f"refused: {path} is in WAL mode")


def test_a_read_only_folder_without_a_wal_is_read(shared: Path) -> None:
    assert as_nobody(make(shared / "library.db"), "user") == "1\n"


def test_a_file_that_may_not_be_read(shared: Path) -> None:
    path = make(shared / "library.db")
    path.chmod(0o600)
    shared.chmod(0o755)
    if os.getuid() == 0:
        assert as_nobody(path, "user") == (
            f"refused: {path} may not be read by this user: give it read permission on file and folder.\n"
        )
        path.chmod(0o644)
        shared.chmod(0o700)
        assert "may not be read by this user" in as_nobody(path, "user")


# --- what is refused -----------------------------------------------------------------------------------------------


def test_no_such_file_and_none_is_made(tmp_path: Path) -> None:
    assert refused(tmp_path / "gone.db").startswith("There is no file")
    assert refused(tmp_path / "no" / "such" / "gone.db").startswith("There is no file")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    (tmp_path / "loop.db").symlink_to(tmp_path / "loop.db")
    for path in (tmp_path / "loop.db", tmp_path / ("x" * 300), tmp_path / "a\0b"):
        assert "cannot be opened" in refused(path)


def test_things_that_are_no_database(tmp_path: Path, library: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not an ordinary file" in refused(tmp_path / "pipe")
    (tmp_path / "empty.db").touch()
    assert "is empty (0 bytes)" in refused(tmp_path / "empty.db")
    (tmp_path / "text.db").write_text("id,title\n1,Emma\n" * 1000)
    assert "not a SQLite database, or it is encrypted" in refused(tmp_path / "text.db")
    (tmp_path / "cipher.db").write_bytes(os.urandom(16384))
    assert "not a SQLite database, or it is encrypted" in refused(tmp_path / "cipher.db")
    plain_magic = library.read_bytes()[:16] + os.urandom(16368)  # some ciphers leave the magic in the clear
    (tmp_path / "magic.db").write_bytes(plain_magic)
    assert "not a SQLite database, or it is encrypted" in refused(tmp_path / "magic.db")


@pytest.mark.parametrize("left", [40, 100, 4095, 4096, 5000, 8192, -4096, -1])
def test_a_truncated_file(tmp_path: Path, left: int) -> None:
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) INSERT INTO user "
    path = make(tmp_path / "cut.db", SCHEMA + "DELETE FROM user;" + rows + "SELECT i, 'user ' || i, 'x', 'y' FROM n")
    path.write_bytes(path.read_bytes()[:left])
    assert "truncated" in refused(path)


def test_a_damaged_page_is_found_before_anything_else(tmp_path: Path) -> None:
    path = make(tmp_path / "bad.db", SCHEMA)
    data = bytearray(path.read_bytes())
    data[2 * 4096 - 60 : 2 * 4096] = b"\xff" * 60
    data[4096:4108] = b"\x0d" + b"\xff" * 11
    path.write_bytes(data)
    assert "damaged" in refused(path)


def test_a_hot_journal_is_refused_and_left_for_the_application(tmp_path: Path) -> None:
    path = tmp_path / "library.db"
    die(
        """
db = sqlite3.connect(path, isolation_level=None)
db.execute("CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT)")
db.execute("INSERT INTO book (title) VALUES ('committed')")
db.execute("PRAGMA cache_size = 5")
db.execute("BEGIN")
db.executemany("INSERT INTO book (title) VALUES (?)", [("x" * 500,)] * 2000)
""",
        path,
    )
    before = state(path)
    assert "library.db-journal" in before
    assert "hot journal" in refused(path, book=["id"])
    assert state(path) == before
    with closing(sqlite3.connect(path)) as db:  # the remedy that the message names
        assert db.execute("SELECT count(*) FROM book").fetchone() == (1,)
    assert count_rows(path, ["book"]) == {"book": 1}


def test_a_lock_is_waited_for_and_then_named(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BUSY_SECONDS", 0.2)
    hold = "db = sqlite3.connect(path, isolation_level=None)\ndb.execute('BEGIN EXCLUSIVE')"
    with running(hold + WAIT, library):
        assert "stayed locked by another process for 0.2 s" in refused(library)
    monkeypatch.setattr(source, "BUSY_SECONDS", 20)
    with running(hold + "\nprint('ready', flush=True)\ntime.sleep(0.5)\ndb.execute('COMMIT')\n", library):
        assert count_rows(library, ["user"]) == {"user": 1}


def test_the_wrong_schema_names_what_is_there(library: Path) -> None:
    assert "has no table users (it has user" in refused(library, users=["id"])
    assert "has no table zebra (it has user, user_book)" in refused(library, zebra=["id"])
    assert "has no column mail (it has id, username, email, joined)" in refused(library, user=["id", "mail"])
    nothing = make(library.with_name("nothing.db"), "PRAGMA user_version = 1")
    assert "no tables at all" in refused(nothing)


def test_a_key_that_is_not_unique(library: Path) -> None:
    with pytest.raises(SourceError, match=r"Key column user_id of table user_book .* more than once"):
        check_source(library, {"user_book": ["rating"]}, keys=[("user_book", ["user_id"])])
    check_source(library, {"user_book": ["rating"]}, keys=[("user_book", ["book_id"])])
    with pytest.raises(SourceError, match="has no column nr"):
        check_source(library, {"user_book": ["rating"]}, keys=[("user_book", ["nr"])])


def test_keys_that_differ_only_in_case_are_two(tmp_path: Path) -> None:
    path = make(tmp_path / "case.db", "CREATE TABLE t (k TEXT COLLATE NOCASE); INSERT INTO t VALUES ('a'), ('A')")
    assert not check_source(path, {"t": ["k"]}, keys=[("t", ["k"])])["t"].key_is_unique("k")


def test_a_view_that_does_not_work(tmp_path: Path) -> None:
    path = make(tmp_path / "view.db", "CREATE TABLE t (a); CREATE VIEW v AS SELECT a FROM t; DROP TABLE t")
    assert "no such table: main.t" in refused(path, v=["a"])


def test_quoted_names_cannot_end_the_quotes() -> None:
    assert quote('a" OR "1') == '"a"" OR ""1"'
