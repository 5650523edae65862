"""The tasks' bodies: context in, one library call, small dict out.

Heavy imports stand inside the functions: the DAG file is parsed again and again.
"""

import getpass
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from accession.errors import AccessionError, ParamsError, RefusedError
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.params import MigrateParams, RollbackParams, check_params

logger = logging.getLogger(__name__)

BUCKET_VARIABLE = "ACCESSION_BUCKET"
SOURCE_VARIABLE = "ACCESSION_SOURCE"
WRITERS = ("migrate", "remove", "verify")


@dataclass(frozen=True)
class Job:
    """What a task works with."""

    mapping: Mapping
    params: Any
    store: Any
    s3: Any


def body(function: Callable[..., Any]) -> Callable[..., Any]:
    """A task's body, whose errors are one line in the log and reach the report."""

    @wraps(function)
    def call(mapping_name: str, context: Any, **arguments: Any) -> Any:
        try:
            return function(_open_job(mapping_name, context), context, **arguments)
        except AccessionError as error:
            logger.error("%s", error)  # noqa: TRY400  the sentence, not the trace
            context["ti"].xcom_push(key="error", value={"message": str(error), "kind": type(error).__name__})
            raise error.with_traceback(None) from None

    return call


def _open_job(mapping_name: str, context: Any) -> Job:
    from accession.store import Store
    from accession_airflow.aws import connect_s3

    given = {**context["params"], **(context["dag_run"].conf or {})}
    model = RollbackParams if context["dag"].dag_id.startswith("rollback_") else MigrateParams
    params = check_params(model, given)
    bucket = params.bucket or os.environ.get(BUCKET_VARIABLE)
    if not bucket:
        raise ParamsError(
            f"param bucket: give the artifacts bucket that make deploy printed, or set {BUCKET_VARIABLE} on the "
            "workers."
        )
    s3 = connect_s3()
    mapping = load_mapping(MAPPINGS / f"{mapping_name}.yaml")
    return Job(mapping, params, Store(s3, bucket, mapping.name, params.environment), s3)


def _connect(job: Job, run: str | None = None, epoch: int | None = None) -> Any:
    """DynamoDB for reading, or, with an epoch, for writing under the fence."""
    from accession.dynamodb import DynamoDB
    from accession.executed import Share
    from accession.ownership import Fence
    from accession_airflow.aws import connect_dynamodb

    if run is None or epoch is None:
        return DynamoDB(connect_dynamodb())
    cap = getattr(job.params, "write_units_per_second", None)
    share = Share(job.store, run, cap) if cap else None
    return DynamoDB(connect_dynamodb(), check=Fence(job.store, run, epoch).check, write_units_per_second=share)


def _who(context: Any) -> str:
    """Who triggered the run: a name of Airflow's, or of this machine where there is no Airflow to log in to."""
    run = context["dag_run"]
    name = getattr(run, "triggering_user_name", None)
    if name == "dag_test":
        return f"{getpass.getuser()} (airflow dags test)"
    return name or f"airflow ({run.run_type})"


@contextmanager
def _fetch_source(job: Job) -> Iterator[Path]:
    """The source as a local file."""
    from accession.store import fetch_object

    source = _source_name(job)
    if not source.startswith("s3://"):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        yield fetch_object(job.s3, source, Path(folder) / "source.db")


def _source_name(job: Job) -> str:
    source: str = job.params.source or os.environ.get(SOURCE_VARIABLE, "")
    if not source:
        raise ParamsError(f"param source: give the SQLite file, or set {SOURCE_VARIABLE} on the workers.")
    return source


@body
def preflight(job: Job, context: Any) -> dict[str, str]:
    """Check everything that can be known before."""
    from accession.outcome import unseal_target
    from accession.preflight import check_all

    started = datetime.now(UTC).isoformat()
    if job.params.resume:
        check_all(job.mapping, job.params, None, job.store, _connect(job))
    else:
        with _fetch_source(job) as source:
            check_all(job.mapping, job.params, source, job.store, _connect(job))
    if job.params.unseal:
        unseal_target(job.store, job.params.unseal, _who(context))
    return {"started_at": started, "ended_at": datetime.now(UTC).isoformat()}


