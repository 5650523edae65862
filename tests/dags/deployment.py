"""A real Airflow for tests: scheduler with local workers, API server and DAG processor, each a process of its own.

Nothing of the product is changed, but for one cluster policy, as any deployment may have one: `max_active_runs` is
raised, so that all paths go on side by side. (test_dag_files holds the product's 16.)
"""

import contextlib
import ctypes
import json
import os
import secrets
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from accession.cli.airflow_process import make_environ

USER = "curator"  # triggers all runs
SECOND = "trustee"  # approves them
OURS = ("migrate_book_library", "rollback_book_library")
PARTS = ("api-server", "scheduler", "dag-processor")
# A part that dies is started again, as by every deployment.
SUPERVISOR = ("sh", "-c", 'until "$@"; do echo "$2 ended with $?: it is started again"; sleep 1; done', "sh")
START_SECONDS = 120.0
ENDED = {"success", "failed"}
# The steps of the migration, in their order; the tasks of each begin with its name.
STEPS = (
    "preflight",
    "backup",
    "stage",
    "plan",
    "approve",
    "open_run",
    "migrate",
    "remove",
    "verify",
    "rollback",
    "report",
)
# Beside the policy: what tasks import, imported once in the scheduler, from which the workers fork.
SETTINGS = """
import airflow.providers.amazon.aws.hooks.base_aws
import airflow.providers.standard.operators.hitl
import boto3.session
import accession.audit, accession.run

boto3.session.Session()


def dag_policy(dag):
    dag.max_active_runs = 32
"""
POOL = {"name": "dynamodb_writes", "slots": 32, "include_deferred": False}


@dataclass(frozen=True)
class Task:
    """A task instance as the API shows it."""

    task: str
    index: int
    state: str
    tries: int
    pid: int | None


class Deployment:
    """What a person can do in the UI, by the REST API."""

    def __init__(self, home: Path, port: int, password: str) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self.token = ""
        self._api = httpx.Client(base_url=self.url, timeout=120, trust_env=False)
        self._password = password
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def login(self) -> None:
        for user in (USER, SECOND):
            answer = self._api.post("/auth/token", json={"username": user, "password": self._password})
            answer.raise_for_status()
            self._tokens[user] = f"Bearer {answer.json()['access_token']}"
        self.token = self._tokens[USER].removeprefix("Bearer ")

    def close(self) -> None:
        self._api.close()

    def call(self, method: str, path: str, body: Any = None, user: str = USER) -> Any:
        """Answer of the public API, one call at a time. SQLite may be busy for a moment, so a 5xx is asked again."""
        for _ in range(20):
            with self._lock:
                headers = {"Authorization": self._tokens[user]}
                answer = self._api.request(method, f"/api/v2{path}", json=body, headers=headers)
            if answer.status_code < 500:
                break
            time.sleep(0.5)
        if answer.is_error:
            raise AssertionError(f"{method} {path} answers {answer.status_code}: {answer.text}")
        return answer.json()

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """A manual run; its id."""
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", {"conf": conf, "logical_date": None})["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def tasks(self, dag_id: str, run_id: str) -> list[Task]:
        """Read from the metadata database: many polling by the API would keep the tasks from it."""
        query = (
            "SELECT task_id, map_index, coalesce(state, 'none'), try_number, pid FROM task_instance "
            "WHERE dag_id = ? AND run_id = ?"
        )
        return [Task(*row) for row in self._query(query, dag_id, run_id)]

    def times(self, dag_id: str, run_id: str) -> list[tuple[str, datetime | None, datetime | None]]:
        """Start and end of each task; None of one that did not run."""
        query = "SELECT task_id, start_date, end_date FROM task_instance WHERE dag_id = ? AND run_id = ?"
        return [
            (task, *(datetime.fromisoformat(time) if time else None for time in (start, end)))
            for task, start, end in self._query(query, dag_id, run_id)
        ]

    def state(self, dag_id: str, run_id: str) -> str:
        """The run's state."""
        return str(next(self._query("SELECT state FROM dag_run WHERE dag_id = ? AND run_id = ?", dag_id, run_id))[0])

    def _query(self, query: str, *values: str) -> Iterator[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self.home}/airflow.db?mode=ro", uri=True, timeout=60)) as connection:
            yield from connection.execute(query, values).fetchall()

    def task(self, dag_id: str, run_id: str, task: str) -> Task:
        return next(one for one in self.tasks(dag_id, run_id) if one.task == task)

    def wait_for(self, dag_id: str, run_id: str, task: str, state: str, seconds: float = 600) -> Task:
        """Wait until a task is in that state."""
        found: list[Task] = []

        def is_there() -> bool:
            found[:] = [one for one in self.tasks(dag_id, run_id) if one.task == task and one.state == state]
            return bool(found)

        wait_until(is_there, f"{task} is {state}", seconds)
        return found[0]

    def wait(self, dag_id: str, run_id: str, seconds: float = 800) -> str:
        """Wait until a run and its tasks have ended; the run's state."""

        def has_ended() -> bool:
            return self.state(dag_id, run_id) in ENDED and not any(
                task.state in ("running", "queued", "scheduled", "restarting", "up_for_retry")
                for task in self.tasks(dag_id, run_id)
            )

        try:
            wait_until(has_ended, f"run {run_id} ends", seconds, every=1.0)
        except AssertionError as error:
            states = " ".join(f"{task.task}={task.state}" for task in self.tasks(dag_id, run_id))
            raise AssertionError(f"{error}: {states}; {self.read_end('scheduler')}") from None
        return self.state(dag_id, run_id)

    def read_end(self, part: str) -> str:
        """The last lines of a part's own log."""
        return (self.home / f"{part}.log").read_text(errors="replace")[-2000:]

    def answer(self, dag_id: str, run_id: str, option: str, user: str = SECOND) -> None:
        """Approve or Reject. Airflow loses an answer that comes too soon after the question, and asks again."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
        answered = 0

        def is_answered() -> bool:
            nonlocal answered
            task = self.task(dag_id, run_id, "approve")
            if task.state == "awaiting_input" and task.tries > answered:
                time.sleep(3)
                self.call("PATCH", path, {"chosen_options": [option], "params_input": {}}, user)
                answered = task.tries
            return task.state in ("success", "failed")

        wait_until(is_answered, "the approval is answered", 600)

    def let_approval_expire(self, dag_id: str, run_id: str) -> None:
        """Let the hours pass for which the question may stay open."""
        self.wait_for(dag_id, run_id, "approve", "awaiting_input")
        self._execute(
            "UPDATE task_instance SET trigger_timeout = '2020-01-01 00:00:00.000000' "
            "WHERE dag_id = ? AND run_id = ? AND task_id = 'approve'",
            dag_id,
            run_id,
        )

    def let_deadline_pass(self, dag_id: str, run_id: str) -> None:
        """Let the hours pass after which a run is late."""
        self._execute(
            "UPDATE deadline SET deadline_time = '2020-01-01 00:00:00.000000' "
            "WHERE dagrun_id = (SELECT id FROM dag_run WHERE dag_id = ? AND run_id = ?)",
            dag_id,
            run_id,
        )

    def _execute(self, statement: str, *values: str) -> None:
        with closing(sqlite3.connect(self.home / "airflow.db", timeout=60)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    def mark_failed(self, dag_id: str, run_id: str) -> None:
        self.call("PATCH", f"/dags/{dag_id}/dagRuns/{run_id}", {"state": "failed"})

    def clear(self, dag_id: str, run_id: str, *task_ids: str, downstream: bool = False) -> None:
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        self.call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def log(self, dag_id: str, run_id: str) -> str:
        """All task logs of a run."""
        folder = self.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
        return "\n".join(path.read_text() for path in sorted(folder.rglob("*.log")))


def wait_until(holds: Callable[[], bool], what: str, seconds: float, every: float = 0.3) -> None:
    """Poll until it holds; AssertionError when the time is over."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {seconds:.0f} s still waiting until {what}")
        time.sleep(every)


