"""Odd data that SQLite allows: migrated exactly or rejected with its reason, and its neighbours unharmed."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from accession.errors import SourceError
from accession.mapping import Mapping, load_mapping
from conftest import Library, LocalAws, make_library
from driver import Driver

# The Flask application's tables, without the constraints that would keep odd rows out.
LOOSE = """
CREATE TABLE user (id INTEGER PRIMARY KEY, username VARCHAR(80), email VARCHAR(120), password_hash VARCHAR(200));
CREATE TABLE book (id INTEGER PRIMARY KEY, isbn VARCHAR(13), title VARCHAR(200), author VARCHAR(200), genre VARCHAR(50),
    cover_image_url VARCHAR(500), description TEXT);
CREATE TABLE user_book (id INTEGER PRIMARY KEY, user_id INTEGER, book_id INTEGER, date_added DATETIME,
    status VARCHAR(20), rating INTEGER, sync_status VARCHAR(20));
"""
PLAIN = {
    "user": {"username": "'ada'", "email": "'ada@example.org'", "password_hash": "'scrypt:x'"},
    "book": {"isbn": "'978'", "title": "'Emma'", "author": "'Jane Austen'", "genre": "'Fiction'"},
    "user_book": {"user_id": "1", "book_id": "1", "date_added": "'2026-01-05 12:34:56.000001'", "rating": "4"},
}
ABSENT = "the attribute is left out"
FIRST_SEEN = "when the row was first seen"
# What the service counts beside the description: names and values of the other attributes (two of them NULL).
OTHERS = len("book_id isbn title author genre cover_image_url description created_at".replace(" ", ""))
OTHERS += 36 + len("978EmmaJane AustenFiction") + 1 + len("2026-01-05T12:34:56.123456+00:00")

# entity, column, the value as SQL, then the attribute's value as it is in DynamoDB, or the reason
ODD: dict[str, tuple[str, str, str, dict[str, Any] | str]] = {
    "NUL inside text": ("book", "title", "'a' || char(0) || 'b'", {"S": "a\0b"}),
    "other scripts": ("book", "title", "'雪国 ألف ليلة Мастер गोदान'", {"S": "雪国 ألف ليلة Мастер गोदान"}),
    "emoji with joiners": ("book", "title", "'📚👩‍💻🏳️‍🌈'", {"S": "📚👩‍💻🏳️‍🌈"}),
    "combining marks as they are": ("book", "title", "'Cie' || char(0x301) || 'nega'", {"S": "Cie\u0301nega"}),
    "a noncharacter": ("book", "title", "char(0xFFFF)", {"S": "\uffff"}),
    "quotes and line ends": ("book", "title", "'it''s \"x\"' || char(13, 10, 0x2028)", {"S": 'it\'s "x"\r\n\u2028'}),
    "invalid UTF-8": ("book", "title", "CAST(X'61FF62' AS TEXT)", "title holds text that is not valid"),
    "a surrogate in UTF-8": ("book", "title", "CAST(X'EDA080' AS TEXT)", "title holds text that is not valid"),
    "invalid UTF-8 in an index key": ("book", "isbn", "CAST(X'FF' AS TEXT)", "isbn holds text that is not valid"),
    "invalid UTF-8 elsewhere": ("book", "description", "CAST(X'C3' AS TEXT)", "description holds text that"),
    "a BLOB in a text column": ("book", "title", "X'0102'", "title: a BLOB of 2 bytes is a BLOB where"),
    "an empty BLOB in a text column": ("book", "title", "X''", "title: a BLOB of 0 bytes is a BLOB where"),
    "a number in a text column": ("book", "title", "1984", {"S": "1984"}),
    "NULL": ("book", "description", "NULL", {"NULL": True}),
    "an empty text": ("book", "title", "''", {"S": ""}),
    "a default for NULL": ("book", "genre", "NULL", {"S": "Unknown"}),
    "a default for ''": ("book", "genre", "''", {"S": "Unknown"}),
    "no default for a space": ("book", "genre", "' '", {"S": " "}),
    "a NULL index key": ("book", "isbn", "NULL", ABSENT),
    "an empty index key": ("book", "isbn", "''", ABSENT),
    "an index key of 2,048 bytes": ("book", "isbn", f"'{'é' * 1024}'", {"S": "é" * 1024}),
    "an index key of 2,049 bytes": ("book", "isbn", f"'{'é' * 1024}x'", "isbn has 2,049 bytes; an index key"),
    "an item of 400 KB": (
        "book",
        "description",
        f"printf('%.{409_600 - OTHERS}c', 'x')",
        {"S": "x" * (409_600 - OTHERS)},
    ),
    "an item of 400 KB and a byte": (
        "book",
        "description",
        f"printf('%.{409_601 - OTHERS}c', 'x')",
        "the item has 409,601 bytes, most of them in description; DynamoDB takes at most 409,600",
    ),
    "text in an INTEGER column": ("user_book", "rating", "'good'", "rating: 'good' is not a number"),
    "a number as text": ("user_book", "rating", "'4'", {"N": "4"}),
    "a number as text with an exponent": ("user_book", "rating", "'1e3'", {"N": "1000"}),
    "a real in an INTEGER column": ("user_book", "rating", "4.5", {"N": "4.5"}),
    "a rating of 0": ("user_book", "rating", "0", {"N": "0"}),
    "no rating": ("user_book", "rating", "NULL", {"NULL": True}),
    "an empty rating": ("user_book", "rating", "''", "rating: '' is not a number"),
    "the largest integer": ("user_book", "rating", "9223372036854775807", {"N": "9223372036854775807"}),
    "an integer beyond SQLite": ("user_book", "rating", "'9223372036854775808'", {"N": "9223372036854776000"}),
    "infinity": ("user_book", "rating", "9e999", "rating: inf is not a finite number"),
    "minus infinity": ("user_book", "rating", "-9e999", "rating: -inf is not a finite number"),
    "a real beyond DynamoDB": ("user_book", "rating", "1.7e308", "rating: 1.7e+308 is outside DynamoDB's number range"),
    "a real below DynamoDB": ("user_book", "rating", "5e-324", "rating: 5e-324 is outside DynamoDB's number range"),
    "a BLOB as a number": ("user_book", "rating", "X'34'", "rating: a BLOB of 1 bytes is a BLOB where"),
    "a date only": ("user_book", "date_added", "'2026-01-05'", {"S": "2026-01-05T00:00:00+00:00"}),
    "a date with an offset": (
        "user_book",
        "date_added",
        "'2026-01-05 00:30:00+02:00'",
        {"S": "2026-01-04T22:30:00+00:00"},
    ),
    "a date with a Z": ("user_book", "date_added", "'2026-01-05T12:34:56Z'", {"S": "2026-01-05T12:34:56+00:00"}),
    "seconds since 1970": ("user_book", "date_added", "1767616496", {"S": "2026-01-05T12:34:56+00:00"}),
    "seconds since 1970 as text": ("user_book", "date_added", "'1767616496'", {"S": "2026-01-05T12:34:56+00:00"}),
    "seconds with a fraction": ("user_book", "date_added", "1767616496.5", {"S": "2026-01-05T12:34:56.500000+00:00"}),
    "no date": ("user_book", "date_added", "NULL", FIRST_SEEN),
    "an empty date": ("user_book", "date_added", "''", FIRST_SEEN),
    "a date that does not exist": ("user_book", "date_added", "'2026-02-30'", "date_added: '2026-02-30' is not"),
    "no date at all": ("user_book", "date_added", "'some day'", "date_added: 'some day' is not a date"),
    "an offset without a time": ("user_book", "date_added", "'2026-01-05+02:00'", "'2026-01-05+02:00' is not a date"),
    "an infinite date": ("user_book", "date_added", "9e999", "date_added: inf is not a finite number"),
    "milliseconds taken for seconds": ("user_book", "date_added", "1767616496000", "is outside the years 1 to 9999"),
    "a parent as text": ("user_book", "book_id", "'1'", {"S": "book 1"}),
    "no such parent": ("user_book", "book_id", "99999", "book_id 99999 refers to no book"),
    "no parent": ("user_book", "book_id", "NULL", "book_id is NULL, it must refer to a row of book"),
    "a text as parent": ("user_book", "book_id", "'x'", "book_id 'x' refers to no book"),
    "a BLOB as parent": ("user_book", "book_id", "X'31'", "book_id a BLOB of 1 bytes refers to no book"),
    "invalid UTF-8 as parent": ("user_book", "book_id", "CAST(X'FF' AS TEXT)", "refers to no book"),
    "infinity as parent": ("user_book", "book_id", "9e999", "book_id inf refers to no book"),
    "a rejected parent": (
        "user_book",
        "book_id",
        "(SELECT id FROM book WHERE typeof(title) = 'blob' LIMIT 1)",
        "refers to a row of book that was rejected itself",
    ),
}
KEYS = {"user": "user_id", "book": "book_id", "user_book": "user_book_id"}


def insert(db: sqlite3.Connection, table: str, key: int, **changes: str) -> None:
    """A plain row with some columns replaced; values are SQL."""
    row = {"id": str(key), **PLAIN[table], **changes}
    db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join(row.values())})")


def make_source(path: Path, script: str = LOOSE) -> sqlite3.Connection:
    db = sqlite3.connect(path)
    db.executescript(script)
    return db


def make_plain(path: Path, script: str = LOOSE) -> sqlite3.Connection:
    """A source with a user, a book and a user_book, all of number 1."""
    db = make_source(path, script)
    for table in PLAIN:
        insert(db, table, 1)
    db.commit()
    return db


@pytest.fixture(scope="module")
def migrated(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """One run over all odd rows, a plain row before and after each of them."""
    source = tmp_path_factory.mktemp("odd") / "site.db"
    with closing(make_plain(source)) as db:
        for number, (table, column, value, _) in enumerate(ODD.values()):
            insert(db, table, 1000 + 2 * number, **{column: value})
            insert(db, table, 1001 + 2 * number)
        db.commit()
    driver = Driver(make_library(aws), source, max_rejects=len(ODD))
    assert driver.run().status == "verified"
    return driver


@pytest.fixture(scope="module")
def found(migrated: Driver) -> dict[str, dict[int, dict[str, Any]]]:
    return {entity: migrated.items(entity) for entity in KEYS}


@pytest.mark.parametrize("number", range(len(ODD)), ids=list(ODD))
def test_odd_values_are_migrated_exactly_or_rejected_with_their_reason(
    migrated: Driver, found: dict[str, dict[int, dict[str, Any]]], number: int
) -> None:
    entity, column, _, expected = list(ODD.values())[number]
    key = 1000 + 2 * number
    assert key + 1 in found[entity], "the neighbour is unharmed"
    if expected == ABSENT:
        assert column not in found[entity][key]
    elif expected == FIRST_SEEN:
        assert found[entity][key][column] == {"S": migrated.manifest.started_at}
    elif isinstance(expected, str):
        assert key not in found[entity]
        assert migrated.rejects(entity)[key].startswith(f"{column}: ")
        assert expected in migrated.rejects(entity)[key]
    elif expected == {"S": "book 1"}:
        assert found[entity][key][column] == found["book"][1]["book_id"]
    else:
        assert found[entity][key][column] == expected


def test_every_row_is_counted_once(migrated: Driver) -> None:
    rejected = dict.fromkeys(KEYS, 0)
    for entity, _, _, expected in ODD.values():
        rejected[entity] += isinstance(expected, str) and expected not in (ABSENT, FIRST_SEEN)
    for entity, number in rejected.items():
        counts = migrated.index(entity).counts
        rows = 1 + 2 * sum(one[0] == entity for one in ODD.values())
        assert (counts.source_rows, counts.rejected, counts.put) == (rows, number, rows - number)
    assert migrated.index("book").counts.adjusted == 2


# Files


def test_rows_that_are_only_in_the_wal_are_migrated(library: Library, tmp_path: Path) -> None:
    source = tmp_path / "site.db"
    with closing(make_plain(source)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA wal_autocheckpoint = 0")
        insert(db, "book", 2, title="'only in the WAL'")
        db.commit()
        assert b"only in the WAL" not in source.read_bytes()
        driver = Driver(library, source)
        assert driver.run().status == "verified"
    assert driver.items("book")[2]["title"] == {"S": "only in the WAL"}


@pytest.mark.parametrize("encoding", ["UTF-16le", "UTF-16be"])
def test_a_utf_16_database_is_migrated_like_any(library: Library, tmp_path: Path, encoding: str) -> None:
    with closing(make_plain(tmp_path / "site.db", f'PRAGMA encoding = "{encoding}";{LOOSE}')) as db:
        insert(db, "book", 2, title="'雪国 📚'")
        insert(db, "user_book", 2, book_id="77")
        db.commit()
    driver = Driver(library, tmp_path / "site.db", max_rejects=1)
    assert driver.run().status == "verified"
    assert driver.items("book")[2]["title"] == {"S": "雪国 📚"}
    assert driver.items("user_book")[1]["book_id"] == driver.items("book")[1]["book_id"]
    assert driver.rejects("user_book") == {2: "book_id: book_id 77 refers to no book"}


def test_tables_without_rows_are_migrated_and_verified(library: Library, tmp_path: Path) -> None:
    make_source(tmp_path / "site.db").close()
    driver = Driver(library, tmp_path / "site.db")
    driver.run()
    assert [driver.index(name).parts[0].writes for name in KEYS] == [0, 0, 0]
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        insert(db, "user", 1)
        db.commit()
    driver = Driver(library, tmp_path / "site.db")
    assert driver.run().status == "verified"
    assert len(driver.scan("user")) == 1
    assert driver.scan("book") == []


def test_names_match_as_in_sqlite_whatever_their_case(library: Library, tmp_path: Path) -> None:
    script = LOOSE.replace("TABLE book", "TABLE BOOK").replace("KEY, isbn", "KEY, ISBN")
    make_plain(tmp_path / "site.db", script).close()
    driver = Driver(library, tmp_path / "site.db")
    assert driver.run().status == "verified"
    assert driver.items("book")[1]["isbn"] == {"S": "978"}


# Keys


def make_mapping(folder: Path, **changes: Any) -> Mapping:
    """Owners and their things, in the home library's tables. `changes` are for the entities' sources."""
    data = {
        "name": "odd",
        "entities": {
            "owner": {
                "source": {"table": "owner", "key": "id", **changes.get("owner", {})},
                "target": {"table": "BookLibrary-Books-{environment}", "key": "book_id"},
                "attributes": {"name": {"column": "name", "type": "string"}},
            },
            "thing": {
                "source": {"table": "thing", "key": "id", **changes.get("thing", {})},
                "target": {"table": "BookLibrary-UserBooks-{environment}", "key": "user_book_id"},
                "attributes": {
                    "owner_id": {"column": "owner", "references": "owner"},
                    "first": {"column": "name", "type": "string"},
                    "again": {"column": "name", "type": "auto"},
                    "old_owner": {"column": "owner", "type": "auto"},
                },
            },
        },
    }
    path = folder / "odd.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_mapping(path)


def run_things(library: Library, folder: Path, script: str, **changes: Any) -> Driver:
    """A verified run over owners and things."""
    with closing(sqlite3.connect(folder / "site.db")) as db:
        db.executescript(script)
    driver = Driver(library, folder / "site.db", mapping=make_mapping(folder, **changes), max_rejects=100)
    assert driver.run().status == "verified"
    return driver


def names_of_owners(driver: Driver) -> dict[Any, str]:
    """Old key of each thing → name of the owner that it refers to in the target."""
    names = {item["book_id"]["S"]: item["name"]["S"] for item in driver.scan("owner")}
    return {key: names[item["owner_id"]["S"]] for key, item in driver.items("thing").items()}


def staged_owners(driver: Driver) -> dict[Any, str]:
    """The same of the change set, before anything is written."""
    names = {change.key: change.item["name"]["S"] for change in driver.changes("owner") if change.item}
    return {change.old_key: names[change.item["owner_id"]["S"]] for change in driver.changes("thing") if change.item}


@pytest.fixture(scope="module")
def shared(aws: LocalAws) -> Library:
    """A library for tests that only stage."""
    return make_library(aws)


@pytest.mark.parametrize(
    ("declared", "key"),
    [
        ("INTEGER PRIMARY KEY", -5),
        ("INTEGER PRIMARY KEY", 0),
        ("INTEGER PRIMARY KEY", 2**63 - 1),
        ("INTEGER PRIMARY KEY", -(2**63)),
        ("TEXT PRIMARY KEY", "a b/c'\"?%"),
        ("TEXT PRIMARY KEY", "雪 👩‍💻"),
        ("TEXT PRIMARY KEY", "a\0b"),
        ("TEXT PRIMARY KEY", "007"),
        ("VARCHAR(3) PRIMARY KEY", "longer than three"),
        ("NUMERIC PRIMARY KEY", 5),
        ("NUMBER(10) PRIMARY KEY", 2**63 - 1),
        ("BLOB PRIMARY KEY", "text in a BLOB column"),
        ("UUID PRIMARY KEY", "9b2e5c4e-5b1c-4c8e-9d0a-1f2e3d4c5b6a"),
        ("PRIMARY KEY", "no type at all"),
        ("PRIMARY KEY", 17),
    ],
)
@pytest.mark.parametrize("rowid", ["", " WITHOUT ROWID"])
def test_keys_of_every_kind_carry_their_children(
    shared: Library, tmp_path: Path, declared: str, key: int | str, rowid: str
) -> None:
    column = declared.replace(" PRIMARY KEY", "").replace("PRIMARY KEY", "")
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.execute(f"CREATE TABLE owner (id {declared}, name TEXT){rowid}")
        db.execute(f"CREATE TABLE thing (id {declared}, owner {column}, name TEXT){rowid}")
        db.execute("INSERT INTO owner VALUES (?, 'the one'), (3, 'another')", (key,))
        db.execute("INSERT INTO thing VALUES (?, ?, 'x'), (3, ?, 'y')", (key, key, key))
        db.commit()
    driver = Driver(shared, tmp_path / "site.db", mapping=make_mapping(tmp_path))
    driver.stage_all()
    owners = staged_owners(driver)
    assert owners[key] == "the one"
    assert set(owners.values()) == {"the one"}
    assert type(next(one for one in owners if one == key)) is type(key)


@pytest.mark.parametrize(
    ("parent", "child"),
    [("TEXT", "INTEGER"), ("INTEGER", "TEXT"), ("NUMERIC", "TEXT"), ("INTEGER", "NUMERIC"), ("TEXT", "NUMERIC")],
)
def test_a_reference_declared_otherwise_finds_its_parent_as_a_foreign_key_does(
    shared: Library, tmp_path: Path, parent: str, child: str
) -> None:
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.executescript(
            f"""CREATE TABLE owner (id {parent} PRIMARY KEY, name TEXT);
        CREATE TABLE thing (id INTEGER PRIMARY KEY, owner {child}, name TEXT);
        INSERT INTO owner VALUES (5, 'five'), (6, 'six');
        INSERT INTO thing VALUES (1, 5, 'x'), (2, '6', 'y'), (3, 7, 'z');"""
        )
    driver = Driver(shared, tmp_path / "site.db", mapping=make_mapping(tmp_path))
    driver.stage_all()
    assert staged_owners(driver) == {1: "five", 2: "six"}
    assert list(driver.rejects("thing")) == [3]


def test_rows_whose_key_is_none_are_rejected_alone(library: Library, tmp_path: Path) -> None:
    driver = run_things(
        library,
        tmp_path,
        """CREATE TABLE owner (id PRIMARY KEY, name TEXT);
        CREATE TABLE thing (id INTEGER PRIMARY KEY, owner, name TEXT);
        INSERT INTO owner VALUES (NULL, 'a'), (NULL, 'b'), (1.5, 'c'), (X'0102', 'd'), ('', 'e'), (9e999, 'f'),
            (CAST(X'FF' AS TEXT), 'g'), ('fine', 'h');
        INSERT INTO thing VALUES (1, 'fine', 'x'), (2, NULL, 'y'), (3, 1.5, 'y'), (4, '', 'y');""",
    )
    assert [item["name"] for item in driver.scan("owner")] == [{"S": "h"}]
    reasons = [change.reason for change in driver.changes("owner") if change.op == "reject"]
    assert len(reasons) == 7
    assert sum(reason == "id: the key is neither an integer nor text" for reason in reasons) == 6
    assert "id: the key is not valid Unicode" in reasons
    assert names_of_owners(driver) == {1: "h"}
    assert driver.rejects("thing") == {
        2: "owner: owner is NULL, it must refer to a row of owner",
        3: "owner: owner 1.5 refers to a row of owner that was rejected itself",
        4: "owner: owner '' refers to a row of owner that was rejected itself",
    }


NO_KEY = "CREATE TABLE owner (id {declared}, name TEXT); CREATE TABLE thing (id INTEGER PRIMARY KEY, owner, name TEXT);"


@pytest.mark.parametrize("rows", ["(1, 'a'), (1, 'b')", "('x', 'a'), ('y', 'b'), ('x', 'c')"])
def test_a_key_that_is_no_key_is_refused_at_preflight(library: Library, tmp_path: Path, rows: str) -> None:
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.executescript(f"{NO_KEY.format(declared='')} INSERT INTO owner VALUES {rows};")
    driver = Driver(library, tmp_path / "site.db", mapping=make_mapping(tmp_path))
    with pytest.raises(SourceError, match=r"Key column id of table owner .* holds a value more than once"):
        driver.preflight()


def test_duplicates_that_come_after_preflight_are_rejected_and_the_first_row_stands(
    library: Library, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.executescript(f"{NO_KEY.format(declared='')} INSERT INTO owner VALUES (1, 'a'), (1, 'b'), (2, 'c');")
    driver = Driver(library, tmp_path / "site.db", mapping=make_mapping(tmp_path), max_rejects=1)
    driver.stage_all()
    assert driver.rejects("owner") == {1: "id: the key occurs twice"}
    keys: list[Any] = [change.old_key for change in driver.changes("owner") if change.op == "put"]
    assert sorted(keys) == [1, 2]


def test_keys_that_read_alike_as_number_and_text_refuse_the_run(library: Library, tmp_path: Path) -> None:
    """Both would get the same new id; nothing is written."""
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.executescript(f"{NO_KEY.format(declared='PRIMARY KEY')} INSERT INTO owner VALUES (5, 'a'), ('5', 'b');")
    driver = Driver(library, tmp_path / "site.db", mapping=make_mapping(tmp_path), max_rejects=9)
    with pytest.raises(
        SourceError, match="Two keys have the same text, but one is a number and one is text: give them the same type"
    ):
        driver.run()
    assert driver.scan("owner") == []


@pytest.mark.parametrize(("before", "after"), [("TEXT", ""), ("", "TEXT")])
def test_a_key_column_that_is_declared_otherwise_is_named(
    library: Library, tmp_path: Path, before: str, after: str
) -> None:
    """A column without a type holds integers, so the last run's text keys seem to be gone, or the other way round."""
    rows = "INSERT INTO owner VALUES (5, 'a'), (6, 'b');"
    run_things(library, tmp_path, f"{NO_KEY.format(declared=f'{before} PRIMARY KEY')} {rows}")
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.executescript("DROP TABLE owner; DROP TABLE thing;")
        db.executescript(f"{NO_KEY.format(declared=f'{after} PRIMARY KEY')} {rows}")
    driver = Driver(library, tmp_path / "site.db", mapping=make_mapping(tmp_path), max_rejects=9)
    with pytest.raises(SourceError, match=r"declared type .*[Dd]eclare it as before, so that each row keeps its id"):
        driver.run()


