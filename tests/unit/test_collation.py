"""Which collations a schema names, and what is made of those that only the application has."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accession.errors import SourceError
from accession.source import open_snapshot, take_snapshot
from accession.source.collation import find_collations


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("CREATE TABLE t (a TEXT COLLATE unicase, b COLLATE\n NOCASE)", {"unicase", "nocase"}),
        ('CREATE INDEX i ON t (a COLLATE "My Order", b COLLATE [de_DE], c COLLATE `x`, d COLLATE \'y\')',
         {"my order", "de_de", "x", "y"}),
        ("CREATE TABLE t (a TEXT DEFAULT 'COLLATE x', b -- COLLATE y\n, c /* COLLATE\nz */)", set()),
        ('CREATE TABLE "a COLLATE b" ([c COLLATE d], `e COLLATE f`, "g""COLLATE h")', set()),
        ("CREATE TABLE t (a DEFAULT 'it''s COLLATE x', uncollate y)", set()),
    ],
)  # fmt: skip
def test_collations_are_found_where_they_are_meant(sql: str, names: set[str]) -> None:
    assert find_collations(sql) == names


def test_a_source_without_such_collations_is_checked_in_full(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.executescript(
            "CREATE TABLE t (a COLLATE NOCASE PRIMARY KEY, b COLLATE RTRIM UNIQUE); CREATE VIEW v AS SELECT 1;"
        )
    assert take_snapshot(tmp_path / "a.db", tmp_path / "copy.db").unknown_collations == ()
    with closing(open_snapshot(tmp_path / "copy.db")) as db:
        assert not db.unknown and not db.affected


def test_a_null_that_is_none_is_no_damage(tmp_path: Path) -> None:
    """SQLite 3.40 finds one in each row, if the column stands before the key of a table WITHOUT ROWID."""
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.executescript("""
            CREATE TABLE "odd ""t" (a TEXT NOT NULL, "b ""%" TEXT NOT NULL, k PRIMARY KEY) WITHOUT ROWID;
            WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300)
                INSERT INTO "odd ""t" SELECT 'a', 'b', i FROM n;
        """)
    assert take_snapshot(tmp_path / "a.db", tmp_path / "copy.db").rows == {'odd "t': 300}
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:  # SQLite trusts the schema, which now says NOT NULL
        db.executescript("""
            CREATE TABLE u (a TEXT, k PRIMARY KEY) WITHOUT ROWID; INSERT INTO u VALUES (NULL, 1);
            PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = replace(sql, 'a TEXT,', 'a TEXT NOT NULL,')
                WHERE name = 'u'; PRAGMA writable_schema = RESET;
        """)
    with pytest.raises(SourceError, match=r"is damaged \(integrity_check: NULL value in u.a\)"):
        take_snapshot(tmp_path / "a.db", tmp_path / "copy.db")


def test_indexes_that_need_a_function_of_the_application_are_not_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.create_function("fold", 1, str.casefold, deterministic=True)
        db.executescript("""
            CREATE TABLE t (id INTEGER PRIMARY KEY, x TEXT, y AS (fold(x)) UNIQUE); CREATE INDEX i ON t (fold(x));
            CREATE TABLE u (id INTEGER PRIMARY KEY, x TEXT); CREATE INDEX j ON u (x) WHERE x > '';
            INSERT INTO t (x) VALUES ('A'); INSERT INTO u (x) VALUES ('A'), ('');
        """)
    assert take_snapshot(tmp_path / "a.db", tmp_path / "copy.db").rows == {"t": 1, "u": 2}
    assert "The indexes of t cannot be checked" in caplog.text
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.executescript("PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE INDEX j ON u (x)' "
                         "WHERE name = 'j'")  # fmt: skip
    with pytest.raises(SourceError, match=r"is damaged \(integrity_check: .* index j\)"):
        take_snapshot(tmp_path / "a.db", tmp_path / "copy.db")


def test_foreign_keys_that_need_the_collation_are_not_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as db, db:
        db.create_collation("mine", lambda one, other: (one > other) - (one < other))
        db.executescript(
            """CREATE TABLE p (name TEXT COLLATE mine PRIMARY KEY); CREATE TABLE c (id PRIMARY KEY, p REFERENCES p);
            CREATE TABLE d (id PRIMARY KEY, c REFERENCES c);
            INSERT INTO p VALUES ('a'), ('b'); INSERT INTO c VALUES (1, 'a'), (2, 'x'); INSERT INTO d VALUES (1, 9);"""
        )
    snapshot = take_snapshot(tmp_path / "a.db", tmp_path / "copy.db")
    assert (snapshot.foreign_key_violations, snapshot.unknown_collations) == ({"d": 1}, ("mine",))
    assert "The foreign keys of c cannot be checked" in caplog.text
    with closing(open_snapshot(tmp_path / "copy.db")) as db:
        assert db.affected == {"p"}
        db.execute("SELECT * FROM p WHERE name = 'a'").fetchall()
        with pytest.raises(SourceError, match=r"^here compares by the collation mine, which only the application has"):
            db.expect_uncompared("here")
