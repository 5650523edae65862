"""Every way that a run can go, under a real scheduler: the end of the run, its tasks, the tables and the state.

Each path has an environment of its own, so all of them run at the same time. A path is steps: something is done
(trigger, clear, ...), and then everything must be as its row of the table says.
"""

import json
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from deployment import SECOND, STEPS, USER, Deployment, start_airflow, wait_until
from gate import Gate, Rule

from accession.artifacts import GOOD, Store
from accession.audit import audit_target
from accession.cli.ministack import start_ministack
from accession.cli.sample import write_sample
from conftest import Library, LocalAws, make_library
from faults.proxy import Faults

pytestmark = [pytest.mark.paths, pytest.mark.timeout(900)]

MIGRATE, ROLLBACK = "migrate_book_library", "rollback_book_library"
DENIED = Faults(deny=1.0)
CHANGED = "changed.by.the.application"


@dataclass
class Stage:
    """What a path plays on: its environment, its source, Airflow, and the gate before AWS."""

    airflow: Deployment
    gate: Gate
    library: Library
    source: Path
    runs: list[str] = field(default_factory=list)  # Airflow's ids, of the migration DAG

    @property
    def airflow_run(self) -> str:
        return self.runs[-1]

    def trigger(self, **conf: Any) -> None:
        defaults = {
            "source": str(self.source),
            "environment": self.library.environment,
            "bucket": self.library.bucket,
            "approval": "never",
        }
        self.runs.append(self.airflow.trigger(MIGRATE, defaults | conf))

    def wait(self) -> str:
        return self.airflow.wait(MIGRATE, self.airflow_run)

    def wait_for(self, task: str, state: str) -> Any:
        return self.airflow.wait_for(MIGRATE, self.airflow_run, task, state)

    def clear(self, *tasks: str, downstream: bool = False) -> None:
        self.airflow.clear(MIGRATE, self.airflow_run, *tasks, downstream=downstream)

    def hang(self, operation: str, about: str, *more: str, **options: Any) -> Rule:
        """A rule about one of this path's tables (`user`, ...), or about objects below a path of its bucket."""
        prefix = f"/{self.library.bucket}/book_library/{self.library.environment}/"
        place = self.library.tables.get(about) or prefix + about
        rule = Rule(operation, (place, *more), **options)
        self.gate.rules.append(rule)
        return rule

    # What is there

    def objects(self, below: str = "") -> list[str]:
        prefix = f"book_library/{self.library.environment}/"
        pages = self.library.aws.client("s3").get_paginator("list_objects_v2")
        return [
            entry["Key"].removeprefix(prefix)
            for page in pages.paginate(Bucket=self.library.bucket, Prefix=prefix + below)
            for entry in page.get("Contents", ())
        ]

    def load(self, path: str) -> Any:
        key = f"book_library/{self.library.environment}/{path}"
        return json.loads(self.library.aws.client("s3").get_object(Bucket=self.library.bucket, Key=key)["Body"].read())

    @property
    def state(self) -> Any:
        return self.load("state.json")

    def reports(self) -> list[Any]:
        return [self.load(path) for path in self.objects("runs/") if path.endswith("/report.json")]

    def report(self) -> Any:
        """The latest report."""
        return max(self.reports(), key=lambda report: report["ended_at"])

    def tasks(self) -> str:
        """The end of each group of tasks, a letter for each state in it."""
        letters = {"success": "S", "failed": "F", "skipped": "K", "upstream_failed": "U", "removed": "R", "None": "-"}
        found: dict[str, set[str]] = {group: set() for group in STEPS}
        for task in self.airflow.tasks(MIGRATE, self.airflow_run):
            found[task.task.split(".")[0]].add(letters.get(task.state, task.state))
        return " ".join("".join(sorted(found[group])) for group in STEPS)

    def tables(self) -> str:
        """`empty`, `source` when exactly the source's rows are there, each found again by its values, or what else."""
        names = self.library.aws.client("dynamodb").list_tables()["TableNames"]
        if not set(self.library.tables.values()) & set(names):
            return "missing"
        held = {entity: self.library.scan(entity) for entity in self.library.tables}
        if not any(held.values()):
            return "empty"
        if all(
            sorted(map(str, (project(row) for row in held[entity]))) == sorted(map(str, rows))
            for entity, rows in read_expected(self.source, held).items()
        ):
            return "source"
        return "other"


def project(item: dict[str, Any]) -> dict[str, Any]:
    """An item without what is made in the run: its key and the time it was first seen."""
    return {name: next(iter(value.values())) for name, value in sorted(item.items()) if name not in MADE}


