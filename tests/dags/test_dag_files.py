"""The DAG files: they import, cost little, are wired as the design says, and keep to the rules of the house."""

import ast
import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accession import errors
from accession.mapping import MAPPINGS
from accession.params import MigrateParams, RollbackParams

REPO = Path(__file__).parents[2]
MIGRATE, ROLLBACK = "migrate_book_library", "rollback_book_library"
PERMANENT = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, errors.PermanentError)]
RUN = "20260105T120000Z-0123abcd"
ENTITIES = ("user", "book", "user_book")

PARSE = """
import importlib.util, json, statistics, sys, time
import airflow.sdk, airflow.providers.standard.operators.hitl, airflow.providers.standard.decorators.python

def parse(path):
    spec = importlib.util.spec_from_file_location("parsed", path)
    start = time.process_time()
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return time.process_time() - start

times = {path: [] for path in sys.argv[1:]}
for _ in range(9):
    for path in times:
        times[path].append(parse(path))
print("RESULT", json.dumps({"seconds": {path: statistics.median(some) for path, some in times.items()},
                            "modules": sorted(sys.modules)}))
"""
PLAIN = """
from airflow.sdk import DAG, task

with DAG("plain"):
    for number in range(19):
        task(task_id=f"task_{number}", retries=3)(lambda: None)()
"""


@pytest.fixture(scope="module")
def dags(airflow_home: Path) -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPO / "dags"))
    assert bag.import_errors == {}
    return dict(bag.dags)


@pytest.fixture(scope="module")
def migrate(dags: dict[str, Any]) -> Any:
    return dags[MIGRATE]


@pytest.fixture(scope="module")
def rollback(dags: dict[str, Any]) -> Any:
    return dags[ROLLBACK]


