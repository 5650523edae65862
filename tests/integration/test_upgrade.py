"""A bucket that version 0.1.0 wrote is read, resumed, undone and audited. See tests/fixtures/make_v0_1_0.py."""

import json
import shutil
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.artifacts import Report, RunFolder, Store
from accession.audit import audit_target
from accession.dynamodb import DynamoDB, client_config
from accession.mapping import load_mapping
from accession.params import MigrateParams
from accession.run import Outcome, Run, refuse_plan
from accession.target import load_state
from conftest import LocalAws, table_definitions
from driver import IMPATIENT

FIXTURE = Path(__file__).parent.parent / "fixtures/v0_1_0"
ABOUT = json.loads((FIXTURE / "about.json").read_text())
MAPPING = load_mapping(FIXTURE / "book_library.yaml")
BY = "the tests"


class Old:
    """The target that version 0.1.0 left behind: a committed run, and one that died after it had written its users."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.store = Store(aws.client("s3"), ABOUT["bucket"], MAPPING.name, ABOUT["environment"], IMPATIENT)
        self.dynamodb = DynamoDB(aws.client("dynamodb", config=client_config()))

    def load(self, run: str, **params: Any) -> Run:
        manifest = RunFolder(self.store, run).load_manifest()
        wanted = MigrateParams(**{**manifest.params, **params})
        return Run.load(self.store, MAPPING, run, self.dynamodb, wanted)

    def scan(self) -> dict[str, list[dict[str, Any]]]:
        found = {}
        for entity in MAPPING.entities.values():
            table = entity.table(ABOUT["environment"])
            pages = self.aws.client("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
            items = [item for page in pages for item in page["Items"]]
            found[table] = sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
        return found


@pytest.fixture
def old(aws: LocalAws, tmp_path: Path) -> Iterator[Old]:
    s3, dynamodb = aws.client("s3"), aws.client("dynamodb")
    s3.create_bucket(Bucket=ABOUT["bucket"])
    with tarfile.open(FIXTURE / "bucket.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    for file in (tmp_path / "bucket").rglob("*"):
        if file.is_file():
            key = str(file.relative_to(tmp_path / "bucket"))
            s3.put_object(Bucket=ABOUT["bucket"], Key=key, Body=file.read_bytes())
    for definition in table_definitions():
        name = definition["TableName"].replace("${Environment}", ABOUT["environment"])
        dynamodb.create_table(**definition | {"TableName": name})
    for table, items in json.loads((FIXTURE / "tables.json").read_text()).items():
        for item in items:
            dynamodb.put_item(TableName=table, Item=item)
    target = Old(aws)
    yield target
    for entity in MAPPING.entities.values():
        dynamodb.delete_table(TableName=entity.table(ABOUT["environment"]))
    for path in list(target.store.list()):
        s3.delete_object(Bucket=ABOUT["bucket"], Key=target.store.prefix + path)
    s3.delete_bucket(Bucket=ABOUT["bucket"])


def finish(run: Run) -> Report:
    epoch = run.open_run().epoch
    assert epoch is not None
    for name in MAPPING.order:
        for part in run.folder.load_staged(name).parts:
            run.migrate(name, part.part, epoch)
    run.remove(epoch)
    for name in MAPPING.order:
        run.verify(name)
    return run.report(Outcome(is_verified=True, epoch=epoch))


def test_its_register_is_sound(old: Old) -> None:
    audit = audit_target(old.store)
    assert audit.ok, audit.first_problem
    assert (audit.head, audit.open) == (ABOUT["committed"], ABOUT["open"])
    assert [(line.run, line.status) for line in audit.runs] == [(ABOUT["committed"], "verified")]


def test_its_open_run_is_resumed(old: Old) -> None:
    Run.preflight(old.store, MAPPING, MigrateParams(environment="v010", resume=ABOUT["open"]), old.dynamodb, None)
    run = Run.resume(old.store, MAPPING, ABOUT["open"], old.dynamodb)
    report = finish(old.load(run.name, resume=run.name))
    assert (report.status, report.is_open) == ("verified", False)
    totals = report.totals
    assert [totals[name] for name in ("put", "updated", "deleted", "rejected")] == [1, 2, 1, 1]
    state = load_state(old.store)
    assert state is not None
    assert (state.head, state.open) == (run.name, None)
    assert audit_target(old.store).ok


def test_its_runs_are_undone_to_the_exact_state_before(old: Old) -> None:
    assert old.load(ABOUT["open"]).undo(BY).proved
    assert old.scan() == json.loads((FIXTURE / "after_first.json").read_text())
    assert old.load(ABOUT["committed"]).undo(BY).proved
    assert not any(old.scan().values())
    assert audit_target(old.store).ok


def test_a_run_of_today_goes_on_with_its_ids(old: Old, tmp_path: Path) -> None:
    old.load(ABOUT["open"]).undo(BY)
    source = Path(shutil.copy(FIXTURE / "site.db", tmp_path))
    params = MigrateParams(environment="v010", max_rejects=1)
    about = {"source_name": str(source), "by": BY, "airflow_run_id": "manual__1"}
    run = Run.backup(old.store, MAPPING, params, old.dynamodb, source, **about)
    for name in MAPPING.order:
        run.stage(name)
    plan = run.plan()
    refuse_plan(plan)
    counts = {name: entity.counts for name, entity in plan.entities.items()}
    assert {name: (c.put, c.updated, c.deleted, c.unchanged) for name, c in counts.items()} == {
        "user": (0, 1, 0, 4),
        "book": (1, 1, 0, 6),
        "user_book": (0, 0, 1, 7),
    }
    assert finish(run).status == "verified"
    with closing(sqlite3.connect(FIXTURE / "site.db")) as db:
        names = {name for (name,) in db.execute("SELECT username FROM user")}
    users = MAPPING.entities["user"].table("v010")
    assert {item["username"]["S"] for item in old.scan()[users]} == names
    before = {item["user_id"]["S"] for item in json.loads((FIXTURE / "after_first.json").read_text())[users]}
    assert {item["user_id"]["S"] for item in old.scan()[users]} == before
