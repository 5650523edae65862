"""What the Makefile calls: `python -m accession.cli demo | deploy | migrate | rollback | audit`.

All but the demo work in whatever AWS the environment points at (profile, role, keys, AWS_ENDPOINT_URL); the demo brings
its own and takes it away again.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError

from accession.artifacts import Store, client_config
from accession.audit import audit_target, show_audit
from accession.cli.airflow_process import LOCAL, AirflowRun, run_dag
from accession.cli.deploy import deploy_stacks, find_bucket
from accession.cli.ministack import start_ministack
from accession.cli.sample import write_sample
from accession.commands import HOME_LIBRARY
from accession.errors import AccessionError, ParamsError
from accession.mapping import Mapping, load_mappings
from accession.params import LOCAL_ENVIRONMENTS, MigrateParams, RollbackParams, check_params

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORT = re.compile(
    r"s3://(?P<bucket>[^/\s]+)/(?P<mapping>[^/\s]+)/(?P<environment>[^/\s]+)/(?P<path>\S+/report)\.html"
)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command; 0 when all is well, 1 after a failure, 2 after a wrong call, 130 after Ctrl-C, 141 unread."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    options = _make_parser().parse_args(arguments)
    if region := os.environ.get("AWS_REGION"):  # which boto3 does not read
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    try:
        _check_endpoints()
        return int(options.command(options))
    except ParamsError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except AccessionError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except BotoCoreError as error:  # such as a profile that does not exist
        print(f"AWS could not be asked: {str(error).rstrip('.')}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `make … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _check_endpoints() -> None:
    for name, value in os.environ.items():
        if name.startswith("AWS_ENDPOINT_URL") and value and not value.startswith(("http://", "https://")):
            raise ParamsError(f"{name} is {value}, which is no address: write http://{value} or https://{value}.")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m accession.cli", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], int], summary: str, *options: str) -> None:
        sub = commands.add_parser(name, help=summary, description=summary)
        for option in options:
            sub.add_argument(f"--{option}", default="", help=OPTIONS[option])
        sub.set_defaults(command=command)

    add("demo", demo, "move a sample library on an embedded local AWS")
    add("deploy", deploy, "create or update tables, bucket and policy", "environment", "mapping")
    add("migrate", migrate, "move a SQLite file", "source", "environment", "conf", "resume", "mapping")
    add("rollback", rollback, "undo a finished run", "run", "environment", "conf", "mapping")
    add("audit", audit, "verify the register and every artifact of an environment", "environment", "mapping")
    return parser


OPTIONS = {
    "environment": "last part of the tables' names, such as dev",
    "mapping": f"name of a mapping file; {HOME_LIBRARY} where none is given",
    "source": "path of the SQLite file, or s3://bucket/key",
    "conf": "further params of the run, as a JSON object",
    "resume": "name of an interrupted run to go on with",
    "run": "name of the run to undo, as its report says",
}


def demo(_options: argparse.Namespace) -> int:
    """The whole way on this machine alone; leaves the report and the sample in .local/demo, and no process."""
    tell = _Clock()
    folder = LOCAL / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell("starting a local AWS (MiniStack)")
    with start_ministack(log=folder / "ministack.log") as ministack:
        ministack.take_environ()
        tell("deploying tables and artifacts through CloudFormation")
        deployed = deploy_stacks(_load(HOME_LIBRARY), "local", boto3.Session(), tell=lambda line: tell(f"  {line}"))
        source = write_sample(folder / "site.db")
        tell(f"wrote a sample library to {_show(source)}")
        conf = {
            "source": str(source),
            "environment": "local",
            "bucket": deployed.bucket,
            "approval": "never",
            "max_rejects": 2,  # the sample has an orphan and a date that is none
        }
        tell(f"running `airflow dags test migrate_{HOME_LIBRARY}`")
        done = run_dag(f"migrate_{HOME_LIBRARY}", conf, tell=tell)
        report = _save_report(done, folder)
    if report:
        print(f"\nReport: {_show(report)}")
    return _end(done)


def deploy(options: argparse.Namespace) -> int:
    """Both stacks, and what to type next."""
    environment = _need(options, "environment", "make deploy ENVIRONMENT=dev")
    deployed = deploy_stacks(_load(options.mapping), environment, boto3.Session(), tell=print)
    print(f"bucket: {deployed.bucket}")
    print(f"policy for the role of Airflow's workers: {deployed.policy}")
    print(f"next: make migrate SOURCE=/path/to/site.db ENVIRONMENT={environment}")
    return 0


def migrate(options: argparse.Namespace) -> int:
    """One run of the migration DAG."""
    usage = "make migrate SOURCE=/path/to/site.db ENVIRONMENT=dev"
    conf = _read_conf(options.conf)
    _merge(conf, "environment", _need(options, "environment", usage))
    if options.resume:
        _merge(conf, "resume", options.resume)
    if options.source or not options.resume:  # a resumed run reads its backup, not the source
        source = _need(options, "source", usage)
        _merge(conf, "source", _make_absolute(source))
    return _run("migrate", _load(options.mapping).name, conf)


def rollback(options: argparse.Namespace) -> int:
    """One run of the undo DAG."""
    usage = "make rollback RUN=20260105T120000Z-0123abcd ENVIRONMENT=dev"
    conf = _read_conf(options.conf)
    _merge(conf, "environment", _need(options, "environment", usage))
    _merge(conf, "run", _need(options, "run", usage))
    if place := conf.get("restore_source"):
        conf["restore_source"] = _make_absolute(str(place))
    return _run("rollback", _load(options.mapping).name, conf)


def audit(options: argparse.Namespace) -> int:
    """The register of an environment, and whether everything it lists is as it was written."""
    environment = _need(options, "environment", "make audit ENVIRONMENT=dev")
    mapping = _load(options.mapping).name
    client = boto3.client("s3", config=client_config())
    found = audit_target(Store(client, _find_bucket(environment, mapping), mapping, environment))
    print(show_audit(found))
    return 0 if found.ok else 1


def _find_bucket(environment: str, mapping: str) -> str:
    return os.environ.get("ACCESSION_BUCKET") or find_bucket(environment, boto3.Session(), mapping)


def _run(dag: str, mapping: str, conf: dict[str, Any]) -> int:
    approval, environment = conf.get("approval", "auto"), conf["environment"]
    asks = approval == "always" or (approval == "auto" and environment not in LOCAL_ENVIRONMENTS)
    if asks and not conf.get("dry_run") and not conf.get("resume"):  # what is resumed was approved before
        raise ParamsError(
            f"A run in {environment} asks a person, and there is no Airflow UI here to answer in: look at the plan "
            """with CONF='{"dry_run": true}', then say CONF='{"approval": "never"}', or trigger the DAG in Airflow."""
        )
    if not conf.get("bucket"):
        conf["bucket"] = _find_bucket(environment, mapping)
    # Not the run's name: a wrong one gets a better answer, that there is no such run.
    given = {name: value for name, value in conf.items() if name not in ("run", "resume")}
    check_params(MigrateParams if dag == "migrate" else RollbackParams, given)
    tell = _Clock()
    tell(f"running `airflow dags test {dag}_{mapping}`")
    return _end(run_dag(f"{dag}_{mapping}", conf, tell=tell))


def _end(done: AirflowRun) -> int:
    print(f"Airflow's whole log: {_show(done.log)}")
    return 0 if done.succeeded else 1


class _Clock:
    """Prints lines with the seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # nobody reads on; a migration under way goes on
            print(f"[{time.monotonic() - self._start:5.1f} s] {line}", flush=True)


