"""Rows from queries and conditions: joins, embedded children and filters, compared with SQL on the source."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.errors import AccessionError, SourceError
from accession.mapping import load_mapping
from accession.run import backup
from accession.run.relation import make_relations, name_relation
from accession.run.staging_query import MapNames, StagingQuery
from accession.source import open_snapshot
from conftest import Library
from driver import Driver
from tables import create_tables, edit, later, read, scan_all, select

SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, joined DATETIME);
CREATE TABLE country (code TEXT PRIMARY KEY, name TEXT COLLATE NOCASE);
CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer, paid BOOLEAN);
CREATE TABLE line (id INTEGER PRIMARY KEY, invoice INTEGER REFERENCES invoice, track TEXT, price REAL);
INSERT INTO country VALUES ('no', 'Norway'), ('se', 'Sweden');
INSERT INTO customer VALUES (1, 'Ada', 'no', '2026-01-05 10:00:00'), (2, 'Bo', 'se', NULL), (3, 'Cy', NULL, NULL);
INSERT INTO invoice VALUES (1, 1, 1), (2, 2, 0), (3, 1, NULL), (4, 3, 1);
INSERT INTO line VALUES (1, 1, 'two', 1.99), (2, 1, 'one', 0.99), (3, 2, 'one', 0.99), (4, 4, 'six', 2);
"""
MAPPING = """
name: shop
entities:
  customer:
    source:
      key: id
      query: |
        SELECT c.*, o.name AS country_name, 'C-' || c.id AS code
          FROM customer c LEFT JOIN country o ON o.code = c.country  -- all of them
    target: {table: "Customers-{environment}", key: {id: keep}}
    attributes:
      name: {column: name, type: string}
      country: {column: country_name, type: string}
      joined: {column: joined, type: timestamp}
      upper: {column: code, type: string}
    indexes: {by-country: [country]}
  invoice:
    source:
      key: number
      query: |
        SELECT 'I-' || i.id AS number, 'C-' || i.customer AS buyer, i.customer, i.paid,
               (SELECT json_group_array(json_object('track', track, 'price', price))
                  FROM (SELECT * FROM line WHERE invoice = i.id ORDER BY id)) AS lines
          FROM invoice i
    target: {table: "Invoices-{environment}", key: {pk: "INVOICE#{number}"}}
    attributes:
      customer: {column: customer, references: customer}
      buyer: {column: buyer, references: {entity: customer, by: code}}
      paid: {column: paid, type: boolean}
      lines: {column: lines, type: json}
  line:
    source: {table: line, key: id, where: "invoice IN (SELECT id FROM invoice WHERE paid) -- sold"}
    target: {table: "Sales-{environment}", key: line_id}
    attributes:
      track: {column: track, type: string}
      price: {column: price, type: number}
"""


@pytest.fixture
def shop(library: Library, tmp_path: Path) -> Iterator[Driver]:
    source = tmp_path / "shop.db"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(SCHEMA)
    driver = Driver(library, source, mapping=write_mapping(tmp_path, MAPPING))
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    yield driver


def write_mapping(folder: Path, text: str) -> Any:
    path = folder / "shop.yaml"
    path.write_text(text)
    return load_mapping(path)


def change(shop: Driver, old: str, new: str) -> Driver:
    """A run of the mapping with one text replaced."""
    assert old in MAPPING
    mapping = write_mapping(shop.source.parent, MAPPING.replace(old, new))
    return Driver(shop.library, shop.source, mapping=mapping, max_rejects=9)


def count(driver: Driver) -> dict[str, tuple[int, int, int, int]]:
    counts = {name: driver.index(name).counts for name in driver.mapping.order}
    return {name: (c.put, c.updated, c.deleted, c.unchanged) for name, c in counts.items()}


def expect_shop(driver: Driver) -> None:
    """Compare every table with the source."""
    query = "SELECT c.id, c.name, o.name, joined, c.id FROM customer c LEFT JOIN country o ON code = country"
    customers = {}
    for key, name, country, joined, number in select(driver, query):
        item = customers[key,] = {"name": name, "country": country, "upper": f"C-{number}"}
        item["joined"] = joined and f"{joined.replace(' ', 'T')}+00:00"
        if country is None:
            del item["country"]
    assert read(driver, "customer", "id") == customers
    invoices = {}
    for number, customer, paid in select(driver, "SELECT * FROM invoice"):
        lines = select(driver, f"SELECT track, price FROM line WHERE invoice = {number} ORDER BY id")
        invoices[f"INVOICE#I-{number}"] = (
            {"N": str(customer)}, {"N": str(customer)}, {"NULL": True} if paid is None else {"BOOL": bool(paid)},
            [{"track": {"S": track}, "price": {"N": f"{price:g}"}} for track, price in lines],
        )  # fmt: skip
    assert {
        item["pk"]["S"]: (item["customer"], item["buyer"], item["paid"], [line["M"] for line in item["lines"]["L"]])
        for item in driver.scan("invoice")
    } == invoices
    sold = select(driver, "SELECT track, price FROM line l JOIN invoice i ON i.id = l.invoice WHERE paid")
    assert sorted((item["track"], item["price"]) for item in map(flatten, driver.scan("line"))) == sorted(
        (track, f"{price:g}") for track, price in sold
    )


