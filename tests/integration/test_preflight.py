"""Preflight: what a user meets before a run begins: one sentence with its remedy, and nothing is changed by asking."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from accession.artifacts import Store
from accession.cli.sample import write_sample
from accession.errors import (
    AccessError,
    AccessionError,
    ParamsError,
    RefusedError,
    SourceError,
    StoreError,
    TargetError,
)
from accession.mapping import MAPPINGS, load_mapping
from accession.target import create_state, open_target
from conftest import Library, LocalAws, table_definitions
from driver import Driver, seal_target
from faults.proxy import Faults, Proxy

RUN = "20260105T123456Z-0123abcd"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("source") / "site.db", users=2, books=2, user_books=2, orphans=0, odd=0)


def refuse(driver: Driver, kind: type[AccessionError], *parts: str) -> str:
    """The sentence with which preflight refuses."""
    with pytest.raises(kind) as refused:
        driver.preflight()
    message = str(refused.value)
    for part in parts:
        assert part in message
    assert "\n" not in message or kind is RefusedError  # that one prints the two commands that help
    assert "Traceback" not in message
    return message


def list_objects(library: Library) -> list[str]:
    answer = library.aws.client("s3").list_objects_v2(Bucket=library.bucket)
    return [entry["Key"] for entry in answer.get("Contents", [])]


def make_table(library: Library, entity: str, **changes: Any) -> None:
    """Make the table of an entity anew, with changes of its definition."""
    client = library.aws.client("dynamodb")
    client.delete_table(TableName=library.tables[entity])
    template = library.tables[entity].replace(library.environment, "${Environment}")
    definition = next(one for one in table_definitions() if one["TableName"] == template)
    merged = {**definition, **changes, "TableName": library.tables[entity]}
    client.create_table(**{key: value for key, value in merged.items() if value is not None})


def test_a_sound_set_up_passes_and_nothing_is_left_or_changed(library: Library, source: Path) -> None:
    before = source.read_bytes()
    Driver(library, source).preflight()
    assert list_objects(library) == []
    assert not any(library.scan(entity) for entity in library.tables)
    assert source.read_bytes() == before


# Source


def test_a_source_that_is_not_there(library: Library, tmp_path: Path) -> None:
    refuse(Driver(library, tmp_path / "no.db"), SourceError, f"There is no file {tmp_path}/no.db", "check `source`")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is empty (0 bytes): name the file that the application writes"),
        (b"username,email\n" * 100, "is not a SQLite database, or it is encrypted: name the database file, decrypted"),
        (bytes(range(256)) * 64, "is not a SQLite database, or it is encrypted: name the database file, decrypted"),
    ],
    ids=["empty", "CSV", "encrypted"],
)
def test_a_source_that_is_no_database(library: Library, tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "site.db").write_bytes(data)
    refuse(Driver(library, tmp_path / "site.db"), SourceError, part)


def test_a_truncated_source(library: Library, source: Path, tmp_path: Path) -> None:
    whole = source.read_bytes()
    (tmp_path / "site.db").write_bytes(whole[: len(whole) // 2])
    refuse(Driver(library, tmp_path / "site.db"), SourceError, "truncated", "copy it again")


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ("DROP TABLE user_book", "has no table user_book (it has user"),
        ("ALTER TABLE user_book RENAME TO userbook", "has no table user_book (it has userbook"),
        ("ALTER TABLE book DROP COLUMN isbn", "Table book in"),
        ("ALTER TABLE book RENAME COLUMN isbn TO isbn13", "has no column isbn (it has id, isbn13, title"),
    ],
)
def test_a_source_that_is_not_what_the_mapping_says(
    library: Library, source: Path, tmp_path: Path, change: str, part: str
) -> None:
    (tmp_path / "site.db").write_bytes(source.read_bytes())
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.execute(change)
        db.commit()
    refuse(Driver(library, tmp_path / "site.db"), SourceError, part, "correct the mapping")


# Tables


def test_a_table_that_is_not_there(library: Library, source: Path) -> None:
    table = library.tables["user_book"]
    library.aws.client("dynamodb").delete_table(TableName=table)
    refuse(Driver(library, source), TargetError, f"Table {table} does not exist in us-east-1", "run make deploy")


def test_an_environment_that_nobody_deployed(library: Library, source: Path) -> None:
    driver = Driver(library, source, environment="elsewhere")
    refuse(driver, TargetError, "Table BookLibrary-Users-elsewhere does not exist", "run make deploy")


def test_an_index_that_is_not_there(library: Library, source: Path) -> None:
    make_table(
        library,
        "book",
        GlobalSecondaryIndexes=None,
        AttributeDefinitions=[{"AttributeName": "book_id", "AttributeType": "S"}],
    )
    refuse(Driver(library, source), TargetError, "has no index isbn-index on isbn (it has none): deploy it first")


def test_an_index_keyed_otherwise(library: Library, source: Path) -> None:
    make_table(
        library,
        "book",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("book_id", "title")],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "isbn-index",
                "KeySchema": [{"AttributeName": "title", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )
    refuse(
        Driver(library, source),
        TargetError,
        "isbn-index",
        "is keyed by title, the mapping says isbn",
        "correct the index or the mapping",
    )


def test_an_index_with_two_partition_keys_is_not_one_with_a_sort_key(library: Library, source: Path) -> None:
    """DynamoDB has multi-attribute keys since November 2025; a look-up needs all attributes of the partition key."""
    keys = {"user_id": "HASH", "book_id": "HASH"}
    make_table(
        library,
        "user_book",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("user_book_id", *keys)],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "user-index",
                "KeySchema": [{"AttributeName": "user_id", "KeyType": "HASH"}],
                "Projection": {"ProjectionType": "ALL"},
            },
            {
                "IndexName": "user-book-index",
                "KeySchema": [{"AttributeName": name, "KeyType": kind} for name, kind in keys.items()],
                "Projection": {"ProjectionType": "ALL"},
            },
        ],
    )
    refuse(
        Driver(library, source),
        TargetError,
        "Index user-book-index of table",
        "is keyed by user_id (HASH), book_id (HASH), the mapping says user_id, book_id",
        "correct the index or the mapping",
    )


def test_an_index_may_have_the_key_of_the_table(library: Library, source: Path, tmp_path: Path) -> None:
    """It is listed like any other, and proved by look-ups through it."""
    make_table(
        library,
        "book",
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("book_id", "title")],
        GlobalSecondaryIndexes=[
            {
                "IndexName": index,
                "KeySchema": [
                    {"AttributeName": name, "KeyType": kind}
                    for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
                ],
                "Projection": {"ProjectionType": "KEYS_ONLY"},
            }
            for index, names in {"by-id": ["book_id"], "by-title": ["title", "book_id"]}.items()
        ],
    )
    text = (MAPPINGS / "book_library.yaml").read_text()
    path = tmp_path / "book_library.yaml"
    path.write_text(text.replace("isbn-index: [isbn]", "by-title: [title, book_id]\n      by-id: [book_id]"))
    driver = Driver(library, source, mapping=load_mapping(path))
    assert driver.run().status == "verified"
    proof = driver.steps.folder.find_verification("book")
    assert proof and proof.look_ups == {"by-title": 2, "by-id": 2}


def test_an_index_key_of_another_type(library: Library, source: Path) -> None:
    """An item whose isbn is a string would be refused by the service, with all of its batch."""
    make_table(
        library,
        "book",
        AttributeDefinitions=[
            {"AttributeName": "book_id", "AttributeType": "S"},
            {"AttributeName": "isbn", "AttributeType": "N"},
        ],
    )
    refuse(Driver(library, source), TargetError, "takes isbn as N, the mapping makes it S: correct either")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"id": "S"}, "has the key id (S), the mapping says user_id (S)"),
        ({"user_id": "N"}, "has the key user_id (N), the mapping says user_id (S)"),
        ({"user_id": "S", "email": "S"}, "has the key user_id (S) and email (S), the mapping says user_id (S)"),
    ],
)
def test_a_table_keyed_otherwise(library: Library, source: Path, keys: dict[str, str], said: str) -> None:
    make_table(
        library,
        "user",
        GlobalSecondaryIndexes=None,
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in keys.items()],
        KeySchema=[
            {"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
    )
    refuse(Driver(library, source), TargetError, said, "name the right table")


@pytest.mark.parametrize("entity", ["user", "book", "user_book"])
def test_tables_that_hold_items_already(library: Library, source: Path, entity: str) -> None:
    driver = Driver(library, source)
    key = driver.mapping.entities[entity].target.keys[0]
    library.aws.client("dynamodb").put_item(TableName=library.tables[entity], Item={key: {"S": "theirs"}})
    refuse(
        driver,
        RefusedError,
        f"Table {library.tables[entity]} has items that no run of ours wrote",
        "existing_items=keep",
    )
    Driver(library, source, existing_items="keep").preflight()
    assert library.scan(entity) == [{key: {"S": "theirs"}}]


# Access


@pytest.fixture
def denied(aws: LocalAws) -> Iterator[Proxy]:
    with Proxy(aws.endpoint, Faults(deny=1.0)) as proxy:
        yield proxy


@pytest.mark.parametrize("operation", ["DescribeTable", "Scan"])
def test_access_denied_names_the_action(library: Library, source: Path, denied: Proxy, operation: str) -> None:
    denied.faults = Faults(deny=1.0, only=(operation,))
    driver = Driver(library, source, client=boto3.client("dynamodb", endpoint_url=denied.endpoint))
    refuse(driver, AccessError, f"dynamodb:{operation} on table BookLibrary-Users-", "allow that action")
    assert denied.counts["denied"] == 1  # it is not worth a second try


def test_no_credentials(library: Library, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(library, source)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    session = boto3.Session()
    driver.client = session.client("dynamodb")
    refuse(driver, AccessError, "credentials")
    driver.store = Store(session.client("s3"), library.bucket, driver.mapping.name, library.environment)
    refuse(
        driver, AccessError, "no AWS credentials for s3:PutObject on s3://", "connection aws_default, or attach a role"
    )


def test_nobody_answers(library: Library, source: Path) -> None:
    """The store is asked first, so that a wrong endpoint is known in a moment."""
    driver = Driver(library, source)
    config = Config(retries={"total_max_attempts": 1}, connect_timeout=1)
    client = boto3.client("s3", endpoint_url="http://127.0.0.1:9", config=config)
    driver.store = Store(client, library.bucket, driver.mapping.name, library.environment)
    with pytest.raises(AccessionError, match=r"did not answer s3:\w+ on s3://.* check AWS_ENDPOINT_URL"):
        driver.preflight()


# Bucket


def test_a_bucket_that_is_not_there(library: Library, source: Path) -> None:
    driver = Driver(library, source, bucket="nobody-made-this")
    driver.store = Store(library.aws.client("s3"), "nobody-made-this", driver.mapping.name, library.environment)
    refuse(
        driver, StoreError, "Bucket nobody-made-this does not exist: run make deploy first, or give the right bucket"
    )


# State of the target


def test_a_target_that_another_run_left_open(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    create_state(driver.store)
    open_target(driver.store, RUN, None)
    message = refuse(driver, RefusedError, RUN)
    assert f"make migrate ENVIRONMENT={library.environment} RESUME={RUN}" in message
    assert f"make rollback RUN={RUN} ENVIRONMENT={library.environment}" in message


def test_a_sealed_target_and_how_it_is_unsealed(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    create_state(driver.store)
    seal_target(driver.store, "the application took over", "ada")
    refuse(driver, RefusedError, "sealed by ada", "unseal")
    Driver(library, source, dry_run=True).preflight()
    Driver(library, source, unseal="one more load").preflight()


def test_a_run_to_resume_that_is_not_open(library: Library, source: Path) -> None:
    refuse(
        Driver(library, source, resume=RUN), RefusedError, f"Run {RUN} cannot be resumed: no run has the target open"
    )


# Params and mapping


def test_an_unknown_param(library: Library, source: Path) -> None:
    with pytest.raises(
        ParamsError,
        match=r"Param max_reject: there is no such param; did you mean max_rejects\? Known are source, source_is_check",
    ):
        Driver(library, source, max_reject=3)


def test_too_many_rejects_refuse_the_plan_with_the_param_that_allows_them(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db", users=3, books=3, user_books=6, orphans=2, odd=1))
    driver.preflight()
    driver.stage_all()
    with pytest.raises(RefusedError, match="3 rows") as refused:
        driver.plan()
    assert "max_rejects" in str(refused.value)
    assert not any(library.scan(entity) for entity in library.tables)


def test_the_mapping_s_tables_are_what_is_checked(library: Library) -> None:
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    assert {name: entity.table(library.environment) for name, entity in mapping.entities.items()} == library.tables
