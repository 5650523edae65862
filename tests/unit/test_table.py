"""The block `tables` of a mapping: what it says, what is refused, and what it means for items and for keys."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from accession.errors import MappingError
from accession.items import ItemBuilder, KeySchema, Reject, find_key_schemas, measure_item
from accession.mapping import Index, Mapping, load_mapping

SHOP = """\
name: shop
tables:
  "Customers-{environment}":
    key: {id: number}
    indexes:
      place: {key: [country, [state, city]], project: keys}
      by-name: {key: [name, id], project: [email]}
  "Lines-{environment}":
    key: {order: string, sk: string}
    indexes:
      customer: {key: [[customer, status]]}
entities:
  customer:
    source: {table: customer, key: id}
    target: {table: "Customers-{environment}", key: {id: keep}}
    attributes:
      name: {column: name, type: string}
      email: {column: email, type: string}
      country: {column: country, type: string}
      state: {column: state, type: string}
      city: {column: city, type: string}
      note: {column: note, type: string}
  line:
    source: {table: line, key: [order_nr, line_nr]}
    target: {table: "Lines-{environment}", key: {order: "ORDER#{order_nr}", sk: "LINE#{line_nr:04}"}}
    attributes:
      customer: {column: customer_id, references: customer, optional: true}
      status: {column: status, type: number}
  label:
    source: {table: label, key: name}
    target: {table: "Labels-{environment}", key: {name: keep}}
    attributes:
      kind: {column: kind, type: string}
    indexes:
      by-kind: [kind, name]
"""

CUSTOMERS, LINES = "Customers-{environment}", "Lines-{environment}"
Change = Callable[[dict[str, Any]], Any]


def load(folder: Path, change: Change = lambda _data: None) -> Mapping:
    data = copy.deepcopy(yaml.safe_load(SHOP))
    change(data)
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return load_mapping(path)


@pytest.fixture
def shop(tmp_path: Path) -> Mapping:
    return load(tmp_path)


def make_builder(shop: Mapping, entity: str) -> ItemBuilder:
    return ItemBuilder(shop.entities[entity], shop, find_key_schemas(shop, {}), UUID(int=1))


def test_every_entity_has_the_indexes_of_its_table_wherever_they_are_listed(shop: Mapping) -> None:
    assert shop.indexes == {
        "customer": (
            Index("place", ("country",), ("state", "city"), "keys"),
            Index("by-name", ("name",), ("id",), ("email",)),
        ),
        "line": (Index("customer", ("customer", "status")),),
        "label": (Index("by-kind", ("kind",), ("name",)),),
    }
    assert shop.index_keys["line"] == {"customer", "status"}


def test_a_declared_table_gives_the_types_of_kept_keys(shop: Mapping) -> None:
    """Whatever the source declares; a reference has the type of the parent's key."""
    schemas = find_key_schemas(shop, {"customer": {"id": "TEXT"}, "label": {"name": "INTEGER"}})
    assert schemas == {
        "customer": KeySchema(("id",), ("N",)),
        "line": KeySchema(("order", "sk"), ("S", "S")),
        "label": KeySchema(("name",), ("N",)),
    }


