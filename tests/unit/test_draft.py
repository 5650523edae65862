"""What a draft decides: keys, references, types, indexes, what it leaves out, and what it asks a person."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from accession.cli import main
from accession.draft import Draft, compare_schema, draft_mapping
from accession.errors import SourceError
from accession.mapping import Entity, Mapping, load_mapping
from accession.run import lint_mapping


class Drafted:
    """A draft and the mapping that it is."""

    def __init__(self, draft: Draft, mapping: Mapping) -> None:
        self.draft, self.mapping = draft, mapping

    def __getitem__(self, entity: str) -> Entity:
        return self.mapping.entities[entity]

    def type_of(self, entity: str, attribute: str) -> str | None:
        return self[entity].attributes[attribute].type

    def has_question(self, start: str) -> bool:
        return any(question.startswith(start) for question in self.draft.questions)


def write_source(folder: Path, statements: str) -> Path:
    path = folder / "shop.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.executescript(statements)
    return path


def draft(folder: Path, statements: str, *, new_ids: bool = False) -> Drafted:
    source, file = write_source(folder, statements), folder / "shop.yaml"
    drafted = draft_mapping(source, "shop", new_ids=new_ids)
    file.write_text(drafted.text, encoding="utf-8")
    return Drafted(drafted, load_mapping(file))


@pytest.mark.parametrize(
    ("table", "source_key", "target_key"),
    [
        ("(id INTEGER PRIMARY KEY, name TEXT)", "id", {"id": "keep"}),
        ("(code TEXT PRIMARY KEY, name TEXT UNIQUE NOT NULL)", "code", {"code": "keep"}),
        ("(a INTEGER, b TEXT, PRIMARY KEY (b, a))", ("b", "a"), {"b": "keep", "a": "keep"}),
        ("(a INT, b INT, c TEXT, PRIMARY KEY (a, b, c))", ("a", "b", "c"), {"a": "keep", "b_c": "{b}#{c}"}),
        ("(a TEXT NOT NULL, b INT NOT NULL, c TEXT UNIQUE NOT NULL, UNIQUE (a, b))", "c", {"c": "keep"}),
        ("(a TEXT NOT NULL, b INT NOT NULL, c TEXT UNIQUE, UNIQUE (a, b))", ("a", "b"), {"a": "keep", "b": "keep"}),
        ("(a TEXT NOT NULL UNIQUE, rowid INTEGER PRIMARY KEY)", ("rowid",), {"rowid": "keep"}),
        ("(a TEXT, b TEXT)", "rowid", "thing_id"),
        ("(a TEXT, thing_id INTEGER)", "rowid", "thing_id_2"),
    ],
)
def test_a_key_is_kept(tmp_path: Path, table: str, source_key: object, target_key: object) -> None:
    thing = draft(tmp_path, f"CREATE TABLE thing {table}")["thing"]
    assert thing.source.key == source_key
    assert thing.target.key == target_key
    assert thing.source.has_rowid == (source_key == "rowid")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("(NULL, 1)", "is NULL in a row"),
        ("('', 1)", "is empty in a row"),
        ("(X'00', 1)", "is neither an integer nor text in every row"),
        ("(1.5, 1)", "is neither an integer nor text in every row"),
        ("(1, 1), ('1', 2)", "is a number in one row and the same text in another"),
        ("(CAST(X'FF' AS TEXT), 1)", "has a character that a key cannot have"),
        (f"('{'x' * 2049}', 1)", "is longer than a key of DynamoDB"),
    ],
)
def test_a_key_by_which_a_row_cannot_be_found_is_passed_over(tmp_path: Path, rows: str, reason: str) -> None:
    statements = "CREATE TABLE thing (a PRIMARY KEY, b INTEGER NOT NULL UNIQUE); INSERT INTO thing VALUES "
    drafted = draft(tmp_path, statements + rows)
    assert drafted["thing"].source.key == "b"
    assert drafted.has_question(f"thing: a {reason}")


def test_an_empty_text_is_a_part_of_a_template(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE t (a, b TEXT, c TEXT, PRIMARY KEY (a, b, c));"
                              "INSERT INTO t VALUES (1, '', ''), (1, 'x', ''), (1, '', 'x')")  # fmt: skip
    assert drafted["t"].target.key == {"a": "keep", "b_c": "{b}#{c}"}
    [tally] = lint_mapping(drafted.mapping, tmp_path / "shop.db", tmp_path).tallies.values()
    assert (tally.rows, tally.rejected) == (3, 0)


def test_texts_in_an_integer_key_are_staged_with_those_that_refer_to_them(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE t (a INT PRIMARY KEY, b REFERENCES t);"
                              "INSERT INTO t VALUES ('x', NULL), (2, 'x'), (3, 2)")  # fmt: skip
    assert drafted["t"].attributes["b"].parent == "t"
    [tally] = lint_mapping(drafted.mapping, tmp_path / "shop.db", tmp_path).tallies.values()
    assert (tally.rows, tally.rejected) == (3, 0)


@pytest.mark.parametrize(("declared", "value"), [("BOOLEAN", 1), ("TIMESTAMP", 1_700_000_000)])
def test_integers_are_kept_as_numbers_whatever_they_are_declared_as(tmp_path: Path, declared: str, value: int) -> None:
    drafted = draft(tmp_path, f"CREATE TABLE t (a {declared}, b TEXT, PRIMARY KEY (b, a));"
                              f"INSERT INTO t VALUES ({value}, 'x')")  # fmt: skip
    assert drafted.type_of("t", "a") == "number"


def test_the_separator_of_a_sort_key_is_in_no_value(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE t (a, b TEXT, c TEXT, PRIMARY KEY (a, b, c));"
                              "INSERT INTO t VALUES (1, 'x#', 'y'), (1, 'x', '#y|')")  # fmt: skip
    assert drafted["t"].target.key == {"a": "keep", "b_c": "{b}~{c}"}


def test_a_table_whose_rows_nothing_identifies_is_left_out(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (rowid, x);"
                              "CREATE TABLE c (k BLOB PRIMARY KEY) WITHOUT ROWID;"
                              "INSERT INTO c VALUES (X'00')")  # fmt: skip
    assert list(drafted.mapping.entities) == ["a"]
    assert drafted.draft.left_out_sentences == [
        "Left out, as one whose rows nothing identifies: b.",
        "Left out, as one whose rows nothing identifies (k is neither an integer nor text in every row): c.",
    ]
    assert compare_schema(tmp_path / "shop.db", drafted.mapping) == []


@pytest.mark.parametrize("new_ids", [False, True])
def test_names_that_differ_by_little_more_than_signs_are_a_table_each(tmp_path: Path, new_ids: bool) -> None:
    names = ("order_2", "order2", "order_22", "Order 2")
    statements = "".join(
        f'CREATE TABLE "{one}" (id INTEGER PRIMARY KEY); INSERT INTO "{one}" VALUES (1);' for one in names
    )
    mapping = draft(tmp_path, statements, new_ids=new_ids).mapping
    targets = [entity.target.table.removesuffix("-{environment}") for entity in mapping.entities.values()]
    assert targets == ["Shop-Order2", "Shop-Order22", "Shop-Order222", "Shop-Order223"]
    tallies = lint_mapping(mapping, tmp_path / "shop.db", tmp_path).tallies.values()
    assert [(tally.rows, tally.rejected) for tally in tallies] == [(1, 0)] * 4


REFERENCES = """
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT UNIQUE, boss INTEGER REFERENCES person);
CREATE TABLE task (project TEXT, nr INTEGER, owner INTEGER NOT NULL REFERENCES person, PRIMARY KEY (project, nr));
CREATE TABLE note (id INTEGER PRIMARY KEY, author TEXT REFERENCES PERSON (NAME), project TEXT, nr INTEGER,
    FOREIGN KEY (project, nr) REFERENCES task);