@body
def backup(job: Job, context: Any) -> str:
    """Back the source up and name the run; or go on with the run to resume."""
    from accession.manifest import check_resumable, start_run

    if job.params.resume:
        run = check_resumable(job.store, job.params.resume).run
    else:
        with _fetch_source(job) as source:
            name = _source_name(job)
            airflow_run = context["dag_run"].run_id
            run = start_run(job.store, job.mapping, job.params, source, name, _who(context), airflow_run).run
    context["ti"].xcom_push(key="run", value=run)
    return run


@body
def stage_entity(job: Job, context: Any, name: str, run: str, id_maps: dict[str, str]) -> list[int]:
    """Write the ID map and the change set of one entity; the numbers of its parts."""
    from accession.manifest import load_manifest
    from accession.stage import stage_entity as stage

    index = stage(job.store, job.mapping, load_manifest(job.store, run), name, id_maps, _connect(job))
    context["ti"].xcom_push(key="id_map", value=index.id_map)
    return [part.part for part in index.parts]


@body
def plan(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Add up the change set; refuse it when the params say so."""
    from accession.manifest import load_manifest
    from accession.plan import make_plan, refuse_plan, show_plan

    made = make_plan(job.store, job.mapping, load_manifest(job.store, run))
    logger.info("%s", show_plan(made, samples=False))
    refuse_plan(made)
    return {"writes": made.writes, "write_units": made.write_units, "text": show_plan(made)}


@body
def open_run(job: Job, context: Any, run: str) -> int:
    """Take the target, or skip: on a dry run and an empty change set nothing below is to be done."""
    from accession.manifest import load_manifest
    from accession.ownership import open_target, settle, take_over
    from accession.plan import load_plan
    from accession.preflight import check_empty
    from accession.state import load_state

    manifest = load_manifest(job.store, run)
    if job.params.resume:
        state = take_over(job.store, run)
        settle()
        return state.open.epoch
    if job.params.dry_run:
        raise AirflowSkipException("dry run: nothing is written")
    if load_plan(job.store, run).is_empty:
        raise AirflowSkipException("the change set is empty: nothing is to be written")
    state = load_state(job.store)
    if state is not None and state.head == run:
        raise AirflowSkipException(f"run {run} is committed already: nothing is to be written")
    mine = state is not None and state.open is not None and state.open.run == run
    if manifest.parent is None and not mine and manifest.policy("existing_items") == "refuse":
        check_empty(job.mapping, manifest.environment, _connect(job))
    return open_target(job.store, run, manifest.parent).open.epoch


@body
def migrate_part(job: Job, context: Any, name: str, run: str, epoch: int, part: int) -> dict[str, Any]:
    """Write the puts and updates of one part."""
    from airflow.sdk import get_current_context

    from accession.change_set import load_index
    from accession.manifest import load_manifest
    from accession.migrate import migrate_part as migrate

    parts = load_index(job.store, run, name).parts
    get_current_context()["label"] = f"{part + 1} of {len(parts)}: {parts[part].put + parts[part].update:,} items"
    done = migrate(job.store, job.mapping, load_manifest(job.store, run), name, part, _connect(job, run, epoch))
    return {"written": done.written, "already": done.already, "conflicts": len(done.conflicts)}


@body
def remove_items(job: Job, context: Any, run: str, epoch: int) -> dict[str, int]:
    """Delete what the change set deletes."""
    from accession.manifest import load_manifest
    from accession.migrate import remove_items as remove

    done = remove(job.store, job.mapping, load_manifest(job.store, run), _connect(job, run, epoch))
    return {"deleted": sum(one.written for one in done), "already": sum(one.already for one in done)}


@body
def verify_entity(job: Job, context: Any, name: str, run: str) -> dict[str, int]:
    """Prove one table."""
    from accession.manifest import load_manifest
    from accession.verify import verify_entity as verify

    proof = verify(job.store, job.mapping, load_manifest(job.store, run), name, _connect(job))
    return {"verified": proof.verified, "drifted": proof.drifted, "held": proof.held, "unexpected": proof.unexpected}


@body
def ask_application(job: Job, context: Any) -> int | None:
    """Ask the application's URL, when the params give one; its status."""
    from accession.verify import ask_application as ask

    return ask(job.params.app_url) if job.params.app_url else None


@body
def rollback(job: Job, context: Any, run: str, epoch: int) -> dict[str, Any]:
    """Undo the run if something below `open_run` failed and the params say so; else skip."""
    from accession.manifest import load_manifest
    from accession.ownership import settle, take_over
    from accession.rollback import undo_run

    if not _has_failed(context):
        raise AirflowSkipException("everything succeeded: nothing is to be undone")
    if job.params.on_failure == "keep":
        raise AirflowSkipException("something failed, and on_failure is keep: the target stays open as it is")
    manifest = load_manifest(job.store, run)
    state = take_over(job.store, run)
    settle()
    dynamodb = _connect(job, run, state.open.epoch)
    undone = undo_run(job.store, job.mapping, manifest, dynamodb, epoch=state.open.epoch, by=_who(context))
    return {name: entity.model_dump() for name, entity in undone.entities.items()}


def _has_failed(context: Any) -> bool:
    """Whether a writer or a proof of this run did not succeed."""
    return any(state != "success" for state in _find_states(context, WRITERS).values())


def _find_states(context: Any, prefixes: tuple[str, ...]) -> dict[str, str]:
    """Task id (with its map index) → state, of the tasks so named."""
    dag, run_id = context["dag"], context["dag_run"].run_id
    task_ids = [task_id for task_id in dag.task_ids if task_id.split(".")[0] in prefixes]
    states = context["ti"].get_task_states(dag_id=dag.dag_id, task_ids=task_ids, run_ids=[run_id])
    return {task: str(state) for task, state in states.get(run_id, {}).items()}


@body
def report(job: Job, context: Any) -> dict[str, Any]:
    """End the run: commit or record it, write the report, say what happened; fail unless all is well."""
    from accession.manifest import load_manifest
    from accession.outcome import end_run
    from accession.report import GOOD, show_summary

    run = context["ti"].xcom_pull(task_ids="backup", key="run")
    ended = _gather_ended(job, context, run)
    if run is None:
        context["ti"].xcom_push(key="note", value="nothing was written, failed")
        raise RefusedError(f"the run ended before its backup, and nothing was written: {ended.failure}")
    done = end_run(job.store, job.mapping, load_manifest(job.store, run), ended)
    logger.info("%s", show_summary(done))
    logger.info("report: %s", job.store.uri(f"runs/{run}/report.html"))
    if done.status in GOOD and ended.failure:
        raise RefusedError(f"run {run} is {done.status} as before, but a cleared task failed: {ended.failure}")
    context["ti"].xcom_push(key="note", value=done.note)  # the listener puts it on the run
    if done.status not in GOOD:
        raise RefusedError(f"run {run} {done.status.replace('_', ' ')}: {done.reason}")
    return {"run": run, "status": done.status, "note": done.note, "report": job.store.uri(f"runs/{run}/report.json")}


def _gather_ended(job: Job, context: Any, run: str | None) -> Any:
    """How the run went, as Airflow saw it."""
    from accession.outcome import Ended
    from accession.report import Step

    ti = context["ti"]
    states = _find_states(
        context, ("preflight", "backup", "stage", "plan", "approve", "open_run", *WRITERS, "rollback")
    )
    failed = [task for task, state in states.items() if state in ("failed", "upstream_failed")]
    task_ids = [task_id for task_id in context["dag"].task_ids if task_id != "report"]
    errors = [error for error in ti.xcom_pull(task_ids=task_ids, key="error") if error]
    first = next((task for task in failed if states[task] == "failed"), None)
    failure = errors[0]["message"] if errors and failed else (f"{first} failed: see its log" if first else None)
    answer = ti.xcom_pull(task_ids="approve", key="answer") or {}
    checked = ti.xcom_pull(task_ids="preflight")
    drift = _find_drift(job, run) if run is not None else None
    return Ended(
        is_verified=all(state == "success" for task, state in states.items() if task.split(".")[0] in WRITERS),
        is_rolled_back=states.get("rollback") == "success",
        is_refused=bool(failed) and bool(errors) and errors[0]["kind"] == "RefusedError",
        failure=failure,
        rejected_by=answer.get("by") if answer.get("chosen") == ["Reject"] else None,
        approved_by=answer.get("by") if answer.get("chosen") == ["Approve"] else None,
        epoch=ti.xcom_pull(task_ids="open_run"),
        preflight=Step(name="preflight", **checked) if checked else None,
        source_changed=bool(drift and drift.changed),
        source_rows_now=drift.rows_now if drift else None,
    )


def _find_drift(job: Job, run: str) -> Any:
    """Whether the source is still what the backup holds; None when it cannot be read any more."""
    from accession.manifest import load_manifest
    from accession.snapshot import source_changed

    if job.params.resume:
        return None
    snapshot = load_manifest(job.store, run).snapshot
    try:
        with tempfile.TemporaryDirectory(prefix="accession-") as folder, _fetch_source(job) as source:
            return source_changed(source, snapshot.sha256, snapshot.rows, Path(folder))
    except AccessionError as error:
        logger.warning("the source could not be compared with its backup: %s", error)
        return None


@body
def check_rollback(job: Job, context: Any) -> str:
    """Check what is to be undone; the run."""
    from accession.manifest import load_manifest
    from accession.preflight import check_table

    if not job.params.run:
        raise ParamsError("param run: name the run to undo, as its report or make audit does.")
    if not job.params.target and not job.params.restore_source:
        raise ParamsError("params target and restore_source: nothing is to be done; set at least one.")
    job.store.probe()
    manifest = load_manifest(job.store, job.params.run)
    if job.params.target:
        for entity in job.mapping.entities.values():
            check_table(entity, job.params.environment, _connect(job))
    context["ti"].xcom_push(
        key="text", value=f"Undo run {manifest.run} of {manifest.started_at[:10]} in {manifest.environment}."
    )
    return manifest.run


@body
def undo_target(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Undo the tables, prove it and close the target."""
    from accession.manifest import load_manifest
    from accession.ownership import settle
    from accession.rollback import take_for_undo, undo_run

    if not job.params.target:
        raise AirflowSkipException("the tables are left as they are")
    manifest = load_manifest(job.store, run)
    state = take_for_undo(job.store, run)
    settle()
    dynamodb = _connect(job, run, state.open.epoch)
    accept = job.params.accept_conflicts
    undone = undo_run(
        job.store, job.mapping, manifest, dynamodb, epoch=state.open.epoch, by=_who(context), accept_conflicts=accept
    )
    counts = {name: entity.model_dump() for name, entity in undone.entities.items()}
    for name, entity in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{value:,} {key}" for key, value in entity.items() if key != "table"))
    return counts


@body
def restore_source(job: Job, context: Any, run: str) -> list[str]:
    """Put the run's backup back at the place of the source; what was moved aside."""
    from accession.manifest import fetch_backup, load_manifest
    from accession.restore import restore_source as restore
    from accession.store import place_object

    place = job.params.restore_source
    if not place:
        raise AirflowSkipException("the source is left as it is")
    manifest = load_manifest(job.store, run)
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        backup = fetch_backup(job.store, manifest, Path(folder))
        if place.startswith("s3://"):
            place_object(job.s3, backup, place)
            return []
        moved = restore(backup, Path(place), manifest.snapshot.sha256, manifest.snapshot.rows).moved_aside
    logger.info("%s holds the backup of run %s; aside: %s", place, run, ", ".join(map(str, moved)) or "nothing")
    return [str(path) for path in moved]