def edit(*way: str, value: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        place: Any = data
        for step in way[:-1]:
            place = place[step]
        if value is None:
            del place[way[-1]]
        else:
            place[way[-1]] = value

    return change


INDEXES = ("tables", CUSTOMERS, "indexes")
ATTRIBUTES = ("entities", "customer", "attributes")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("tables", "Customer-{environment}", value={"key": {"id": "string"}}),
         "tables.Customer-{environment}: no entity has this target.table; did you mean Customers-{environment}"),
        (edit("tables", CUSTOMERS, "keys", value={}), f"{CUSTOMERS}.keys: there is no such key; did you mean key"),
        (edit("tables", CUSTOMERS, "key", value={}), f"tables.{CUSTOMERS}.key: must not be empty"),
        (edit("tables", CUSTOMERS, "key", value={"id": "integer"}),
         f"tables.{CUSTOMERS}.key.id: must be string or number"),
        (edit("tables", CUSTOMERS, "key", value={"a": "string", "b": "string", "c": "string"}),
         f"tables.{CUSTOMERS}.key: must have at most 2 entries"),
        (edit("tables", CUSTOMERS, "key", value={"pk": "number"}),
         f"entities.customer.target.key: must be pk, as tables.{CUSTOMERS}.key says"),
        (edit("tables", LINES, "key", value={"sk": "string", "order": "string"}),
         "entities.line.target.key: must be sk and then order, as tables"),
        (edit("tables", LINES, "key", value={"order": "string", "sk": "number"}),
         f"tables.{LINES}.key.sk: must be string, as line makes it"),
        (edit(*ATTRIBUTES, "id", value={"column": "id", "type": "string"}),
         f"tables.{CUSTOMERS}.key.id: must be string, as customer makes it"),
        (edit("entities", "customer", "indexes", value={"by-mail": ["email"]}),
         f"entities.customer.indexes: {CUSTOMERS} is listed under tables; list its indexes there"),
        (edit(*INDEXES, "by-name", "key", value=["nam"]),
         f"{CUSTOMERS}.indexes.by-name.key: nam is not an attribute of this table's entities; did you mean name"),
        (edit(*INDEXES, "by-name", "key", value=[]), f"{CUSTOMERS}.indexes.by-name.key: must not be empty"),
        (edit(*INDEXES, "by-name", "key", value="name"), "indexes.by-name.key: must be a list, but is text"),
        (edit(*INDEXES, "by-name", "key", value=["name", "id", "email"]), "by-name.key: must have at most 2 entries"),
        (edit(*INDEXES, "by-name", "key", value=[["name", "email", "country", "state", "city"]]),
         "by-name.key.0: must have at most 4 entries"),
        (edit(*INDEXES, "by-name", "key", value=["name", ["id", "name"]]),
         "indexes.by-name.key: an attribute is listed twice"),
        (edit(*INDEXES, "by-name", "project", value="some"), "indexes.by-name.project: must be all or keys"),
        (edit(*INDEXES, "by-name", "project", value=["mail"]),
         "indexes.by-name.project: mail is not an attribute of this table's entities; did you mean email"),
        (edit(*INDEXES, "by-name", "project", value=["name"]),
         "indexes.by-name.project: name is a key, which every index holds; leave it out"),
        (edit(*INDEXES, "x", value={"key": ["name"]}), f"tables.{CUSTOMERS}.indexes: the key 'x' is not allowed"),
        (edit(*INDEXES, value={f"i{number:02}x": {"key": ["name"]} for number in range(21)}),
         f"tables.{CUSTOMERS}.indexes: must have at most 20 entries"),
        (edit(*ATTRIBUTES, "name", value={"column": "name", "type": "json"}), "by-name.key: name must be of one type"),
        (edit(*ATTRIBUTES, "name", "default", value=""), "by-name.key: name cannot be '' by default"),
        (edit("tables", CUSTOMERS, value=None),
         f"tables.{LINES}.indexes.customer.key: the type of customer is that of the key of customer, which the mapping "
         "does not say; declare it under attributes there, or that table under tables"),
    ],
)  # fmt: skip
def test_each_fault_of_a_table_is_named(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(MappingError) as refused:
        load(tmp_path, change)
    said = str(refused.value)
    assert message in said
    assert said.endswith(".")


def share(**attributes: Any) -> Change:
    """Another entity in the table of lines."""

    def change(data: dict[str, Any]) -> None:
        data["entities"]["note"] = {
            "source": {"table": "note", "key": ["order_nr", "nr"]},
            "target": {"table": LINES, "key": {"order": "ORDER#{order_nr}", "sk": "NOTE#{nr}"}},
            "attributes": attributes,
        }

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (share(status={"column": "status", "type": "string"}),
         f"tables.{LINES}.indexes.customer.key: status is text in note and a number in line; give it one type"),
        (share(status={"column": "status", "type": "json"}), "indexes.customer.key: status must be of one type"),
    ],
)  # fmt: skip
def test_the_indexes_of_a_table_bind_every_entity_in_it(tmp_path: Path, change: Change, message: str) -> None:
    with pytest.raises(MappingError, match=re.escape(message)):
        load(tmp_path, change)


def test_an_entity_of_a_shared_table_has_the_indexes_of_others(tmp_path: Path) -> None:
    shop = load(tmp_path, share(text={"column": "text", "type": "string"}))
    assert shop.indexes["note"] == shop.indexes["line"]
    builder = make_builder(shop, "note")
    converted = builder.convert(["x", 1, 2])
    assert builder.complete(converted, builder.find_key(converted, "[1,2]", 1), "").write_units == 1


