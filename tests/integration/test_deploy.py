"""`make deploy` makes what is missing, leaves alone what the application made, can be repeated, explains refusals."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import orjson
import pytest

from accession import artifacts, dynamodb
from accession.cli.deploy import Deployment, deploy_stacks, find_bucket, name_bucket
from accession.cli.ministack import start_ministack
from accession.digest import hash_file
from accession.errors import AccessError, AccessionError, RefusedError, TargetError, TransientError
from accession.items import ItemKey, KeySchema, Table
from accession.mapping import MAPPINGS, load_mapping
from conftest import REPO, Library, LocalAws, table_definitions
from permissions import TAGS_LATE

MAPPING = load_mapping(MAPPINGS / "book_library.yaml")


def deploy(environment: str, said: list[str] | None = None, mapping: Any = MAPPING) -> Deployment:
    return deploy_stacks(mapping, environment, boto3.Session(), tell=(said if said is not None else []).append)


@pytest.fixture
def fresh(aws: LocalAws) -> str:
    """An environment of which nothing exists."""
    return f"d{uuid4().hex[:8]}"


def describe(aws: LocalAws, environment: str) -> list[dict[str, Any]]:
    """What distinguishes tables, in the mapping's order."""
    found = []
    for entity in MAPPING.entities.values():
        table = aws.client("dynamodb").describe_table(TableName=entity.table(environment))["Table"]
        found.append(
            {
                "KeySchema": table["KeySchema"],
                "AttributeDefinitions": sorted(table["AttributeDefinitions"], key=lambda d: d["AttributeName"]),
                "BillingMode": table["BillingModeSummary"]["BillingMode"],
                "Indexes": sorted(
                    (i["IndexName"], str(i["KeySchema"]), str(i["Projection"])) for i in table["GlobalSecondaryIndexes"]
                ),
            }
        )
    return found


def test_deploys_tables_bucket_and_policy_and_a_repeat_changes_nothing(library: Library, fresh: str) -> None:
    aws = library.aws
    first, second = list[str](), list[str]()
    made = deploy(fresh, first)
    assert (made.tables, made.artifacts) == ("created", "created")
    assert made.bucket == find_bucket(fresh, boto3.Session()) == f"accession-000000000000-us-east-1-{fresh}"
    assert aws.client("s3").get_bucket_versioning(Bucket=made.bucket)["Status"] == "Enabled"
    assert describe(aws, fresh) == describe(aws, library.environment)  # so the fixture's tables are the template's

    again = deploy(fresh, second)
    assert again == replace(made, tables="unchanged", artifacts="unchanged")
    assert len({made.policy, made.pages_policy, made.auditor_policy}) == 3
    assert [line.split(" (")[0] for line in first] == ["artifacts: created", "tables: created"]
    assert [line.split(" (")[0] for line in second] == ["artifacts: unchanged", "tables: unchanged"]


def test_stacks_of_0_1_0_see_no_change(aws: LocalAws, fresh: str) -> None:
    """Their tables were made of a file, and the template is made from the mapping since."""
    cloudformation = aws.client("cloudformation")
    stack = f"accession-book-library-{fresh}-tables"
    cloudformation.create_stack(
        StackName=stack,
        TemplateBody=(REPO / "tests/fixtures/v0_1_0/tables.yaml").read_text(),
        Parameters=[{"ParameterKey": "Environment", "ParameterValue": fresh}],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    assert deploy(fresh).tables == "unchanged"


def test_tables_of_the_application_are_checked_and_left_alone(library: Library) -> None:
    before = describe(library.aws, library.environment)
    assert deploy(library.environment).tables == "left alone"
    assert describe(library.aws, library.environment) == before
    assert deploy(library.environment).tables == "left alone"
    stacks = library.aws.client("cloudformation").describe_stacks()["Stacks"]
    assert f"accession-book-library-{library.environment}-tables" not in {stack["StackName"] for stack in stacks}


def test_some_tables_but_not_all_are_refused_by_name(library: Library) -> None:
    library.aws.client("dynamodb").delete_table(TableName=library.tables["book"])
    names = library.tables
    sentence = f"{names['user']} and {names['user_book']} exist already, but {names['book']} does not"
    with pytest.raises(RefusedError, match=re.escape(sentence)):
        deploy(library.environment)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"KeySchema": [{"AttributeName": "isbn", "KeyType": "HASH"}]},
            r"has the key isbn \(S\), the mapping says book_id \(S\)",
        ),
        (
            {
                "KeySchema": [
                    {"AttributeName": "book_id", "KeyType": "HASH"},
                    {"AttributeName": "isbn", "KeyType": "RANGE"},
                ]
            },
            r"has the key book_id \(S\) and isbn \(S\), the mapping says book_id \(S\)",
        ),
        ({"GlobalSecondaryIndexes": None}, "has no index isbn-index on isbn"),
        (
            {
                "GlobalSecondaryIndexes": [
                    {
                        "IndexName": "isbn-index",
                        "KeySchema": [{"AttributeName": "book_id", "KeyType": "HASH"}],
                        "Projection": {"ProjectionType": "ALL"},
                    }
                ]
            },
            "isbn-index .* is keyed by book_id, the mapping says isbn",
        ),
    ],
    ids=["key", "sort key", "no index", "index on another attribute"],
)
def test_a_table_keyed_otherwise_is_refused(library: Library, change: dict[str, Any], message: str) -> None:
    name = library.tables["book"]
    dynamodb = library.aws.client("dynamodb")
    dynamodb.delete_table(TableName=name)
    [definition] = [d for d in table_definitions() if "-Books-" in d["TableName"]]
    wrong = {key: value for key, value in (definition | {"TableName": name} | change).items() if value is not None}
    used = {
        key["AttributeName"]
        for schema in (wrong, *wrong.get("GlobalSecondaryIndexes", []))
        for key in schema["KeySchema"]
    }
    wrong["AttributeDefinitions"] = [d for d in wrong["AttributeDefinitions"] if d["AttributeName"] in used]
    dynamodb.create_table(**wrong)
    with pytest.raises(TargetError, match=message) as caught:
        deploy(library.environment)
    assert name in str(caught.value)


