"""### Undo a run

Restores every item that the run wrote or deleted to its state before, proves the result and closes the target. Items
that the application changed since are listed and kept. In that case the undo fails and the target stays open: look at
the items, then trigger the undo again with `accept_conflicts`. With `restore_to` the run's backup is restored too, to the
source of the run or where else the deployment allows; a database that is already there is moved aside.

Only the last committed run can be undone, or the run that left the target open. Undo several runs newest first.

| task | what it does | if it fails |
| --- | --- | --- |
| `check` | checks the params, the bucket and the tables, and finds the run | nothing was changed; its log says what to change |
| `approve` | asks a person and waits, unless the deployment needs no approval | nothing was changed; a rejection, or no answer in time, ends the undo |
| `undo` | takes the target, undoes the tables, proves the result; safe to repeat | the target stays open; read the log, then trigger the undo again |
| `restore` | restores the backup to `restore_to` | the tables are undone already; trigger again with `undo_tables` off and another `restore_to` |
"""

from pathlib import Path
from typing import Any, Unpack

from airflow.sdk import DAG, Context, TriggerRule, dag, task

from accession.mapping import Mapping
from accession.params import RollbackParams
from accession_airflow import tasks
from accession_airflow.alerts import make_alerts
from accession_airflow.approval import PlanApprovalOperator
from accession_airflow.asset_events import make_outlet
from accession_airflow.form import make_params
from accession_airflow.retries import RETRIES
from accession_airflow.settings import find_source_queue

POOL = "dynamodb_writes"


def make_undo(mapping: Mapping, file: Path) -> DAG:
    """Return the undo DAG of a mapping. Its tasks load the mapping from its file again."""
    queue = find_source_queue()

    @dag(
        dag_id=f"rollback_{mapping.name}",
        schedule=None,
        catchup=False,
        max_active_runs=16,  # of different targets; a target has one owner
        params=make_params(RollbackParams),
        doc_md=__doc__,
        tags=["accession", mapping.name],
        default_args=RETRIES,
        **make_alerts(),
    )
    def rollback() -> None:
        @task
        def check(**context: Unpack[Context]) -> str:
            return tasks.check_rollback(file, context)

        @task(pool=POOL, trigger_rule=TriggerRule.NONE_FAILED, outlets=[make_outlet(mapping.name)])
        def undo(run: str, **context: Unpack[Context]) -> Any:
            return tasks.undo_target(file, context, run=run)

        @task(queue=queue, trigger_rule=TriggerRule.NONE_FAILED)
        def restore(run: str, **context: Unpack[Context]) -> list[str]:
            return tasks.restore_source(file, context, run=run)

        run: Any = check()
        approve = PlanApprovalOperator(
            task_id="approve",
            mapping_file=file,
            subject="Undo this run?",
            body="{{ ti.xcom_pull(task_ids='check', key='text') }}",
        )
        run >> approve >> undo(run) >> restore(run)

    made: DAG = rollback()
    return made
