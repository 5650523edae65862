"""The states of a run's tasks in Airflow, and the outcome of the run that follows from them.

Heavy imports are inside the functions, because Airflow parses the DAG file again and again.
"""

import logging
from typing import Any

from accession.errors import AccessionError
from accession_airflow.job import Job, find_actor

logger = logging.getLogger(__name__)

WRITERS = ("migrate", "remove", "verify")


def has_failed(context: Any) -> bool:
    """Tell whether a writer or a proof of this run did not succeed."""
    return any(state != "success" for state in _find_states(context, WRITERS).values())


def _find_states(context: Any, prefixes: tuple[str, ...]) -> dict[str, str]:
    """Return the state of each task whose group has one of these names, by task id and map index."""
    dag, run_id = context["dag"], context["dag_run"].run_id
    task_ids = [task_id for task_id in dag.task_ids if task_id.split(".")[0] in prefixes]
    states = context["ti"].get_task_states(dag_id=dag.dag_id, task_ids=task_ids, run_ids=[run_id])
    return {task: str(state) for task, state in states.get(run_id, {}).items()}


def list_errors(context: Any) -> list[dict[str, str]]:
    """Return message and kind of each error that a task of this run left, in the order of the DAG."""
    task_ids = [task_id for task_id in context["dag"].task_ids if task_id != "report"]
    return [error for error in context["ti"].xcom_pull(task_ids=task_ids, key="error") if error]


def gather_outcome(job: Job, context: Any, run: Any) -> Any:
    """Return the outcome of the run, as Airflow saw it."""
    from accession.artifacts import Step
    from accession.run import Outcome

    ti = context["ti"]
    states = _find_states(
        context, ("preflight", "backup", "stage", "plan", "approve", "open_run", *WRITERS, "rollback")
    )
    failed = [task for task, state in states.items() if state in ("failed", "upstream_failed")]
    errors = list_errors(context)
    first = next((task for task in failed if states[task] == "failed"), None)
    failure = errors[0]["message"] if errors and failed else (f"Task {first} failed: see its log." if first else None)
    answer = ti.xcom_pull(task_ids="approve", key="answer") or {}
    checked = ti.xcom_pull(task_ids="preflight")
    drift = _find_drift(job, run) if run is not None else None
    return Outcome(
        is_verified=all(state == "success" for task, state in states.items() if task.split(".")[0] in WRITERS),
        is_rolled_back=states.get("rollback") == "success",
        is_refused=bool(failed) and bool(errors) and errors[0]["kind"] == "RefusedError",
        failure=failure,
        rejected_by=answer.get("by") if answer.get("chosen") == ["Reject"] else None,
        approved_by=answer.get("by") if answer.get("chosen") == ["Approve"] else None,
        by=find_actor(context) if job.params.resume else None,
        epoch=ti.xcom_pull(task_ids="open_run"),
        preflight=Step(name="preflight", **checked) if checked else None,
        source_at_end="unknown" if drift is None else "changed" if drift.changed else "unchanged",
        source_rows_now=drift.rows_now if drift else None,
    )


def _find_drift(job: Job, run: Any) -> Any:
    """Compare the source with the backup; return None if the source cannot be read any more."""
    if job.params.resume:
        return None
    try:
        with job.fetch_source() as source:
            return run.find_drift(source)
    except AccessionError as error:
        logger.warning("The source could not be compared with its backup: %s", error)
        return None