def flatten(item: dict[str, Any]) -> dict[str, Any]:
    return {name: next(iter(value.values())) for name, value in item.items()}


def test_rows_of_queries_and_conditions_are_migrated_and_a_second_run_finds_nothing(shop: Driver) -> None:
    assert shop.run().status == "verified"
    expect_shop(shop)
    assert shop.index("line").counts.source_rows == 3
    second = later(shop)
    assert second.run().status == "unchanged"
    assert second.manifest.unchanged
    assert audit_target(shop.store).ok


def test_an_edited_child_is_one_update_of_its_parent_and_is_undone(shop: Driver) -> None:
    shop.run()
    before = scan_all(shop)
    edit(shop, "UPDATE line SET price = 5 WHERE id = 3")
    second = later(shop)
    assert second.run().status == "verified"
    expect_shop(second)
    assert count(second) == {"customer": (0, 0, 0, 3), "invoice": (0, 1, 0, 3), "line": (0, 0, 0, 3)}
    edit(shop, "UPDATE country SET name = 'Noreg' WHERE code = 'no'; UPDATE invoice SET paid = 1 - ifnull(paid, 0);"
               "INSERT INTO invoice VALUES (5, 2, 1); DELETE FROM line WHERE id = 4; DELETE FROM invoice WHERE id = 4;"
               "DELETE FROM customer WHERE id = 3")  # fmt: skip
    third = later(shop)
    assert third.run().status == "verified"
    expect_shop(third)
    assert count(third) == {"customer": (0, 1, 1, 1), "invoice": (1, 3, 1, 0), "line": (1, 0, 3, 0)}
    assert audit_target(shop.store).ok
    for driver in (third, second):
        driver.undo()
    assert scan_all(shop) == before
    shop.undo()
    assert not any(shop.scan(name) for name in shop.mapping.entities)


@pytest.mark.parametrize(
    ("query", "rejects"),
    [
        ("SELECT nullif(id, 2) AS id", {None: "id: the key is neither an integer nor text"}),
        ("SELECT iif(id = 2, 2.5, id) AS id", {2.5: "id: the key is neither an integer nor text"}),
        ("SELECT min(id, 2) AS id", {2: "id: the key occurs twice"}),
    ],
)  # fmt: skip
def test_a_row_of_a_query_without_a_key_of_its_own_is_a_reject(
    shop: Driver, tmp_path: Path, query: str, rejects: dict[Any, str]
) -> None:
    mapping = write_mapping(tmp_path, f"""
name: shop
entities:
  customer:
    source: {{key: id, query: "{query}, name FROM customer"}}
    target: {{table: "Customers-{{environment}}", key: {{id: keep}}}}
    attributes: {{id: {{column: id, type: number}}, name: {{column: name, type: string}}}}
""")  # fmt: skip
    driver = Driver(shop.library, shop.source, mapping=mapping, max_rejects=9)
    assert driver.run().status == "verified"
    assert driver.rejects("customer") == rejects
    assert later(driver, max_rejects=9).run().status == "unchanged"


CLOCK = "is not allowed, since its result depends on more than the source. Correct the mapping."