def run_python(code: str, *arguments: str, **environ: str) -> Any:
    """Run `code` in a process with a worker's paths, and return what it prints after RESULT."""
    paths = os.pathsep.join([str(REPO / "include"), str(REPO / "plugins")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": paths, **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.rpartition("RESULT")[2])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plain") / "plain.py"
    path.write_text(PLAIN)
    return str(path)


@pytest.fixture(scope="module")
def parsed(airflow_home: Path, plain: str) -> Any:
    return run_python(PARSE, plain, str(REPO / "dags/migrate_dag.py"), str(REPO / "dags/rollback_dag.py"))


# Cost


def test_parsing_a_dag_file_costs_less_than_eight_plain_ones(parsed: Any, plain: str) -> None:
    """Of processor time, beside a DAG of as many empty tasks: every worker parses the file again for every task."""
    yardstick = parsed["seconds"][plain]
    ours = [seconds for path, seconds in parsed["seconds"].items() if path != plain]
    assert len(ours) == 2
    assert max(ours) < 8 * yardstick


@pytest.mark.parametrize("heavy", ["boto3", "botocore", "airflow.providers.amazon.aws", "orjson", "fastapi"])
def test_parsing_imports_nothing_heavy(parsed: Any, heavy: str) -> None:
    assert [name for name in parsed["modules"] if name == heavy or name.startswith(heavy + ".")] == []


# Wiring


def test_each_mapping_has_its_two_dags(dags: dict[str, Any]) -> None:
    names = [path.stem for path in (REPO / "include/mappings").glob("*.yaml")]
    assert sorted(dags) == sorted(f"{kind}_{name}" for name in names for kind in ("migrate", "rollback"))


def test_the_migration_has_the_tasks_of_the_design(migrate: Any) -> None:
    groups = {f"{group}.{entity}" for group in ("stage", "migrate", "verify") for entity in ENTITIES}
    single = {"preflight", "backup", "plan", "approve", "open_run", "remove", "rollback", "report"}
    assert set(migrate.task_ids) == groups | single | {"verify.application"}


@pytest.mark.parametrize(
    ("task", "after"),
    [
        ("preflight", []),
        ("backup", ["preflight"]),
        ("stage.user", ["backup"]),
        ("stage.book", ["backup"]),
        ("stage.user_book", ["backup", "stage.book", "stage.user"]),
        ("plan", ["backup", "stage.user_book"]),
        ("approve", ["plan"]),
        ("open_run", ["approve", "backup"]),
        ("migrate.user", ["backup", "open_run", "stage.user"]),
        ("migrate.book", ["backup", "open_run", "stage.book"]),
        ("migrate.user_book", ["backup", "migrate.book", "migrate.user", "open_run", "stage.user_book"]),
        ("remove", ["backup", "migrate.user_book", "open_run"]),
        ("verify.user", ["backup", "remove"]),
        ("verify.book", ["backup", "remove"]),
        ("verify.user_book", ["backup", "remove"]),
        ("verify.application", ["backup", "remove"]),
        ("report", ["open_run", "rollback"]),
    ],
)
def test_what_comes_before_a_task(migrate: Any, task: str, after: list[str]) -> None:
    assert sorted(migrate.task_dict[task].upstream_task_ids) == after


def test_the_rollback_comes_after_every_writer_and_every_proof(migrate: Any) -> None:
    before = migrate.task_dict["rollback"].get_flat_relative_ids(upstream=True)
    assert {task for task in migrate.task_ids if task.split(".")[0] in ("migrate", "remove", "verify")} <= before


def test_the_rollback_is_the_teardown_of_open_run_and_fails_the_run(migrate: Any) -> None:
    rollback = migrate.task_dict["rollback"]
    assert rollback.is_teardown
    assert rollback.on_failure_fail_dagrun
    assert [task for task in migrate.task_ids if migrate.task_dict[task].is_setup] == ["open_run"]


def test_the_report_is_the_last_task_and_decides_the_end_of_the_run(migrate: Any) -> None:
    """A teardown, since these run when a person marks the run failed; but not only when open_run succeeded."""
    assert [task.task_id for task in migrate.leaves] == ["report"]
    report = migrate.task_dict["report"]
    assert report.is_teardown
    assert report.on_failure_fail_dagrun
    assert report.trigger_rule == "all_done"


def test_only_the_gate_goes_on_after_a_skip(migrate: Any) -> None:
    rules = {task_id: task.trigger_rule.value for task_id, task in migrate.task_dict.items()}
    assert rules.pop("open_run") == "none_failed"
    assert rules.pop("report") == "all_done"
    assert rules.pop("rollback") == "all_done_setup_success"
    assert set(rules.values()) == {"all_success"}


def test_writers_and_nobody_else_share_a_pool(migrate: Any, rollback: Any) -> None:
    pooled = {task_id for task_id, task in migrate.task_dict.items() if task.pool == "dynamodb_writes"}
    assert pooled == {*(f"migrate.{entity}" for entity in ENTITIES), "remove", "rollback"}
    assert rollback.task_dict["undo"].pool == "dynamodb_writes"


def test_what_sees_the_source_shares_a_queue() -> None:
    """Set by ACCESSION_SOURCE_QUEUE when the file is parsed."""
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); from airflow.dag_processing.dagbag import DagBag\n"
        "dags = DagBag(sys.argv[1]).dags\n"
        "print('RESULT', json.dumps(sorted(t.task_id for d in dags.values() for t in d.tasks if t.queue == 'library')))"
    )
    found = run_python(code, str(REPO / "dags"), ACCESSION_SOURCE_QUEUE="library")
    assert found == ["backup", "preflight", "report", "restore"]


def test_parts_are_mapped_and_labelled(migrate: Any) -> None:
    for entity in ENTITIES:
        task = migrate.task_dict[f"migrate.{entity}"]
        assert task.is_mapped
        assert "label" in task.map_index_template


def test_runs_of_different_targets_do_not_wait_for_each_other_and_none_is_of_the_past(dags: dict[str, Any]) -> None:
    """A target has one owner whatever Airflow does: test_attacks and test_ownership."""
    assert {dag.max_active_runs for dag in dags.values()} == {16}
    assert not any(dag.catchup for dag in dags.values())