def test_a_bucket_that_an_earlier_stack_left_is_named_and_nothing_stays_half_made(aws: LocalAws, fresh: str) -> None:
    bucket = name_bucket("000000000000", "us-east-1", fresh)
    aws.client("s3").create_bucket(Bucket=bucket)
    with pytest.raises(TargetError, match=f"{bucket}.*already exists"):
        deploy(fresh)
    aws.client("s3").delete_bucket(Bucket=bucket)
    assert deploy(fresh).artifacts == "created"  # the failed stack is not in the way


def test_a_stack_whose_creation_was_rolled_back_is_explained(aws: LocalAws, fresh: str) -> None:
    broken = {"Resources": {"Queue": {"Type": "AWS::SQS::Queue", "Properties": {"DelaySeconds": 100_000}}}}
    cloudformation = aws.client("cloudformation")
    stack = f"accession-book-library-{fresh}-tables"
    cloudformation.create_stack(StackName=stack, TemplateBody=json.dumps(broken))
    with pytest.raises(Exception, match="ROLLBACK_COMPLETE"):
        cloudformation.get_waiter("stack_create_complete").wait(StackName=stack, WaiterConfig={"Delay": 1})
    with pytest.raises(RefusedError, match=f"ROLLBACK_COMPLETE.*delete-stack --stack-name {stack}"):
        deploy(fresh)