CREATE TABLE extra (person INTEGER PRIMARY KEY REFERENCES person, a REFERENCES missing, b REFERENCES seen (x),
    c REFERENCES person (boss), d REFERENCES task);
CREATE VIEW seen AS SELECT 1 AS x;
CREATE TABLE left_side (id INTEGER PRIMARY KEY REFERENCES right_side);
CREATE TABLE right_side (id INTEGER PRIMARY KEY REFERENCES left_side);
"""


def test_foreign_keys_are_references(tmp_path: Path) -> None:
    drafted = draft(tmp_path, REFERENCES)
    person, task, note, extra = (drafted[name].attributes for name in ("person", "task", "note", "extra"))
    assert (person["boss"].parent, person["boss"].optional) == ("person", True)
    assert (task["owner"].parent, task["owner"].optional) == ("person", False)
    assert (note["author"].parent, note["author"].by) == ("person", "name")
    assert (note["project"].columns, note["project"].part) == (("project", "nr"), "project")
    assert (note["nr"].columns, note["nr"].part, note["nr"].optional) == (("project", "nr"), "nr", True)
    assert drafted["note"].indexes["project-nr-index"] == ("project", "nr")
    assert extra["person"].parent == "person"
    assert not any(extra[name].parent for name in "abcd")
    for words in (
        "A foreign key to missing, drafted as a plain value: it is left out, since there is no such table.",
        "A foreign key to seen, drafted as a plain value: it is left out, a view.",
        "A foreign key to person, drafted as a plain value: it names columns that are not the key of its items.",
        "A foreign key to task, drafted as a plain value: it names other columns than the key of that table.",
        "A foreign key to left_side, drafted as a plain value: keys or identities would be made of each other in a",
    ):
        assert words in drafted.draft.text
    assert drafted["left_side"].attributes["id"].parent == "right_side"


def test_a_reference_to_a_half_known_parent_loses_no_value(tmp_path: Path) -> None:
    drafted = draft(tmp_path, REFERENCES + "INSERT INTO note VALUES (1, NULL, NULL, 5)")
    assert drafted["note"].attributes["project"].parent == "task"
    assert drafted["note"].attributes["nr"].type == "number"
    assert "# A part of the foreign key to task, drafted as a plain value: a row has a value in" in drafted.draft.text


def test_rows_that_refer_to_nothing_are_asked_about_unless_all_do(tmp_path: Path) -> None:
    statements = REFERENCES + "INSERT INTO person VALUES (1, 'a', NULL), (2, 'b', 9), (3, 'c', {boss});"
    drafted = draft(tmp_path, statements.format(boss=1))
    assert drafted["person"].attributes["boss"].parent == "person"
    assert drafted.has_question("person.boss: 1 row refers to no person, and will be rejected.")
    (tmp_path / "shop.db").unlink()
    drafted = draft(tmp_path, statements.format(boss=8))
    assert drafted["person"].attributes["boss"].type == "number"


def test_a_table_refers_to_as_many_as_a_mapping_can_follow(tmp_path: Path) -> None:
    parents = "".join(f"CREATE TABLE p{n} (id INTEGER PRIMARY KEY);" for n in range(33))
    columns = ", ".join(f"c{n} INTEGER REFERENCES p{n}" for n in range(33))
    drafted = draft(tmp_path, f"{parents} CREATE TABLE child (id INTEGER PRIMARY KEY, {columns})")
    assert len(drafted["child"].references) == 30
    assert "an entity has at most 31 references" in drafted.draft.text


@pytest.mark.parametrize(
    ("declared", "values", "expected"),
    [
        ("INTEGER", "1, 2", "number"),
        ("INTEGER", "", "number"),
        ("INTEGER", "'x'", "string"),
        ("INTEGER", "1, 'x'", "auto"),
        ("REAL", "1.5, NULL", "number"),
        ("DECIMAL(10,2)", "1.50, 12345678901234567890", "number"),
        ("TEXT", "", "string"),
        ("TEXT", "'1'", "string"),
        ("TEXT", "'x', X'00'", "auto"),
        ("STRING", "1984, 'x'", "string"),
        ("", "", "auto"),
        ("", "1", "number"),
        ("", "'1', 1", "auto"),
        ("BLOB", "", "binary"),
        ("BLOB", "X'00', ''", "auto"),
        ("BOOLEAN", "0, 1, 'true', NULL", "boolean"),
        ("BOOLEAN", "0, 2", "number"),
        ("TINYINT(1)", "0", "boolean"),
        ("DATE", "'2026-01-05', '2026-01-05 00:00:00'", "date"),
        ("DATE", "'2026-01-05 10:00'", "timestamp"),
        ("DATE", "20260105", "number"),
        ("DATETIME", "'2026-01-05', '2026-01-05T10:00:00.123Z'", "timestamp"),
        ("DATETIME", "'2026-01-05', ''", "string"),
        ("DATETIME", "'2026-01-05', 'soon'", "string"),
        ("DATETIME", "'2026-01-05', 1.5", "auto"),
        ("DATETIME", "2460000.5", "number"),
        ("DATETIME", "1700000000", "timestamp"),
        ("DATETIME", "1700000000000", "timestamp"),
        ("DATETIME", "5", "number"),
        ("TEXT", "'2026-01-05'", "date"),
        ("TEXT", "'2026-01-05 00:00:00'", "timestamp"),
        ("TEXT", "'2026-01-05', '2026-02-30'", "string"),
        ("JSON", """'{"a": [1.50]}', '[]'""", "json"),
        ("JSON", "'{'", "string"),
        ("JSON", """'{"a": "\\ud800"}'""", "string"),
        ("TEXT", """'{"a": 1}'""", "string"),
    ],
)  # fmt: skip
def test_a_type_takes_every_value(tmp_path: Path, declared: str, values: str, expected: str) -> None:
    rows = "".join(f"INSERT INTO t (v) VALUES ({value});" for value in split(values))
    drafted = draft(tmp_path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared});{rows}")
    assert drafted.type_of("t", "v") == expected
    if values == "1700000000000":
        assert drafted["t"].attributes["v"].options == {"numbers": "epoch_milliseconds"}


def split(values: str) -> list[str]:
    return [value for value in values.split(", ") if value]


def test_a_value_far_down_decides(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE t (id INTEGER PRIMARY KEY, v DATETIME);"
                              "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
                              "INSERT INTO t SELECT i, '2026-01-05' FROM n;"
                              "UPDATE t SET v = 'x' WHERE id = 2500")  # fmt: skip
    assert drafted.type_of("t", "v") == "string"


def test_indexes_follow_foreign_keys_and_indexes_up_to_twenty(tmp_path: Path) -> None:
    drafted = draft(tmp_path, """
        CREATE TABLE p (id INTEGER PRIMARY KEY);
        CREATE TABLE t (id INTEGER PRIMARY KEY, p INTEGER REFERENCES p, "a b" TEXT UNIQUE, c TEXT, d BOOLEAN, e TEXT);
        CREATE INDEX i1 ON t (c, "a b"); CREATE INDEX i2 ON t (d); CREATE INDEX i3 ON t (lower(c));
        CREATE INDEX i4 ON t (c) WHERE d; CREATE INDEX i5 ON t (c, p, d); CREATE INDEX i6 ON t (id);
        CREATE INDEX i7 ON t (e);
        INSERT INTO t (e) VALUES (printf('%2049d', 1));
    """)  # fmt: skip
    assert drafted["t"].indexes == {"p-index": ("p",), "a_b-index": ("a b",), "c-a_b-index": ("c", "a b")}
    columns = [f"c{n} TEXT UNIQUE" for n in range(25)]
    (tmp_path / "shop.db").unlink()
    drafted = draft(tmp_path, f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(columns)})")
    assert len(drafted["t"].indexes) == 20
    assert "Left out, since a table has at most 20 indexes: c20; c21; c22; c23; c24." in drafted.draft.text


def test_a_long_partition_key_is_no_sort_key_of_an_index(tmp_path: Path) -> None:
    drafted = draft(tmp_path, "CREATE TABLE t (k TEXT PRIMARY KEY, a TEXT, b TEXT); CREATE INDEX i ON t (a, k);"
                              "CREATE INDEX j ON t (b);"
                              "INSERT INTO t VALUES (printf('%01500d', 1), 'a', 'b')")  # fmt: skip
    assert list(drafted["t"].indexes) == ["b-index"]


def test_what_only_a_person_can_decide_is_asked(tmp_path: Path) -> None:
    drafted = draft(tmp_path, """
        CREATE TABLE artists (id INTEGER PRIMARY KEY);
        CREATE TABLE session (token TEXT PRIMARY KEY, artist_id INTEGER, owner_type TEXT, owner_id INTEGER,
            "passwordHash", password_changed_at DATETIME, tags TEXT, doc TEXT, big BLOB, bad TEXT, far REAL);
        INSERT INTO session VALUES ('x', 1, 'a', 1, 'h', NULL, 'a,b', '{"a": 1}', zeroblob(500000), CAST(X'FF' AS TEXT),
            1e300);
        CREATE TABLE log (line TEXT);
        CREATE TABLE run (id INTEGER PRIMARY KEY, run_id TEXT UNIQUE, run_type TEXT);
    """)  # fmt: skip
    session = drafted["session"].attributes
    assert [name for name, attribute in session.items() if attribute.sensitive] == ["passwordHash"]
    for start in (
        "session: its key looks like a secret or is made of one",
        "session.artist_id: it looks like a reference that the schema does not declare: references: artists?",
        "session.owner_id: with owner_type it refers to one of several tables",
        "session.tags: it looks like a list",
        "session.doc: every value is JSON",
        "session.big: a value has more than the 400 KB",
        "session.bad: a value is not Unicode",
        "session.far: a value is not Unicode, or beyond DynamoDB's numbers",
        "log: no usable key is declared",
    ):
        assert drafted.has_question(start), start
    assert len(drafted.draft.questions) == 9
    assert [name for name, entity in drafted.mapping.entities.items() if entity.secret] == ["session"]


def test_a_list_is_asked_about_where_commas_are_common_and_values_are_many(tmp_path: Path) -> None:
    drafted = draft(tmp_path, """
        CREATE TABLE code (code TEXT PRIMARY KEY);
        CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT, tags TEXT, isbn TEXT UNIQUE, code TEXT REFERENCES code);
        INSERT INTO code VALUES ('a,b');
        INSERT INTO book VALUES (1, 'Emma', 'old,new', '1,1', 'a,b'), (2, 'Me, You', 'old', '1,2', 'a,b'),
            (3, 'Dune', '', '1,3', 'a,b'), (4, 'Ulysses', 'new', '1,4', NULL), (5, 'Momo', NULL, '1,5', 'a,b');
    """)  # fmt: skip
    assert [question.partition(":")[0] for question in drafted.draft.questions] == ["book.tags"]


def test_a_key_that_is_made_of_a_secret_is_masked_too(tmp_path: Path) -> None:
    drafted = draft(tmp_path, """
        CREATE TABLE user (id INTEGER PRIMARY KEY, email TEXT UNIQUE, token_id INTEGER);
        CREATE TABLE session (token TEXT PRIMARY KEY, user TEXT REFERENCES user (email));
        CREATE TABLE device (session TEXT PRIMARY KEY REFERENCES session, name TEXT);
        CREATE TABLE visit (device TEXT REFERENCES device, day TEXT, who TEXT REFERENCES user (email),
            PRIMARY KEY (day, device));
        CREATE TABLE grade (day TEXT, who TEXT REFERENCES user (email), nr INTEGER, PRIMARY KEY (nr, day, who));
    """)  # fmt: skip
    secret = {name for name, entity in drafted.mapping.entities.items() if entity.secret}
    assert secret == {"session", "device", "visit", "grade"}
    assert not drafted["user"].attributes["token_id"].sensitive
    assert drafted.mapping.is_sensitive("session", "user")


def test_new_ids_take_the_place_of_integers_wherever_they_are_declared(tmp_path: Path) -> None:
    drafted = draft(tmp_path, """
        CREATE TABLE user (id INTEGER PRIMARY KEY, email TEXT NOT NULL UNIQUE);
        CREATE TABLE profile (user_id INTEGER PRIMARY KEY REFERENCES user, bio TEXT);
        CREATE TABLE friend (one INTEGER REFERENCES user, other INTEGER REFERENCES user, PRIMARY KEY (one, other));
        CREATE TABLE message (id INTEGER PRIMARY KEY, a INTEGER, b INTEGER, user_id INTEGER, room_id INTEGER,
            c INTEGER, d INTEGER, FOREIGN KEY (a, b) REFERENCES friend, FOREIGN KEY (c, d) REFERENCES friend);
        CREATE TABLE country (code TEXT PRIMARY KEY);
        CREATE TABLE tag (id INTEGER PRIMARY KEY);
    """, new_ids=True)  # fmt: skip
    assert drafted["user"].target.key == "user_id"
    assert list(drafted["user"].attributes) == ["email"]
    assert drafted["user"].identity == (("email",),)
    assert drafted["profile"].target.key == "profile_id"
    assert drafted["profile"].attributes["user_id"].parent == "user"
    assert (drafted["friend"].source.key, drafted["friend"].target.key) == (("one", "other"), "friend_id")
    assert drafted["message"].attributes["friend_id"].columns == ("a", "b")
    assert drafted["message"].attributes["friend_id_2"].columns == ("c", "d")
    assert drafted["country"].target.key == {"code": "keep"}
    assert list(drafted["tag"].attributes) == ["id"]
    assert drafted.has_question("message.user_id: it looks like an old id of user, which gets new ones")
    assert drafted.has_question("message.room_id: it looks like an old id of another table")


def test_odd_names_are_legal_and_unique(tmp_path: Path) -> None:
    long = "x" * 200
    drafted = draft(tmp_path, f"""
        CREATE TABLE "Order Items" (id INTEGER PRIMARY KEY); CREATE TABLE order_items (id INTEGER PRIMARY KEY);
        CREATE TABLE "1st" (id INTEGER PRIMARY KEY); CREATE TABLE "雪" (id INTEGER PRIMARY KEY);
        CREATE TABLE "größe" ("{{a}}" INTEGER PRIMARY KEY, "#b: c" TEXT, "line\nbreak" TEXT, "{long}" TEXT, "É", "é");
        CREATE TABLE {long} (id INTEGER PRIMARY KEY); CREATE TABLE "select" ("group" INTEGER PRIMARY KEY);
    """)  # fmt: skip
    assert list(drafted.mapping.entities) == [
        "order_items", "order_items_2", "table_1st", "entity", "grosse", "x" * 80, "select",
    ]  # fmt: skip
    targets = [entity.target.table for entity in drafted.mapping.entities.values()]
    assert targets[:3] == [
        "Shop-OrderItems-{environment}",
        "Shop-OrderItems2-{environment}",
        "Shop-Table1st-{environment}",
    ]
    assert len({target.lower() for target in targets}) == len(targets)
    assert list(drafted["grosse"].attributes) == ["{a}", "#b: c", "line\nbreak", "É"]
    assert f"    # {long}:\n    # no mapping can have its name.\n" in drafted.draft.text


def test_a_collation_or_function_of_the_application_stops_nothing(tmp_path: Path) -> None:
    source = tmp_path / "shop.db"
    with closing(sqlite3.connect(source)) as db, db:
        db.create_collation("unicase", lambda one, other: (one > other) - (one < other))
        db.create_function("app", 1, lambda value: value, deterministic=True)
        db.executescript("""
            CREATE TABLE note (id INTEGER PRIMARY KEY, name TEXT NOT NULL COLLATE unicase UNIQUE, parent TEXT
                COLLATE unicase REFERENCES note (name), made AS (length(name)), c AS (app(id)));
            INSERT INTO note (id, name, parent) VALUES (1, 'a', NULL), (2, 'b', 'a');
        """)
    text = draft_mapping(source, "shop").text
    (tmp_path / "shop.yaml").write_text(text)
    note = load_mapping(tmp_path / "shop.yaml").entities["note"].attributes
    assert (note["made"].type, note["parent"].by) == ("number", "name")
    assert "Left out: column c: SQLite cannot compute it (unknown function: app())." in text


def test_hundreds_of_tables_are_drafted(tmp_path: Path) -> None:
    tables = "".join(f"CREATE TABLE t{n} (id INTEGER PRIMARY KEY, p INTEGER REFERENCES t{n // 2});" for n in range(250))
    drafted = draft(tmp_path, tables)
    assert len(drafted.mapping.entities) == 250
    assert drafted["t249"].references == {"p": "t124"}


def test_rows_in_the_wal_count_and_the_source_is_left_as_it_is(tmp_path: Path) -> None:
    source = write_source(tmp_path, "PRAGMA journal_mode = WAL; CREATE TABLE t (id INTEGER PRIMARY KEY, v DATE)")
    with closing(sqlite3.connect(source)) as db:
        db.execute("INSERT INTO t VALUES (1, 'someday')")
        db.commit()
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
        assert "shop.db-wal" in before
        assert "v: {column: v, type: string}" in draft_mapping(source, "shop").text
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
    assert after == before


def test_a_database_without_tables_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no table that can be migrated: name the file.* Left out, as a view: v\.$"):
        draft(tmp_path, "CREATE VIEW v AS SELECT 1")


def run(folder: Path, *more: str) -> int:
    return main.main(["draft", "--source", str(folder / "shop.db"), "--name", "shop", "--out", str(folder), *more])


def test_a_second_draft_says_what_differs_and_touches_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_source(
        tmp_path, "CREATE TABLE a (id INTEGER PRIMARY KEY, x TEXT); CREATE TABLE b (id INTEGER PRIMARY KEY, y);"
    )
    assert run(tmp_path) == 0
    said = capsys.readouterr().out
    assert "tables: 2, 2 of them with their own keys and 0 with new ids" in said
    assert f"next: make deploy MAPPING={tmp_path}/shop.yaml ENVIRONMENT=dev" in said
    assert f"then: make migrate MAPPING={tmp_path}/shop.yaml SOURCE={tmp_path}/shop.db ENVIRONMENT=dev" in said
    text = (tmp_path / "shop.yaml").read_text()
    assert run(tmp_path) == 0
    assert "It names every table and column" in capsys.readouterr().out
    write_source(tmp_path, "CREATE TABLE c (z); ALTER TABLE a ADD COLUMN new; ALTER TABLE b RENAME COLUMN y TO yy")
    assert run(tmp_path, "--new-ids", "1") == 1
    said = capsys.readouterr().out
    assert "Column new of table a is in no attribute." in said
    assert "entities.b: table b has no column y." in said
    assert "Column yy of table b is in no attribute." in said
    assert "Table c is in no entity." in said
    write_source(tmp_path, "DROP TABLE a")
    assert run(tmp_path) == 1
    assert "entities.a: there is no table a." in capsys.readouterr().out
    assert (tmp_path / "shop.yaml").read_text() == text


def test_a_query_takes_what_it_names(tmp_path: Path) -> None:
    source = write_source(tmp_path, "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (id INTEGER PRIMARY KEY)")
    path = tmp_path / "shop.yaml"
    path.write_text("""
name: shop
entities:
  a:
    source: {query: "SELECT id FROM a", key: id}
    target: {table: "A-{environment}", key: {id: keep}}
""")
    assert compare_schema(source, load_mapping(path)) == ["Table b is in no entity."]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--name", "shop"], "SOURCE is missing: make draft SOURCE=/path/to/shop.db NAME=shop."),
        (["--source", "/x.db"], "NAME is missing: make draft"),
        (["--source", "/x.db", "--name", "my shop"], "NAME must be letters, digits and _, and must not begin with"),
        (["--source", "s3://a/b", "--name", "shop"], "s3://a/b is not on this machine: download it"),
        (["--source", "/x.db", "--name", "shop", "--new-ids", "yes"], "NEW_IDS must be 1 or nothing"),
        (["--source", "/x.db", "--name", "shop", "--out", "x/other.yaml"], "OUT names the file other.yaml, and"),
        (["--source", "/none.db", "--name", "shop"], "There is no file /none.db"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["draft", *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