def test_only_the_tasks_that_end_a_change_announce_tables(dags: dict[str, Any]) -> None:
    outlets = {task.task_id: task.outlets for dag in dags.values() for task in dag.tasks if task.outlets}
    assert {task_id: [outlet.name for outlet in found] for task_id, found in outlets.items()} == {
        "report": ["book_library"],
        "undo": ["book_library"],
    }


def test_the_undo_asks_before_it_writes(rollback: Any) -> None:
    assert [task.task_id for task in rollback.topological_sort()] == ["check", "approve", "undo", "restore"]


@pytest.mark.parametrize("file", ["migrate_dag.py", "rollback_dag.py"])
def test_the_manual_is_the_docstring(dags: dict[str, Any], file: str) -> None:
    dag = dags[f"{file.removesuffix('_dag.py')}_book_library"]
    source = (REPO / "plugins/accession_airflow" / file).read_text()
    assert dag.doc_md == ast.get_docstring(ast.parse(source), clean=False)
    assert all(f"`{task_id.split('.')[0]}`" in dag.doc_md for task_id in dag.task_ids if dag.dag_id == MIGRATE)


# The form


@pytest.mark.parametrize(("dag_id", "model"), [(MIGRATE, MigrateParams), (ROLLBACK, RollbackParams)])
def test_every_param_explains_itself(dags: dict[str, Any], dag_id: str, model: Any) -> None:
    params = dags[dag_id].params
    assert list(params) == list(model.model_fields)
    for name in params:
        schema, default = params.get_param(name).schema, params.get_param(name).value
        assert schema.get("type") or schema.get("enum"), name
        assert re.match(r"\d\. \w", schema["section"]), name
        assert schema["title"], name
        assert params.get_param(name).description or schema.get("description_md"), name
        assert default == model.model_fields[name].default, name


def test_the_form_refuses_what_the_params_refuse(migrate: Any) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    for name, value in {
        "environment": "no spaces",
        "rows_per_part": 10,
        "max_rejects": -1,
        "approval": "maybe",
        "app_url": "ftp://example.org",
        "write_units_per_second": 0,
    }.items():
        with pytest.raises(ParamValidationError):
            migrate.params.get_param(name).resolve(value)


