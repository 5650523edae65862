"""Staging and what follows from it: exact against the owner's own script, against the service, and safe to repeat."""

import base64
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import orjson
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st

from accession.cli.sample import write_sample
from accession.column_types import ValueProblem
from accession.column_types.documents import to_json
from accession.column_types.numbers import to_number
from accession.column_types.scalars import to_auto
from accession.dynamodb import DynamoDB
from accession.errors import RefusedError
from accession.items import ItemKey, KeySchema, Table, TypedItem, checksum_item, measure_item
from accession.items.builder import MAX_ITEM_BYTES
from accession.items.plan import MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES
from accession.run.plan import price_units
from accession.target import open_target
from conftest import Library, LocalAws, make_library
from driver import Driver

NOW = "2026-01-05T00:00:00+00:00"


def test_a_home_library_is_moved_proved_and_undone(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    report = driver.run()
    assert report.status == "verified"
    assert {name: entity.verified for name, entity in report.entities.items()} == {
        "user": 120,
        "book": 200,
        "user_book": 398,
    }
    assert len(driver.rejects("user_book")) == 2
    driver.undo()
    assert not any(driver.scan(name) for name in driver.mapping.order)


# Exact: the owner's own script

KEYS = {"user": "user_id", "book": "book_id", "user_book": "user_book_id"}


def run_owners_script(source: Path, tables: dict[str, Any]) -> tuple[dict[str, dict[int, str]], int]:
    """What the owner's script does, as the issue tells it: a put for each row, new UUIDs, dates as they are, no rating
    for 0, orphans skipped. Returns its ids and how many it skipped."""
    ids: dict[str, dict[int, str]] = {"user": {}, "book": {}, "user_book": {}}
    skipped = 0
    with closing(sqlite3.connect(source)) as db:
        db.row_factory = sqlite3.Row
        for row in db.execute("SELECT * FROM user"):
            ids["user"][row["id"]] = str(uuid4())
            tables["user"].put_item(
                Item={
                    "user_id": ids["user"][row["id"]],
                    "username": row["username"],
                    "email": row["email"],
                    "password_hash": row["password_hash"],
                    "created_at": NOW,
                }
            )
        for row in db.execute("SELECT * FROM book"):
            ids["book"][row["id"]] = str(uuid4())
            tables["book"].put_item(
                Item={
                    "book_id": ids["book"][row["id"]],
                    "isbn": row["isbn"],
                    "title": row["title"],
                    "author": row["author"],
                    "genre": row["genre"] or "Unknown",
                    "cover_image_url": row["cover_image_url"],
                    "description": row["description"],
                    "created_at": NOW,
                }
            )
        for row in db.execute("SELECT * FROM user_book"):
            if row["user_id"] not in ids["user"] or row["book_id"] not in ids["book"]:
                skipped += 1
                continue
            ids["user_book"][row["id"]] = str(uuid4())
            tables["user_book"].put_item(
                Item={
                    "user_book_id": ids["user_book"][row["id"]],
                    "user_id": ids["user"][row["user_id"]],
                    "book_id": ids["book"][row["book_id"]],
                    "status": row["status"],
                    "rating": row["rating"] if row["rating"] else None,
                    "sync_status": row["sync_status"],
                    "date_added": row["date_added"] or NOW,
                }
            )
    return ids, skipped


def make_tables_without_indexes(aws: LocalAws) -> dict[str, Any]:
    """The script's tables: an index would refuse the NULLs that it writes."""
    resource = boto3.resource("dynamodb")
    tables = {}
    for entity, key in KEYS.items():
        name = f"script-{entity}-{uuid4().hex[:8]}"
        aws.client("dynamodb").create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
            KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        )
        tables[entity] = resource.Table(name)
    return tables