@pytest.mark.parametrize(
    ("old", "new", "entity", "message"),
    [
        ("SELECT c.*", "SELECT random(), c.*", "customer", f"customer.source.query: random {CLOCK}"),
        ("-- all of them", "WHERE joined < date('now')", "customer", "customer.source.query: date() without a date,"),
        ("-- all of them", "WHERE json(c.name)", "customer", "customer.source.query: SQLite refuses it (malformed"),
        ("'C-' || c.id AS code", "'C' AS code", "customer", "customer.source.query: its column code, which references"),
        ("'C-' || c.id AS code", "c.id AS nr", "customer", "customer.source.query: SQLite refuses it (no such column:"),
        ("'C-' || c.id AS code", "'C' AS code", "invoice", "customer.source.query: its column code, which references"),
        ("paid) -- sold", "paid) AND random() > 0", "line", f"line.source.where: random {CLOCK}"),
        ("paid) -- sold", "paid OR time() > 0)", "line", "line.source.where: time() without a date, with 'now'"),
        ("paid) -- sold", "paid) AND id IN (SELECT old_key FROM id_map)", "line", "line.source.where: SQLite refuses"),
        ("paid) -- sold", "paid)) UNION SELECT (1", "line", "line.source.where: SQLite refuses it (SELECTs to the"),
    ],
)  # fmt: skip
def test_sql_that_cannot_be_used_is_one_sentence(shop: Driver, old: str, new: str, entity: str, message: str) -> None:
    shop.run()  # a head and parents' maps, which no SQL of a mapping may read
    edit(shop, "UPDATE line SET price = price + 1")
    driver = change(shop, old, new)
    driver.start()
    with pytest.raises(SourceError) as refused:
        for name in driver.mapping.order[: driver.mapping.order.index(entity)]:
            driver.stage(name)
        driver.stage(entity)
    assert str(refused.value).startswith(f"entities.{message}")
    assert str(refused.value).count(". ") == 1 or "refer to" in str(refused.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("SELECT c.*", "SELECT random(), c.*", f"customer.source.query: random {CLOCK}"),
        ("'C-' || c.id AS code", "1", "customer.source.query: SQLite refuses it (no such column: q.code)"),
        ("c.*, o", "CAST(c.id AS TEXT) AS id, c.name, joined, o", r"has the key id (N), the mapping says id (S)"),
    ],
)
def test_a_query_is_checked_before_the_run(shop: Driver, old: str, new: str, message: str) -> None:
    with pytest.raises(AccessionError) as refused:
        change(shop, old, new).preflight()
    assert message in str(refused.value)


def test_a_second_run_finds_each_row_by_an_index(shop: Driver, tmp_path: Path) -> None:
    """Without one on a computed key, each record of the head would read all rows."""
    shop.run()
    head, parent = (shop.store.download(shop.store.path(shop.index(name).id_map), tmp_path / f"{name}.db")
                    for name in ("invoice", "customer"))  # fmt: skip
    invoice = shop.mapping.entities["invoice"]
    with closing(open_snapshot(shop.source)) as db:
        make_relations(db, shop.mapping, invoice)
        db.execute(f"ATTACH '{head}' AS head")
        db.execute(f"ATTACH '{parent}' AS map")
        query = StagingQuery(db, shop.mapping, invoice, {"customer": MapNames("map.id_map", "map.rejects")})
        plans = {
            name: [step for *_, step in db.execute(f"EXPLAIN QUERY PLAN {sql}")]
            for name, sql in (("rows", query.select_rows(has_head=True)), ("gone", query.select_gone()))
        }
    assert name_relation(db, invoice) == 'temp."rows of invoice"'
    # One scan each: of the rows in the order of their key, and of the head's records.
    assert [step for step in plans["rows"] if "SCAN" in step] == ["SCAN s USING INDEX key of rows of invoice"]
    assert [step.split(" USING")[0] for step in plans["gone"] if "SCAN" in step] == ["SCAN h"]
    assert sum("SEARCH s USING" in step for step in plans["gone"]) == 1
    assert any("SEARCH q1 USING INDEX code of rows of customer" in step for step in plans["rows"])
    assert not any("AUTOMATIC" in step or "TEMP B-TREE" in step for plan in plans.values() for step in plan[:-1])


def test_the_backup_is_the_source_as_it_was(shop: Driver) -> None:
    shop.run()
    with closing(sqlite3.connect(shop.source)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert shop.manifest.snapshot.rows.keys() == tables
    assert not shop.steps.find_drift(shop.source).changed


@pytest.mark.parametrize("name", ["sqlite_version", "TZPATH"])
def test_another_sqlite_or_time_zone_stages_every_row_again(
    shop: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    shop.run()
    (tmp_path / "UTC").write_bytes(b"another zone")
    monkeypatch.setattr(backup, name, "3.99" if name == "sqlite_version" else (str(tmp_path),))
    second = later(shop)
    assert second.run().status == "unchanged"
    assert not second.manifest.unchanged
    assert count(second) == {"customer": (0, 0, 0, 3), "invoice": (0, 0, 0, 4), "line": (0, 0, 0, 3)}


def test_a_head_that_names_no_versions_counts_as_made_by_others(shop: Driver) -> None:
    """A head of version 0.1.0 names none."""
    shop.run()
    path = shop.steps.folder.path("manifest.json")
    manifest = json.loads(shop.store.get(path))
    del manifest["sqlite_version"], manifest["timezone_sha256"]
    shop.store.client.put_object(
        Bucket=shop.store.bucket, Key=shop.store.prefix + path, Body=json.dumps(manifest).encode()
    )
    second = later(shop)
    second.start()
    assert not second.manifest.unchanged
