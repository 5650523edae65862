"""The whole DAG as its users run it, by `airflow dags test` and under a scheduler with two slots; each step's seconds.

Airflow is started as the tests of tests/dags start it; nothing of the DAG is changed.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import boto3
from lab import MAPPING, REPO, Lab
from sections import say

from accession.artifacts import Report, Store
from accession.cli.airflow_process import run_dag
from accession.cli.deploy import deploy_stacks
from accession.run.comparison import SEGMENTS
from accession.target import load_state

sys.path.append(str(REPO / "tests/dags"))
from deployment import ENDED, STEPS, Deployment, start_airflow

DAG = "migrate_book_library"
SLOTS = 2
SMALL = {"users": 150, "books": 300, "user_books": 400}  # 850 rows: the home library of the issue
RUN_SECONDS = 1800.0
SPANS = ("start of Airflow", *STEPS, "end of Airflow")


def measure_whole(lab: Lab, rounds: int, medium: int, large: int) -> dict[str, Any]:
    """A run of 850 rows both ways; `medium` user_books into MiniStack and `large` into the stand-in."""
    lab.tell("StandIn.Set", latency=0, units=0)
    found: dict[str, Any] = {
        "dags test": _join([_test_dag(lab, f"d{number}") for number in range(rounds + 1)][1:])  # the first one warms up
    }
    with _airflow(lab, "ministack", lab.s3_endpoint) as airflow:
        tries = [
            _schedule(lab, airflow, f"s{number}", _deploy(lab, f"s{number}"), SMALL) for number in range(rounds + 1)
        ]
        found["scheduler"] = _join(tries[1:])
        found[f"{medium:,} user_books into MiniStack"] = _schedule(
            lab, airflow, "m", _deploy(lab, "m"), _library(medium)
        )
    with _airflow(lab, "standin", lab.dynamodb) as airflow:
        lab.create_tables("l")
        bucket = lab.bucket("l")
        lab.s3.create_bucket(Bucket=bucket)
        found[f"{large:,} user_books into the stand-in"] = _schedule(
            lab, airflow, "l", bucket, _library(large), rows_per_part=max(10_000, large // 10)
        )
    return found


def _library(user_books: int) -> dict[str, int]:
    return {"users": user_books // 20, "books": user_books // 10, "user_books": user_books}


def _deploy(lab: Lab, environment: str) -> str:
    """Tables and bucket in MiniStack; the bucket."""
    return deploy_stacks(MAPPING, environment, boto3.Session(), tell=lambda _: None).bucket


def _make_conf(lab: Lab, environment: str, bucket: str, rows: dict[str, int], **params: Any) -> dict[str, Any]:
    source = str(lab.sample(**rows))
    return {"source": source, "environment": environment, "bucket": bucket, "approval": "never"} | params


def _check(lab: Lab, environment: str, bucket: str, rows: dict[str, int]) -> None:
    """The run ended verified, every row of it."""
    store = Store(lab.s3, bucket, MAPPING.name, environment)
    state = load_state(store)
    assert state
    report = Report.model_validate_json(store.get(f"runs/{state.head}/report.json"))
    verified = sum(entity.verified for entity in report.entities.values())
    if report.status != "verified" or verified != sum(rows.values()):
        raise RuntimeError(f"the run in {environment} is {report.status}, {verified:,} of {sum(rows.values()):,} items")


def _test_dag(lab: Lab, environment: str) -> dict[str, Any]:
    """One run by `airflow dags test`: from the command to its end; a step lasts until the next one begins."""
    bucket = _deploy(lab, environment)
    conf = _make_conf(lab, environment, bucket, SMALL)
    begun = datetime.now(UTC)
    done = run_dag(DAG, conf, tell=lambda _: None, environ=_point_to(lab, lab.s3_endpoint))
    ended = datetime.now(UTC)
    if not done.succeeded:
        raise RuntimeError(f"`airflow dags test` failed: {done.log}")
    _check(lab, environment, bucket, SMALL)
    marks = _read_marks(done.log)
    spans = [("start of Airflow", begun, marks[0][1])]
    spans += [(task, start, end) for (task, start), (_, end) in pairwise(marks)]
    wall = (ended - begun).total_seconds()
    say(f"  dags test, {environment}: {wall:.1f} s")
    return {
        "rows": sum(SMALL.values()),
        "wall": wall,
        "steps": _sum_up([*spans, ("end of Airflow", marks[-1][1], ended)]),
    }


STARTED = re.compile(r"^(\S+) .*(?:\[DAG TEST\] (starting|end task) task_id=(\S+)|(Task started))")


def _read_marks(log: Path) -> list[tuple[str, datetime]]:
    """When each task began, by Airflow's log, and when the last one ended. Airflow starts its own API with the first
    task, so that one begins when Airflow says so."""
    marks: list[tuple[str, datetime]] = []
    ended = None
    for line in log.read_text().splitlines():
        if found := STARTED.match(line):
            at = datetime.fromisoformat(found[1])
            if found[2] == "starting":
                marks.append((found[3], at))
            elif found[2] == "end task":
                ended = at
            elif len(marks) == 1:
                marks[0] = (marks[0][0], at)
    assert ended
    return [*marks, ("", ended)]


def _sum_up(times: list[tuple[str, datetime, datetime]]) -> dict[str, dict[str, float]]:
    """Tasks and seconds of each step."""
    steps: dict[str, dict[str, float]] = {}
    for task, start, end in times:
        step = steps.setdefault(task.split(".")[0], {"tasks": 0, "seconds": 0.0})
        step["tasks"] += 1
        step["seconds"] += (end - start).total_seconds()
    return steps


def _schedule(
    lab: Lab, airflow: Deployment, environment: str, bucket: str, rows: dict[str, int], **params: Any
) -> dict[str, Any]:
    """One run under the scheduler, from the trigger to the end of the run."""
    conf = _make_conf(lab, environment, bucket, rows, **params)
    run = airflow.trigger(DAG, conf)
    _wait(airflow, run, lambda: _make_pages(lab, environment))
    if airflow.state(DAG, run) != "success":
        raise RuntimeError(f"the run in {environment} failed:\n{airflow.log(DAG, run)[-4000:]}")
    _check(lab, environment, bucket, rows)
    times = [(task, start, end) for task, start, end in airflow.times(DAG, run) if start and end]
    whole = airflow.run(DAG, run)
    begun, ended = (datetime.fromisoformat(whole[name]) for name in ("queued_at", "end_date"))
    wall = (ended - begun).total_seconds()
    say(f"  scheduler, {environment}: {wall:.1f} s")
    return {
        "rows": sum(rows.values()),
        "wall": wall,
        "busy": _busy([(s, e) for _, s, e in times]),
        "steps": _sum_up(times),
    }


def _wait(airflow: Deployment, run: str, when_written: Callable[[], None]) -> None:
    """Until the run has ended; `when_written` is called once, when all is migrated."""
    deadline, told = time.monotonic() + RUN_SECONDS, False
    while airflow.state(DAG, run) not in ENDED:
        if time.monotonic() > deadline:
            raise RuntimeError(f"run {run} has not ended after {RUN_SECONDS:.0f} s")
        tasks = airflow.tasks(DAG, run)
        if not told and all(t.state == "success" for t in tasks if t.task.startswith("migrate.")):
            told = True
            when_written()
        time.sleep(0.2)


def _make_pages(lab: Lab, environment: str) -> None:
    """Have the stand-in parse what it got and make the pages of the scans: its work, not ours."""
    for entity in MAPPING.entities:
        if lab.holds(environment, entity):
            lab.tell("StandIn.Pages", table=lab.table(environment, entity), segments=SEGMENTS, limit=0)


def _busy(times: list[tuple[datetime, datetime]]) -> float:
    """Seconds in which some task was running."""
    total, until = 0.0, None
    for start, end in sorted(times):
        since = start if until is None or start > until else until
        if end > since:
            total += (end - since).total_seconds()
            until = end
    return total


def _join(tries: list[dict[str, Any]]) -> dict[str, Any]:
    """The medians of several runs."""
    names = list(dict.fromkeys(name for one in tries for name in one["steps"]))
    joined: dict[str, Any] = {
        "rows": tries[0]["rows"],
        "wall": statistics.median(one["wall"] for one in tries),
        "steps": {
            name: {
                "tasks": tries[0]["steps"][name]["tasks"],
                "seconds": statistics.median(one["steps"][name]["seconds"] for one in tries),
            }
            for name in names
        },
    }
    if "busy" in tries[0]:
        joined["busy"] = statistics.median(one["busy"] for one in tries)
    return joined


@contextmanager
def _airflow(lab: Lab, name: str, dynamodb: str) -> Iterator[Deployment]:
    """A scheduler with a local executor of two slots, whose DynamoDB is there; nobody is asked to approve."""
    home = Path(lab.scratch / f"airflow-{name}")
    home.mkdir()
    settings = {
        "AIRFLOW__CORE__PARALLELISM": str(SLOTS),
        "AIRFLOW__ACCESSION__ALLOWED_SOURCES": str(lab.scratch),
        "AIRFLOW__ACCESSION__ALLOWED_BUCKETS": lab.bucket("*"),
        "AIRFLOW__ACCESSION__ENVIRONMENTS_WITHOUT_APPROVAL": "*",
    }
    with start_airflow(home, _point_to(lab, dynamodb) | settings) as airflow:
        yield airflow


def _point_to(lab: Lab, dynamodb: str) -> dict[str, str]:
    """The lab's AWS, with DynamoDB at that address."""
    kept = {name: value for name, value in lab.environ.items() if name.startswith(("AWS_", "AIRFLOW_CONN_"))}
    return kept | {"AWS_ENDPOINT_URL_DYNAMODB": dynamodb}