def read_by_old_keys(tables: dict[str, Any], ids: dict[str, dict[Any, str]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Every item by its old key, with old keys in place of UUIDs and without times of the run."""
    old = {new: key for entity in ids.values() for key, new in entity.items()}
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for entity, key in KEYS.items():
        pages = tables[entity].scan(ConsistentRead=True)
        assert "LastEvaluatedKey" not in pages
        rows = found[entity] = {}
        for item in pages["Items"]:
            item.pop("created_at", None)
            row = {name: old.get(value, value) if name in KEYS.values() else value for name, value in item.items()}
            rows[row.pop(key)] = row
    return found


def test_the_result_is_the_owners_script_s_but_for_four_differences(
    aws: LocalAws, library: Library, tmp_path: Path
) -> None:
    source = write_sample(tmp_path / "site.db", users=40, books=60, user_books=200, orphans=3, odd=0)
    script_tables = make_tables_without_indexes(aws)
    script_ids, skipped = run_owners_script(source, script_tables)
    expected = read_by_old_keys(script_tables, script_ids)

    driver = Driver(library, source, max_rejects=3)
    assert driver.run().status == "verified"
    resource = boto3.resource("dynamodb")
    tables = {entity: resource.Table(library.tables[entity]) for entity in KEYS}
    found = read_by_old_keys(
        tables, {entity: {entry.old_key: entry.new_id for entry in driver.id_map(entity)} for entity in KEYS}
    )
    now = driver.manifest.started_at

    # 1. dates in ISO 8601 UTC; 2. a rating of 0 kept; 3. index keys never NULL or empty; 4. orphans are rejects
    with closing(sqlite3.connect(source)) as db:
        zeros = {key for (key,) in db.execute("SELECT id FROM user_book WHERE rating = 0")}
    assert zeros
    for key, row in expected["user_book"].items():
        raw = row["date_added"]
        row["date_added"] = now if raw == NOW else datetime.fromisoformat(f"{raw}+00:00").isoformat()
        if key in zeros:
            row["rating"] = Decimal(0)
    for row in expected["book"].values():
        if not row["isbn"]:
            del row["isbn"]
    assert found == expected
    assert len(driver.rejects("user_book")) == skipped == 3


# Exact: the service's own verdict


def put(table: str, item: dict[str, Any]) -> bool:
    """Whether the service takes the item."""
    client = boto3.client("dynamodb")
    try:
        client.put_item(TableName=table, Item=to_boto(item))
    except ClientError as error:
        assert error.response["Error"]["Code"] == "ValidationException"
        return False
    return True


def to_boto(item: dict[str, Any]) -> dict[str, Any]:
    """boto3 wants the bytes, the wire has base64."""

    def convert(value: dict[str, Any]) -> dict[str, Any]:
        ((kind, content),) = value.items()
        match kind:
            case "B":
                return {"B": base64.b64decode(content)}
            case "BS":
                return {"BS": [base64.b64decode(element) for element in content]}
            case "L":
                return {"L": [convert(element) for element in content]}
            case "M":
                return {"M": {name: convert(field) for name, field in content.items()}}
            case _:
                return value

    return {name: convert(value) for name, value in item.items()}


@pytest.fixture(scope="module")
def shared(aws: LocalAws) -> Library:
    """One library for many examples."""
    return make_library(aws)


def read_back(library: Library, key: str) -> dict[str, Any]:
    from accession.dynamodb import DynamoDB

    dynamodb = DynamoDB(library.aws.client("dynamodb"))
    table = Table(library.tables["user_book"], KeySchema(("user_book_id",)))
    return dynamodb.read_items(table, [ItemKey(key)])[ItemKey(key)]


VALUES: dict[str, dict[str, Any]] = {
    "number 1e2": to_number("1e2"),
    "number -0.0": to_number(-0.0),
    "number 1E-130": to_number("1E-130"),
    "number 9.99E+125": to_number("9." + "9" * 37 + "E+125"),
    "38 digits": to_number("9" * 38),
    "38 digits after the point": to_number("-0." + "1" * 38),
    "38 digits far away": to_number("1." + "2" * 37 + "E-100"),
    "2^63-1": to_auto(2**63 - 1),
    "real": to_auto(0.1),
    "text": to_auto('雪国 👩‍💻 a\0b \u2028 \\ " é e\u0301'),
    "empty text": to_auto(""),
    "blob": to_auto(bytes(range(256))),
    "empty blob": to_auto(b""),
    "boolean": {"BOOL": False},
    "null": {"NULL": True},
    "json": to_json(
        '{"b": [1.50, 1e2, -0.0, [], {}, {"a": null}], "a": {"é": true, "": 0}}'.replace('"": 0', '"z": ""')
    ),
    "deep json": to_json('{"a":' * 31 + "1E+2" + "}" * 31),
    "set of texts, the application's": {"SS": ["b", "a", "é", "10"]},
    "set of numbers, the application's": {"NS": ["10", "9", "1E+2", "-0.50"]},
    "set of blobs, the application's": {"BS": ["/w==", "AA==", "AAE="]},
    "map with sets, the application's": {"M": {"s": {"NS": ["2.0", "1"]}, "l": {"L": [{"SS": ["y", "x"]}]}}},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_an_item_read_back_has_the_checksum_it_was_written_with(shared: Library, value: dict[str, Any]) -> None:
    key = str(uuid4())
    item = {"user_book_id": {"S": key}, "value": value}
    assert put(shared.tables["user_book"], item)
    assert checksum_item(read_back(shared, key)) == checksum_item(item)


@settings(max_examples=60)
@given(
    value=st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.from_regex(r"-?[0-9]{1,45}(\.[0-9]{1,45})?(e[+-]?[0-9]{1,3})?", fullmatch=True)
)
def test_what_is_converted_is_taken_and_comes_back_the_same(shared: Library, value: Any) -> None:
    converted = []
    for convert in (to_auto, to_number):
        try:
            converted.append(convert(value))
        except ValueProblem:
            continue
    key = str(uuid4())
    item = {"user_book_id": {"S": key}, **{f"v{number}": one for number, one in enumerate(converted)}}
    assert put(shared.tables["user_book"], item)
    assert checksum_item(read_back(shared, key)) == checksum_item(item)


@pytest.mark.parametrize("number", ["9" * 39, "1E+126", "1E-131", "-1E+126", "0." + "1" * 39])
def test_numbers_that_we_refuse_the_service_refuses_too(shared: Library, number: str) -> None:
    with pytest.raises(ValueProblem):
        to_number(number)
    assert not put(shared.tables["user_book"], {"user_book_id": {"S": "n"}, "value": {"N": number}})


@pytest.mark.parametrize(("depth", "fits"), [(31, True), (32, False)])
def test_documents_as_deep_as_the_service_takes(shared: Library, depth: int, fits: bool) -> None:
    text = '{"a":' * depth + "1" + "}" * depth
    typed: dict[str, Any] = {"N": "1"}
    for _ in range(depth):
        typed = {"M": {"a": typed}}
    assert put(shared.tables["user_book"], {"user_book_id": {"S": "deep"}, "value": typed}) is fits
    if fits:
        assert to_json(text) == typed
    else:
        with pytest.raises(ValueProblem, match="nested"):
            to_json(text)


@pytest.mark.parametrize(("extra", "fits"), [(-1, True), (0, True), (1, False)])
@pytest.mark.parametrize("kind", ["S", "B", "L", "M", "N"])
def test_items_as_large_as_the_service_takes(shared: Library, kind: str, extra: int, fits: bool) -> None:
    item: dict[str, Any] = {"user_book_id": {"S": str(uuid4())}, "v": {"S": ""}}
    item["w"] = {
        "S": {"S": "é"},
        "B": {"B": base64.b64encode(b"12345").decode()},
        "L": {"L": [{"S": "x"}, {"NULL": True}, {"N": "12"}]},
        "M": {"M": {"ab": {"BOOL": True}, "é": {"L": []}}},
        "N": {"N": "123456789"},
    }[kind]
    item["v"] = {"S": "x" * (MAX_ITEM_BYTES + extra - measure_item(item))}
    assert measure_item(item) == MAX_ITEM_BYTES + extra
    assert put(shared.tables["user_book"], item) is fits


@pytest.mark.parametrize(("name", "limit"), [("pk", MAX_PARTITION_KEY_BYTES), ("sk", MAX_SORT_KEY_BYTES)])
def test_keys_as_long_as_the_service_takes(aws: LocalAws, name: str, limit: int) -> None:
    """Asked of table keys, since MiniStack does not measure index keys; test_items shows that we do, to the byte."""
    table = f"keys-{uuid4().hex[:8]}"
    aws.client("dynamodb").create_table(
        TableName=table,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in ("pk", "sk")],
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
    )
    keys = {"pk": {"S": "p"}, "sk": {"S": "s"}}
    assert put(table, {**keys, name: {"S": "x" * (limit - 1)}})
    assert put(table, {**keys, name: {"S": "é" * (limit // 2)}})
    assert not put(table, {**keys, name: {"S": "é" * (limit // 2) + "x"}})


# Repeating


def test_staging_again_uses_what_was_staged(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=3, books=3, user_books=5, orphans=0, odd=0)
    driver = Driver(library, source)
    first = driver.stage_all()
    with closing(sqlite3.connect(source)) as db:  # nobody looks at the source any more
        db.execute("DELETE FROM user")
        db.commit()
    assert {name: driver.stage(name) for name in driver.mapping.order} == first


def test_two_runs_over_the_same_source_make_the_same_ids(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=3, books=3, user_books=5, orphans=0, odd=0)
    one, other = Driver(library, source), Driver(library, source)
    one.stage_all()
    other.stage_all()
    assert one.run_name != other.run_name
    for name in one.mapping.order:
        ids = [{entry.old_key: entry.new_id for entry in driver.id_map(name)} for driver in (one, other)]
        assert ids[0] == ids[1]


def test_staging_writes_nothing_to_the_tables(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", orphans=0, odd=0))
    driver.stage_all()
    driver.plan()
    assert not any(library.scan(name) for name in KEYS)


def test_a_run_that_has_the_target_open_is_not_staged_again(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", users=2, books=2, user_books=2, orphans=0, odd=0))
    driver.start()
    driver.stage("user")
    open_target(driver.store, driver.run_name, None)
    with pytest.raises(RefusedError, match="has the target open: it cannot be staged again"):
        driver.stage("book")


@pytest.mark.parametrize("rows", [0, 1, 99, 100, 101, 250])
def test_parts_hold_every_row_once(library: Library, tmp_path: Path, rows: int) -> None:
    source = write_sample(tmp_path / "site.db", users=max(rows, 1), books=1, user_books=0, orphans=0, odd=0)
    with closing(sqlite3.connect(source)) as db:
        db.execute("DELETE FROM user WHERE id > ?", (rows,))
        db.commit()
    driver = Driver(library, source, rows_per_part=100)
    driver.stage_all()
    index = driver.index("user")
    assert [part.put for part in index.parts] == [100] * (rows // 100) + (
        [rows % 100] if rows % 100 or not rows else []
    )
    keys: list[Any] = [change.old_key for change in driver.changes("user")]
    assert sorted(keys) == list(range(1, rows + 1))
    assert len(driver.id_map("user")) == rows
    assert driver.index("user_book").parts[0].put == 0


def test_each_line_is_the_item_its_checksum_and_its_units(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", users=5, books=40, user_books=60, orphans=0, odd=0))
    driver.stage_all()
    for name in driver.mapping.order:
        entity = driver.mapping.entities[name]
        by_key = {entry.new_id: entry for entry in driver.id_map(name)}
        for change in driver.changes(name):
            assert change.item is not None
            assert change.item[entity.target.keys[0]] == {"S": change.key}
            entry = by_key[change.key or ItemKey("")]
            assert checksum_item(change.item).hex() == change.checksum == entry.checksum.hex()
            copies = 1 + sum(all(key in change.item for key in names) for names in entity.indexes.values())
            assert change.units == copies * -(-measure_item(change.item) // 1024)
            assert json.loads(orjson.dumps(change.item)) == change.item
    assert driver.index("book").counts.adjusted == 2 + 1  # every 17th ISBN is NULL, every 23rd is ''


def test_the_service_charges_the_units_that_were_planned(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", users=20, books=50, user_books=100, orphans=0, odd=0))
    driver.stage_all()
    planned = driver.plan().write_units
    driver.open()
    consumed = sum(done.write_units for name in driver.mapping.order for done in driver.migrate(name))
    assert consumed == planned


class Charging(DynamoDB):
    """Charges the reading of single items as DynamoDB does; MiniStack charges nothing for it."""

    charged = 0.0

    @property
    def consumed_read_units(self) -> float:
        return self.charged

    def read_items(self, table: Table, keys: Sequence[ItemKey]) -> dict[ItemKey, TypedItem]:
        found = super().read_items(table, keys)
        self.charged += sum(-(-measure_item(item) // 4096) for item in found.values()) + len(set(keys) - found.keys())
        return found


class ChargedDriver(Driver):
    def connect(self, epoch: int | None = None) -> DynamoDB:
        return Charging(self.client)


def test_the_service_charges_the_reads_that_were_planned(library: Library, tmp_path: Path) -> None:
    """A unit for each 4 KB of every item that is updated or deleted: once while staging, once just before."""
    source = write_sample(tmp_path / "site.db", users=20, books=50, user_books=100, orphans=0, odd=0)
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("UPDATE book SET description = ? WHERE id = 3", ("x" * 9000,))
    first = ChargedDriver(library, source)
    report = first.run()
    assert first.plan().read_units == 0
    proof = first.plan().proof_read_units
    assert proof > 0
    assert report.price_usd.planned == float(price_units(first.plan().write_units, proof))

    with closing(sqlite3.connect(source)) as db, db:
        db.execute("UPDATE book SET title = 'Another title' WHERE id <= 7")
        db.execute("DELETE FROM user_book WHERE id <= 5")
    second = ChargedDriver(library, source)
    indexes = second.stage_all()
    staged = sum(index.counts.read_units for index in indexes.values())
    assert staged == (6 + 3) + 5
    plan = second.plan()
    assert plan.read_units == 2 * staged
    assert plan.price_usd == price_units(plan.write_units, 2 * staged + plan.proof_read_units)
    second.open()
    executed = [done for name in second.mapping.order for done in second.migrate(name)]
    assert second.epoch is not None
    executed += second.steps.remove(second.epoch)
    assert sum(done.read_units for done in executed) == staged
    consumed = second.end(failure="not verified").price_usd.consumed
    assert consumed == float(price_units(sum(done.write_units for done in executed), plan.read_units))