def share_label(**others: Any) -> Change:
    """Another entity in the table of labels, which is not declared."""

    def change(data: dict[str, Any]) -> None:
        data["entities"]["mark"] = {
            "source": {"table": "mark", "key": "id"},
            "target": {"table": "Labels-{environment}", "key": {"name": "MARK#{id}"}},
            "attributes": {"kind": {"column": "kind", "type": "string"}, "hue": {"column": "hue", "type": "string"}},
            **others,
        }

    return change


def test_entities_that_share_a_table_share_the_indexes_that_each_lists(tmp_path: Path) -> None:
    shop = load(tmp_path, share_label(indexes={"by-hue": ["hue"]}))
    both = Index("by-kind", ("kind",), ("name",)), Index("by-hue", ("hue",))
    assert shop.indexes["label"] == shop.indexes["mark"] == both


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (share_label(indexes={"by-kind": ["kind"]}),
         "entities.mark.indexes.by-kind: label lists another index of that name for Labels-{environment}"),
        (share_label(attributes={"kind": {"column": "kind", "type": "number"}}),
         "entities.label.indexes.by-kind: kind is text in label and a number in mark; give it one type"),
        (share_label(attributes={"kind": {"column": "kind", "type": "json"}}),
         "entities.label.indexes.by-kind: kind must be of one type"),
        (share_label(target={"table": "Labels-{environment}", "key": {"name": "keep"}},
                     attributes={"name": {"column": "name", "type": "number"}}, source={"table": "m", "key": "name"}),
         None),
        (share_label(attributes={f"a{i}": {"column": "a", "type": "string"} for i in range(20)},
                     indexes={f"by-a{i}": [f"a{i}"] for i in range(20)}),
         "entities: 21 indexes are listed for Labels-{environment}, and a DynamoDB table has at most 20"),
    ],
)  # fmt: skip
def test_entities_that_share_a_table_must_agree(tmp_path: Path, change: Change, message: str | None) -> None:
    """Unless a column of the source decides."""
    if message is None:
        assert load(tmp_path, change)
        return
    with pytest.raises(MappingError, match=re.escape(message)):
        load(tmp_path, change)


def test_indexes_together_project_at_most_a_hundred_attributes(tmp_path: Path) -> None:
    names = [f"a{number}" for number in range(51)]

    def change(data: dict[str, Any]) -> None:
        data["entities"]["customer"]["attributes"] |= {name: {"column": name, "type": "string"} for name in names}
        indexes = data["tables"][CUSTOMERS]["indexes"]
        indexes["place"]["project"] = indexes["by-name"]["project"] = names

    with pytest.raises(MappingError, match="they project 102 attributes together, and at most 100 are possible"):
        load(tmp_path, change)


ROW = {"id": 7, "name": "Ada", "email": "ada@example.org", "country": "NO", "state": "03", "city": "Oslo", "note": ""}


def convert(shop: Mapping, entity: str = "customer", **values: Any) -> Any:
    builder = make_builder(shop, entity)
    row = {**ROW, **values}
    return builder, builder.convert([row[column] for column in shop.entities[entity].columns])


def test_an_item_lacks_a_null_key_of_an_index_of_its_table(shop: Mapping) -> None:
    _, converted = convert(shop, city=None, name="")
    assert {"city", "name"}.isdisjoint(converted.item)
    assert converted.adjusted == 2


@pytest.mark.parametrize(
    ("values", "units"),
    [
        ({}, 3),
        ({"note": "x" * 3000}, 3 + 2),  # the indexes do not hold it
        ({"email": "x" * 3000}, 3 + 1 + 3),  # one of them holds it
        ({"note": "x" * 3000, "city": None}, 3 + 1),  # not in the index of places
        ({"city": None, "state": None, "name": None}, 1),
    ],
)
def test_an_index_costs_the_size_of_what_it_holds(shop: Mapping, values: dict[str, Any], units: int) -> None:
    builder, converted = convert(shop, **values)
    prepared = builder.complete(converted, builder.find_key(converted, 7, 1), "")
    assert measure_item(prepared.item) <= 3200
    assert prepared.write_units == units


def test_attributes_of_one_part_of_a_key_are_measured_together(shop: Mapping) -> None:
    """DynamoDB's error for a key that is too long speaks of the aggregated size of all range keys."""
    convert(shop, state="s" * 1000, city="c" * 24)
    with pytest.raises(Reject, match=r"state and city have 1,025 bytes; a part of an index key .* at most 1,024"):
        convert(shop, state="s" * 1000, city="c" * 25)
    convert(shop, country="c" * 2048)
    with pytest.raises(Reject, match="city has 1,025 bytes"):
        convert(shop, state=None, city="c" * 1025)