def test_no_credentials_no_region_nobody_there(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        with pytest.raises(AccessError, match="There are no AWS credentials for the request: set AWS_PROFILE"):
            deploy("dev")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_REGION")
        patch.delenv("AWS_DEFAULT_REGION")
        with pytest.raises(AccessError, match="There is no AWS region for the request: set AWS_DEFAULT_REGION"):
            deploy("dev")
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises(TransientError, match=r"http://127\.0\.0\.1:9\S* did not answer .*check AWS_ENDPOINT_URL"):
            deploy("dev")


@pytest.mark.parametrize(
    ("account", "region", "environment", "bucket"),
    [
        ("123456789012", "eu-north-1", "dev", "accession-123456789012-eu-north-1-dev"),
        ("123456789012", "eu-north-1", "My_Env", "accession-123456789012-eu-north-1-my-env"),
        ("123456789012", "ap-northeast-1", "a" * 64, "accession-123456789012-ap-northeast-1-" + "a" * 25),
    ],
)
def test_names_of_buckets_are_legal(account: str, region: str, environment: str, bucket: str) -> None:
    assert name_bucket(account, region, environment) == bucket
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", bucket)


@pytest.fixture(scope="module")
def strict() -> Iterator[LocalAws]:
    """A MiniStack that enforces IAM as AWS does, with everything deployed by its root user."""
    with start_ministack(enforce_iam=True) as ministack, pytest.MonkeyPatch.context() as patch:
        for name, value in ministack.environ.items():
            patch.setenv(name, value)
        yield LocalAws(ministack.endpoint, ministack.region, ministack.pid)


def make_user(policy: str | None) -> boto3.Session:
    """A user that may do what `policy` (an ARN) allows and nothing else."""
    iam = boto3.client("iam")
    name = f"u{uuid4().hex[:8]}"
    iam.create_user(UserName=name)
    if policy:
        iam.attach_user_policy(UserName=name, PolicyArn=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return boto3.Session(aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])


def test_deploy_without_permission_names_the_action(strict: LocalAws) -> None:
    with pytest.raises(AccessError, match=r"AWS denied .*not authorized to perform: [a-z]+:[A-Za-z]+"):
        deploy_stacks(MAPPING, "denied", make_user(None))


def test_the_policy_is_enough_for_all_that_runs_do_and_for_no_more(strict: LocalAws, tmp_path: Path) -> None:
    made = deploy_stacks(MAPPING, "dev", boto3.Session())
    worker = make_user(made.policy)
    client = worker.client("dynamodb", config=dynamodb.client_config())
    database = dynamodb.DynamoDB(client)
    books = "BookLibrary-Books-dev"
    table, key = Table(books, KeySchema(("book_id",))), ItemKey("b1")

    def item(title: str) -> dict[str, Any]:
        return {"book_id": {"S": "b1"}, "isbn": {"S": "9780000000019"}, "title": {"S": title}}

    assert database.describe_table(books).key == "book_id"
    assert database.is_empty(books)
    assert database.put_items(table, [("b1", orjson.dumps(item("one")))]) == (1, [])
    assert database.read_items(table, [key]) == {"b1": item("one")}
    update = dynamodb.Update(key, item("one"), item("two"))
    assert [done for _, done in database.update_items(table, [update])] == [True]
    assert database.finds_item(table, "isbn-index", {"isbn": {"S": "9780000000019"}}, key)
    assert [list(page) for _, page in database.scan_pages(books, 1)] == [[[item("two")]]]
    delete = dynamodb.Delete(key, item("two"))
    assert [done for _, done in database.delete_items(table, [delete])] == [True]
    put = dynamodb.PutAbsent(key, item("three"))
    assert [done for _, done in database.put_absent_items(table, [put])] == [True]
    assert database.read_items(table, [key]) == {key: item("three")}

    store = artifacts.Store(worker.client("s3", config=artifacts.client_config()), made.bucket, "book_library", "dev")
    with pytest.raises(AccessError, match=r"AWS denied s3:PutObject on s3://.* \(AccessDenied\)"):
        store.probe()  # over plain HTTP, as everything is here: the bucket takes TLS only
    strict.client("s3").delete_bucket_policy(Bucket=made.bucket)
    store.probe()
    (tmp_path / "backup").write_bytes(b"rows" * 3_000_000)  # 12 MB: in parts
    store.upload("backups/x.db", tmp_path / "backup", backup=True)
    store.refresh("backups/x.db")
    tags = strict.client("s3").get_object_tagging(Bucket=made.bucket, Key="book_library/dev/backups/x.db")["TagSet"]
    assert tags == ([{"Key": "accession", "Value": "backup"}] if TAGS_LATE else [])
    assert store.hash("backups/x.db") == hash_file(tmp_path / "backup")
    assert list(store.list("backups/")) == ["backups/x.db"]
    assert store.find("no such thing") is None

    def deletes_a_backup() -> None:
        store.client.delete_object(Bucket=made.bucket, Key="book_library/dev/backups/x.db")

    strict.client("dynamodb").create_table(**table_definitions()[1] | {"TableName": "BookLibrary-Books-prod"})
    for attempt in (
        deletes_a_backup,
        lambda: store.client.get_object(Bucket=made.bucket, Key="another_mapping/dev/state.json"),
        lambda: store.client.put_bucket_versioning(Bucket=made.bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda: client.scan(TableName="BookLibrary-Books-prod"),
        lambda: client.delete_table(TableName=books),
    ):
        with pytest.raises(Exception, match="AccessDenied"):
            attempt()
    with pytest.raises(AccessionError, match="BookLibrary-Books-prod"):
        database.describe_table("BookLibrary-Books-prod")
    assert os.environ["AWS_ENDPOINT_URL"] == strict.endpoint


@pytest.mark.parametrize("environment", ["a_b", "A-B"])
def test_an_environment_that_would_share_anothers_stacks_is_refused(aws: LocalAws, environment: str) -> None:
    with pytest.raises(RefusedError, match="would share stacks and bucket with a-b"):
        deploy_stacks(load_mapping(MAPPINGS / "book_library.yaml"), environment, boto3.Session())


def test_two_mappings_may_have_the_same_tables_and_the_second_leaves_them_alone(
    aws: LocalAws, fresh: str, tmp_path: Path
) -> None:
    path = tmp_path / "other.yaml"
    path.write_text((MAPPINGS / "book_library.yaml").read_text().replace("name: book_library", "name: other"))
    deploy(fresh)
    made = deploy(fresh, mapping=load_mapping(path))
    assert (made.tables, made.bucket) == ("left alone", f"accession-000000000000-us-east-1-other-{fresh}")
