"""The mapping file: what it may say, and how each fault in it is named."""

import hashlib
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from accession.errors import MappingError
from accession.mapping import MAPPINGS, check_mappings, find_mappings, load_mapping

BOOKS = """\
name: shelf
entities:
  author:
    source: {table: author, key: id}
    target: {table: "Authors-{environment}", key: author_id}
    attributes:
      name: {column: name, type: string}
  book:
    source: {table: book, key: id}
    target: {table: "Books-{environment}", key: book_id}
    attributes:
      author_id: {column: author, references: author}
      title: {column: title, type: string}
    indexes:
      author-index: [author_id, title]
    identity: [[title]]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "shelf.yaml"
    path.write_text(text)
    return path


def change(**changes: Any) -> str:
    """BOOKS with values set at dotted paths; None takes the key away."""
    data = yaml.safe_load(BOOKS)
    for dotted, value in changes.items():
        *way, last = dotted.split("__")
        place = data
        for step in way:
            place = place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return yaml.safe_dump(data)


# What a mapping says

ATTRIBUTE = "entities__book__attributes__title"


def test_the_book_library_is_the_contract_with_the_application() -> None:
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    assert mapping.order == ("user", "book", "user_book")
    tables = {
        name: (e.table("dev"), e.target.key, sorted(e.attributes), e.indexes) for name, e in mapping.entities.items()
    }
    assert tables == {
        "user": (
            "BookLibrary-Users-dev",
            "user_id",
            ["created_at", "email", "password_hash", "username"],
            {"email-index": ("email",), "username-index": ("username",)},
        ),
        "book": (
            "BookLibrary-Books-dev",
            "book_id",
            ["author", "cover_image_url", "created_at", "description", "genre", "isbn", "title"],
            {"isbn-index": ("isbn",)},
        ),
        "user_book": (
            "BookLibrary-UserBooks-dev",
            "user_book_id",
            ["book_id", "date_added", "rating", "status", "sync_status", "user_id"],
            {"user-index": ("user_id",), "user-book-index": ("user_id", "book_id")},
        ),
    }
    assert [n for n, a in mapping.entities["user"].attributes.items() if a.sensitive] == ["email", "password_hash"]


def test_the_package_s_mappings_are_found_and_sound() -> None:
    assert [load_mapping(path).name for path in find_mappings()] == [path.stem for path in find_mappings()]


def test_a_mapping_knows_its_order_its_columns_and_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path, BOOKS)
    mapping = load_mapping(path)
    assert mapping.order == ("author", "book")
    assert mapping.parents == {"author": (), "book": ("author",)}
    assert mapping.source_tables == {"author": ["id", "name"], "book": ["id", "author", "title"]}
    assert mapping.index_keys["book"] == {"author_id", "title"}
    assert mapping.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_query_stands_in_the_place_of_a_table(tmp_path: Path) -> None:
    data = yaml.safe_load(BOOKS)
    data["entities"]["author"]["source"] = {"key": "ID", "query": "SELECT 1 AS id, 2 AS name, 3 AS nick"}
    data["entities"]["book"]["attributes"]["author_id"]["references"] = {"entity": "author", "by": "nick"}
    mapping = load_mapping(write(tmp_path, yaml.safe_dump(data, sort_keys=False)))
    assert mapping.source_tables == {"book": ["id", "author", "title"]}
    assert mapping.query_columns == {"author": ("ID", "name", "nick")}
    assert [entity.origin for entity in mapping.entities.values()] == ["query of author", "book"]


def test_children_stand_after_their_parents_wherever_the_file_puts_them(tmp_path: Path) -> None:
    data = yaml.safe_load(BOOKS)
    data["entities"] = dict(reversed(data["entities"].items()))
    mapping = load_mapping(write(tmp_path, yaml.safe_dump(data, sort_keys=False)))
    assert mapping.order == ("author", "book")


def test_a_column_may_be_used_twice(tmp_path: Path) -> None:
    text = change(entities__book__attributes__heading={"column": "title", "type": "string"})
    assert load_mapping(write(tmp_path, text)).entities["book"].columns == ("author", "title")


@pytest.mark.parametrize(
    "attribute",
    [
        {"type": "boolean", "default": True},
        {"type": "number", "default": 0},
        {"type": "number", "default": 0.99},
        {"type": "number", "default": 2**63},
        {"type": "string", "default": ""},
        {"type": "timestamp", "default": "first_seen"},
        {"column": "c", "type": "number", "default": -5},
        {"column": "c", "type": "timestamp", "numbers": "julian_day"},
    ],
)
def test_attributes_that_are_sound(tmp_path: Path, attribute: dict[str, Any]) -> None:
    assert load_mapping(write(tmp_path, change(entities__book__attributes__extra=attribute)))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0.99", "0.99"),
        ("-0.10", "-0.1"),
        ("1.0e-7", "0.0000001"),
        ("1_000.5", "1000.5"),
        ("0.12345678901234567890123456789012345678", "0.12345678901234567890123456789012345678"),
        ("9223372036854775808", "9223372036854775808"),
        ("1:30.5", "90.5"),  # YAML's base 60
    ],
)
def test_the_default_of_a_number_is_exact_to_the_last_digit_of_the_file(tmp_path: Path, text: str, number: str) -> None:
    path = write(tmp_path, BOOKS.replace("{column: title, type: string}", f"{{type: number, default: {text}}}"))
    assert load_mapping(path).entities["book"].attributes["title"].default_value == {"N": number}


def test_an_index_may_have_the_key_of_the_table(tmp_path: Path) -> None:
    indexes = {"by-id": ["book_id"], "by-title": ["title", "book_id"], "of-author": ["book_id", "author_id"]}
    entity = load_mapping(write(tmp_path, change(entities__book__indexes=indexes))).entities["book"]
    assert entity.indexes["by-id"] == ("book_id",)


KEPT = """\
name: shelf
entities:
  author:
    source: {table: author, key: id}
    target: {table: "Authors-{environment}", key: {id: keep}}
  book:
    source: {table: book, key: [author, nr]}
    target: {table: "Books-{environment}", key: {pk: "A#{author}", nr: keep}}
    attributes:
      author: {column: author, references: author}
      title: {column: title, type: string}
