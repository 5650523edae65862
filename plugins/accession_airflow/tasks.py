"""The bodies of the tasks: context in, one call of the library, a small dict out.

Heavy imports are inside the functions, because Airflow parses the DAG file again and again.
"""

import logging
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException

from accession.errors import ParamsError, RefusedError
from accession_airflow.job import Job, body, find_actor
from accession_airflow.states import gather_outcome, has_failed

logger = logging.getLogger(__name__)


@body
def preflight(job: Job, context: Any) -> dict[str, str]:
    """Check everything that can be checked before a run."""
    from accession.run import Run

    started = datetime.now(UTC).isoformat()
    with job.fetch_source() as source:
        Run.preflight(job.store, job.mapping, job.params, job.connect(), source, find_actor(context))
    return {"started_at": started, "ended_at": datetime.now(UTC).isoformat()}


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
    return run.name


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
    gate = job.load_run(run).open_run()
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
    return {"written": done.written, "already": done.already, "conflicts": len(done.conflicts)}


@body
def remove_items(job: Job, context: Any, run: str, epoch: int) -> dict[str, int]:
    """Delete the items that the change set deletes."""
    done = job.load_run(run).remove(epoch)
    return {"deleted": sum(one.written for one in done), "already": sum(one.already for one in done)}


@body
def verify_entity(job: Job, context: Any, name: str, run: str) -> dict[str, int]:
    """Prove one table."""
    proof = job.load_run(run).verify(name)
    return {"verified": proof.verified, "drifted": proof.drifted, "held": proof.held, "unexpected": proof.unexpected}


@body
def ask_application(job: Job, context: Any) -> int | None:
    """Request the application's URL, if the params give one, and return the status."""
    from accession.run import ask_application as ask

    return ask(job.params.app_url) if job.params.app_url else None


@body
def rollback(job: Job, context: Any, run: str, epoch: int) -> dict[str, Any]:
    """Undo the run if a task below `open_run` failed and the params say so; else skip."""
    if not has_failed(context):
        raise AirflowSkipException("All tasks succeeded: there is nothing to undo.")
    if job.params.on_failure == "keep":
        raise AirflowSkipException("A task failed, and on_failure is keep: the target stays open.")
    undone = job.load_run(run).rollback(find_actor(context))
    return {name: entity.model_dump() for name, entity in undone.entities.items()}


@body
def report(job: Job, context: Any) -> dict[str, Any]:
    """End the run: commit or record it, write the report, and fail unless the run succeeded."""
    from accession.artifacts import GOOD
    from accession.run import show_summary

    name = context["ti"].xcom_pull(task_ids="backup", key="run")
    run = job.load_run(name) if name is not None else None
    outcome = gather_outcome(job, context, run)
    if run is None:
        context["ti"].xcom_push(key="note", value="nothing was written, failed")
        raise RefusedError(
            f"The run ended before its backup, and nothing was written: {outcome.failure or 'a person stopped it.'}"
        )
    done = run.report(outcome)
    logger.info("%s", show_summary(done))
    logger.info("report: %s", run.folder.uri("report.html"))
    if done.status in GOOD and outcome.failure:
        raise RefusedError(f"Run {name} is {done.status} as before, but a cleared task failed: {outcome.failure}")
    context["ti"].xcom_push(key="note", value=done.note)  # the listener puts it on the run
    if done.status not in GOOD:
        raise RefusedError(f"Run {name} {done.status.replace('_', ' ')}: {done.reason or 'a person stopped it.'}")
    return {"run": name, "status": done.status, "note": done.note, "report": run.folder.uri("report.json")}


@body
def check_rollback(job: Job, context: Any) -> str:
    """Check that the run can be undone, and return its name."""
    if not job.params.run:
        raise ParamsError("Param run: name the run to undo, as its report or make audit does.")
    if not job.params.undo_tables and not job.params.restore_to:
        raise ParamsError("Params undo_tables and restore_to leave nothing to do: set at least one of them.")
    job.store.probe()
    run = job.load_run(job.params.run)
    if job.params.undo_tables:
        run.check_undo()
    manifest = run.manifest
    context["ti"].xcom_push(
        key="text", value=f"Undo run {manifest.run} of {manifest.started_at[:10]} in {manifest.environment}."
    )
    return run.name


@body
def undo_target(job: Job, context: Any, run: str) -> dict[str, Any]:
    """Undo the tables, prove it and close the target."""
    if not job.params.undo_tables:
        raise AirflowSkipException("The param undo_tables is false: the tables are left as they are.")
    undone = job.load_run(run).undo(find_actor(context), accept_conflicts=job.params.accept_conflicts)
    counts = {name: entity.model_dump() for name, entity in undone.entities.items()}
    for name, entity in counts.items():
        logger.info("%s: %s", name, ", ".join(f"{value:,} {key}" for key, value in entity.items() if key != "table"))
    return counts


@body
def restore_source(job: Job, context: Any, run: str) -> list[str]:
    """Put the run's backup in the place of the source, and return the files that were moved aside."""
    place = job.params.restore_to
    if not place:
        raise AirflowSkipException("The param restore_to is empty: the source is left as it is.")
    aside = job.load_run(run).restore_source(place)
    logger.info("%s holds the backup of run %s; moved aside: %s", place, run, ", ".join(aside) or "nothing")
    return aside
