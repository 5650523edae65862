"""### Undo a run

Restores every item that the run wrote or deleted to its state before, proves the result and closes the target. Items
that the application changed since are listed and kept. In that case the undo fails and the target stays open: look at
the items, then trigger the undo again with `accept_conflicts`. With `restore_to` the run's backup is restored too; a file
that is already there is moved aside.

Only the last committed run can be undone, or the run that left the target open. Undo several runs newest first.

| task | what it does | if it fails |
| --- | --- | --- |
| `check` | checks the params, the bucket and the tables, and finds the run | nothing was changed; its log says what to change |
| `approve` | asks a person if the params ask for approval | nothing was changed; a rejection ends the undo |
| `undo` | takes the target, undoes the tables, proves the result; safe to repeat | the target stays open; read the log, then trigger the undo again |
| `restore` | restores the backup to `restore_to` | the tables are undone already; trigger again with `undo_tables` off and another `restore_to` |
"""

import os
from typing import Any, Unpack

from airflow.sdk import Context, TriggerRule, dag, task

from accession.mapping import Mapping, load_mappings
from accession.params import RollbackParams
from accession_airflow import tasks
from accession_airflow.alerts import make_alerts
from accession_airflow.approval import PlanApprovalOperator
from accession_airflow.form import make_params
from accession_airflow.retries import RETRIES

SOURCE_QUEUE = os.environ.get("ACCESSION_SOURCE_QUEUE", "default")  # of the workers that can read the source
POOL = "dynamodb_writes"


def build(mapping: Mapping) -> None:
    """Build the undo DAG of one mapping."""

    @dag(
        dag_id=f"rollback_{mapping.name}",
        schedule=None,
        catchup=False,
        max_active_runs=1,
        params=make_params(RollbackParams),
        doc_md=__doc__,
        tags=["accession", mapping.name],
        default_args=RETRIES,
        **make_alerts(),
    )
    def rollback() -> None:
        @task
        def check(**context: Unpack[Context]) -> str:
            return tasks.check_rollback(mapping.name, context)

        @task(pool=POOL, trigger_rule=TriggerRule.NONE_FAILED)
        def undo(run: str, **context: Unpack[Context]) -> Any:
            return tasks.undo_target(mapping.name, context, run=run)

        @task(queue=SOURCE_QUEUE, trigger_rule=TriggerRule.NONE_FAILED)
        def restore(run: str, **context: Unpack[Context]) -> list[str]:
            return tasks.restore_source(mapping.name, context, run=run)

        run: Any = check()
        approve = PlanApprovalOperator(
            task_id="approve",
            subject="Undo this run?",
            body="{{ ti.xcom_pull(task_ids='check', key='text') }}",
        )
        run >> approve >> undo(run) >> restore(run)

    rollback()


for found in load_mappings():
    build(found)