def test_a_reference_in_another_case_finds_the_parent_if_sqlite_ignores_case(library: Library, tmp_path: Path) -> None:
    """SQLite ignores the case of ASCII only. A key itself is told from others byte by byte."""
    driver = run_things(
        library,
        tmp_path,
        """CREATE TABLE owner (id TEXT PRIMARY KEY COLLATE NOCASE, name TEXT);
        CREATE TABLE thing (id TEXT PRIMARY KEY, owner TEXT COLLATE NOCASE, name TEXT);
        INSERT INTO owner VALUES ('Ada', 'ada'), ('bob', 'bob'), ('ÅSE', 'Åse'), ('åse', 'åse'), ('Øy', 'Øy');
        INSERT INTO thing VALUES ('x', 'Ada', ''), ('X', 'ada', ''), ('y', 'åSE', ''), ('Y', 'BOB', ''),
            ('z', 'øy', '');""",
    )
    assert names_of_owners(driver) == {"x": "ada", "X": "ada", "y": "åse", "Y": "bob"}
    assert driver.rejects("thing") == {"z": "owner: owner 'øy' refers to no owner"}


def test_a_view_may_be_a_source(library: Library, tmp_path: Path) -> None:
    driver = run_things(
        library,
        tmp_path,
        """CREATE TABLE base (id INTEGER PRIMARY KEY, name TEXT, gone INTEGER);
        INSERT INTO base VALUES (1, 'a', 0), (2, 'b', 1), (3, 'c', 0);
        CREATE VIEW owner AS SELECT id, upper(name) AS name FROM base WHERE NOT gone;
        CREATE VIEW thing AS SELECT id + 100 AS id, id AS owner, name FROM base;""",
    )
    assert names_of_owners(driver) == {101: "A", 103: "C"}
    assert driver.rejects("thing") == {102: "owner: owner 2 refers to no owner"}


