"""The bodies of the tasks: context in, one call of the library, a small dict out.

Heavy imports are inside the functions, because Airflow parses the DAG file again and again.
"""

import logging
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from accession.errors import ParamsError, RefusedError
from accession_airflow.asset_events import announce_run, announce_undo
from accession_airflow.job import Job, body, find_actor
from accession_airflow.lineage import emit_lineage
from accession_airflow.listener import NOTE
from accession_airflow.metrics import count_writes, describe_end
from accession_airflow.states import gather_outcome, has_failed, list_errors

logger = logging.getLogger(__name__)


@body
def preflight(job: Job, context: Any) -> dict[str, str]:
    """Check everything that can be checked before a run."""
    from accession.run import Run

    started = job.store.host.timestamp()
    with job.fetch_source() as source:
        Run.preflight(job.store, job.mapping, job.params, job.connect(), source)
    return {"started_at": started, "ended_at": job.store.host.timestamp()}


@body
def backup(job: Job, context: Any) -> str:
    """Back up the source and name the run, or continue the run to resume."""
    from accession.run import Run

    if job.params.resume:
        run = Run.resume(job.store, job.mapping, job.params.resume, job.connect())
    else:
        with job.fetch_source() as source:
            assert source is not None  # it is for a resumed run only
            run = Run.backup(
                job.store,
                job.mapping,
                job.params,
                job.connect(),
                source,
                source_name=job.source,
                by=find_actor(context),
                airflow_run_id=context["dag_run"].run_id,
            )
    context["ti"].xcom_push(key="run", value=run.name)
    _push_target(job, context)
    return run.name


def _push_target(job: Job, context: Any) -> None:
    """Tell the audit pages where the artifacts are: the bucket that this worker was allowed to use."""
    target = {"bucket": job.store.bucket, "environment": job.store.environment}
    context["ti"].xcom_push(key="target", value=target)


@body
def stage_entity(job: Job, context: Any, name: str, run: str, id_maps: dict[str, str]) -> list[int]:
    """Write the ID map and the change set of one entity, and return the numbers of its parts."""
    staged = job.load_run(run).stage(name, id_maps)
    context["ti"].xcom_push(key="id_map", value=staged.id_map)
    return [part.part for part in staged.parts]