MADE = {"created_at", "date_added", "user_book_id"}


def read_expected(source: Path, held: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What the tables must hold, by the rules of the mapping and not by the product's code; new ids as found there."""
    with closing(sqlite3.connect(source)) as connection:
        connection.row_factory = sqlite3.Row
        rows = {name: [dict(row) for row in connection.execute(f"SELECT * FROM {name}")] for name in held}
    user_ids = {item["username"]["S"]: item["user_id"]["S"] for item in held["user"]}
    book_ids = {item["title"]["S"]: item["book_id"]["S"] for item in held["book"]}
    users = {row["id"]: row["username"] for row in rows["user"]}
    books = {row["id"]: row["title"] for row in rows["book"]}
    expected: dict[str, list[dict[str, Any]]] = {"user": [], "book": [], "user_book": []}
    for row in rows["user"]:
        expected["user"].append({**row, "user_id": user_ids.get(row["username"])})
    for row in rows["book"]:
        book = {**row, "book_id": book_ids.get(row["title"]), "genre": row["genre"] or "Unknown"}
        expected["book"].append({name: value for name, value in book.items() if name != "isbn" or value})
    for row in rows["user_book"]:
        if row["user_id"] not in users or row["book_id"] not in books or row["date_added"] == "some day in spring":
            continue
        expected["user_book"].append(
            {**row, "user_id": user_ids.get(users[row["user_id"]]), "book_id": book_ids.get(books[row["book_id"]])}
        )
    left_out = MADE | {"id"}
    return {
        name: [{k: show(v) for k, v in sorted(row.items()) if k not in left_out} for row in table]
        for name, table in expected.items()
    }


def show(value: Any) -> Any:
    """A value of SQLite as DynamoDB's typed JSON has it: numbers as text, NULL as true."""
    return True if value is None else str(value) if type(value) is int else value


# What happens in a path


def verified(stage: Stage) -> None:
    stage.trigger()


def dry_run(stage: Stage) -> None:
    stage.trigger(dry_run=True)


def rejected_by_person(stage: Stage) -> None:
    stage.trigger(approval="always")
    stage.airflow.answer(MIGRATE, stage.airflow_run, "Reject", USER)


def approved_by_person(stage: Stage) -> None:
    stage.trigger(approval="always")
    stage.airflow.answer(MIGRATE, stage.airflow_run, "Approve")


def approved_by_who_triggered(stage: Stage) -> None:
    stage.trigger(approval="always")
    stage.airflow.answer(MIGRATE, stage.airflow_run, "Approve", USER)


def answered_by_nobody(stage: Stage) -> None:
    stage.trigger(approval="always")
    stage.airflow.let_approval_expire(MIGRATE, stage.airflow_run)


def approval_marked_as_success(stage: Stage) -> None:
    """A person marks the task that asks as successful, without an answer."""
    stage.trigger(approval="always")
    stage.wait_for("approve", "awaiting_input")
    path = f"/dags/{MIGRATE}/dagRuns/{stage.airflow_run}/taskInstances/approve"
    stage.airflow.call("PATCH", path, {"new_state": "success"})


def refused_by_plan(stage: Stage) -> None:
    with closing(sqlite3.connect(stage.source)) as connection:
        connection.execute("UPDATE user_book SET book_id = 4711 WHERE id = 7")
        connection.commit()
    stage.trigger()


def unknown_param(stage: Stage) -> None:
    stage.trigger(max_reject=2)


def tables_missing(stage: Stage) -> None:
    for table in stage.library.tables.values():
        stage.library.aws.client("dynamodb").delete_table(TableName=table)
    stage.trigger()


def backup_removed(stage: Stage) -> None:
    """Somebody removes the backup just before the first stage task reads it."""

    def remove() -> None:
        for path in stage.objects("backups/"):
            key = f"book_library/{stage.library.environment}/{path}"
            stage.library.aws.client("s3").delete_object(Bucket=stage.library.bucket, Key=key)

    stage.hang("HEAD", "runs/", "/index.json", first=remove)
    stage.hang("GET", "backups/", first=remove)
    stage.trigger()


def writer_fails(stage: Stage) -> None:
    """The books are denied at once, while the users take their time: each request some seconds."""
    stage.hang("BatchWriteItem", "book", faults=DENIED)
    stage.hang("BatchWriteItem", "user", faults=Faults(latency=6.0))
    stage.trigger()


def change_user(stage: Stage) -> None:
    item = min(stage.library.scan("user"), key=lambda item: item["username"]["S"])
    item["username"] = {"S": CHANGED}
    stage.library.aws.client("dynamodb").put_item(TableName=stage.library.tables["user"], Item=item)


def change_before_verify(stage: Stage) -> None:
    """A value in the target is altered after everything was written, just before the proof reads the table."""
    stage.hang("Scan", "user", "TotalSegments", first=lambda: change_user(stage))


def verify_fails(stage: Stage) -> None:
    change_before_verify(stage)
    stage.trigger()


def verify_fails_keep(stage: Stage) -> None:
    change_before_verify(stage)
    stage.trigger(on_failure="keep")


def lose_user(stage: Stage) -> None:
    item = min(stage.library.scan("user"), key=lambda item: item["username"]["S"])
    stage.library.aws.client("dynamodb").delete_item(
        TableName=stage.library.tables["user"], Key={"user_id": item["user_id"]}
    )


def item_lost(stage: Stage) -> None:
    """An item gets lost after everything was written: nobody's work is in the way of the undo."""
    stage.hang("Scan", "user", "TotalSegments", first=lambda: lose_user(stage))
    stage.trigger()


def marked_failed(stage: Stage) -> None:
    """A person marks the run failed while the books are being written."""
    held = stage.hang("BatchWriteItem", "book", until=threading.Event())
    stage.trigger()
    assert held.met.wait(600), "no writer came to the books"
    stage.wait_for("migrate.user", "success")
    stage.airflow.mark_failed(MIGRATE, stage.airflow_run)
    stage.wait_for("migrate.book", "failed")
    stage.gate.rules.remove(held)
    assert held.until is not None
    held.until.set()


def zero_rows(stage: Stage) -> None:
    with closing(sqlite3.connect(stage.source)) as connection:
        connection.execute("DELETE FROM user_book")
        connection.commit()
    stage.trigger()


def clear_writer(stage: Stage) -> None:
    stage.clear("migrate.book")


def clear_open_run(stage: Stage) -> None:
    stage.clear("open_run", downstream=True)


def clear_backup(stage: Stage) -> None:
    stage.clear("backup", downstream=True)


def writer_killed(stage: Stage) -> None:
    """The process that writes the users is killed half-way; the application changes a written item; Airflow retries."""
    held = stage.hang("BatchWriteItem", "user", let_pass=2, until=threading.Event())
    stage.trigger(on_conflict="keep")
    assert held.met.wait(600), "no writer came to the users"
    wait_until(lambda: len(stage.library.scan("user")) >= 45, "two batches of users are written", 60)
    task = stage.wait_for("migrate.user", "running")
    assert task.pid
    os.kill(task.pid, signal.SIGKILL)
    stage.wait_for("migrate.user", "up_for_retry")
    change_user(stage)
    stage.gate.rules.remove(held)
    assert held.until is not None
    held.until.set()


@dataclass(frozen=True)
class Step:
    """One row of the table: what is done, and how everything must be when the run has ended.

    `tasks` has the ends of each of STEPS: Success, Failed, sKipped, Upstream failed; several when a group's tasks end
    in several ways. `report` is the status, or None when the run has none; `opened` whether the target stays open.
    `damaged` is what the audit finds, other than nothing.
    """

    done: Callable[[Stage], None]
    run: str
    tasks: str
    report: str | None
    tables: str
    opened: bool = False
    damaged: str | None = None
    also: Callable[[Stage], None] = lambda stage: None


def wrote_nothing(stage: Stage) -> None:
    assert [stage.gate.count_writes(table) for table in stage.library.tables.values()] == [0, 0, 0]


def was_approved(stage: Stage) -> None:
    assert stage.report()["approved_by"] == SECOND


def says_who_rejected(stage: Stage) -> None:
    wrote_nothing(stage)
    assert USER in stage.report()["reason"]


def says_that_another_must_approve(stage: Stage) -> None:
    wrote_nothing(stage)
    assert stage.report()["reason"] == (
        f"{USER} triggered this run, and another person must approve it: nothing is written."
    )


def says_that_nobody_answered(stage: Stage) -> None:
    wrote_nothing(stage)
    assert stage.report()["reason"] == "Rejected by the time-out, since nobody answered. Nothing was written."


def says_that_nobody_approved(stage: Stage) -> None:
    wrote_nothing(stage)
    assert stage.report()["reason"].startswith("Nobody has approved run ")


def waited_for_the_slow_writer(stage: Stage) -> None:
    """The users were written in full before the undo began."""
    steps = {step["name"]: step for step in stage.report()["steps"]}
    assert steps["migrate.user"]["ended_at"] <= steps["rollback"]["started_at"]
    assert stage.load(f"runs/{stage.report()['run']}/rollback.json")["entities"]["user"]["deleted"] == 120


def kept_the_changed_item(stage: Stage) -> None:
    (item,) = [item for item in stage.library.scan("user") if item["username"]["S"] == CHANGED]
    assert item["user_id"]["S"] in json.dumps(stage.load(f"runs/{stage.report()['run']}/rollback.json")["conflicts"])


def named_the_item(stage: Stage) -> None:
    (item,) = [item for item in stage.library.scan("user") if item["username"]["S"] == CHANGED]
    assert item["user_id"]["S"] in stage.report()["reason"]


def left_the_changed_item_alone(stage: Stage) -> None:
    """It is the only one that differs from the source, and the report counts it."""
    assert stage.airflow.task(MIGRATE, stage.airflow_run, "migrate.user").tries == 2
    counts = stage.report()["entities"]["user"]
    assert (counts["conflicts"], counts["held"], counts["verified"]) == (1, 1, 119)
    (item,) = [item for item in stage.library.scan("user") if item["username"]["S"] == CHANGED]
    with closing(sqlite3.connect(stage.source)) as connection:
        found = connection.execute("SELECT username FROM user WHERE email = ?", (item["email"]["S"],)).fetchone()
    item["username"] = {"S": found[0]}
    stage.library.aws.client("dynamodb").put_item(TableName=stage.library.tables["user"], Item=item)
    assert stage.tables() == "source"


def refused_to_start_anew(stage: Stage) -> None:
    assert len([path for path in stage.objects("runs/") if path.endswith("manifest.json")]) == 1


PATHS: dict[str, list[Step]] = {
    "verified, then a writer and backup cleared": [
        Step(verified, "success", "S S S S K S S S S K S", "verified", "source"),
        Step(clear_writer, "success", "S S S S K K KS S S K S", "verified", "source"),
        Step(clear_backup, "success", "S S S S K K K K K K S", "unchanged", "source"),
    ],
    "dry run": [
        Step(dry_run, "success", "S S S S K K K K K K S", "dry_run", "empty", also=wrote_nothing),
    ],
    "rejected by a person": [
        Step(rejected_by_person, "failed", "S S S S S K K K K K F", "rejected", "empty", also=says_who_rejected),
    ],
    "approved by a person": [
        Step(approved_by_person, "success", "S S S S S S S S S K S", "verified", "source", also=was_approved),
    ],
    "approved by who triggered": [
        Step(
            approved_by_who_triggered,
            "failed",
            "S S S S F U U U U U F",
            "refused",
            "empty",
            also=says_that_another_must_approve,
        ),
    ],
    "answered by nobody": [
        Step(
            answered_by_nobody, "failed", "S S S S S K K K K K F", "rejected", "empty", also=says_that_nobody_answered
        ),
    ],
    "approval marked as success": [
        Step(
            approval_marked_as_success,
            "failed",
            "S S S S S F U U U U F",
            "refused",
            "empty",
            also=says_that_nobody_approved,
        ),
    ],
    "refused by plan": [
        Step(refused_by_plan, "failed", "S S S F U U U U U U F", "refused", "empty", also=wrote_nothing),
    ],
    "unknown param": [
        Step(unknown_param, "failed", "F U U U U U U U U U F", None, "empty", also=wrote_nothing),
    ],
    "tables missing": [
        Step(tables_missing, "failed", "F U U U U U U U U U F", None, "missing"),
    ],
    "stage fails": [
        Step(
            backup_removed,
            "failed",
            "S S FU U U U U U U U F",
            "failed",
            "empty",
            damaged="backups/",
            also=wrote_nothing,
        ),
    ],
    "a writer fails while its sibling is slow": [
        Step(
            writer_fails, "failed", "S S S S K S FSU U U S F", "rolled_back", "empty", also=waited_for_the_slow_writer
        ),
    ],
    "verify fails, rolled back, then open_run cleared": [
        Step(item_lost, "failed", "S S S S K S S S FS S F", "rolled_back", "empty"),
        Step(clear_open_run, "success", "S S S S K S S S S K S", "verified", "source"),
    ],
    "verify fails, the application's work is kept": [
        Step(
            verify_fails, "failed", "S S S S K S S S FS F F", "failed", "other", opened=True, also=kept_the_changed_item
        ),
    ],
    "verify fails, keep, then backup cleared": [
        Step(
            verify_fails_keep, "failed", "S S S S K S S S FS K F", "failed", "other", opened=True, also=named_the_item
        ),
        Step(
            clear_backup, "failed", "S F U U U U U U U U F", "failed", "other", opened=True, also=refused_to_start_anew
        ),
    ],
    "a person marks the run failed": [
        Step(marked_failed, "failed", "S S S S K S FKS K K S F", "rolled_back", "empty"),
    ],
    "an entity with zero rows": [
        Step(zero_rows, "success", "S S S S K S S S S K S", "verified", "source"),
    ],
    "a writer is killed half-way and retried": [
        Step(writer_killed, "success", "S S S S K S S S S K S", "verified", "other", also=left_the_changed_item_alone),
    ],
}


@dataclass(frozen=True)
class Played:
    """All paths, played at the same time, and what they were played on."""

    paths: dict[str, Future[None]]
    airflow: Deployment
    aws: LocalAws
    sources: Path


@pytest.fixture(scope="module")
def played(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """The paths that are asked for."""
    home, sources = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("sources")
    asked = {item.name for item in request.session.items}
    names = [name for name in PATHS if f"test_path[{name}]" in asked]
    with (
        start_ministack() as ministack,
        pytest.MonkeyPatch.context() as patch,
        Gate(ministack.endpoint) as gate,
    ):
        for name, value in ministack.environ.items():
            patch.setenv(name, value)
        aws = LocalAws(ministack.endpoint, ministack.region, ministack.pid)
        aws.client("s3"), aws.client("dynamodb")  # made in one thread; used in many
        environ = {"AWS_ENDPOINT_URL": gate.endpoint, "ACCESSION_FOUR_EYES": "True"}
        with start_airflow(home, environ) as airflow, ThreadPoolExecutor(len(names)) as pool:
            paths = {name: pool.submit(play, name, airflow, gate, aws, sources) for name in names}
            yield Played(paths, airflow, aws, sources)


def play(name: str, airflow: Deployment, gate: Gate, aws: LocalAws, folder: Path) -> None:
    """Do the steps of a path, and look at everything after each."""
    library = make_library(aws)
    stage = Stage(airflow, gate, library, write_sample(folder / f"{library.environment}.db", orphans=0, odd=0))
    for number, step in enumerate(PATHS[name], 1):
        step.done(stage)
        run = stage.wait()
        where = f"{name}, step {number}"
        assert (run, stage.tasks()) == (step.run, step.tasks), where
        assert stage.tables() == step.tables, where
        check_report(stage, step, where)
        step.also(stage)


def check_report(stage: Stage, step: Step, where: str) -> None:
    """Report, register, state and the run's note agree with the row, and so with each other."""
    if step.report is None:
        assert stage.objects("runs/") == [], where
        return
    report, state = stage.report(), stage.state
    assert report["status"] == step.report, where
    assert report["is_open"] == step.opened == (state["open"] is not None), where
    assert (report["status"] in GOOD) == (step.run == "success"), where
    assert state["head"] == (report["run"] if report["status"] == "verified" else report["parent"]), where
    if step.opened:
        for command in ("make migrate", "make rollback"):
            assert command in report["reason"], where
        assert report["run"] == state["open"]["run"], where
    note = stage.airflow.run(MIGRATE, stage.airflow_run)["note"]
    assert note.endswith(step.report.replace("_", " ")), where
    store = Store(stage.library.aws.client("s3"), stage.library.bucket, "book_library", stage.library.environment)
    audit = audit_target(store)
    assert audit.ok == (step.damaged is None), (where, audit)
    assert (step.damaged or "") in (audit.first_problem or ""), where


@pytest.mark.parametrize("path", PATHS)
def test_path(path: str, played: Played) -> None:
    played.paths[path].result()


def test_no_run_left_anything_personal_in_logs_or_xcoms(played: Played) -> None:
    """Task logs, Airflow's own logs and its database, after all paths, good and bad; e-mails and password hashes."""
    wait_for_all(played.paths.values())
    with closing(sqlite3.connect(next(played.sources.glob("*.db")))) as connection:
        rows = connection.execute("SELECT email, password_hash FROM user").fetchall()
    secrets = re.compile("|".join(re.escape(value) for row in rows for value in row).encode())
    left = {path: path.read_bytes() for path in played.airflow.home.rglob("*") if path.is_file()}
    assert sum(path.suffix == ".log" for path in left) > 10 * len(played.paths)
    assert [str(path) for path, data in left.items() if secrets.search(data)] == []