def test_names_that_need_quotes(library: Library, tmp_path: Path) -> None:
    driver = run_things(
        library,
        tmp_path,
        """CREATE TABLE "order" ([the "key"] INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE "things; DROP TABLE x --" ("id" INTEGER PRIMARY KEY, owner INTEGER, name TEXT);
        INSERT INTO "order" VALUES (1, 'a'); INSERT INTO "things; DROP TABLE x --" VALUES (1, 1, 'x');""",
        owner={"table": "order", "key": 'the "key"'},
        thing={"table": "things; DROP TABLE x --"},
    )
    assert names_of_owners(driver) == {1: "a"}


def test_a_column_used_twice_is_read_once_and_makes_two_attributes(library: Library, tmp_path: Path) -> None:
    driver = run_things(
        library,
        tmp_path,
        """CREATE TABLE owner (id INTEGER PRIMARY KEY, name TEXT);
        CREATE TABLE thing (id INTEGER PRIMARY KEY, owner INTEGER, name);
        INSERT INTO owner VALUES (1, 'a'); INSERT INTO thing VALUES (1, 1, 1984), (2, 1, 'x');""",
    )
    things = driver.items("thing")
    assert (things[1]["first"], things[1]["again"]) == ({"S": "1984"}, {"N": "1984"})
    assert things[1]["old_owner"] == {"N": "1"}
    assert (things[2]["first"], things[2]["again"]) == ({"S": "x"}, {"S": "x"})


