"""The commands behind the Makefile: `python -m accession.cli demo | deploy | migrate | …`.

The demo starts a local AWS of its own and stops it again. draft and lint-mapping use none. All other commands use the
AWS that the environment points at (profile, role, keys, AWS_ENDPOINT_URL).
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

from accession.approval import stops_make
from accession.artifacts import Store, client_config
from accession.audit import audit_target, show_audit
from accession.aws import adopt_region, check_endpoints, explain_errors
from accession.cli.airflow_process import LOCAL_FOLDER, AirflowRun, run_dag
from accession.cli.arguments import find_files, find_mapping, open_source
from accession.cli.deploy import deploy_stacks, find_bucket, find_schemas
from accession.cli.draft import OPTIONS as DRAFT_OPTIONS
from accession.cli.draft import draft
from accession.cli.lint import lint_files
from accession.cli.ministack import start_ministack
from accession.cli.sample import write_sample
from accession.cli.template import write_template
from accession.commands import HOME_LIBRARY
from accession.conf import check_params, rename_old
from accession.deployment import load_deployment, read_environ
from accession.errors import AccessionError, ParamsError
from accession.params import MigrateParams, RollbackParams

if TYPE_CHECKING:
    from collections.abc import Sequence

REPORT = re.compile(
    r"s3://(?P<bucket>[^/\s]+)/(?P<mapping>[^/\s]+)/(?P<environment>[^/\s]+)/(?P<path>\S+/report)\.html"
)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command and return its exit code.

    0: all is well. 1: it failed. 2: the call was wrong. 130: Ctrl-C. 141: nobody reads the output any more.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that child processes are ended
    options = _make_parser().parse_args(arguments)
    adopt_region()
    try:
        check_endpoints()
        with explain_errors():
            return int(options.command(options))
    except ParamsError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except AccessionError as error:
        print(f"{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `make … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m accession.cli", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    def add(name: str, command: Callable[[argparse.Namespace], int], summary: str, *options: str) -> None:
        sub = commands.add_parser(name, help=summary, description=summary)
        for option in options:
            sub.add_argument(f"--{option}", default="", help=OPTIONS[option])
        sub.set_defaults(command=command)

    add("demo", demo, "migrate a sample library on an embedded local AWS")
    add("draft", draft, "write a mapping of a SQLite file's tables, or compare the one that is there", *DRAFT_OPTIONS)
    add("template", template, "print the CloudFormation template of the tables", "mapping", "environment", "source")
    add(
        "deploy", deploy, "create or update the tables, the bucket and the policies",
        "environment", "conf", "mapping", "source",
    )  # fmt: skip
    add("migrate", migrate, "migrate a SQLite file", "source", "environment", "conf", "resume", "mapping")
    add("rollback", rollback, "undo a finished run", "run", "environment", "conf", "mapping")
    add("lint-mapping", lint_mapping, "check a mapping against a SQLite file, without AWS", "mapping", "source")
    add("audit", audit, "check the register and every artifact of an environment", "environment", "mapping")
    return parser


OPTIONS = {
    "environment": "last part of the tables' names, for example dev",
    "mapping": f"name of a mapping, or path of its file; default {HOME_LIBRARY}",
    "source": "path of the SQLite file, or s3://bucket/key",
    "conf": "further params of the run (for deploy: options of the bucket and its policies), as a JSON object",
    "resume": "name of the interrupted run to continue",
    "run": "name of the run to undo, as in its report",
    **DRAFT_OPTIONS,
}


def demo(_options: argparse.Namespace) -> int:
    """Migrate a sample library on this machine alone. The report and the sample stay in .local/demo."""
    tell = _TimedPrinter()
    folder = LOCAL_FOLDER / "demo"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tell("starting a local AWS (MiniStack)")
    with start_ministack(log=folder / "ministack.log") as ministack:
        ministack.take_environ()
        tell("deploying the tables and the artifacts bucket with CloudFormation")
        deployed = deploy_stacks(
            find_mapping(HOME_LIBRARY), "local", boto3.Session(), tell=lambda line: tell(f"  {line}")
        )
        source = write_sample(folder / "site.db")
        tell(f"wrote a sample library to {_show(source)}")
        conf = {
            "source": str(source),
            "environment": "local",
            "bucket": deployed.bucket,
            "approval": "never",
            "max_rejects": 2,  # the sample has an orphan and an invalid date
        }
        tell(f"running `airflow dags test migrate_{HOME_LIBRARY}`")
        done = run_dag(f"migrate_{HOME_LIBRARY}", conf, tell=tell)
        report = _save_report(done, folder)
    if report:
        print(f"\nReport: {_show(report)}")
    return _end(done)


def template(options: argparse.Namespace) -> int:
    """Print the CloudFormation template of a mapping's tables."""
    environment = _need_environment(options, "make template") if options.environment else ""
    mapping = find_mapping(options.mapping)
    with open_source(options.source) as source:
        schemas = find_schemas(mapping, {}, source, lambda line: print(line, file=sys.stderr))
    print(write_template(mapping, schemas, environment), end="")
    return 0