@body
def plan(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Add up the change set, and refuse it if the policies say so."""
    from accession.run import refuse_plan, show_plan

    made = job.load_run(run).plan()
    logger.info("%s", show_plan(made, samples=False))
    refuse_plan(made)
    return {"writes": made.writes, "write_units": made.write_units, "text": show_plan(made)}


@body
def open_run(job: Job, context: Any, run: str) -> int:
    """Take the target and return the epoch, or skip this task and all below if nothing is to be written."""
    from accession_airflow.approval import expect_approval

    expect_approval(job, context, run)
    gate = job.load_run(run).open_run(find_actor(context))
    if gate.epoch is None:
        raise AirflowSkipException(gate.reason)
    return gate.epoch


@body
def migrate_part(job: Job, context: Any, name: str, run: str, epoch: int, part: int) -> dict[str, Any]:
    """Write the puts and updates of one part."""
    from airflow.sdk import get_current_context

    opened = job.load_run(run)
    parts = opened.folder.load_staged(name).parts
    current: Any = get_current_context()
    current["label"] = f"{part + 1} of {len(parts)}: {parts[part].put + parts[part].update:,} items"
    done = opened.migrate(name, part, epoch)
    count_writes(opened.manifest, done)
    return {"written": done.written, "already": done.already, "conflicts": len(done.conflicts)}


@body
def remove_items(job: Job, context: Any, run: str, epoch: int) -> dict[str, int]:
    """Delete the items that the change set deletes."""
    opened = job.load_run(run)
    done = opened.remove(epoch)
    for execution in done:
        count_writes(opened.manifest, execution)
    return {"deleted": sum(one.written for one in done), "already": sum(one.already for one in done)}


@body
def verify_entity(job: Job, context: Any, name: str, run: str) -> dict[str, int]:
    """Prove one table."""
    proof = job.load_run(run).verify(name)
    return {"verified": proof.verified, "drifted": proof.drifted, "held": proof.held, "unexpected": proof.unexpected}


@body
def ask_application(job: Job, context: Any, run: str) -> int | None:
    """Request the application's URL, if the params give one, and return the status."""
    opened = job.load_run(run)
    job.find_app_url(opened)
    return opened.ask_application()


@body
def rollback(job: Job, context: Any, run: str, epoch: int | None) -> dict[str, Any]:
    """Undo the run if a task below `open_run` failed and the params say so; else skip."""
    if not has_failed(context):
        raise AirflowSkipException("All tasks succeeded: there is nothing to undo.")
    if job.params.on_failure == "keep":
        raise AirflowSkipException("A task failed, and on_failure is keep: the target stays open.")
    if epoch is None:
        raise AirflowSkipException("This DAG run never had the target: it has nothing to undo.")
    kinds = {error["kind"] for error in list_errors(context)}
    if "CredentialsError" in kinds:
        raise AirflowSkipException(
            "AWS refused the credentials, so nothing can be undone, and the target stays open. Log in again, then "
            "resume the run."
        )
    opened = job.load_run(run)
    if opened.only_lags() and "VerificationError" not in kinds:
        raise AirflowSkipException("All tables are proved, and only indexes lag: the target stays open. Clear verify.")
    undone = opened.rollback(find_actor(context), epoch)
    return {name: entity.model_dump() for name, entity in undone.entities.items()}


@body
def report(job: Job, context: Any) -> dict[str, Any]:
    """End the run: commit or record it, write the report, and fail unless the run succeeded."""
    from accession.run import show_summary

    # The other tasks work on the run that backup returned. One that died after it had named a run returned nothing.
    ti = context["ti"]
    name = ti.xcom_pull(task_ids="backup") or ti.xcom_pull(task_ids="backup", key="run")
    run = job.load_run(name) if name is not None else None
    outcome = gather_outcome(job, context, run)
    if run is None:
        context["ti"].xcom_push(key=NOTE, value="nothing was written, failed")
        raise RefusedError(
            f"The run ended before its backup, and nothing was written: {outcome.failure or 'a person stopped it.'}"
        )
    done = run.report(outcome)
    logger.info("%s", show_summary(done))
    logger.info("report: %s", run.folder.uri("report.html"))
    describe_end(done)
    if done.is_good and outcome.failure:
        raise RefusedError(f"Run {name} is {done.status} as before, but a cleared task failed: {outcome.failure}")
    context["ti"].xcom_push(key=NOTE, value=done.note)  # the listener puts it on the run
    if not done.is_good:
        raise RefusedError(f"Run {name} {done.status.replace('_', ' ')}: {done.reason or 'a person stopped it.'}")
    location = run.folder.uri("report.json")
    announce_run(context, done, location)
    emit_lineage(job.mapping, run.manifest, done, job.connect())
    return {"run": name, "status": done.status, "note": done.note, "report": location}


@body
def check_rollback(job: Job, context: Any) -> str:
    """Check that the run can be undone, and return its name."""
    if not job.params.run:
        raise ParamsError("Param run: name the run to undo, as its report or make audit does.")
    if not job.params.undo_tables and not job.params.restore_to:
        raise ParamsError("Params undo_tables and restore_to leave nothing to do: set at least one of them.")
    job.store.probe()
    run = job.load_run(job.params.run)
    job.find_place(run)
    if job.params.undo_tables:
        run.check_undo()
    manifest = run.manifest
    _push_target(job, context)
    context["ti"].xcom_push(
        key="text", value=f"Undo run {manifest.run} of {manifest.started_at[:10]} in {manifest.environment}."
    )
    return run.name


@body
def undo_target(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Undo the tables, prove it and close the target."""
    from accession_airflow.approval import expect_approval

    if not job.params.undo_tables:
        raise AirflowSkipException("The param undo_tables is false: the tables are left as they are.")
    expect_approval(job, context, run)
    opened = job.load_run(run)
    undone = opened.undo(
        find_actor(context),
        accept_conflicts=job.params.accept_conflicts,
        write_units_per_second=job.params.write_units_per_second,
        read_units_per_second=job.params.read_units_per_second,
    )
    counts = {name: entity.model_dump() for name, entity in undone.entities.items()}
    for name, entity in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{value:,} {key}" for key, value in entity.items() if key != "table"))
    announce_undo(context, opened.manifest, undone, opened.folder.uri("rollback.json"))
    return counts


@body
def restore_source(job: Job, context: Any, run: str) -> list[str]:
    """Put the run's backup in the place of the source, and return the files that were moved aside."""
    from accession_airflow.approval import expect_approval

    if not job.params.restore_to:
        raise AirflowSkipException("The param restore_to is empty: the source is left as it is.")
    expect_approval(job, context, run)
    opened = job.load_run(run)
    place = job.find_place(opened)
    assert place is not None
    aside = opened.restore_source(place)
    logger.info("%s holds the backup of run %s; moved aside: %s", place, run, ", ".join(aside) or "nothing")
    return aside