# Secrets


def texts_of(driver: Driver) -> Iterator[tuple[str, bytes]]:
    """Everything that a run leaves in the bucket outside backups and change sets."""
    for path in driver.store.list():
        if not path.startswith("backups/") and "/changes/" not in path:
            yield path, driver.store.get(path)


def test_sensitive_values_are_in_no_reason_and_nothing_that_a_run_leaves(library: Library, tmp_path: Path) -> None:
    with closing(make_plain(tmp_path / "site.db")) as db:
        insert(db, "user", 2, email="CAST(X'73336372657431FF' AS TEXT)")  # s3cret1 and a byte that is no UTF-8
        insert(db, "user", 3, email=f"'s3cret2{'x' * 3000}'")
        insert(db, "user", 4, password_hash="X'733363726574'")
        insert(db, "user", 5, password_hash=f"'s3cret3' || printf('%.{500_000}c', 'x')")
        insert(db, "user", 6, email="'s3cret4@example.org'", password_hash="'s3cret5'")
        db.commit()
    driver = Driver(library, tmp_path / "site.db", max_rejects=4)
    assert driver.run().status == "verified"
    reasons = driver.rejects("user")
    assert set(reasons) == {2, 3, 4, 5}
    assert reasons[4] == "password_hash: password_hash: ••• is a BLOB where the mapping says string"
    assert "s3cret" not in str(reasons)
    for path, data in texts_of(driver):
        for secret in (b"s3cret", b"scrypt:x", b"example.org", b"733363726574"):
            assert secret not in data, path
