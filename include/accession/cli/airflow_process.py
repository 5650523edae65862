"""Run a DAG once with `airflow dags test`: no scheduler, no server, and a metadata database of its own.

Airflow's whole log goes to a file. The screen shows a line for each task, Accession's own log lines, and the reason why
a task failed.
"""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accession.deployment import join_list, load_deployment, read_environ
from accession.errors import AccessionError

REPO = Path(__file__).parents[3]
LOCAL_FOLDER = REPO / ".local"
STOP_SECONDS = 10.0

# The logger stands before the message: the first line of a record decides whether the record is shown.
LOG_FORMAT = "%(asctime)s %(levelname)s [%(name)s] %(message)s"
RECORD = re.compile(r"^\d{4}-\d\d-\d\d[T ][\d:.,+Z-]+ (?P<level>[A-Z]+) \[(?P<logger>[^\]]*)\] (?P<message>.*)$")
STARTING = re.compile(r"\[DAG TEST\] starting task_id=(?P<task>\S+) map_index=(?P<index>-?\d+)")
END = "0000-00-00T00:00:00Z INFO [end] "  # one more record, which flushes the last one
ERROR = re.compile(r"[\w.]+(Error|Exception): ")
ERROR_CLASS = re.compile(r"^accession\.errors\.\w+: ")


@dataclass(frozen=True)
class AirflowRun:
    """A finished run: whether Airflow calls it a success, what Accession logged, and the file with Airflow's log."""

    succeeded: bool
    messages: tuple[str, ...]
    log: Path


def run_dag(
    dag_id: str, conf: Mapping[str, Any], *, tell: Callable[[str], None], environ: Mapping[str, str] | None = None
) -> AirflowRun:
    """Run `dag_id` with `conf` in this process's environment plus `environ`, and wait. `tell` gets the lines to show.

    Runs may go on side by side: each has its own copy of the metadata database. An interrupt ends Airflow's process.
    """
    if not (REPO / "dags").is_dir():
        raise AccessionError("This command runs the DAGs of a checkout of Accession: trigger the DAG in your Airflow.")
    home = LOCAL_FOLDER / "airflow"
    log = LOCAL_FOLDER / "logs" / f"{dag_id}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environ = make_environ(home) | allow_conf(conf) | dict(environ or {})
    prepare_home(home, environ, tell)
    with tempfile.TemporaryDirectory(prefix="run-", dir=home) as scratch:
        shutil.copy(home / "airflow.db", scratch)
        environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = f"sqlite:///{scratch}/airflow.db"
        environ["AIRFLOW__LOGGING__BASE_LOG_FOLDER"] = f"{scratch}/logs"
        command = [find_airflow(), "dags", "test", dag_id, "--conf", json.dumps(conf)]
        messages: list[str] = []
        with log.open("w") as file, _run(command, environ) as process:
            assert process.stdout
            for line, is_ours in choose_lines(_copy(process.stdout, file)):
                tell(line)
                if is_ours:
                    messages.append(line)
            returncode = process.wait()
        if returncode and not messages:  # Airflow refused the run before any task could say why
            errors = [line for line in log.read_text().splitlines() if ERROR.match(line)]
            tell(f"    ! {errors[-1] if errors else 'Airflow did not run the DAG.'}")
    return AirflowRun(returncode == 0, tuple(messages), log)


def allow_conf(conf: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings under which a run may do what its conf says, as variables.

    The person who starts it on this machine acts as the deployment: the source, bucket, URL and restore path that were
    typed are allowed, and no approval is asked for. The settings of the environment count as well.
    """
    settings = load_deployment(read_environ(os.environ)).model_dump(exclude_unset=True)
    settings |= {name: conf[name] for name in ("source", "bucket", "environment") if conf.get(name)}
    settings["environments_without_approval"] = ("*",)
    for option, param in (("allowed_restores", "restore_to"), ("allowed_app_urls", "app_url")):
        if conf.get(param):
            settings[option] = (*settings.get(option, ()), conf[param])
    return {
        f"ACCESSION_{name.upper()}": join_list(*value) if isinstance(value, tuple) else str(value)
        for name, value in settings.items()
    }


def make_environ(home: Path) -> dict[str, str]:
    """Return this process's environment with our settings of Airflow. Connections, variables and AWS_* are kept."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW") or name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_"))
    }
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # it makes every `import airflow` three times slower
    return {"AIRFLOW_CONN_AWS_DEFAULT": "aws://"} | kept | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__LOG_FORMAT": LOG_FORMAT,
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "PYTHONPATH": str(REPO / "include"),
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def choose_lines(lines: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Yield the lines of Airflow's log that a person wants to see, and whether Accession logged them. Pure.

    These are the start of each task, whole records of Accession's loggers, and for a failed task the last line of its
    traceback, which is the error's sentence.
    """
    is_shown = is_failure = False
    last = shown = ""
    for line in itertools.chain(lines, [END]):
        record = RECORD.match(line)
        if record is None:
            if is_shown:
                shown = line or shown
                yield f"      {line}", True
            elif is_failure and line.strip():
                last = line
            continue
        reason = ERROR_CLASS.sub("", last)
        if is_failure and reason != shown:  # a task may have logged its error itself
            yield f"    ! {reason}", False
            shown = reason
        message = record["message"]
        is_shown = record["logger"].split(".")[0] in {"accession", "accession_airflow"}
        is_failure = "Task failed with exception" in message
        last = message
        if is_shown:
            shown = message
            yield f"    {'! ' if record['level'] in {'WARNING', 'ERROR', 'CRITICAL'} else '  '}{message}", True
        elif start := STARTING.search(message):
            shown = ""
            yield f"  {start['task']}{'' if start['index'] == '-1' else '[' + start['index'] + ']'}", False


def _copy(lines: Iterable[str], file: Any) -> Iterator[str]:
    for line in lines:
        file.write(line)
        yield line.rstrip("\n")


def find_airflow() -> str:
    """Return the `airflow` command that belongs to this Python. Raises AccessionError if there is none."""
    beside = Path(sys.executable).with_name("airflow")
    airflow = str(beside) if beside.exists() else shutil.which("airflow")
    if not airflow:
        raise AccessionError("There is no airflow command beside this Python: run `make setup`.")
    return airflow


def prepare_home(home: Path, environ: Mapping[str, str], tell: Callable[[str], None]) -> None:
    """Create the metadata database once per version of Airflow. Every run starts from a copy of it."""
    home.mkdir(parents=True, exist_ok=True)
    stamp = home / f"migrated-{version('apache-airflow')}"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp.exists():
            return
        tell("  preparing Airflow's database (once)")
        (home / "airflow.db").unlink(missing_ok=True)
        done = subprocess.run(  # noqa: S603
            [find_airflow(), "db", "migrate"], env=environ, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise AccessionError(f"`airflow db migrate` in {home} failed: {last}")
        stamp.touch()


@contextlib.contextmanager
def _run(command: list[str], environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a process that ends with the block."""
    process = subprocess.Popen(  # noqa: S603
        command, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        process.kill()
        process.wait()