def _save_report(done: AirflowRun, folder: Path) -> Path | None:
    """Fetch the report that the run's log names, so that it can be opened when the local AWS is gone."""
    found = [match for line in done.said if (match := REPORT.search(line))]
    if not found:
        return None
    where = found[-1]
    store = Store(boto3.client("s3", config=client_config()), where["bucket"], where["mapping"], where["environment"])
    store.download(f"{where['path']}.json", folder / "report.json")
    return store.download(f"{where['path']}.html", folder / "report.html")


def _make_absolute(place: str) -> str:
    """An address as Airflow's tasks understand it, which have a working folder of their own."""
    return place if place.startswith("s3://") else str(Path(place).absolute())


def _load(name: str) -> Mapping:
    known = {mapping.name: mapping for mapping in load_mappings()}
    if (name or HOME_LIBRARY) not in known:
        raise ParamsError(f"MAPPING={name}: there is no such mapping, known are {', '.join(known)}.")
    return known[name or HOME_LIBRARY]


def _need(options: argparse.Namespace, name: str, usage: str) -> str:
    value = str(getattr(options, name)).strip()
    if not value:
        raise ParamsError(f"{name.upper()} is missing: {usage}")
    return value


def _read_conf(text: str) -> dict[str, Any]:
    try:
        conf = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParamsError(f"CONF is not JSON ({error}): write it as CONF='{{\"max_rejects\": 2}}'.") from None
    if not isinstance(conf, dict):
        raise ParamsError("CONF is JSON, but not an object: write it as CONF='{\"max_rejects\": 2}'.")
    return conf


def _merge(conf: dict[str, Any], name: str, value: str) -> None:
    if conf.setdefault(name, value) != value:
        raise ParamsError(f"{name} is {value} on the command line, but {conf[name]} in CONF: give it once.")


def _show(path: Path) -> str:
    """A path as short as it can be typed here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
