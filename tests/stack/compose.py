"""The stack as a person drives it: a copy of the project in a folder of its own, `make up`, and Airflow's REST API."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import boto3

REPO = Path(__file__).parents[2]
PARTS = (
    "Dockerfile", "docker-compose.yaml", ".dockerignore", ".env.example", "Makefile", "requirements.txt",
    "requirements-image.lock",
)  # fmt: skip
FOLDERS = ("dags", "include", "plugins")
BUCKET = "accession-000000000000-us-east-1-{environment}"
DAG = "migrate_book_library"


def find_engine() -> str | None:
    """None when a stack can run here, else the sentence that says what is missing."""
    for command, missing in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "the Docker engine has no Compose plugin"),
    ):
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return f"{missing}: install Docker with Compose, or start its daemon, and run make test-stack again"
    return None


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Stack:
    """A stack of its own name on ports of its own; nothing of another one is touched."""

    folder: Path
    name: str = field(default_factory=lambda: f"accession-test-{os.getpid()}")
    port: int = field(default_factory=find_free_port)
    aws_port: int = field(default_factory=find_free_port)
    token: str = ""
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for part in PARTS:
            shutil.copy(REPO / part, self.folder)
        for folder in FOLDERS:
            shutil.copytree(REPO / folder, self.folder / folder, ignore=shutil.ignore_patterns("__pycache__"))

    def tell(self, line: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f} s] {line}", flush=True)

    def make(self, *arguments: str) -> str:
        """Run a target of the Makefile; what it printed. A failure shows all of it."""
        return self._call(["make", "--no-print-directory", *arguments])

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` on all services; what it wrote to stdout."""
        return self._call(["docker", "compose", "--profile", "local-aws", "--profile", "celery", *arguments])

    def config(self) -> str:
        """The stack as .env makes it, in JSON; starts nothing."""
        return self._call(["docker", "compose", "config", "--format", "json"])

    def _call(self, command: list[str]) -> str:
        # Of the caller's settings none may count: what is tested is .env.
        theirs = ("AIRFLOW", "AWS", "COMPOSE", "EXECUTOR", "WORKERS", "ACCESSION", "MAKE", "MFLAGS")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={
                **environ,
                "COMPOSE_PROJECT_NAME": self.name,
                "UI_PORT": str(self.port),
                "MINISTACK_PORT": str(self.aws_port),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def up(self, *arguments: str) -> None:
        """`make up`, and log in."""
        began = time.monotonic()
        said = self.make("up", *arguments)
        assert f"http://localhost:{self.port}" in said
        assert self.settings["UI_PASSWORD"] not in said, "the password is not for the screen"
        self.tell(f"make up {' '.join(arguments)}: healthy after {time.monotonic() - began:.0f} s")
        self.log_in()
        self.find_dag(120)

    @property
    def settings(self) -> dict[str, str]:
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def containers(self) -> list[dict[str, Any]]:
        """What the engine says of each container, running or not."""
        ids = self.compose("ps", "--all", "--quiet").split()
        done = subprocess.run(["docker", "inspect", *ids], check=True, capture_output=True, text=True)
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def log_in(self) -> None:
        settings = self.settings
        person = {"username": settings["UI_USER"], "password": settings["UI_PASSWORD"]}
        self.token = ""
        self.token = self.rest("/auth/token", person)["access_token"]

    def find_dag(self, seconds: float) -> None:
        """Wait until the DAG was parsed, seconds after the stack is healthy."""
        deadline = time.monotonic() + seconds
        while not self.rest(f"/api/v2/dags?dag_id_pattern={DAG}")["dags"]:
            assert time.monotonic() < deadline, f"{DAG} was not parsed: {self.rest('/api/v2/importErrors')}"
            time.sleep(1)

    def rest(self, path: str, body: Any = None) -> Any:
        """Airflow's REST API; POST when there is a body."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {self.token}"} if self.token else {}),
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)

    def trigger(self, **conf: Any) -> str:
        """Start a run of the migration by REST; the address of the run."""
        run = self.rest(f"/api/v2/dags/{DAG}/dagRuns", {"logical_date": None, "conf": conf})
        return f"/api/v2/dags/{DAG}/dagRuns/{urllib.parse.quote(run['dag_run_id'])}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """The task instances of a run, each part of a mapped task for itself."""
        found: list[dict[str, Any]] = self.rest(f"{run}/taskInstances?limit=200")["task_instances"]
        return found

    def wait(self, run: str, seconds: float) -> dict[str, Any]:
        """Wait until the run ended well; its report.json. Shows each task when it did not."""
        deadline = time.monotonic() + seconds
        while (state := self.rest(run)["state"]) not in ("success", "failed") and time.monotonic() < deadline:
            time.sleep(1)
        shown = [f"{t['task_id']}[{t['map_index']}] {t['state']} try {t['try_number']}" for t in self.tasks(run)]
        assert state == "success", f"the run is {state}:\n" + "\n".join(shown)
        said = self.rest(f"{run}/taskInstances/report/xcomEntries/return_value")["value"]
        bucket, _, key = said["report"].removeprefix("s3://").partition("/")
        report: dict[str, Any] = json.load(self.client("s3").get_object(Bucket=bucket, Key=key)["Body"])
        assert report["status"] == said["status"]
        return report

    def client(self, service: Literal["dynamodb", "s3"]) -> Any:
        return boto3.client(
            service,
            endpoint_url=f"http://127.0.0.1:{self.aws_port}",
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def count(self, table: str) -> int:
        pages = self.client("dynamodb").get_paginator("scan").paginate(TableName=table, Select="COUNT")
        return sum(page["Count"] for page in pages)

    def show_logs(self) -> None:
        print(self.compose("ps", "--all"))
        print(self.compose("logs", "--no-color", "--tail", "60"))
