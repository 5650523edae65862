"""The tasks' bodies: context in, one library call, small dict out.

Heavy imports stand inside the functions: the DAG file is parsed again and again.
"""

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from accession.errors import ParamsError, RefusedError
from accession_airflow.job import Job, body, find_actor
from accession_airflow.states import gather_outcome, has_failed

logger = logging.getLogger(__name__)


@body
def preflight(job: Job, context: Any) -> dict[str, str]:
    """Check everything that can be known before."""
    from accession.run import check_all, unseal_target

    started = datetime.now(UTC).isoformat()
    if job.params.resume:
        check_all(job.mapping, job.params, None, job.store, job.connect())
    else:
        with job.fetch_source() as source:
            check_all(job.mapping, job.params, source, job.store, job.connect())
    if job.params.unseal:
        unseal_target(job.store, job.params.unseal, find_actor(context))
    return {"started_at": started, "ended_at": datetime.now(UTC).isoformat()}


@body
def backup(job: Job, context: Any) -> str:
    """Back the source up and name the run; or go on with the run to resume."""
    from accession.run import check_resumable, start_run

    if job.params.resume:
        run = check_resumable(job.store, job.mapping, job.params.resume).run
    else:
        with job.fetch_source() as source:
            by, airflow_run = find_actor(context), context["dag_run"].run_id
            run = start_run(job.store, job.mapping, job.params, source, job.source, by, airflow_run).run
    context["ti"].xcom_push(key="run", value=run)
    return run


@body
def stage_entity(job: Job, context: Any, name: str, run: str, id_maps: dict[str, str]) -> list[int]:
    """Write the ID map and the change set of one entity; the numbers of its parts."""
    from accession.run import stage_entity as stage

    index = stage(job.store, job.mapping, job.load_manifest(run), name, id_maps, job.connect())
    context["ti"].xcom_push(key="id_map", value=index.id_map)
    return [part.part for part in index.parts]