def deploy(options: argparse.Namespace) -> int:
    """Deploy both stacks, and say what to type next."""
    environment = _need_environment(options, "make deploy ENVIRONMENT=dev")
    given = {name: str(value).lower() if isinstance(value, bool) else str(value)
             for name, value in _read_conf(options.conf).items()}  # fmt: skip
    mapping = find_mapping(options.mapping)
    with open_source(options.source) as source:
        deployed = deploy_stacks(mapping, environment, boto3.Session(), source=source, options=given, tell=print)
    print(f"bucket: {deployed.bucket}")
    print(f"policy for the role of Airflow's workers: {deployed.policy}")
    if deployed.source_policy:
        print(f"policy for those workers that read the source: {deployed.source_policy}")
    print(f"policy for the role of Airflow's API server: {deployed.pages_policy}")
    print(f"policy for auditors: {deployed.auditor_policy}")
    named = f" MAPPING={shlex.quote(options.mapping)}" if options.mapping else ""
    path = shlex.quote(options.source or "/path/to/site.db")
    print(f"next: make migrate{named} SOURCE={path} ENVIRONMENT={environment}")
    return 0


def migrate(options: argparse.Namespace) -> int:
    """Run the migration DAG once."""
    usage = "make migrate SOURCE=/path/to/site.db ENVIRONMENT=dev"
    conf = _read_conf(options.conf)
    _merge(conf, "environment", _need_environment(options, usage))
    if options.resume:
        _merge(conf, "resume", options.resume)
    if options.source or not options.resume:  # a resume reads the run's backup, not the source
        _merge(conf, "source", _make_absolute(_need(options, "source", usage)))
    return _run("migrate", find_mapping(options.mapping).name, conf)


def rollback(options: argparse.Namespace) -> int:
    """Run the undo DAG once."""
    usage = "make rollback RUN=20260105T120000Z-0123abcd ENVIRONMENT=dev"
    conf = rename_old(RollbackParams, _read_conf(options.conf))
    _merge(conf, "environment", _need_environment(options, usage))
    _merge(conf, "run", _need(options, "run", usage))
    return _run("rollback", find_mapping(options.mapping).name, conf)


def audit(options: argparse.Namespace) -> int:
    """Check the register of an environment and every artifact that it lists, and print all runs."""
    environment = _need_environment(options, "make audit ENVIRONMENT=dev")
    mapping = find_mapping(options.mapping).name
    client = boto3.client("s3", config=client_config())
    found = audit_target(Store(client, _find_bucket(environment, mapping), mapping, environment))
    print(show_audit(found))
    return 0 if found.ok else 1


