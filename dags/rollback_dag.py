"""### Undo a run

Restores every item that the run wrote or deleted to its state before, proves it, and closes the target. What the
application changed since is listed and kept: the undo then fails with the target still open, until it is triggered again
with `accept_conflicts`. With `restore_source` the run's backup is put back as well; what lies there is moved aside.

Only the run committed last can be undone, or the one that left the target open; undo a chain newest first.
"""

import os

from airflow.sdk import Context, TriggerRule, dag, task

from accession.mapping import Mapping, load_mappings
from accession.params import RollbackParams
from accession_airflow import tasks
from accession_airflow.alerts import make_alerts
from accession_airflow.approval import PlanApprovalOperator
from accession_airflow.form import make_params
from accession_airflow.retries import RETRIES

SOURCE_QUEUE = os.environ.get("ACCESSION_SOURCE_QUEUE", "default")  # the workers that see the source
POOL = "dynamodb_writes"


def build(mapping: Mapping) -> None:
    """The undo DAG of one mapping."""

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
        def check(**context: Context):
            return tasks.check_rollback(mapping.name, context)

        @task(pool=POOL, trigger_rule=TriggerRule.NONE_FAILED)
        def undo(run: str, **context: Context):
            return tasks.undo_target(mapping.name, context, run=run)

        @task(queue=SOURCE_QUEUE, trigger_rule=TriggerRule.NONE_FAILED)
        def restore(run: str, **context: Context):
            return tasks.restore_source(mapping.name, context, run=run)

        run = check()
        approve = PlanApprovalOperator(
            task_id="approve",
            subject="Undo this run?",
            body="{{ ti.xcom_pull(task_ids='check', key='text') }}",
        )
        run >> approve >> undo(run) >> restore(run)

    rollback()


for found in load_mappings():
    build(found)