@body
def plan(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Add up the change set; refuse it when the params say so."""
    from accession.run import make_plan, refuse_plan, show_plan

    made = make_plan(job.store, job.mapping, job.load_manifest(run))
    logger.info("%s", show_plan(made, samples=False))
    refuse_plan(made)
    return {"writes": made.writes, "write_units": made.write_units, "text": show_plan(made)}


@body
def open_run(job: Job, context: Any, run: str) -> int:
    """Take the target, or skip: on a dry run and an empty change set nothing below is to be done."""
    from accession.artifacts import load_plan
    from accession.run import check_empty
    from accession.target import load_state, open_target, settle, take_over

    manifest = job.load_manifest(run)
    if job.params.resume:
        state = take_over(job.store, run)
        settle()
        return state.open.epoch
    if job.params.dry_run:
        raise AirflowSkipException("dry run: nothing is written")
    if load_plan(job.store, run).is_empty and not job.params.seal:  # what is to be sealed is proved once more
        raise AirflowSkipException("the change set is empty: nothing is to be written")
    state = load_state(job.store)
    if state is not None and state.head == run:
        raise AirflowSkipException(f"run {run} is committed already: nothing is to be written")
    mine = state is not None and state.open is not None and state.open.run == run
    if manifest.parent is None and not mine and manifest.param("existing_items") == "refuse":
        check_empty(job.mapping, manifest.environment, job.connect())
    return open_target(job.store, run, manifest.parent).open.epoch


@body
def migrate_part(job: Job, context: Any, name: str, run: str, epoch: int, part: int) -> dict[str, Any]:
    """Write the puts and updates of one part."""
    from airflow.sdk import get_current_context

    from accession.artifacts import load_staged_entity
    from accession.run import migrate_part as migrate

    parts = load_staged_entity(job.store, run, name).parts
    get_current_context()["label"] = f"{part + 1} of {len(parts)}: {parts[part].put + parts[part].update:,} items"
    done = migrate(job.store, job.mapping, job.load_manifest(run), name, part, job.connect(run, epoch))
    return {"written": done.written, "already": done.already, "conflicts": len(done.conflicts)}


@body
def remove_items(job: Job, context: Any, run: str, epoch: int) -> dict[str, int]:
    """Delete what the change set deletes."""
    from accession.run import remove_items as remove

    done = remove(job.store, job.mapping, job.load_manifest(run), job.connect(run, epoch))
    return {"deleted": sum(one.written for one in done), "already": sum(one.already for one in done)}


@body
def verify_entity(job: Job, context: Any, name: str, run: str) -> dict[str, int]:
    """Prove one table."""
    from accession.run import verify_entity as verify

    proof = verify(job.store, job.mapping, job.load_manifest(run), name, job.connect())
    return {"verified": proof.verified, "drifted": proof.drifted, "held": proof.held, "unexpected": proof.unexpected}


@body
def ask_application(job: Job, context: Any) -> int | None:
    """Ask the application's URL, when the params give one; its status."""
    from accession.run import ask_application as ask

    return ask(job.params.app_url) if job.params.app_url else None


@body
def rollback(job: Job, context: Any, run: str, epoch: int) -> dict[str, Any]:
    """Undo the run if something below `open_run` failed and the params say so; else skip."""
    from accession.run import undo_run
    from accession.target import settle, take_over

    if not has_failed(context):
        raise AirflowSkipException("everything succeeded: nothing is to be undone")
    if job.params.on_failure == "keep":
        raise AirflowSkipException("something failed, and on_failure is keep: the target stays open as it is")
    manifest = job.load_manifest(run)
    state = take_over(job.store, run)
    settle()
    dynamodb = job.connect(run, state.open.epoch)
    undone = undo_run(job.store, job.mapping, manifest, dynamodb, epoch=state.open.epoch, by=find_actor(context))
    return {name: entity.model_dump() for name, entity in undone.entities.items()}


@body
def report(job: Job, context: Any) -> dict[str, Any]:
    """End the run: commit or record it, write the report, say what happened; fail unless all is well."""
    from accession.artifacts import GOOD
    from accession.run import end_run, show_summary

    run = context["ti"].xcom_pull(task_ids="backup", key="run")
    ended = gather_outcome(job, context, run)
    if run is None:
        context["ti"].xcom_push(key="note", value="nothing was written, failed")
        raise RefusedError(f"the run ended before its backup, and nothing was written: {ended.failure}")
    done = end_run(job.store, job.mapping, job.load_manifest(run), ended)
    logger.info("%s", show_summary(done))
    logger.info("report: %s", job.store.uri(f"runs/{run}/report.html"))
    if done.status in GOOD and ended.failure:
        raise RefusedError(f"run {run} is {done.status} as before, but a cleared task failed: {ended.failure}")
    context["ti"].xcom_push(key="note", value=done.note)  # the listener puts it on the run
    if done.status not in GOOD:
        raise RefusedError(f"run {run} {done.status.replace('_', ' ')}: {done.reason}")
    return {"run": run, "status": done.status, "note": done.note, "report": job.store.uri(f"runs/{run}/report.json")}


@body
def check_rollback(job: Job, context: Any) -> str:
    """Check what is to be undone; the run."""
    from accession.artifacts import find_plan, load_manifest
    from accession.run import check_table, expect_entities

    if not job.params.run:
        raise ParamsError("param run: name the run to undo, as its report or make audit does.")
    if not job.params.undo_tables and not job.params.restore_to:
        raise ParamsError("Params undo_tables and restore_to leave nothing to do: set at least one of them.")
    job.store.probe()
    manifest = load_manifest(job.store, job.params.run)
    if job.params.undo_tables:
        if find_plan(job.store, manifest.run):  # before the target is taken; without a plan nothing was written
            expect_entities(job.store, job.mapping, manifest.run)
        for entity in job.mapping.entities.values():
            check_table(entity, job.params.environment, job.connect())
    context["ti"].xcom_push(
        key="text", value=f"Undo run {manifest.run} of {manifest.started_at[:10]} in {manifest.environment}."
    )
    return manifest.run


@body
def undo_target(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Undo the tables, prove it and close the target."""
    from accession.artifacts import load_manifest
    from accession.run import take_for_undo, undo_run
    from accession.target import settle

    if not job.params.undo_tables:
        raise AirflowSkipException("the tables are left as they are")
    manifest = load_manifest(job.store, run)
    state = take_for_undo(job.store, run)
    settle()
    dynamodb = job.connect(run, state.open.epoch)
    accept, by = job.params.accept_conflicts, find_actor(context)
    undone = undo_run(
        job.store, job.mapping, manifest, dynamodb, epoch=state.open.epoch, by=by, accept_conflicts=accept
    )
    counts = {name: entity.model_dump() for name, entity in undone.entities.items()}
    for name, entity in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{value:,} {key}" for key, value in entity.items() if key != "table"))
    return counts


@body
def restore_source(job: Job, context: Any, run: str) -> list[str]:
    """Put the run's backup back at the place of the source; what was moved aside."""
    from accession.artifacts import fetch_backup, load_manifest, place_object
    from accession.source import restore_source as restore

    place = job.params.restore_to
    if not place:
        raise AirflowSkipException("the source is left as it is")
    manifest = load_manifest(job.store, run)
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        backup = fetch_backup(job.store, manifest, Path(folder))
        if place.startswith("s3://"):
            aside = place_object(job.s3, backup, place)
            moved = [aside] if aside else []
        else:
            placed = restore(backup, Path(place), manifest.snapshot.sha256, manifest.snapshot.rows)
            moved = [str(path) for path in placed.moved_aside]
    logger.info("%s holds the backup of run %s; aside: %s", place, run, ", ".join(moved) or "nothing")
    return moved
