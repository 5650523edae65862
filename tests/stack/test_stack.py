"""The compose stack for real: it runs a migration, survives a restart, and a killed worker costs nothing but time.

One story in four tests, each on what the one before left; about ten minutes on two cores. Skipped without an engine.
"""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose import BUCKET, Stack, find_engine

from accession.artifacts import Store
from accession.audit import audit_target
from accession.cli.sample import write_sample

pytestmark = pytest.mark.timeout(1500)

TABLES = ("Users", "Books", "UserBooks")
ROWS = {"user": 30_000, "book": 20_000, "user_book": 50_000}
ROWS_PER_PART = 5_000
KILLED_SECONDS = 120.0  # from the kill to the verified end
ONE_SHOTS = {"init", "deploy"}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stack]:
    missing = find_engine()
    if missing:
        pytest.skip(missing)
    stack = Stack(tmp_path_factory.mktemp("stack"))
    failed = request.session.testsfailed
    try:
        yield stack
        if request.session.testsfailed > failed:
            stack.show_logs()
    finally:
        stack.make("clean")
        for kind, among in (("container", ["--all"]), ("volume", []), ("network", [])):
            label = f"label=com.docker.compose.project={stack.name}"
            assert not ask_engine(kind, "ls", "--quiet", *among, "--filter", label), f"make clean left a {kind}"
        assert not ask_engine("image", "ls", "--quiet", f"{stack.name}-airflow"), "make clean left the image"
        stack.tell("taken down")


