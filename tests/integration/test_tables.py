"""Tables from the mapping: deploy makes them, a migration into them is proved, and tables that differ are refused."""

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from accession.cli.deploy import Deployment, deploy_stacks
from accession.cli.stack import MAX_INLINE_BYTES
from accession.cli.template import write_template
from accession.errors import RefusedError, TargetError
from accession.items import ItemKey, find_key_schemas
from accession.mapping import Mapping, load_mapping
from accession.run import find_source_schemas
from conftest import Library, LocalAws
from driver import Driver
from permissions import Need, allows, read_policy
from tables import define_table

SCHEMA = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, email TEXT, country TEXT, state TEXT, city TEXT, note TEXT);
CREATE TABLE line (order_nr INTEGER, line_nr INTEGER, customer_id INTEGER, status INTEGER,
    PRIMARY KEY (order_nr, line_nr));
CREATE TABLE label (nr INTEGER PRIMARY KEY, kind TEXT);
INSERT INTO customer VALUES
    (1, 'Ada', 'a@example.org', 'NO', '03', 'Oslo', 'first'), (2, 'Bo', NULL, 'SE', 'AB', 'Stockholm', NULL),
    (3, 'Cy', 'c@example.org', 'NO', '03', NULL, 'no city'), (4, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO line VALUES (1, 1, 1, 10), (1, 2, 1, 20), (2, 1, 2, 10), (3, 1, NULL, 10);
INSERT INTO label VALUES (7, 'red'), (8, 'blue');
"""
MAPPING = """\
name: shop
tables:
  "Shop-Customers-{environment}":
    key: {id: number}
    indexes:
      place: {key: [country, [state, city]], project: keys}
      by-name: {key: [name, id], project: [email]}
  "Shop-Lines-{environment}":
    key: {order: string, sk: string}
    indexes:
      customer: {key: [[customer, status]]}
entities:
  customer:
    source: {table: customer, key: id}
    target: {table: "Shop-Customers-{environment}", key: {id: keep}}
    attributes:
      name: {column: name, type: string}
      email: {column: email, type: string}
      country: {column: country, type: string}
      state: {column: state, type: string}
      city: {column: city, type: string}
      note: {column: note, type: string}
  line:
    source: {table: line, key: [order_nr, line_nr]}
    target: {table: "Shop-Lines-{environment}", key: {order: "ORDER#{order_nr}", sk: "LINE#{line_nr:04}"}}
    attributes:
      customer: {column: customer_id, references: customer, optional: true}
      status: {column: status, type: number}
  label:
    source: {table: label, key: nr}
    target: {table: "Shop-Labels-{environment}", key: {nr: keep}}
    attributes:
      kind: {column: kind, type: string}
    indexes:
      by-kind: [kind, nr]
"""


@pytest.fixture
def shop(aws: LocalAws, tmp_path: Path) -> "Shop":
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db, db:
        db.executescript(SCHEMA)
    return Shop(aws, f"s{uuid4().hex[:8]}", tmp_path)


class Shop:
    """A shop's database, its mapping, and an environment of which nothing exists."""

    def __init__(self, aws: LocalAws, environment: str, folder: Path) -> None:
        self.aws, self.environment, self.folder = aws, environment, folder
        self.source = folder / "shop.db"

    def load(self, *edits: tuple[str, str]) -> Mapping:
        """The mapping, with texts in it replaced."""
        text = MAPPING
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        path = self.folder / "shop.yaml"
        path.write_text(text)
        return load_mapping(path)

    def deploy(self, *edits: tuple[str, str], source: Path | None = None, said: Any = None) -> Deployment:
        tell = (said if said is not None else []).append
        return deploy_stacks(self.load(*edits), self.environment, boto3.Session(), source=source, tell=tell)

    def describe(self, table: str) -> dict[str, Any]:
        name = f"Shop-{table}-{self.environment}"
        found: dict[str, Any] = self.aws.client("dynamodb").describe_table(TableName=name)["Table"]
        return found

    def list_indexes(self, table: str) -> dict[str, Any]:
        """The indexes of a table, each with its keys and its projection."""
        return {
            one["IndexName"]: (
                [(key["AttributeName"], key["KeyType"]) for key in one["KeySchema"]],
                one["Projection"]["ProjectionType"],
                one["Projection"].get("NonKeyAttributes"),
            )
            for one in self.describe(table).get("GlobalSecondaryIndexes", [])
        }


def test_deploy_makes_the_tables_of_a_mapping_and_a_migration_into_them_is_proved(shop: Shop) -> None:
    said: list[str] = []
    made = shop.deploy(source=shop.source, said=said)
    assert (made.tables, made.artifacts) == ("created", "created")
    assert not any(line.startswith("keys:") for line in said)
    assert shop.list_indexes("Customers") == {
        "place": ([("country", "HASH"), ("state", "RANGE"), ("city", "RANGE")], "KEYS_ONLY", None),
        "by-name": ([("name", "HASH"), ("id", "RANGE")], "INCLUDE", ["email"]),
    }
    assert shop.list_indexes("Lines") == {"customer": ([("customer", "HASH"), ("status", "HASH")], "ALL", None)}
    assert shop.list_indexes("Labels") == {"by-kind": ([("kind", "HASH"), ("nr", "RANGE")], "ALL", None)}
    types = {one["AttributeName"]: one["AttributeType"] for one in shop.describe("Lines")["AttributeDefinitions"]}
    assert types == {"order": "S", "sk": "S", "customer": "N", "status": "N"}
    assert shop.describe("Labels")["AttributeDefinitions"][0] == {"AttributeName": "nr", "AttributeType": "N"}

    driver = Driver(Library(shop.aws, shop.environment, made.bucket), shop.source, mapping=shop.load())
    assert driver.run().status == "verified"
    proofs = driver.steps.folder.find_verifications(driver.mapping.order)
    look_ups = {name: proof.look_ups for name, proof in proofs.items()}
    assert look_ups == {"customer": {"place": 2, "by-name": 3}, "line": {"customer": 3}, "label": {"by-kind": 2}}
    assert {item["id"]["N"] for item in driver.scan("customer")} == {"1", "2", "3", "4"}
    assert {(item["order"]["S"], item["sk"]["S"]) for item in driver.scan("line")} == {
        ("ORDER#1", "LINE#0001"), ("ORDER#1", "LINE#0002"), ("ORDER#2", "LINE#0001"), ("ORDER#3", "LINE#0001"),
    }  # fmt: skip

    assert shop.deploy() == replace(made, tables="unchanged", artifacts="unchanged")  # also without the source
    later = Driver(driver.library, shop.source, mapping=shop.load())
    assert later.run().status == "unchanged"
    driver.undo()
    assert not any(driver.scan(name) for name in driver.mapping.order)


@pytest.mark.parametrize(
    ("entity", "index", "key", "values"),
    [
        ("customer", "place", "1", {"country": "NO", "state": "03", "city": "Oslo"}),
        ("customer", "by-name", "3", {"name": "Cy", "id": 3}),
        ("line", "customer", '["ORDER#1","LINE#0002"]', {"customer": 1, "status": 20}),
    ],
)
def test_a_look_up_asks_for_every_attribute_of_an_index_s_key(
    shop: Shop, entity: str, index: str, key: str, values: dict[str, Any]
) -> None:
    """Also through an index that projects the keys alone, or whose partition key has two attributes."""
    made = shop.deploy(source=shop.source)
    driver = Driver(Library(shop.aws, shop.environment, made.bucket), shop.source, mapping=shop.load())
    driver.run()
    table = driver.steps.find_table(driver.index(entity))

    def finds(asked: dict[str, Any]) -> bool | None:
        typed = {name: {"S" if isinstance(value, str) else "N": str(value)} for name, value in asked.items()}
        return driver.connect().finds_item(table, index, typed, ItemKey(key))

    assert finds(values)
    for name, value in values.items():
        assert finds({**values, name: "XX" if isinstance(value, str) else 99}) is False


def test_without_a_source_open_types_are_text_and_preflight_says_what_to_do(shop: Shop) -> None:
    said: list[str] = []
    made = shop.deploy(said=said)
    assert said[0].startswith("keys: text for nr of label, whose type the mapping does not say")
    driver = Driver(Library(shop.aws, shop.environment, made.bucket), shop.source, mapping=shop.load())
    remedy = (
        r"has the key nr \(S\), the mapping says nr \(N\): either declare nr under attributes of label with the type "
        "that the table has, or delete the table and make it with SOURCE= the database"
    )
    with pytest.raises(TargetError, match=remedy):
        driver.preflight()
    with pytest.raises(TargetError, match=remedy):
        shop.deploy(source=shop.source)  # which would have to replace the table

    declared = ("      kind: {column: kind", "      nr: {column: nr, type: string}\n      kind: {column: kind")
    assert shop.deploy(declared, source=shop.source).tables == "unchanged"
    assert Driver(driver.library, shop.source, mapping=shop.load(declared)).run().status == "verified"


ONE_MORE = (
    "      customer: {key: [[customer, status]]}",
    "      customer: {key: [[customer, status]]}\n      by-status: {key: [status]}",
)
OTHER_PROJECTION = ("project: [email]", "project: [email, note]")


def test_an_entity_and_an_index_may_be_added_later(shop: Shop) -> None:
    shop.deploy(source=shop.source)
    more = """\
  batch:
    source: {table: label, key: nr}
    target: {table: "Shop-Batches-{environment}", key: batch_id}
    attributes: {kind: {column: kind, type: string}}
"""
    made = shop.deploy(ONE_MORE, ("      by-kind: [kind, nr]\n", f"      by-kind: [kind, nr]\n{more}"))
    assert (made.tables, made.artifacts) == ("updated", "updated")
    assert set(shop.list_indexes("Lines")) == {"customer", "by-status"}
    assert shop.describe("Batches")["KeySchema"] == [{"AttributeName": "batch_id", "KeyType": "HASH"}]


def test_more_than_one_index_of_a_table_is_not_changed_at_once(shop: Shop) -> None:
    shop.deploy(source=shop.source)
    with pytest.raises(RefusedError, match=r"Customers-\S+ does not have the indexes of the mapping \(by-name\), and"):
        shop.deploy(OTHER_PROJECTION)
    assert shop.list_indexes("Customers")["by-name"][2] == ["email"]


def make_text_key(request: dict[str, Any]) -> None:
    request["AttributeDefinitions"] = [one | {"AttributeType": "S"} for one in request["AttributeDefinitions"]]


def project_all(request: dict[str, Any]) -> None:
    request["GlobalSecondaryIndexes"][1]["Projection"] = {"ProjectionType": "ALL"}


def drop_index(request: dict[str, Any]) -> None:
    del request["GlobalSecondaryIndexes"][1]
    request["AttributeDefinitions"] = [d for d in request["AttributeDefinitions"] if d["AttributeName"] != "name"]


def shorten_key(request: dict[str, Any]) -> None:
    request["GlobalSecondaryIndexes"][0]["KeySchema"].pop()
    request["AttributeDefinitions"] = [d for d in request["AttributeDefinitions"] if d["AttributeName"] != "city"]


@pytest.mark.parametrize(
    ("change", "of_others", "of_ours"),
    [
        (make_text_key, r"the key id \(S\), the mapping says id \(N\): name the right table", r"the key id \(S\)"),
        (project_all, "Index by-name .* projects all, the mapping says email", r"the indexes .* \(by-name\)"),
        (drop_index, "has no index by-name on name, id", "was changed outside of it.* has no index by-name"),
        (shorten_key, r"is keyed by country, state, the mapping says country \(HASH\)", r"the indexes .* \(place\)"),
    ],
)
@pytest.mark.parametrize("has_stack", [True, False], ids=["our stack", "of others"])
def test_tables_that_differ_are_refused(
    shop: Shop, change: Callable[[dict[str, Any]], None], of_others: str, of_ours: str, has_stack: bool
) -> None:
    """They are not replaced, whoever made them."""
    dynamodb, mapping = shop.aws.client("dynamodb"), shop.load()
    schemas = find_source_schemas(mapping, shop.source)
    requests = {name: define_table(mapping, name, schemas, shop.environment) for name in mapping.entities}
    change(requests["customer"])
    if has_stack:
        shop.deploy(source=shop.source)
        name = requests["customer"]["TableName"]
        dynamodb.update_table(TableName=name, DeletionProtectionEnabled=False)
        dynamodb.delete_table(TableName=name)
        dynamodb.create_table(**requests["customer"])
    else:
        for request in requests.values():
            dynamodb.create_table(**request)
    with pytest.raises((TargetError, RefusedError), match=of_ours if has_stack else of_others) as refused:
        shop.deploy(source=shop.source)
    assert requests["customer"]["TableName"] in str(refused.value)


MUSIC = """\
name: music
tables:
  "Music-{environment}":
    key: {pk: string, sk: string}
    indexes:
      gsi1: {key: [gsi1pk, sk], project: keys}
      by-name: {key: [name]}
entities:
  artist:
    source: {table: artist, key: id}
    target: {table: "Music-{environment}", key: {pk: "ARTIST#{id}", sk: "#META"}}
    attributes: {kind: {type: string, default: artist}, name: {column: name, type: string}}
  playlist_track:
    source: {table: playlist_track, key: [playlist, track]}
    target: {table: "Music-{environment}", key: {pk: "PLAYLIST#{playlist}", sk: "TRACK#{track:010}"}}
    attributes: {gsi1pk: {value: "TRACK#{track}", type: string}}
"""


def test_entities_that_share_a_declared_table_are_proved_through_its_indexes(aws: LocalAws, tmp_path: Path) -> None:
    """A junction as an adjacency list: each item is only in the index whose keys it has."""
    source, path, environment = tmp_path / "music.db", tmp_path / "music.yaml", f"s{uuid4().hex[:8]}"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript("""
            CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT);
            CREATE TABLE playlist_track (playlist INTEGER, track INTEGER, PRIMARY KEY (playlist, track));
            INSERT INTO artist VALUES (1, 'Nina'), (2, NULL);
            INSERT INTO playlist_track VALUES (1, 7), (1, 8), (2, 7);
        """)
    path.write_text(MUSIC)
    mapping = load_mapping(path)
    made = deploy_stacks(mapping, environment, boto3.Session())
    driver = Driver(Library(aws, environment, made.bucket), source, mapping=mapping)
    assert driver.run().status == "verified"
    proofs = driver.steps.folder.find_verifications(mapping.order)
    assert {index: count for proof in proofs.values() for index, count in proof.look_ups.items()} == {
        "gsi1": 3, "by-name": 1,
    }  # fmt: skip
    plan = driver.steps.folder.find_plan()
    assert plan is not None
    assert sum(entity.counts.write_units for entity in plan.entities.values()) == 5 + 3 + 1
    found = aws.client("dynamodb").query(
        TableName=f"Music-{environment}",
        IndexName="gsi1",
        KeyConditionExpression="gsi1pk = :track",
        ExpressionAttributeValues={":track": {"S": "TRACK#7"}},
    )["Items"]
    assert [item["pk"]["S"] for item in found] == ["PLAYLIST#1", "PLAYLIST#2"]
    assert deploy_stacks(mapping, environment, boto3.Session()).tables == "unchanged"


def test_a_template_too_large_for_a_request_goes_over_the_bucket(aws: LocalAws, tmp_path: Path) -> None:
    """60 tables: the stack is made and updated, and the policy names the tables by what they have in common."""
    environment = f"s{uuid4().hex[:8]}"
    entities = {
        f"thing{number}": {
            "name": f"thing{number}",
            "source": {"table": f"thing{number}", "key": "id"},
            "target": {"table": f"Large-thing_{number}-{{environment}}", "key": f"thing_{number}_id"},
            "attributes": {name: {"column": name, "type": "string"} for name in "abc"},
            "indexes": {f"by-{name}-index": [name] for name in "ab"},
        }
        for number in range(60)
    }
    mapping = Mapping.model_validate({"name": "large", "entities": entities, "sha256": ""})
    assert len(write_template(mapping, find_key_schemas(mapping, {}))) > MAX_INLINE_BYTES
    said: list[str] = []
    made = deploy_stacks(mapping, environment, boto3.Session(), tell=said.append)
    assert made.tables == "created"
    assert re.search(r"tables: created \(Large-thing_0-\w+, .* and 50 more\)", said[-1])
    again = deploy_stacks(mapping, environment, boto3.Session())
    assert (again.tables, again.artifacts) == ("unchanged", "unchanged")
    policy, arn = (
        read_policy(made.policy),
        f"arn:aws:dynamodb:us-east-1:000000000000:table/Large-thing_59-{environment}",
    )
    for need in (Need("dynamodb:Scan", arn), Need("dynamodb:Query", f"{arn}/index/by-a-index")):
        assert allows(policy, need)
        assert not allows(policy, replace(need, resource=need.resource.replace(environment, "prod")))
    stack = aws.client("cloudformation").describe_stacks(StackName=f"accession-large-{environment}-artifacts")
    given = {one["ParameterKey"]: one["ParameterValue"] for one in stack["Stacks"][0]["Parameters"]}
    assert given["TableArns"].endswith(f":table/Large-thing_*-{environment}")
    assert given["IndexArns"].endswith(f":table/Large-thing_*-{environment}/index/*")