def lint_mapping(options: argparse.Namespace) -> int:
    """Check a mapping against a source, and print what is wrong and what would be rejected."""
    source = _need(options, "source", "make lint-mapping MAPPING=shop SOURCE=/path/to/shop.db")
    return lint_files(find_files(options.mapping), Path(source))


def _find_bucket(environment: str, mapping: str) -> str:
    settings = load_deployment(read_environ(os.environ))
    return settings.bucket or find_bucket(environment, boto3.Session(), mapping)


def _run(dag: str, mapping: str, conf: dict[str, Any]) -> int:
    """Check the params of a run before anything is done with their values, then run the DAG."""
    model: type[MigrateParams | RollbackParams] = MigrateParams if dag == "migrate" else RollbackParams
    # Airflow's tasks check the name of the run, and answer a wrong one better: there is no such run.
    params = check_params(model, {name: value for name, value in conf.items() if name not in ("run", "resume")})
    is_dry_run = isinstance(params, MigrateParams) and params.dry_run
    was_approved = bool(conf.get("resume"))
    if stops_make(params.environment, params.approval) and not is_dry_run and not was_approved:
        raise ParamsError(
            f"A run in {params.environment} asks a person, and without Airflow's UI nobody can answer: look at the "
            """plan with CONF='{"dry_run": true}', then use CONF='{"approval": "never"}', or trigger the DAG in """
            "Airflow."
        )
    if isinstance(params, RollbackParams) and params.restore_to:
        conf["restore_to"] = _make_absolute(params.restore_to)
    if not params.bucket:
        conf["bucket"] = check_params(model, {"bucket": _find_bucket(params.environment, mapping)}).bucket
    tell = _TimedPrinter()
    tell(f"running `airflow dags test {dag}_{mapping}`")
    return _end(run_dag(f"{dag}_{mapping}", conf, tell=tell))


def _end(done: AirflowRun) -> int:
    print(f"Airflow's log: {_show(done.log)}")
    return 0 if done.succeeded else 1


class _TimedPrinter:
    """Print lines with the seconds since this printer was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # a migration goes on even if nobody reads its output
            print(f"[{time.monotonic() - self._start:5.1f} s] {line}", flush=True)


def _save_report(done: AirflowRun, folder: Path) -> Path | None:
    """Download the report that the run's log names, and return its place. The local AWS is about to end."""
    found = [match for line in done.messages if (match := REPORT.search(line))]
    if not found:
        return None
    place = found[-1]
    store = Store(boto3.client("s3", config=client_config()), place["bucket"], place["mapping"], place["environment"])
    store.download(f"{place['path']}.json", folder / "report.json")
    return store.download(f"{place['path']}.html", folder / "report.html")


def _make_absolute(place: str) -> str:
    """Return a path or s3:// address that means the same in Airflow's tasks, which work in another folder."""
    return place if place.startswith("s3://") else str(Path(place).absolute())


def _need(options: argparse.Namespace, name: str, usage: str) -> str:
    value = str(getattr(options, name)).strip()
    if not value:
        raise ParamsError(f"{name.upper()} is missing: {usage}.")
    return value


def _need_environment(options: argparse.Namespace, usage: str) -> str:
    return check_params(MigrateParams, {"environment": _need(options, "environment", usage)}).environment


def _read_conf(text: str) -> dict[str, Any]:
    try:
        conf = json.loads(text or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise ParamsError(f"CONF is not valid JSON ({error}): write it as CONF='{{\"max_rejects\": 2}}'.") from None
    if not isinstance(conf, dict):
        raise ParamsError("CONF is not a JSON object: write it as CONF='{\"max_rejects\": 2}'.")
    return conf


def _merge(conf: dict[str, Any], name: str, value: str) -> None:
    if conf.setdefault(name, value) != value:
        raise ParamsError(f"Param {name} is {value} on the command line, but {conf[name]} in CONF: give it once.")


def _show(path: Path) -> str:
    """Return a path relative to the working folder if it is below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