"""


def test_keys_may_be_kept_and_attributes_empty(tmp_path: Path) -> None:
    mapping = load_mapping(write(tmp_path, KEPT))
    author, book = mapping.entities.values()
    assert (author.target.keys, author.new_id, author.attributes) == (("id",), None, {})
    assert (book.source.keys, book.target.keys, book.columns) == (
        ("author", "nr"),
        ("pk", "nr"),
        ("author", "title", "nr"),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{id: keep}", "{}", "entities.author.target.key: must not be empty"),
        ("{id: keep}", "{a: keep, b: keep, c: keep}", "entities.author.target.key: must have at most 2 entries"),
        ("{id: keep}", "{id: kept}", "id: kept would be the key of all items; did you mean keep?"),
        ("{id: keep}", "{id: [id]}", "entities.author.target.key.id: "),
        ("{id: keep}", "{id: {colum: id}}", "did you mean column?"),
        ("{id: keep}", "id", "entities.author.attributes: must not be empty"),
        ("{id: keep}", '{id: "#META"}', "target.key: all rows would have one key"),
        ("nr: keep", 'nr: "{@titel}"', "titel is not an attribute of this entity; did you mean title?"),
        ("[author, nr]", "[nr, NR]", "entities.book.source.key: a column is listed twice"),
        ("[author, nr]", "[]", "entities.book.source.key: must not be empty"),
        ("[author, nr]", "rowid", "identity: is needed with the key rowid"),
        ("references: author}", "references: {entity: author, part: sk}}", "part: author has no such key"),
        ("references: author}", "references: {entity: autor}}", "there is no entity autor; did you mean author?"),
        ("references: author}", "references: {entity: author, via: x}}", "there is no such key"),
        ("column: author, ref", "column: [author, nr], ref", "so column must name 1 of this table's columns"),
        ("title, type: string", "[title, nr], type: string", "only a reference has several columns"),
        ("title, type: string", "title, type: string, optional: true", "only a reference has it"),
        ("column: title, type: string", 'value: "{title}", type: json', "has the type string or number"),
        ("column: title, type: string", 'value: "#META", type: string', "value: the template names no column"),
        ("column: title, type: string", 'value: "{title", type: string', "belongs to no placeholder"),
        ("column: title, type: string", 'value: "{@nr}", type: string', "nr is not an attribute of this entity"),
        ("title, type: string", "nr, type: string, sensitive: true", "nr cannot be sensitive and the key"),
    ],
)
def test_each_fault_of_a_key_is_one_sentence(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in KEPT
    with pytest.raises(MappingError) as refused:
        load_mapping(write(tmp_path, KEPT.replace(old, new)))
    assert message in str(refused.value)


def test_a_template_is_as_sensitive_as_what_it_is_made_of(tmp_path: Path) -> None:
    attributes = (
        "title: {column: title, type: string, sensitive: true}\n"
        '      raw: {value: "{title}!", type: string}\n'
        '      made: {value: "{@title}!", type: string}\n'
        '      other: {value: "{@author}!", type: string}'
    )
    text = KEPT.replace("title: {column: title, type: string}", attributes)
    mapping = load_mapping(write(tmp_path, text))
    book = mapping.entities["book"]
    assert [name for name in book.attributes if mapping.is_sensitive("book", name)] == ["title", "raw", "made"]
    assert [book.list_columns(name) for name in ("raw", "made", "other")] == [("title",), ("title",), ("author",)]


def test_a_sensitive_key_needs_an_entity_that_is_secret_and_so_do_keys_made_of_it(tmp_path: Path) -> None:
    secret = KEPT.replace("{id: keep}}", "{id: keep}}\n    secret: true")
    with pytest.raises(
        MappingError, match=r"entities.book: target.key.pk: author cannot be sensitive .* set secret: true"
    ):
        load_mapping(write(tmp_path, secret))
    both = secret.replace("    attributes:\n      author", "    secret: true\n    attributes:\n      author")
    both = both.replace("title: {column", 'made: {value: "{@author} {title}", type: string}\n      title: {column')
    mapping = load_mapping(write(tmp_path, both))
    assert mapping.sensitive_columns == {"author": {"id"}, "book": {"author", "nr"}}
    assert [name for name in mapping.entities["book"].attributes if mapping.is_sensitive("book", name)] == [
        "author", "made",
    ]  # fmt: skip
    marked = both.replace("title, type: string}", "nr, type: string, sensitive: true}")
    assert load_mapping(write(tmp_path, marked))


def test_a_reference_by_a_sensitive_column_is_sensitive(tmp_path: Path) -> None:
    text = change(
        entities__author__attributes__name__sensitive=True,
        entities__book__attributes__author_id__references={"entity": "author", "by": "NAME"},
    )
    assert load_mapping(write(tmp_path, text)).sensitive_columns["book"] == {"author"}


def test_a_child_that_keeps_its_key_cannot_mean_the_new_id_of_its_parent(tmp_path: Path) -> None:
    text = KEPT.replace("{id: keep}}", "author_id}\n    attributes: {name: {column: name, type: string}}")
    assert load_mapping(write(tmp_path, text))
    text = text.replace('pk: "A#{author}"', "author: keep")
    message = r"author has new ids, so the old value .*; write \"{@author}\" in place of keep"
    with pytest.raises(MappingError, match=message):
        load_mapping(write(tmp_path, text))
    assert load_mapping(write(tmp_path, text.replace("author: keep", 'author: "{@author}"')))


def test_twenty_indexes_are_not_too_many(tmp_path: Path) -> None:
    indexes = {f"i{number}": ["title"] for number in range(20)}
    assert load_mapping(write(tmp_path, change(entities__book__indexes=indexes)))


def test_all_faults_are_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(MappingError) as refused:
        load_mapping(write(tmp_path, change(nmae="x", name=None, entities__book__attributes__title__typ="x")))
    said = str(refused.value)
    for fault in (
        "name: this key is missing.",
        "title.typ: there is no such key; did you",
        "nmae: there is no such key;",
    ):
        assert fault in said


def test_no_fault_is_said_in_pydantic_s_words(tmp_path: Path) -> None:
    for changes, _ in FAULTS:
        with pytest.raises(MappingError) as refused:
            load_mapping(write(tmp_path, change(**changes)))
        assert not re.search(
            r"Input|[Ff]ield required|should|Extra|permitted|valid (string|dict)|\[key\]|datetime|bytes",
            str(refused.value),
        )


def test_the_key_may_be_an_attribute_too_and_any_other_column_sensitive(tmp_path: Path) -> None:
    old = {"column": "id", "type": "number"}
    text = change(entities__book__attributes__old=old, entities__book__attributes__title__sensitive=True)
    assert load_mapping(write(tmp_path, text)).entities["book"].sensitive_columns == {"title"}


def test_a_mapping_cannot_be_changed_once_loaded(tmp_path: Path) -> None:
    mapping = load_mapping(write(tmp_path, BOOKS))
    with pytest.raises(ValueError, match="frozen"):
        mapping.name = "other"  # type: ignore[misc]


# Faults, each with file, entity and field

FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "colour: there is no such key. Known are name, timezone, schedule, tables and entities"),
    ({"name": None}, "name: this key is missing"),
    ({"name": "my shelf"}, "name: must be letters, digits and _"),
    ({"sha256": "0" * 64}, "sha256: there is no such key"),
    ({"timezone": "Mars/Olympus"}, "timezone: 'Mars/Olympus' is not a time zone"),
    ({"timezone": "../etc/passwd"}, "timezone: '../etc/passwd' is not a time zone"),
    ({"entities": {}}, "entities: at least one is needed"),
    ({"entities": None}, "entities: this key is missing"),
    ({"entities": ["book"]}, "entities: must be a block of names, each with its own keys, but is a list"),
    ({"entities__book__sauce": 1}, "entities.book.sauce: there is no such key; did you mean source? Known are source,"),
    ({"entities__book__name": "livre"}, "entities.book.name: there is no such key, book is the name"),
    ({"entities__book__source": None}, "entities.book.source: this key is missing"),
    ({"entities__book__source__table": None}, "book.source.table: this key is missing; name a table, or give a query"),
    ({"entities__book__source__query": "SELECT 1"}, "book.source.query: a source has a table or a query, not both"),
    ({"entities__book__source__query": ""}, "entities.book.source.query: must not be empty"),
    (
        {"entities__book__source": {"key": "id", "query": "SELECT 1", "where": "id > 1"}},
        "entities.book.source.where: only a table has it; write the condition into the query",
    ),
    (
        {"entities__book__source": {"key": "rowid", "query": "SELECT 1"}},
        "entities.book.source.key: a query has no rowid; name columns of the query that identify a row",
    ),
    ({"entities__book__source__key": None}, "entities.book.source.key: this key is missing"),
    ({"entities__book__source__key": ""}, "entities.book.source.key: must not be empty"),
    ({"entities__book__target__table": "a b"}, "entities.book.target.table: must be letters, digits, _, . and -"),
    (
        {"entities__book__target__table": "x{env}"},
        "entities.book.target.table: must be letters, digits, _, . and -, with {environment} at most once",
    ),
    (
        {"entities__book__target__table": "Authors-{environment}"},
        "entities.book.target.key: the table Authors-{environment} has the key author_id in author; give both the same",
    ),
    ({"entities__book__target__key": "title"}, "entities.book: attributes.title: this is the key"),
    *(
        (
            {"entities__book__attributes__old": {"column": column, "type": "string", "sensitive": True}},
            f"entities.book: source.key: {column} cannot be sensitive and the key",
        )
        for column in ("id", "ID")
    ),
    (
        {"entities__book__attributes__heading": {"column": "TITLE", "type": "string", "sensitive": True}},
        "entities.book: attributes: TITLE and title are one column; spell it one way",
    ),
    ({"entities__book__attributes": {}}, "entities.book.attributes: must not be empty"),
    (
        {f"{ATTRIBUTE}__type": "text"},
        "entities.book.attributes.title.type: there is no type text. Known are string, number",
    ),
    ({f"{ATTRIBUTE}__type": None}, "entities.book.attributes.title: type is missing: one of string, number"),
    ({f"{ATTRIBUTE}__colum": "x"}, "entities.book.attributes.title.colum: there is no such key; did you mean column?"),
    ({f"{ATTRIBUTE}__column": None}, "entities.book.attributes.title: either a column or a default is needed"),
    ({f"{ATTRIBUTE}__default": 5}, "entities.book.attributes.title: default: 5 cannot be the default of a string"),
    ({f"{ATTRIBUTE}__numbers": "julian_day"}, "entities.book.attributes.title: numbers: only a timestamp has it"),
    ({ATTRIBUTE: {"column": "t", "type": "number", "default": True}}, "True cannot be the default of a number"),
    ({ATTRIBUTE: {"column": "t", "type": "number", "default": 10**38 + 1}}, "cannot be the default of a number"),
    ({ATTRIBUTE: {"column": "t", "type": "number", "default": float("inf")}}, "entities.book.attributes.title.default"),
    ({ATTRIBUTE: {"column": "t", "type": "boolean", "default": 1}}, "1 cannot be the default of a boolean"),
    ({ATTRIBUTE: {"column": "t", "type": "timestamp", "default": "now"}}, "'now' cannot be the default of a timestamp"),
    ({ATTRIBUTE: {"column": "t", "type": "json", "default": "{}"}}, "'{}' cannot be the default of a json"),
    ({ATTRIBUTE: {"column": "t", "references": "author", "type": "string"}}, "a reference has a column, and neither"),
    ({ATTRIBUTE: {"references": "author"}}, "entities.book.attributes.title: a reference has a column, and neither"),
    ({ATTRIBUTE: {"column": "t", "type": "number", "default": "5"}}, "'5' cannot be the default of a number"),
    ({ATTRIBUTE: {"column": "t", "type": "string", "default": ["x"]}}, "title.default: must be text, a number, true"),
    (
        {ATTRIBUTE: {"column": "t", "type": "string", "default": date(2026, 1, 5)}},
        "title.default: must be text, a number",
    ),
    (
        {ATTRIBUTE: {"column": "t", "type": "timestamp", "numbers": "days"}},
        "title.numbers: must be epoch_seconds, epoch",
    ),
    (
        {ATTRIBUTE: {"column": "t", "type": "timestamp", "numbrs": "days"}},
        "title.numbrs: there is no such key; did you",
    ),
    ({ATTRIBUTE: "title"}, "entities.book.attributes.title: must be a block with the keys column, type"),
    (
        {"entities__book__attributes__1": {"type": "string"}, "name": 5},
        "name: must be text, but is a number; put it in",
    ),
    (
        {"entities__book__attributes": {1: {"column": "c", "type": "string"}}},
        "attributes: the key 1 is a number; put it in",
    ),
    ({"entities__book__attributes": {"": {"column": "c", "type": "string"}}}, "book.attributes: the key '' is empty"),
    (
        {"entities__book__attributes": {date(2026, 1, 5): {"column": "c", "type": "string"}}},
        "book.attributes: the key 2026-01-05 is a date; put it in quotes",
    ),
    (
        {"entities__book__source": b"x"},
        "entities.book.source: must be a block with the keys table, query, key and where, but is binary",
    ),
    ({"entities__book__source__table": "a\ud800"}, "entities.book.source.table: is not valid Unicode; correct the esc"),
    ({f"{ATTRIBUTE}__type": "a\ud800"}, "a text in it is not valid Unicode: correct the escape \\ud800"),
    ({"entities__book__indexes": {"i": "title"}}, "entities.book.indexes.i: must be a list, but is text"),
    (
        {"entities__book__indexes": {f"i{number}": ["title"] for number in range(21)}},
        "entities.book.indexes: 21 indexes are listed, and a DynamoDB table has at most 20",
    ),
    ({"entities__book__identity": [["titel"]]}, "titel is not an attribute of this entity; did you mean title?"),
    ({ATTRIBUTE: {"column": "t", "references": "reader"}}, "entities.book.attributes.title: there is no entity reader"),
    (
        {
            "entities__author__attributes__best": {"column": "best", "references": "book"},
            "entities__author__identity": [["best"]],
            "entities__book__identity": [["author_id"]],
        },
        "entities: the keys or identities run in a circle: ",
    ),
    (
        {
            "entities__book__attributes__self": {"column": "s", "references": "book"},
            "entities__book__identity": [["self"]],
        },
        "entities: the keys or identities run in a circle: book → book. A circle of references is possible, but no key",
    ),
    (
        {"entities__book__indexes": {"i": ["title"]}, f"{ATTRIBUTE}__default": ""},
        "indexes.i: title cannot be '' by default",
    ),
    ({"entities__book__indexes": {"i": []}}, "entities.book: indexes.i: a partition key and at most one sort key"),
    ({"entities__book__indexes": {"i": ["title", "author_id", "title"]}}, "indexes.i: a partition key and at most one"),
    ({"entities__book__indexes": {"i": ["isbn"]}}, "entities.book: indexes.i: isbn is not an attribute"),
    (
        {"entities__book__attributes__x": {"column": "x", "type": "json"}, "entities__book__indexes__i": ["x"]},
        "entities.book: indexes.i: x must be of one type",
    ),
    (
        {"entities__book__attributes__x": {"column": "x", "type": "auto"}, "entities__book__indexes__i": ["x"]},
        "entities.book: indexes.i: x must be of one type",
    ),
    ({"entities__book__identity": [[]]}, "entities.book: identity: an alternative names at least one attribute"),
    ({"entities__book__identity": [["isbn"]]}, "entities.book: identity: isbn is not an attribute"),
    (
        {
            "entities__book__attributes__seen": {"type": "timestamp", "default": "first_seen"},
            "entities__book__identity": [["seen"]],
        },
        "entities.book: identity: seen may be the time of the run",
    ),
]


@pytest.mark.parametrize(("changes", "message"), FAULTS, ids=lambda x: str(x)[:60])
def test_each_fault_is_one_sentence_with_file_entity_and_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, change(**changes))
    with pytest.raises(MappingError) as refused:
        load_mapping(path)
    said = str(refused.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert "\n" not in said
    assert said.endswith(".")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", r"shelf.yaml, line \d+: this is not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", "shelf.yaml, line 3: this is not valid YAML .the key a occurs twice"),
        ("schedule: 2026-13-45\n", "shelf.yaml: this is not valid YAML"),
        ("- a\n- b\n", "shelf.yaml: a mapping has the keys name and entities at its top"),
        ("", "shelf.yaml: a mapping has the keys name and entities at its top"),
        ("\x00", "shelf.yaml: this is not valid YAML"),
        ("!!python/object:os.system {}", "shelf.yaml, line 1: this is not valid YAML"),
    ],
)
def test_what_is_no_mapping_at_all(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MappingError, match=message):
        load_mapping(write(tmp_path, text))


def test_a_key_that_stands_twice_is_not_lost_in_silence(tmp_path: Path) -> None:
    text = BOOKS.replace("      title: {", "      title: {column: t, type: json}\n      title: {")
    with pytest.raises(MappingError, match="the key title occurs twice"):
        load_mapping(write(tmp_path, text))


def test_a_file_that_is_not_there_or_not_utf_8(tmp_path: Path) -> None:
    with pytest.raises(MappingError, match=re.escape("nowhere.yaml: the mapping cannot be read (No such file")):
        load_mapping(tmp_path / "nowhere.yaml")
    (tmp_path / "shelf.yaml").write_bytes(b"name: \xff\xfe\x00")
    with pytest.raises(MappingError, match=re.escape("shelf.yaml")):
        load_mapping(tmp_path / "shelf.yaml")


def test_more_references_than_sqlite_joins_are_refused(tmp_path: Path) -> None:
    data = yaml.safe_load(BOOKS)
    for number in range(30):
        data["entities"]["book"]["attributes"][f"p{number}"] = {"column": f"p{number}", "references": "author"}
    assert load_mapping(write(tmp_path, yaml.safe_dump(data)))
    data["entities"]["book"]["attributes"]["last"] = {"column": "last", "references": "author"}
    with pytest.raises(MappingError, match=r"entities.book: has 32 references, and at most 31 are possible"):
        load_mapping(write(tmp_path, yaml.safe_dump(data)))


def test_a_file_is_named_as_its_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (MAPPINGS / "book_library.yaml").read_text()
    monkeypatch.setattr("accession.mapping.load.MAPPINGS", tmp_path)
    (tmp_path / "book_library.yaml").write_text(text)
    sound, errors = check_mappings(find_mappings())
    assert ([mapping.name for mapping in sound.values()], errors) == (["book_library"], [])
    (tmp_path / "other.yaml").write_text(text)
    sound, errors = check_mappings(find_mappings())
    assert [mapping.name for mapping in sound.values()] == ["book_library"]
    (error,) = errors
    assert "other.yaml: name: book_library is not the file's name" in str(error)


def test_a_broken_mapping_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("entities: [")
    sound, errors = check_mappings(find_mappings(tmp_path))
    assert list(sound) == [MAPPINGS / "book_library.yaml"]
    assert [str(error).partition(",")[0] for error in errors] == [str(tmp_path / "broken.yaml")]


def test_two_mapping_files_of_one_name_are_one_error_and_no_mapping(tmp_path: Path) -> None:
    own = MAPPINGS / "book_library.yaml"
    twin = tmp_path / "book_library.yaml"
    twin.write_text(own.read_text())
    sound, errors = check_mappings(find_mappings(tmp_path))
    assert sound == {}
    (error,) = errors
    first, second = sorted([own, twin])
    assert str(error) == f"{first}: {second} has the same name: rename one of them, and the mapping in it."


def test_the_folder_of_mappings_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_MAPPINGS", str(tmp_path / "typo"))
    with pytest.raises(MappingError, match="typo: this folder of mappings does not exist"):
        find_mappings()


def test_the_same_folder_twice_is_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_MAPPINGS", str(MAPPINGS))
    assert [path.name for path in find_mappings()] == sorted(path.name for path in MAPPINGS.glob("*.yaml"))


def test_the_faults_of_an_entity_and_those_of_its_references_are_found_at_once(tmp_path: Path) -> None:
    with pytest.raises(MappingError) as refused:
        load_mapping(write(tmp_path, change(entities__book__indexes__x=["tilte"], entities__book__identity=[["isnb"]])))
    assert [fault.split(";")[0] for fault in refused.value.faults] == [
        "entities.book: indexes.x: tilte is not an attribute of this entity",
        "entities.book: identity: isnb is not an attribute of this entity. Known are author_id and title.",
    ]
    data = yaml.safe_load(BOOKS)
    book = data["entities"]["book"]["attributes"]
    book |= {name: {"column": "author", "references": f"{name}_"} for name in ("publisher", "printer")}
    with pytest.raises(MappingError) as refused:
        load_mapping(write(tmp_path, yaml.safe_dump(data)))
    assert [fault.split(":")[0] for fault in refused.value.faults] == [
        "entities.book.attributes.printer", "entities.book.attributes.publisher",
    ]  # fmt: skip