@contextlib.contextmanager
def start_airflow(
    home: Path,
    environ: dict[str, str],
    airflow: Path | None = None,
    dag_ids: tuple[str, ...] = OURS,
    parts: tuple[str, ...] = PARTS,
) -> Iterator[Deployment]:
    """Airflow with a fresh metadata database in `home`, in this environment plus `environ`, until the block ends.

    Without `airflow` it is the command beside this Python. All of `dag_ids` are parsed when the block begins.
    """
    port, password = find_free_port(), secrets.token_hex(8)
    environ = make_environ(home) | make_settings(home, port) | environ
    (home / "config").mkdir()
    (home / "config" / "airflow_local_settings.py").write_text(SETTINGS)
    (home / "passwords.json").write_text(json.dumps({USER: password, SECOND: password}))
    command = str(airflow or Path(sys.executable).with_name("airflow"))
    subprocess.run([command, "db", "migrate"], env=environ, check=True, capture_output=True)
    deployment = Deployment(home, port, password)
    with contextlib.ExitStack() as processes:
        processes.callback(deployment.close)
        for part in parts:
            processes.enter_context(start_process([*SUPERVISOR, command, part], environ, home / f"{part}.log"))
        wait_until(lambda: answers(port, "/execution/health"), "the execution API answers", START_SECONDS)
        deployment.login()
        deployment.call("POST", "/pools", POOL)
        for dag_id in dag_ids:
            wait_until(partial(knows, deployment, dag_id), f"{dag_id} is parsed", START_SECONDS)
        yield deployment


def make_settings(home: Path, port: int) -> dict[str, str]:
    return {
        # The scheduler ends when it cannot write for as long as SQLite waits for a lock: five seconds, unless told.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin,{SECOND}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.3",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(find_free_port()),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(find_free_port()),
    }


@contextlib.contextmanager
def start_process(command: list[str], environ: dict[str, str], log: Path) -> Iterator[None]:
    """A process in a group of its own, all of which ends with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509  one system call, no lock
        )
    try:
        yield
    finally:
        # The group is ours alone: it was made for this process a few lines above.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with_parent() -> None:
    """Have the kernel send SIGTERM when the tests die without a chance to tidy up."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def answers(port: int, path: str) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def knows(deployment: Deployment, dag_id: str) -> bool:
    dags = deployment.call("GET", "/dags")["dags"]
    return any(dag["dag_id"] == dag_id and not dag["is_paused"] for dag in dags)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
