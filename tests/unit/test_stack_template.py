"""The template of a mapping's tables: what it says, and that it stays within the limits of AWS."""

import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from accession.cli import main
from accession.cli.resources import find_room, name_resources
from accession.cli.stack import MAX_BYTES, MAX_INLINE_BYTES
from accession.cli.template import MAX_OUTPUTS, write_template
from accession.errors import RefusedError
from accession.items import KeySchema, find_key_schemas
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.place import ROOT

TODAY = Path(__file__).parents[1] / "fixtures/v0_1_0/tables.yaml"
ARN = "arn:aws:dynamodb:ap-southeast-2:123456789012:table"

SHOP = """\
name: shop
tables:
  "Shop-Places-{environment}":
    key: {pk: string, sk: number}
    indexes:
      by-sk: {key: [sk, pk], project: keys}
      place: {key: [country, [state, city]], project: [note]}
      all-of-it: {key: [[country, state], city]}
entities:
  place:
    source: {table: place, key: [code, nr]}
    target: {table: "Shop-Places-{environment}", key: {pk: "PLACE#{code}", sk: {column: nr}}}
    attributes:
      country: {column: country, type: string}
      state: {column: state, type: number}
      city: {column: city, type: string}
      note: {column: note, type: json}
  item:
    source: {table: item, key: id}
    target: {table: "items", key: {id: keep}}
    attributes:
      place: {column: [code, nr], references: {entity: place, part: sk}}
    indexes:
      place-index: [place]
"""


class Loader(yaml.SafeLoader):
    """Reads !Ref and friends as {"!Ref": …}."""


