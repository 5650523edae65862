"""The sample library looks like the application's own file, is the same everywhere, and has what it says it has."""

import datetime
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import ODD_DATE, write_sample
from accession.errors import SourceError


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample") / "site.db")


def test_schema_and_dates_are_those_that_sqlalchemy_writes(sample: Path, tmp_path: Path) -> None:
    from sqlalchemy import Column, DateTime, ForeignKey, Integer, String, Text, create_engine
    from sqlalchemy.orm import DeclarativeBase, Session

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "user"
        id = Column(Integer, primary_key=True)
        username = Column(String(80), unique=True, nullable=False)
        email = Column(String(120), unique=True, nullable=False)
        password_hash = Column(String(200), nullable=False)

    class Book(Base):
        __tablename__ = "book"
        id = Column(Integer, primary_key=True)
        isbn = Column(String(13))
        title = Column(String(200), nullable=False)
        author = Column(String(200), nullable=False)
        genre = Column(String(50))
        cover_image_url = Column(String(500))
        description = Column(Text)

    class UserBook(Base):
        __tablename__ = "user_book"
        id = Column(Integer, primary_key=True)
        user_id = Column(Integer, ForeignKey("user.id"), nullable=False)
        book_id = Column(Integer, ForeignKey("book.id"), nullable=False)
        date_added = Column(DateTime)
        status = Column(String(20))
        rating = Column(Integer)
        sync_status = Column(String(20))

    theirs = tmp_path / "theirs.db"
    engine = create_engine(f"sqlite:///{theirs}")
    Base.metadata.create_all(engine)
    [(text,)] = rows(sample, "SELECT date_added FROM user_book WHERE id = 1")
    with Session(engine) as session:
        session.add(UserBook(user_id=1, book_id=1, date_added=datetime.datetime.fromisoformat(text)))
        session.commit()
    engine.dispose()

    tables = "SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"
    assert rows(sample, tables) == rows(theirs, tables)
    assert rows(theirs, "SELECT date_added FROM user_book") == [(text,)]


def test_same_rows_in_every_process(sample: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    script = "import sys, accession.cli.sample as s; s.write_sample(s.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, other], check=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    for table in ("user", "book", "user_book"):
        assert rows(sample, f"SELECT * FROM {table} ORDER BY id") == rows(other, f"SELECT * FROM {table} ORDER BY id")


def test_one_orphan_one_odd_row_and_all_the_usual_gaps(sample: Path) -> None:
    assert rows(sample, "PRAGMA integrity_check") == [("ok",)]
    assert len(rows(sample, "PRAGMA foreign_key_check")) == 1
    assert rows(sample, f"SELECT id FROM user_book WHERE date_added = '{ODD_DATE}'") == [(400,)]
    counts = rows(
        sample,
        "SELECT (SELECT count(*) FROM user), (SELECT count(*) FROM book), (SELECT count(*) FROM user_book),"
        " (SELECT count(DISTINCT user_id || '/' || book_id) FROM user_book)",
    )
    assert counts == [(120, 200, 400, 400)]
    for gap in ("book WHERE isbn IS NULL", "book WHERE isbn = ''", "book WHERE genre IS NULL", "book WHERE genre = ''",
                "user_book WHERE rating = 0", "user_book WHERE rating IS NULL", "user_book WHERE date_added IS NULL",
                "book WHERE title LIKE '%📚%'", "book WHERE title LIKE '雪国%'"):  # fmt: skip
        assert rows(sample, f"SELECT count(*) FROM {gap}")[0][0] > 0, gap
    [(password,)] = rows(sample, "SELECT password_hash FROM user WHERE id = 1")
    assert re.fullmatch(r"scrypt:32768:8:1\$\w{16}\$[0-9a-f]{128}", password)


@pytest.mark.parametrize(("users", "books", "user_books"), [(0, 0, 0), (1, 1, 1), (3, 4, 12), (7, 49, 343)])
def test_pairs_never_repeat_at_any_size(tmp_path: Path, users: int, books: int, user_books: int) -> None:
    path = write_sample(tmp_path / "s.db", users=users, books=books, user_books=user_books, orphans=0, odd=0)
    assert rows(path, "PRAGMA foreign_key_check") == []
    assert rows(path, "SELECT count(*) FROM (SELECT DISTINCT user_id, book_id FROM user_book)") == [(user_books,)]


def test_never_overwrites_a_file(tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    path.write_bytes(b"somebody's library")
    with pytest.raises(SourceError, match="exists already"):
        write_sample(path)
    assert path.read_bytes() == b"somebody's library"


def test_refuses_more_pairs_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 6"):
        write_sample(tmp_path / "s.db", users=2, books=3, user_books=7)
