"""Write a sample home library: the SQLite file of the Flask application, with invented rows.

The rows are the same on every machine. Column types, constraints and the format of dates are SQLAlchemy's. Faker makes
a few hundred names and sentences, and a seeded generator combines them, so a million rows take seconds.
"""

import hashlib
import math
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from accession.errors import AccessionError, SourceError

SEED = 20260105
POOL = 400  # names and sentences made by Faker; everything else is a combination of them

SCHEMA = (
    "CREATE TABLE user (\n\tid INTEGER NOT NULL, \n\tusername VARCHAR(80) NOT NULL, \n\temail VARCHAR(120) NOT NULL, "
    "\n\tpassword_hash VARCHAR(200) NOT NULL, \n\tPRIMARY KEY (id), \n\tUNIQUE (username), \n\tUNIQUE (email)\n)",
    "CREATE TABLE book (\n\tid INTEGER NOT NULL, \n\tisbn VARCHAR(13), \n\ttitle VARCHAR(200) NOT NULL, "
    "\n\tauthor VARCHAR(200) NOT NULL, \n\tgenre VARCHAR(50), \n\tcover_image_url VARCHAR(500), \n\tdescription TEXT, "
    "\n\tPRIMARY KEY (id)\n)",
    "CREATE TABLE user_book (\n\tid INTEGER NOT NULL, \n\tuser_id INTEGER NOT NULL, \n\tbook_id INTEGER NOT NULL, "
    "\n\tdate_added DATETIME, \n\tstatus VARCHAR(20), \n\trating INTEGER, \n\tsync_status VARCHAR(20), "
    "\n\tPRIMARY KEY (id), \n\tFOREIGN KEY(user_id) REFERENCES user (id), "
    "\n\tFOREIGN KEY(book_id) REFERENCES book (id)\n)",
)

# Titles outside ASCII and the Basic Multilingual Plane: right to left, combining marks, emoji with joiners.
WORLD = (
    ("雪国", "川端康成"),
    ("백년의 고독", "가브리엘 가르시아 마르케스"),
    ("Мастер и Маргарита", "Михаил Булгаков"),
    ("ألف ليلة وليلة", "مجهول"),
    ("गोदान", "प्रेमचंद"),
    ("Ο Καπετάν Μιχάλης", "Νίκος Καζαντζάκης"),
    ("Žluťoučký kůň", "Bohumil Hrabal"),
    ("Cie\u0301nega de oro", "José Ñandú"),
    ("The Reader's Almanac 📚👩‍💻", "Zoë O’Neill"),
)
GENRES = ("Fiction", "History", "Science", "Poetry", "Children", "Travel", "Cookery", None, "")
STATUSES = ("to_read", "reading", "read")
SYNC = ("synced", "pending", None)
FIRST_DAY = datetime(2021, 3, 1, 8, 0, 0, 123456)
ODD_DATE = "some day in spring"


def write_sample(
    path: Path, *, users: int = 120, books: int = 200, user_books: int = 400, orphans: int = 1, odd: int = 1
) -> Path:
    """Write a new SQLite file with the given numbers of rows and return its path.

    The same arguments give the same rows. Of the `user_books`, the last `odd` have an invalid date, and the `orphans`
    before them refer to a book that does not exist. Raises SourceError if the file exists, as it never overwrites one,
    and AccessionError without Faker.
    """
    if user_books > users * books:
        raise ValueError(f"{users} users and {books} books make at most {users * books} different pairs")
    if orphans + odd > user_books:
        raise ValueError(f"{orphans} orphans and {odd} odd rows are more than {user_books} user_books")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        raise SourceError(f"{path} exists already; give the sample library another place.")
    words = _Words()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.executemany("INSERT INTO user VALUES (?, ?, ?, ?)", _users(words, users))
        connection.executemany("INSERT INTO book VALUES (?, ?, ?, ?, ?, ?, ?)", _books(words, books))
        connection.executemany(
            "INSERT INTO user_book VALUES (?, ?, ?, ?, ?, ?, ?)", _user_books(users, books, user_books, orphans, odd)
        )
        connection.execute("COMMIT")
    return path


class _Words:
    """Pools of invented names and sentences."""

    def __init__(self) -> None:
        try:
            from faker import Faker  # noqa: PLC0415 -- a development tool that only the sample needs
        except ImportError as error:
            raise AccessionError("The sample library needs Faker, which is not installed: run `make setup`.") from error
        faker = Faker("en_GB")
        faker.seed_instance(SEED)
        self.first = [faker.first_name() for _ in range(POOL)]
        self.last = [faker.last_name() for _ in range(POOL)]
        self.titles = [faker.catch_phrase().title() for _ in range(POOL)]
        self.sentences = [faker.sentence(nb_words=14) for _ in range(POOL)]


def _users(words: _Words, count: int) -> Iterator[tuple[Any, ...]]:
    draw = random.Random(SEED)  # noqa: S311 -- sample data
    for number in range(1, count + 1):
        name = f"{draw.choice(words.first)}.{draw.choice(words.last)}".lower().replace(" ", "") + str(number)
        # Looks like werkzeug's default hash (16 characters of salt, 64 bytes of scrypt output); no password matches it.
        digest = hashlib.sha512(f"{SEED}/{number}".encode()).hexdigest()
        yield number, name, f"{name}@example.org", f"scrypt:32768:8:1${digest[:16]}${digest}"


def _books(words: _Words, count: int) -> Iterator[tuple[Any, ...]]:
    draw = random.Random(SEED + 1)  # noqa: S311
    for number in range(1, count + 1):
        isbn: str | None = _make_isbn(number)
        if number % 17 == 0:
            isbn = None
        elif number % 23 == 0:
            isbn = ""
        if number % 11 == 0:
            title, author = WORLD[number // 11 % len(WORLD)]
            title = f"{title} {number}"
        else:
            title = f"{draw.choice(words.titles)} {number}"
            author = f"{draw.choice(words.first)} {draw.choice(words.last)}"
        cover = f"https://covers.example.org/b/isbn/{isbn}-L.jpg" if isbn else None
        description = " ".join(draw.choices(words.sentences, k=draw.randrange(4))) or None
        yield number, isbn, title, author, GENRES[draw.randrange(len(GENRES))], cover, description


def _make_isbn(number: int) -> str:
    body = f"978{number:09d}"
    check = -sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(body)) % 10
    return f"{body}{check}"


def _user_books(users: int, books: int, count: int, orphans: int, odd: int) -> Iterator[tuple[Any, ...]]:
    """Yield pairs that never repeat: each user takes the books in steps that are coprime to the number of books."""
    draw = random.Random(SEED + 2)  # noqa: S311
    stride = next(n for n in range(max(1, books * 5 // 8), 2 * books + 2) if math.gcd(n, books) == 1)
    for number in range(1, count + 1):
        user, turn = (number - 1) % users, (number - 1) // users
        book = (user * 7 + turn * stride) % books + 1
        status = draw.choice(STATUSES)
        # The application stores 0 for "not rated yet", which differs from no value.
        rating = draw.randrange(1, 6) if status == "read" else draw.choice((0, None))
        added: str | None = _format_date(FIRST_DAY + timedelta(minutes=37 * number, microseconds=number % 997))
        if number % 19 == 0:
            added = None
        if number > count - odd:
            added = ODD_DATE
        elif number > count - odd - orphans:
            book = books + number
        yield number, user + 1, book, added, status, rating, draw.choice(SYNC)


def _format_date(moment: datetime) -> str:
    """Format a date as SQLAlchemy writes a DateTime to SQLite: a space, six decimals, no zone."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