@pytest.mark.parametrize("shown", [{}, {"undo_tables": True, "restore_to": None}])
def test_the_undo_s_old_param_names_reach_its_tasks_by_their_new_names(
    rollback: Any, aws: Any, shown: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """In the conf of a run, and typed beside the form's fields, which send their defaults too."""
    from accession_airflow.job import body

    conf = {**shown, "bucket": "accession-ours", "target": False, "restore_source": "/data/site.db"}
    defaults = {name: rollback.params.get_param(name).value for name in rollback.params}
    context = {"params": {**defaults, **conf}, "dag_run": SimpleNamespace(conf=conf), "dag": rollback}
    params = body(lambda job, context: job.params)(MAPPINGS / "book_library.yaml", context)
    assert (params.undo_tables, params.restore_to) == (False, "/data/site.db")
    assert "Param restore_source is now restore_to; use the new name" in caplog.text


def read_form(**environ: str) -> Any:
    code = (
        "import json, sys; from airflow.dag_processing.dagbag import DagBag\n"
        "params = DagBag(sys.argv[1]).dags['migrate_book_library'].params\n"
        "found = {n: params.get_param(n) for n in ('source', 'bucket', 'environment')}\n"
        "print('RESULT', json.dumps({n: [p.value, p.schema.get('enum')] for n, p in found.items()}))"
    )
    return run_python(code, str(REPO / "dags"), **environ)


def test_the_form_offers_what_the_deployment_lists() -> None:
    found = read_form(
        AIRFLOW__ACCESSION__SOURCE="/data/site.db",
        AIRFLOW__ACCESSION__ALLOWED_SOURCES="/data/other.db",
        AIRFLOW__ACCESSION__ALLOWED_BUCKETS="ours, theirs",
        AIRFLOW__ACCESSION__ENVIRONMENT="dev",
        AIRFLOW__ACCESSION__ALLOWED_ENVIRONMENTS="prod",
    )
    assert found == {
        "source": [None, [None, "/data/site.db", "/data/other.db"]],
        "bucket": [None, [None, "ours", "theirs"]],
        "environment": ["dev", ["dev", "prod"]],
    }
    assert read_form() == {"source": [None, None], "bucket": [None, None], "environment": ["local", None]}


# Approval


TI = SimpleNamespace(xcom_pull=lambda task_ids: None, xcom_push=lambda key, value: None)


@pytest.mark.parametrize(
    ("dag_id", "run_type", "params", "plan", "asks"),
    [
        (MIGRATE, "manual", {"environment": "prod", "approval": "auto"}, {"writes": 1}, True),
        (MIGRATE, "asset_materialization", {"environment": "prod"}, {"writes": 1}, True),
        (MIGRATE, "asset_triggered", {"environment": "prod"}, {"writes": 1}, True),
        (MIGRATE, "operator_triggered", {"environment": "prod"}, {"writes": 1}, True),
        (MIGRATE, "backfill", {"environment": "prod"}, {"writes": 1}, True),
        (MIGRATE, "scheduled", {"environment": "prod", "approval": "auto"}, {"writes": 1}, False),
        (MIGRATE, "scheduled", {"environment": "dev", "approval": "always"}, {"writes": 1}, True),
        (MIGRATE, "scheduled", {"environment": "prod", "approval": "never"}, {"writes": 1}, False),
        (MIGRATE, "manual", {"environment": "dev", "approval": "auto"}, {"writes": 1}, True),
        (MIGRATE, "manual", {"environment": "local", "approval": "auto"}, {"writes": 1}, False),
        (MIGRATE, "manual", {"environment": "local", "approval": "never"}, {"writes": 1}, False),
        (MIGRATE, "manual", {"environment": "prod", "approval": "auto"}, {"writes": 0}, False),
        (MIGRATE, "manual", {"environment": "prod", "seal": "cutover"}, {"writes": 0}, True),
        (MIGRATE, "manual", {"environment": "prod", "unseal": "more to do"}, {"writes": 0}, True),
        (MIGRATE, "manual", {"environment": "prod", "approval": "always", "dry_run": True}, {"writes": 1}, False),
        (MIGRATE, "manual", {"environment": "prod", "resume": RUN}, {"writes": 1}, True),
        (ROLLBACK, "manual", {"environment": "prod", "approval": "auto"}, None, True),
        (ROLLBACK, "manual", {"environment": "local", "approval": "auto"}, None, False),
    ],
)
def test_the_approval_task_asks_or_skips_itself(
    dags: dict[str, Any], dag_id: str, run_type: str, params: dict[str, Any], plan: Any, asks: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from airflow.sdk.exceptions import AirflowSkipException

    monkeypatch.setattr(ApprovalOperator, "execute", lambda self, context: "asked")
    monkeypatch.delenv("ACCESSION_ENVIRONMENTS_WITHOUT_APPROVAL")  # as where nothing is configured
    ti = SimpleNamespace(xcom_pull=lambda task_ids: plan, xcom_push=lambda key, value: None)
    context = {"params": params, "dag_run": SimpleNamespace(run_type=run_type, conf=None), "ti": ti}
    operator = dags[dag_id].task_dict["approve"]
    if asks:
        assert operator.execute(context) == "asked"
    else:
        with pytest.raises(AirflowSkipException):
            operator.execute(context)


def test_the_approval_task_judges_the_params_that_the_tasks_act_on(
    dags: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conf of a run may not be among the params, by [core] dag_run_conf_overrides_params."""
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    monkeypatch.setattr(ApprovalOperator, "execute", lambda self, context: "asked")
    given = SimpleNamespace(run_type="manual", conf={"environment": "prod"})
    params = {"environment": "local", "approval": "auto"}
    context = {"params": params, "dag_run": given, "ti": TI}
    assert dags["migrate_book_library"].task_dict["approve"].execute(context) == "asked"


# Retries and alerts


@pytest.mark.parametrize("error", PERMANENT)
def test_a_permanent_error_is_never_retried(migrate: Any, error: type[Exception]) -> None:
    from airflow.sdk import RetryAction

    for task in migrate.tasks:
        decision = task.retry_policy.evaluate(error("no"), 1, task.retries)
        assert decision.action == RetryAction.FAIL, task.task_id


def test_a_task_that_hangs_ends_and_is_not_retried_but_an_approval_may_wait(migrate: Any) -> None:
    from airflow.sdk import RetryAction
    from airflow.sdk.exceptions import AirflowTaskTimeout

    for task in migrate.tasks:
        assert (task.execution_timeout is None) is (task.task_id == "approve"), task.task_id
        assert task.retry_policy.evaluate(AirflowTaskTimeout("too long"), 1, task.retries).action == RetryAction.FAIL
    assert migrate.task_dict["approve"].defaults == ["Reject"]


@pytest.mark.parametrize("error", [errors.TransientError("busy"), ConnectionError("gone"), MemoryError()])
def test_what_may_pass_is_retried_and_backs_off(migrate: Any, error: BaseException) -> None:
    from airflow.sdk import RetryAction

    for task in migrate.tasks:
        assert task.retry_policy.evaluate(error, 1, task.retries).action != RetryAction.FAIL, task.task_id
        assert task.retries == 4
        assert task.retry_exponential_backoff
        assert timedelta(seconds=1) < task.retry_delay < task.max_retry_delay


def test_a_run_that_is_late_alerts_where_a_topic_is_set() -> None:
    code = (
        "import json, sys; from airflow.dag_processing.dagbag import DagBag\n"
        "from airflow.serialization.serialized_objects import DagSerialization\n"
        "bag = DagBag(sys.argv[1])\n"
        "[DagSerialization.to_dict(dag) for dag in bag.dags.values()]\n"
        "found = [[d.interval.total_seconds(), d.callback.path] for dag in bag.dags.values() for d in dag.deadline]\n"
        "print('RESULT', json.dumps(found))"
    )
    late = run_python(code, str(REPO / "dags"), ACCESSION_SNS_TOPIC="arn:aws:sns:us-east-1:123456789012:alarms")
    assert late == [[48 * 3600, "accession_airflow.alerts.tell_of_late_run"]] * 2


@pytest.mark.parametrize(("topic", "alerts"), [("", [0, 0]), ("arn:aws:sns:us-east-1:123456789012:alarms", [1, 1])])
def test_a_failed_run_alerts_where_a_topic_is_set(topic: str, alerts: list[int]) -> None:
    code = (
        "import json, sys; from airflow.dag_processing.dagbag import DagBag\n"
        "dags = DagBag(sys.argv[1]).dags\n"
        "print('RESULT', json.dumps([len(d.on_failure_callback or []) for d in dags.values()]))"
    )
    assert run_python(code, str(REPO / "dags"), ACCESSION_SNS_TOPIC=topic) == alerts


# The plugin


def test_the_plugin_loads_alone_and_shadows_nothing(airflow_home: Path) -> None:
    """The loader puts every file it takes for a plugin into sys.modules by its bare name."""
    code = (
        "import json, pathlib, sys\n"
        "from airflow import plugins_manager\n"
        "plugins = plugins_manager._get_plugins()\n"
        "import accession_airflow.tasks, accession\n"
        "files = pathlib.Path(accession_airflow.__file__).parent.glob('[a-z]*.py')\n"
        "print('RESULT', json.dumps([[p.name for p in plugins[0] if p.name == 'accession'], plugins[1],\n"
        "    accession_airflow.__file__, accession.__file__,\n"
        "    [file.stem for file in files if file.stem in sys.modules]]))"
    )
    names, failed, package, library, shadows = run_python(code)
    assert names == ["accession"]
    assert failed == {}
    assert Path(package) == REPO / "plugins/accession_airflow/__init__.py"
    assert Path(library) == REPO / "include/accession/__init__.py"
    assert shadows == []