def ask_engine(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_up_is_healthy_private_and_without_root(stack: Stack) -> None:
    stack.up()
    env = stack.folder / ".env"
    assert env.stat().st_mode & 0o077 == 0
    assert "@" not in "".join(stack.settings.values()), "a secret was not filled in"
    seen = set()
    for container in stack.containers():
        config, host = container["Config"], container["HostConfig"]
        service = config["Labels"]["com.docker.compose.service"]
        seen.add(service)
        assert config["User"].split(":")[0] not in ("", "0", "root"), service
        assert not host["Privileged"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["Memory"] > 0, service
        assert not config["Image"].endswith(":latest"), service
        for bindings in (host["PortBindings"] or {}).values():
            assert {binding["HostIp"] for binding in bindings} == {"127.0.0.1"}, service
        if service in ONE_SHOTS:
            assert container["State"]["ExitCode"] == 0, service
        else:
            assert container["State"]["Health"]["Status"] == "healthy", service
    assert seen == {"postgres", "init", "api-server", "scheduler", "dag-processor", "ministack", "deploy"}


def test_a_run_triggered_by_rest_is_verified(stack: Stack) -> None:
    # The sample has an orphan and a date that is none. Bucket and source come from .env.
    report = stack.wait(stack.trigger(max_rejects=2), 300)
    assert report["status"] == "verified"
    assert report["triggered_by"] == stack.settings["UI_USER"]
    for name, table in zip(report["entities"], TABLES, strict=True):
        counts = report["entities"][name]
        assert counts["verified"] == counts["put"] > 0
        assert stack.count(f"BookLibrary-{table}-local") == counts["put"]
    stack.tell(f"verified in {sum(report['seconds'].values()):.0f} s of steps")


def test_a_restart_keeps_runs_tables_and_artifacts(stack: Stack) -> None:
    secrets, before = stack.settings, {table: stack.count(f"BookLibrary-{table}-local") for table in TABLES}
    stack.make("down")
    stack.up()
    assert stack.settings == secrets
    assert [run["state"] for run in stack.rest("/api/v2/dags/migrate_book_library/dagRuns")["dag_runs"]] == ["success"]
    assert {table: stack.count(f"BookLibrary-{table}-local") for table in TABLES} == before
    assert stack.wait(stack.trigger(max_rejects=2), 300)["status"] == "unchanged"
    store = Store(stack.client("s3"), BUCKET.format(environment="local"), "book_library", "local")
    assert audit_target(store).ok


def test_a_killed_worker_costs_nothing_but_time(stack: Stack, tmp_path: Path) -> None:
    bucket = BUCKET.format(environment="dev")
    with (stack.folder / ".env").open("a") as settings:  # what this deployment allows from here on
        settings.write(f"ACCESSION_ALLOWED_BUCKETS={bucket}\nACCESSION_ALLOWED_SOURCES=s3://{bucket}/sources/\n")
        settings.write("ACCESSION_ENVIRONMENTS_WITHOUT_APPROVAL=local,dev\n")
    stack.up("WORKERS=2")
    stack.compose("exec", "-T", "scheduler", "python", "-m", "accession.cli", "deploy", "--environment", "dev")
    source = write_sample(
        tmp_path / "big.db",
        users=ROWS["user"],
        books=ROWS["book"],
        user_books=ROWS["user_book"],
        orphans=0,
        odd=0,
    )
    # From S3, not ./data: all that the workers share is the code.
    stack.client("s3").upload_file(str(source), bucket, "sources/big.db")
    began = time.monotonic()
    run = stack.trigger(
        source=f"s3://{bucket}/sources/big.db", environment="dev", bucket=bucket, rows_per_part=ROWS_PER_PART
    )
    victim = wait_for_victim(stack, run, 400)
    stack.tell(f"half of {sum(ROWS.values()):,} rows migrated {time.monotonic() - began:.0f} s after the trigger")
    killed = time.monotonic()
    ask_engine("kill", "--signal", "KILL", victim)
    stack.tell(f"killed worker {victim}")
    report = stack.wait(run, KILLED_SECONDS)
    took = time.monotonic() - killed
    stack.tell(f"verified {took:.0f} s after the kill, {time.monotonic() - began:.0f} s after the trigger")

    parts = [task for task in stack.tasks(run) if task["task_id"].startswith("migrate.")]
    assert len(parts) == sum(rows // ROWS_PER_PART for rows in ROWS.values())
    again = [task for task in parts if task["try_number"] > 1]
    assert again, "the kill hit no part: nothing was proved"
    assert victim not in {task["hostname"] for task in again}
    assert len({task["hostname"] for task in parts}) == 2, "the parts were not spread"
    stack.tell(f"{len(parts)} parts on two workers, {len(again)} tried again")
    assert report["status"] == "verified"
    for name, rows in ROWS.items():
        counts = report["entities"][name]
        assert counts["put"] == counts["verified"] == rows
        assert counts["missing"] == counts["mismatched"] == counts["conflicts"] == counts["unexpected"] == 0
    assert took < KILLED_SECONDS


def test_real_aws_gets_the_profile_and_no_local_one(stack: Stack, tmp_path: Path) -> None:
    other = Stack(tmp_path)
    other.make(".env")
    env = tmp_path / ".env"
    example = env.read_text()
    local, real = example.split("# Real AWS:")
    ours = ("COMPOSE_PROFILES", "AWS_", "ACCESSION_BUCKET", "MINISTACK_PORT")
    kept = [line for line in local.splitlines() if not line.startswith(ours)]
    env.write_text("\n".join([*kept, "", "# Real AWS:" + re.sub("(?m)^#(?=[A-Z_]+=)", "", real)]))
    services = json.loads(other.config())["services"]
    assert not {"ministack", "deploy"} & set(services)
    assert services["scheduler"]["environment"]["AWS_PROFILE"] == "my-profile"
    assert services["scheduler"]["environment"]["AWS_ENDPOINT_URL"] is None  # so the container does not have it
    [profile] = [one for one in services["scheduler"]["volumes"] if one["target"] == "/home/airflow/.aws"]
    assert profile["source"] == "/home/me/.aws"
    assert profile["read_only"]


def wait_for_victim(stack: Stack, run: str, seconds: float) -> str:
    """The worker with the youngest running part, once half of the largest table's parts are done."""
    enough = ROWS["user_book"] // ROWS_PER_PART // 2
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        parts: list[dict[str, Any]] = [task for task in stack.tasks(run) if task["task_id"] == "migrate.user_book"]
        running = [task for task in parts if task["state"] == "running" and task["hostname"]]
        if running and sum(task["state"] == "success" for task in parts) >= enough:
            return str(max(running, key=lambda task: task["start_date"])["hostname"])
        time.sleep(0.3)
    shown = [f"{task['task_id']}[{task['map_index']}] {task['state']}" for task in stack.tasks(run)]
    pytest.fail(f"no part of user_book was migrating within {seconds:.0f} s:\n" + "\n".join(shown))
