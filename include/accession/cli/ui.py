"""Run Airflow with its UI on this machine, without Docker, until Ctrl-C: `python -m accession.cli.ui [--port 8080]`.

It starts an API server, a scheduler with local workers and a DAG processor, which keep their metadata in SQLite; a
MiniStack with the tables and the bucket deployed; and a sample library as the source. All of it ends with this process,
and every start is a fresh one. Use the compose stack to keep runs.
"""

import argparse
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from accession.cli.airflow_process import LOCAL_FOLDER, find_airflow, make_environ, prepare_home
from accession.cli.deploy import deploy_stacks
from accession.cli.ministack import start_ministack
from accession.cli.sample import write_sample
from accession.errors import AccessionError
from accession.mapping import MAPPINGS, find_mappings, load_mapping

USER = "admin"
PORT = 8080
COMMANDS = ("api-server", "scheduler", "dag-processor")
POOL = {"name": "dynamodb_writes", "slots": 8, "include_deferred": False}
START_SECONDS = 120.0  # 25 s on two idle cores
STOP_SECONDS = 10.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Ui:
    """A running Airflow."""

    url: str
    user: str
    password: str
    home: Path


class _ProcessEndedError(AccessionError):
    """One of Airflow's processes ended by itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C or SIGTERM and return 0, or until a process of Airflow's ends and return 1."""
    parser = argparse.ArgumentParser(prog="python -m accession.cli.ui", description=__doc__)
    parser.add_argument("--port", type=_read_port, default=PORT, help="port of the UI; if it is taken, a free one")
    parser.add_argument(
        "--folder", type=Path, default=LOCAL_FOLDER / "ui", help="folder of all files; emptied at each start"
    )
    options = parser.parse_args(arguments)
    for ending in ENDING:
        signal.signal(ending, _interrupt)
    try:
        with _claim(options.folder), serve(options.folder.absolute(), options.port) as (ui, processes):
            _tell(f"\n  {ui.url}   user {ui.user}   password {ui.password}\n")
            _tell(
                "Trigger migrate_book_library with “Rejects allowed” set to 2: two rows of the sample library cannot be"
            )
            _tell("migrated. The runs and their audit are under Browse → Accession. Ctrl-C ends everything.")
            while True:
                _check(processes, ui.home)
                time.sleep(1.0)
    except KeyboardInterrupt:
        _tell("Stopped. No process is left.")
        return 0
    except AccessionError as error:
        print(error, file=sys.stderr)
        return 1


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _tell(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads the output any more
        print(line, flush=True)


@contextlib.contextmanager
def _claim(home: Path) -> Iterator[None]:
    """Lock the folder. Raises AccessionError if another UI uses it, as each start removes all files in it."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with home.with_name(f"{home.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AccessionError(f"Another UI runs in {home}: end it first.") from None
        yield


@contextlib.contextmanager
def serve(home: Path, port: int) -> Iterator[tuple[Ui, dict[str, subprocess.Popen[bytes]]]]:
    """Run everything until the block ends. Raises AccessionError if a part does not start."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        _tell("starting a local AWS (MiniStack) and deploying the tables and the bucket")
        stack.enter_context(start_ministack(log=home / "ministack.log")).take_environ()
        mapping = load_mapping(MAPPINGS / "book_library.yaml")
        bucket = deploy_stacks(mapping, "local", boto3.Session(), tell=lambda line: None).bucket
        source = write_sample(home / "data" / "site.db")  # whose folder a run may read: without Airflow's own database
        ui = Ui(f"http://127.0.0.1:{_choose_port(port)}", USER, secrets.token_urlsafe(9), home)
        environ = make_environ(home) | _make_settings(ui)
        environ |= {"ACCESSION_BUCKET": bucket, "ACCESSION_SOURCE": str(source)}
        _prepare(ui, environ)
        _tell("starting Airflow: api-server, scheduler, dag-processor")
        processes = stack.enter_context(_run_all(environ, home))
        _make_ready(ui, processes)
        yield ui, processes


def _read_port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port: give a number up to 65535")
    return int(text)


def _choose_port(wanted: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _make_settings(ui: Ui) -> dict[str, str]:
    return {
        # Several workers write at the same time, and SQLite's default of five seconds is too short to wait for a lock.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{ui.home}/airflow.db?timeout=60",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{ui.url}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ui.user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(ui.home / "passwords.json"),
        "AIRFLOW__API__BASE_URL": ui.url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": ui.url.rpartition(":")[2],
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(ui.home / "logs"),
    }


def _prepare(ui: Ui, environ: Mapping[str, str]) -> None:
    """Copy the metadata database, which is created once on this machine, and write the password."""
    template = LOCAL_FOLDER / "airflow"
    prepare_home(template, make_environ(template), _tell)
    shutil.copy(template / "airflow.db", ui.home)
    passwords = Path(environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    passwords.touch(mode=0o600)
    passwords.write_text(json.dumps({ui.user: ui.password}))


@contextlib.contextmanager
def _run_all(environ: Mapping[str, str], home: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """Run Airflow's processes, each in a process group of its own, until the block ends."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in COMMANDS:
            with (home / f"{name}.log").open("wb") as log:
                processes[name] = subprocess.Popen(  # noqa: S603 -- our own interpreter's airflow, no shell
                    [find_airflow(), name],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C must reach us alone; we end the groups
                )
        yield processes
    finally:
        # A second Ctrl-C must not leave a process behind.
        held = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        _end(processes)
        for number, handler in held.items():
            signal.signal(number, handler)


def _end(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """Ask all process groups to end, then kill those that do not end in time."""
    for process in processes.values():
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes.values():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(deadline - time.monotonic(), 0.1))
        _send(process, signal.SIGKILL)
        process.wait()


def _send(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _make_ready(ui: Ui, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait until the API server answers and the DAGs are parsed, and create the pool.

    The first request to the Execution API takes seconds; make it here, and no task has to wait for it.
    """
    _wait(lambda: _ask(ui, "GET", "/execution/health") is not None, "the processes", ui, processes)
    token = _ask(ui, "POST", "/auth/token", {"username": ui.user, "password": ui.password})["access_token"]
    _ask(ui, "POST", "/api/v2/pools", POOL, token)
    wanted = {f"migrate_{path.stem}" for path in find_mappings()}

    def are_parsed() -> bool:
        return wanted <= {dag["dag_id"] for dag in _ask(ui, "GET", "/api/v2/dags", token=token)["dags"]}

    _wait(are_parsed, "the DAGs", ui, processes)


def _wait(is_ready: Any, what: str, ui: Ui, processes: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        _check(processes, ui.home)
        try:
            if is_ready():
                return
        except OSError:  # not listening yet, or SQLite was busy
            pass
        if time.monotonic() > deadline:
            raise AccessionError(f"After {START_SECONDS:.0f} s {what} are not ready: read the logs in {ui.home}.")
        time.sleep(0.5)


def _check(processes: dict[str, subprocess.Popen[bytes]], home: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise _ProcessEndedError(f"Airflow's {name} ended with {process.returncode}: read {home / f'{name}.log'}.")


def _ask(ui: Ui, method: str, path: str, body: Any = None, token: str = "") -> Any:
    """Send a request to Airflow and return its answer. Raises OSError if there is none, or its status is an error."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(ui.url + path, data, headers, method=method)  # noqa: S310 -- our own address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach our loopback
    with opener.open(request, timeout=30) as answer:
        return json.load(answer)


if __name__ == "__main__":
    sys.exit(main())
