"""Each deployed policy has what its role needs and nothing else: the calls of whole runs are recorded and evaluated."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from accession.artifacts import client_config
from accession.cli.deploy import Deployment, deploy_stacks
from accession.cli.main import main
from accession.cli.sample import write_sample
from accession.errors import AccessError, ConflictError, VerificationError
from accession.mapping import MAPPINGS, load_mapping
from accession.run.remote_source import fetch_source
from conftest import Library, LocalAws
from driver import Driver
from permissions import TAGS_LATE, Document, Need, Recorder, allows, find_denied, read_policy, shrink

MAPPING = load_mapping(MAPPINGS / "book_library.yaml")
KEY = "arn:aws:kms:us-east-1:000000000000:key/11111111-1111-1111-1111-111111111111"
SOURCE_KEY = "arn:aws:kms:us-east-1:000000000000:key/22222222-2222-2222-2222-222222222222"
SOURCE = "app/site.db"


@dataclass(frozen=True)
class Lived:
    """A target that has seen all that workers do, and what they needed for it."""

    made: Deployment
    library: Library
    sources: str
    worker: list[Need]
    recorder: Recorder

    @property
    def worker_policy(self) -> Document:
        """What a worker that reads the source may do."""
        assert self.made.source_policy is not None
        return read_policy(self.made.policy, self.made.source_policy)

    @property
    def prefix(self) -> str:
        return f"arn:aws:s3:::{self.made.bucket}/{MAPPING.name}/{self.library.environment}/"


class Worker:
    """The tasks of workers, with every request recorded, against a source on S3."""

    def __init__(self, library: Library, sources: str, folder: Path) -> None:
        self.library, self.sources, self.folder = library, sources, folder
        self.s3 = boto3.client("s3", config=client_config())

    @property
    def uri(self) -> str:
        return f"s3://{self.sources}/{SOURCE}"

    def prepare(self, **params: Any) -> Driver:
        """A run that has fetched its source."""
        folder = self.folder / uuid4().hex
        folder.mkdir()
        fetched = fetch_source(self.s3, self.uri, folder, is_checkpointed=True)
        return Driver(self.library, fetched, max_rejects=5, **params)


def alter(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


@pytest.fixture(scope="module")
def lived(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    folder = tmp_path_factory.mktemp("policies")
    environment = f"p{uuid4().hex[:8]}"
    sources = f"sources-{environment}"
    options = {
        "KeyArn": KEY,
        "SourceBucket": sources,
        "SourcePrefix": SOURCE,
        "SourceKeyArn": SOURCE_KEY,
        "SourceRestore": "true",
    }
    made = deploy_stacks(MAPPING, environment, boto3.Session(), options=options)
    outside = aws.client("s3")
    outside.create_bucket(Bucket=sources)
    path = write_sample(folder / "site.db", users=10, books=12, user_books=20)

    def upload() -> None:
        outside.upload_file(str(path), sources, SOURCE, ExtraArgs={"Tagging": "owner=application"})

    with Recorder(aws.endpoint, {made.bucket: KEY, sources: SOURCE_KEY}) as recorder:
        with recorder.listening():
            library = Library(LocalAws(recorder.endpoint, aws.region, aws.pid), environment, made.bucket)
            live(Worker(library, sources, folder), aws, path, upload, recorder)
        yield Lived(made, library, sources, recorder.take(), recorder)


def live(worker: Worker, aws: LocalAws, path: Path, upload: Any, recorder: Recorder) -> None:
    """All that workers do: runs, a lost upload, an undo with conflicts, a failed proof, restores, a seal."""
    books = worker.library.tables["book"]
    upload()
    first = worker.prepare()
    assert first.run().status == "verified"
    assert worker.prepare().run().status == "unchanged"  # its backup is there: copied onto itself

    alter(
        path,
        "UPDATE book SET title = title || '!'",
        "DELETE FROM user_book WHERE id = 1",
        "CREATE TABLE padding (bytes BLOB)",
        "INSERT INTO padding VALUES (randomblob(9000000))",  # so that it is moved in parts
    )
    upload()
    recorder.failing_parts = 1
    second = worker.prepare()
    with pytest.raises(AccessError, match=r"s3:PutObject.*backups/"):
        second.start()
    assert second.run().status == "verified"
    assert worker.prepare().run().status == "unchanged"

    changed = second.scan("book")[0]["book_id"]
    aws.client("dynamodb").update_item(
        TableName=books,
        Key={"book_id": changed},
        UpdateExpression="SET title = :t",
        ExpressionAttributeValues={":t": {"S": "the application's"}},
    )
    with pytest.raises(ConflictError):
        second.undo()
    second.undo(accept_conflicts=True)

    for suffix in ("-wal", "-journal"):
        aws.client("s3").put_object(Bucket=worker.sources, Key=SOURCE + suffix, Body=b"of another database")
    recorder.failing_parts = 1
    with pytest.raises(AccessError):
        second.steps.restore_source(worker.uri)
    assert second.steps.restore_source(worker.uri)  # moves the source aside in parts
    assert first.steps.restore_source(worker.uri)
    assert second.steps.restore_source(worker.uri)  # moves it aside in one request

    third = worker.prepare(on_conflict="keep")
    third.stage_all()
    third.plan()
    third.open()
    third.migrate_all()
    key = next(item["book_id"] for item in third.scan("book") if item["book_id"] != changed)
    edited = {"TableName": books, "Key": {"book_id": key}, "ExpressionAttributeNames": {"#s": "shelf"}}
    aws.client("dynamodb").update_item(
        **edited, UpdateExpression="SET #s = :s", ExpressionAttributeValues={":s": {"S": "A3"}}
    )
    with pytest.raises(VerificationError, match="shelf"):
        third.verify("book")
    third.end(is_verified=False, failure="not proved")
    aws.client("dynamodb").update_item(**edited, UpdateExpression="REMOVE #s")
    for name in MAPPING.order:
        third.verify(name)
    assert third.end().status == "verified"

    assert worker.prepare(seal="handover", accept_drift=True, on_conflict="keep").run().status == "verified"


@pytest.fixture(scope="module")
def audited(lived: Lived) -> list[Need]:
    """What `make audit` needed."""
    with lived.recorder.listening():
        assert main(["audit", "--environment", lived.library.environment]) == 0
    return lived.recorder.take()


def expect_exact(document: Document, needs: list[Need], *idle: str) -> None:
    """Every call is allowed, and without any one action or resource of a statement, but `idle`, some call is denied."""
    assert find_denied(document, needs) == set()
    assert [what for what, less in shrink(document) if not find_denied(less, needs)] == [*idle]


def test_workers_may_do_what_they_do_and_nothing_else(lived: Lived) -> None:
    idle = () if TAGS_LATE else ("BackupTag without s3:PutObjectVersionTagging",)
    expect_exact(lived.worker_policy, lived.worker, *idle)


def test_an_audit_needs_the_auditors_policy_and_nothing_else(lived: Lived, audited: list[Need]) -> None:
    expect_exact(read_policy(lived.made.auditor_policy), audited)


@pytest.mark.parametrize("member", ["pages_policy", "auditor_policy"])
def test_readers_read_no_table_and_write_nothing(lived: Lived, member: str) -> None:
    document = read_policy(getattr(lived.made, member))
    allowed = {need.action for need in lived.worker if allows(document, need)}
    assert allowed == {"s3:ListBucket", "s3:GetObject", "kms:Decrypt"}


WRITTEN_ONCE = (
    "log/00000001.json",
    "verify_register-0.py",
    "runs/r/manifest.json",
    "runs/r/plan.json",
    "runs/r/changes/book/index.json",
    "runs/r/progress/book/00000.migrate.1.1.json",
)
SWAPPED = (
    "state.json",
    "runs/r/report.json",
    "runs/r/report.html",
    "runs/r/rollback.json",
    "runs/r/verification.json",
    "runs/r/verification/b.json",
)


@pytest.mark.parametrize("path", WRITTEN_ONCE)
def test_what_is_written_once_cannot_be_replaced_or_deleted(lived: Lived, path: str) -> None:
    document = lived.worker_policy
    place = lived.prefix + path
    assert allows(document, Need("s3:PutObject", place, {"s3:if-none-match": "*"}))
    assert not allows(document, Need("s3:PutObject", place))
    assert not allows(document, Need("s3:PutObject", place, {"s3:if-match": '"0"'}))
    assert not allows(document, Need("s3:PutObject", place, {"s3:ObjectCreationOperation": "false"}))
    assert not allows(document, Need("s3:DeleteObject", place))
    assert not allows(document, Need("s3:DeleteObjectVersion", place))


@pytest.mark.parametrize("path", SWAPPED)
def test_what_is_swapped_can_only_be_swapped(lived: Lived, path: str) -> None:
    document = lived.worker_policy
    place = lived.prefix + path
    assert allows(document, Need("s3:PutObject", place, {"s3:if-match": '"0"'}))
    assert not allows(document, Need("s3:PutObject", place))
    assert not allows(document, Need("s3:DeleteObject", place))


def test_no_policy_reaches_beyond_its_target(lived: Lived) -> None:
    readers = map(read_policy, (lived.made.pages_policy, lived.made.auditor_policy))
    for document in (lived.worker_policy, *readers):
        for place in (
            lived.prefix.replace(lived.library.environment + "/", "another/") + "state.json",
            f"arn:aws:s3:::{lived.sources}/another.db",
        ):
            for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
                assert not allows(document, Need(action, place, {"s3:if-none-match": "*"}))


def test_without_options_no_source_no_key_and_no_restore_is_allowed(aws: LocalAws) -> None:
    made = deploy_stacks(MAPPING, f"p{uuid4().hex[:8]}", boto3.Session())
    assert made.source_policy is None
    sids = {statement["Sid"] for statement in read_policy(made.policy)["Statement"]}
    assert sids == {"Tables", "Indexes", "Bucket", "Objects", "Create", "Replace", "Files", "BackupTag", "Probe"}


def test_a_source_may_be_read_only_unless_it_may_be_restored(aws: LocalAws) -> None:
    options = {"SourceBucket": "uploads", "SourcePrefix": "app/"}
    made = deploy_stacks(MAPPING, f"p{uuid4().hex[:8]}", boto3.Session(), options=options)
    assert made.source_policy is not None
    document = read_policy(made.policy, made.source_policy)
    place = "arn:aws:s3:::uploads/app/site.db"
    assert allows(document, Need("s3:GetObject", place))
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not allows(document, Need(action, place, {"s3:if-none-match": "*"}))
        assert not allows(document, Need(action, f"{place}-wal", {"s3:if-none-match": "*"}))


def test_a_policy_of_the_longest_names_fits(aws: LocalAws) -> None:
    """IAM counts the characters that are not white space, up to 6,144 (IAM User Guide, "IAM and AWS STS quotas")."""
    environment = f"p{uuid4().hex[:8]}{'x' * 55}"
    options = {
        "KeyArn": KEY,
        "SourceBucket": "s" * 63,
        "SourcePrefix": "p" * 60,
        "SourceKeyArn": SOURCE_KEY,
        "SourceRestore": "true",
    }
    made = deploy_stacks(MAPPING, environment, boto3.Session(), options=options)
    assert made.source_policy is not None
    for arn in (made.policy, made.source_policy):
        assert len(json.dumps(read_policy(arn), separators=(",", ":"))) < 6144
