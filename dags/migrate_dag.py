"""### Move a SQLite application database into DynamoDB

Nothing is written until every row of every table was read, transformed and checked; what is written is exactly the change
set that was shown; every item written is then proved equal to the source; and any run can be undone.

| task | what it does | when it fails |
| --- | --- | --- |
| `preflight` | checks params, source, bucket, tables, and that nobody else owns the target | nothing was written: the log says in one sentence what to mend |
| `backup` | copies the SQLite file as of one moment and names the run | nothing was written: trigger again |
| `stage` | one task per entity: makes every item, compares with the last run, writes the change set to S3 | nothing was written: clear the task, or trigger again |
| `plan` | adds it up; refuses too many rejects and conflicts | nothing was written: look into `rejects.csv`, mend the rows or raise `max_rejects` |
| `approve` | shows the numbers to a person, when the params ask for one | rejecting ends the run, nothing was written |
| `open_run` | takes the target; skips all below on a dry run or when there is nothing to do | another run has the target: its log prints the two commands that help |
| `migrate` | writes the puts and updates, parents first, part by part; safe to retry and to clear | retried by itself; a permanent error ends the run and rolls it back |
| `remove` | deletes what is gone from the source, children first | as `migrate` |
| `verify` | scans the tables, proves each item, asks the indexes | the keys are listed in `verification/`; the run is rolled back if `on_failure` says so |
| `rollback` | undoes the run when something above failed | the target stays open: `make rollback RUN=… ENVIRONMENT=…` |
| `report` | commits or records the end, writes `report.json` and `report.html`; fails unless all is well | read its log: it says what happened and what to do |

**At three in the morning.** Read the log of `report`: its last lines are the summary and the remedy. A run that failed
before `open_run` wrote nothing. After a rollback, clear `open_run` with its downstream tasks to write the same change set
again, or trigger a new run. A run that died and left the target open is finished with param `resume`, or undone with the
DAG `rollback_…`. Nothing else may write until one of the two was done.

**Stop a run** by marking it failed: what it wrote is undone (or kept, as `on_failure` says), and it is reported. Clearing a
task of a run that is committed writes nothing; clearing `backup` with its downstream tasks starts a new run.
"""

import os

from airflow.sdk import Asset, Context, TaskGroup, TriggerRule, dag, task

from accession.mapping import Mapping, load_mappings
from accession.params import MigrateParams
from accession_airflow import tasks
from accession_airflow.alerts import make_alerts
from accession_airflow.approval import PlanApprovalOperator
from accession_airflow.form import make_params
from accession_airflow.links import AuditLink
from accession_airflow.retries import RETRIES

SOURCE_QUEUE = os.environ.get("ACCESSION_SOURCE_QUEUE", "default")  # the workers that see the source
POOL = "dynamodb_writes"


def build(mapping: Mapping) -> None:
    """The DAG of one mapping."""

    @dag(
        dag_id=f"migrate_{mapping.name}",
        schedule=mapping.schedule,
        catchup=False,
        max_active_runs=1,
        params=make_params(MigrateParams),
        doc_md=__doc__,
        tags=["accession", mapping.name],
        default_args=RETRIES,
        **make_alerts(),
    )
    def migrate() -> None:
        @task(queue=SOURCE_QUEUE)
        def preflight(**context: Context):
            return tasks.preflight(mapping.name, context)

        @task(queue=SOURCE_QUEUE)
        def backup(**context: Context):
            return tasks.backup(mapping.name, context)

        @task
        def plan(run: str, **context: Context):
            return tasks.plan(mapping.name, context, run=run)

        @task(trigger_rule=TriggerRule.NONE_FAILED)
        def open_run(run: str, **context: Context):
            return tasks.open_run(mapping.name, context, run=run)

        @task(pool=POOL)
        def remove(run: str, epoch: int, **context: Context):
            return tasks.remove_items(mapping.name, context, run=run, epoch=epoch)

        @task(pool=POOL)
        def rollback(run: str, epoch: int, **context: Context):
            return tasks.rollback(mapping.name, context, run=run, epoch=epoch)

        @task(queue=SOURCE_QUEUE, outlets=[Asset(f"{mapping.name}_{entity}") for entity in mapping.order])
        def report(**context: Context):
            return tasks.report(mapping.name, context)

        def stage_entity(name: str):
            @task(task_id=name)
            def stage(run: str, id_maps: dict[str, str], **context: Context):
                return tasks.stage_entity(mapping.name, context, name=name, run=run, id_maps=id_maps)

            return stage

        def migrate_part(name: str):
            @task(task_id=name, pool=POOL, map_index_template="{{ label | default(ti.map_index) }}")
            def migrate(run: str, epoch: int, part: int, **context: Context):
                return tasks.migrate_part(mapping.name, context, name=name, run=run, epoch=epoch, part=part)

            return migrate

        def verify_entity(name: str):
            @task(task_id=name)
            def verify(run: str, **context: Context):
                return tasks.verify_entity(mapping.name, context, name=name, run=run)

            return verify

        @task
        def application(**context: Context):
            return tasks.ask_application(mapping.name, context)

        checked, run = preflight(), backup()
        checked >> run

        staged = {}
        with TaskGroup("stage") as stage_group:
            for name in mapping.order:
                id_maps = {parent: staged[parent]["id_map"] for parent in mapping.parents[name]}
                staged[name] = stage_entity(name)(run, id_maps)

        planned = plan(run)
        approve = PlanApprovalOperator(
            task_id="approve",
            subject="Write this change set?",
            body="{{ ti.xcom_pull(task_ids='plan')['text'] }}",
        )
        epoch = open_run(run)
        stage_group >> planned >> approve >> epoch

        migrated = {}
        with TaskGroup("migrate") as migrate_group:
            for name in mapping.order:
                migrated[name] = migrate_part(name).partial(run=run, epoch=epoch).expand(part=staged[name])
                for parent in mapping.parents[name]:
                    migrated[parent] >> migrated[name]

        removed = remove(run, epoch)
        with TaskGroup("verify") as verify_group:
            for name in mapping.order:
                verify_entity(name)(run)
            application()

        # Teardowns, so that they run when a person marks the run failed, and again when a writer is cleared. The report
        # comes last whatever was skipped, and alone decides how the run ends.
        undone = rollback(run, epoch).as_teardown(setups=epoch, on_failure_fail_dagrun=True)
        reported = report().as_teardown(setups=epoch, on_failure_fail_dagrun=True)
        reported.operator.trigger_rule = TriggerRule.ALL_DONE
        reported.operator.operator_extra_links = (AuditLink(),)
        epoch >> migrate_group >> removed >> verify_group >> undone >> reported

    migrate()


for found in load_mappings():
    build(found)