def construct(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {f"!{suffix}": loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {f"!{suffix}": loader.construct_sequence(node, deep=True)}


Loader.add_multi_constructor("!", construct)


def read(text: str) -> dict[str, Any]:
    template: dict[str, Any] = yaml.load(text, Loader)
    return template


def lint(path: Path) -> None:
    cfn_lint = Path(sys.executable).with_name("cfn-lint")
    command: list[str | Path] = [cfn_lint, "--non-zero-exit-code", "informational", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def shop(tmp_path: Path) -> Mapping:
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    return load_mapping(path)


def make_many(count: int, indexes: int = 2) -> tuple[Mapping, dict[str, KeySchema]]:
    """A mapping of many tables, each with indexes, and their keys."""
    entities = {
        f"thing{number}": {
            "name": f"thing{number}",
            "source": {"table": f"thing{number}", "key": "id"},
            "target": {"table": f"Shop-thing_of_number_{number}-{{environment}}", "key": {"id": "keep"}},
            "attributes": {f"attribute_{i}": {"column": f"a{i}", "type": "string"} for i in range(indexes)},
            "indexes": {f"index-of-attribute-{i}": [f"attribute_{i}"] for i in range(indexes)},
        }
        for number in range(count)
    }
    mapping = Mapping.model_validate({"name": "shop", "entities": entities, "sha256": ""})
    return mapping, find_key_schemas(mapping, {})


def test_the_home_library_s_template_is_the_one_that_its_stacks_were_made_of() -> None:
    """So a stack of 0.1.0 sees no change: the same logical ids, parameters and outputs."""
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    assert read(write_template(mapping, find_key_schemas(mapping, {}))) == read(TODAY.read_text())


def test_keys_types_projections_and_keys_of_several_attributes(shop: Mapping) -> None:
    template = read(write_template(shop, find_key_schemas(shop, {"item": {"id": "INTEGER"}})))
    assert list(template["Resources"]) == ["Places", "items"]
    places, items = (resource["Properties"] for resource in template["Resources"].values())
    assert places["TableName"] == {"!Sub": "Shop-Places-${Environment}"}
    assert places["KeySchema"] == keys(pk="HASH", sk="RANGE")
    assert types(places) == {"pk": "S", "sk": "N", "country": "S", "state": "N", "city": "S"}
    assert [(one["IndexName"], one["KeySchema"], one["Projection"]) for one in places["GlobalSecondaryIndexes"]] == [
        ("by-sk", keys(sk="HASH", pk="RANGE"), {"ProjectionType": "KEYS_ONLY"}),
        (
            "place",
            keys(country="HASH", state="RANGE", city="RANGE"),
            {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["note"]},
        ),
        ("all-of-it", keys(country="HASH", state="HASH", city="RANGE"), {"ProjectionType": "ALL"}),
    ]
    assert items["TableName"] == "items"
    assert types(items) == {"id": "N", "place": "N"}


def keys(**kinds: str) -> list[dict[str, str]]:
    return [{"AttributeName": name, "KeyType": kind} for name, kind in kinds.items()]


def types(table: dict[str, Any]) -> dict[str, str]:
    return {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}


def test_tables_are_on_demand_restorable_encrypted_and_kept(shop: Mapping) -> None:
    for resource in read(write_template(shop, find_key_schemas(shop, {})))["Resources"].values():
        assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"] == "Retain"
        assert resource["Properties"]["BillingMode"] == "PAY_PER_REQUEST"
        assert resource["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert resource["Properties"]["SSESpecification"] == {"SSEEnabled": True}
        assert resource["Properties"]["DeletionProtectionEnabled"] is True


def test_cfn_lint_has_nothing_to_say_of_made_templates(shop: Mapping, tmp_path: Path) -> None:
    library = load_mapping(MAPPINGS / "book_library.yaml")
    made = {
        "home": write_template(library, find_key_schemas(library, {}), "dev"),
        "shop": write_template(shop, find_key_schemas(shop, {})),
        "many": write_template(*make_many(60)),
    }
    for name, text in made.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        lint(tmp_path / f"{name}.yaml")


@pytest.mark.parametrize("count", [1, 60, 250])
def test_many_tables_stay_within_the_limits_of_cloudformation(count: int) -> None:
    """Quotas of CloudFormation: 500 resources, 200 outputs, 1 MB on S3. Above 51,200 bytes it goes over S3."""
    text = write_template(*make_many(count))
    template = read(text)
    assert len(template["Resources"]) == count
    assert len(template.get("Outputs", {})) == (count if count <= MAX_OUTPUTS else 0)
    assert (len(text.encode()) > MAX_INLINE_BYTES) == (count > 1)
    assert len(text.encode()) < MAX_BYTES


def test_more_tables_than_a_stack_has_are_refused() -> None:
    with pytest.raises(RefusedError, match="has 501 tables, and a CloudFormation stack has at most 500 resources"):
        write_template(*make_many(501, indexes=0))


def test_a_logical_id_depends_on_the_table_s_own_name(shop: Mapping) -> None:
    """Otherwise a table that is added would rename the others, and CloudFormation would replace them."""
    few, many = make_many(2), make_many(5)
    assert list(read(write_template(*many))["Resources"])[:2] == list(read(write_template(*few))["Resources"])


@pytest.mark.parametrize(
    ("first", "second"), [("Shop-a_b", "Shop-ab"), ("Environment", "TableEnvironment"), ("Shop-", "Table")]
)
def test_tables_that_would_have_one_logical_id_are_refused_by_name(first: str, second: str) -> None:
    entities = {
        name: {"name": name, "source": {"table": name, "key": "id"}, "target": {"table": table, "key": {"id": "keep"}}}
        for name, table in (("one", first), ("other", second))
    }
    mapping = Mapping.model_validate({"name": "shop", "entities": entities, "sha256": ""})
    with pytest.raises(RefusedError, match=f"Tables {first} and {second} would both be "):
        write_template(mapping, find_key_schemas(mapping, {}))


def list_names(count: int, environment: str = "prod", indexes: int = 2) -> dict[str, list[str]]:
    return {
        f"Shop-thing_of_number_{number}-{environment}": [f"index-{i}" for i in range(indexes)]
        for number in range(count)
    }


ROOM = find_room("b" * 63, "m" * 32, "prod")


def name_all(names: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    return (
        [f"{ARN}/{name}" for name in names],
        [f"{ARN}/{name}/index/{index}" for name, found in names.items() for index in found],
    )


def test_few_tables_and_indexes_are_named_one_by_one() -> None:
    """As 0.1.0 did: the parameters of a stack of the home library stay the same, with any name of an environment."""
    library = load_mapping(MAPPINGS / "book_library.yaml")
    environment = "e" * 64
    names = {e.table(environment): [i.name for i in library.indexes[e.name]] for e in library.entities.values()}
    assert name_resources(ARN, names, find_room("b" * 63, library.name, environment)) == name_all(names)
    assert name_resources(ARN, {"one": []}, ROOM) == ([f"{ARN}/one"], [f"{ARN}/one"])


@pytest.mark.parametrize("count", [60, 250])
def test_many_tables_are_named_by_what_their_names_have_in_common(count: int) -> None:
    assert name_resources(ARN, list_names(count), ROOM) == (
        [f"{ARN}/Shop-thing_of_number_*-prod"],
        [f"{ARN}/Shop-thing_of_number_*-prod/index/*"],
    )


def test_many_indexes_are_named_together() -> None:
    name = "Shop-" + "x" * 60
    assert name_resources(ARN, {name: [f"index-{i}" for i in range(20)]}, ROOM) == (
        [f"{ARN}/{name}"],
        [f"{ARN}/{name}/index/*"],
    )


def test_tables_of_several_families_are_named_by_family() -> None:
    families = {"auth": 12, "shop": 30, "log": 1}
    names = {f"{family}_{number}x-prod": ["index"] for family, count in families.items() for number in range(count)}
    tables, indexes = name_resources(ARN, names, ROOM)
    assert tables == [f"{ARN}/auth_*x-prod", f"{ARN}/shop_*x-prod", f"{ARN}/log_0x-prod"]
    assert indexes == [f"{table}/index/*" for table in tables]


def test_tables_without_common_beginnings_are_refused_if_there_is_no_room_for_them() -> None:
    """About twenty have room in a policy."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    names = {f"{letter}-table-prod": ["index"] for letter in letters}
    few = dict(list(names.items())[:20])
    room = find_room("accession-123456789012-ap-southeast-2-shop-prod", "shop", "prod")
    assert name_resources(ARN, few, room) == name_all(few)
    with pytest.raises(RefusedError, match=r"begin with 26 different words, so a policy .* let the names begin alike"):
        name_resources(ARN, {name * 2: found for name, found in names.items()}, room)


@pytest.mark.parametrize("environment", ["dev", "e" * 64])
@pytest.mark.parametrize("count", [1, 5, 8, 10, 11, 20, 500])
def test_the_worker_s_policy_and_its_parameters_stay_within_the_limits(count: int, environment: str) -> None:
    """4,096 bytes of a parameter, and 6,144 characters of a managed policy without white space."""
    bucket, mapping, key = "b" * 63, "m" * 32, f"arn:aws-us-gov:kms:us-gov-east-1:123456789012:key/{'k' * 36}"
    tables, indexes = name_resources(ARN, list_names(count, environment, 20), find_room(bucket, mapping, environment))
    assert max(len(",".join(tables)), len(",".join(indexes))) <= 4_096

    names = {"Bucket.Arn": f"arn:aws-us-gov:s3:::{bucket}", "Mapping": mapping, "Environment": environment}
    values = {"TableArns": tables, "IndexArns": indexes, "KeyArn": key}

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(one) for one in node]
        if not isinstance(node, dict):
            return node
        if "!If" in node:
            return resolve(node["!If"][1])
        if "!Ref" in node:
            return values[node["!Ref"]]
        if "!Sub" in node:
            return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], node["!Sub"])
        return names[node["!GetAtt"]] if "!GetAtt" in node else {name: resolve(one) for name, one in node.items()}

    template = read((ROOT / "cloudformation/artifacts.yaml").read_text())
    document = resolve(template["Resources"]["Policy"]["Properties"]["PolicyDocument"])
    assert len(re.sub(r"\s", "", json.dumps(document))) <= 6_144


def test_make_template_prints_it_and_takes_open_types_from_the_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESSION_MAPPINGS", str(tmp_path))  # the command sets it, for Airflow
    path = tmp_path / "shop.yaml"
    path.write_text(SHOP)
    assert main.main(["template", "--mapping", str(path)]) == 0
    said = capsys.readouterr()
    assert types(read(said.out)["Resources"]["items"]["Properties"])["id"] == "S"
    assert "keys: text for id of item, whose type the mapping does not say" in said.err

    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, nr INTEGER)")
        db.execute("CREATE TABLE place (code TEXT, nr INTEGER, country, state, city, note, PRIMARY KEY (code, nr))")
    source = ["--source", str(tmp_path / "shop.db")]
    assert main.main(["template", "--mapping", str(path), "--environment", "dev", *source]) == 0
    said = capsys.readouterr()
    template = read(said.out)
    assert types(template["Resources"]["items"]["Properties"])["id"] == "N"
    assert template["Parameters"]["Environment"]["Default"] == "dev"
    assert said.err == ""
