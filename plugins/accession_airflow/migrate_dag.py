"""### Migrate a SQLite application database to DynamoDB

Every row of every table is read, transformed and checked before anything is written. The run then writes exactly the
change set that it showed, proves that every item equals its source row, and can be undone.

| task | what it does | if it fails |
| --- | --- | --- |
| `preflight` | checks the params, the source, the bucket and the tables, and that no other run has the target | nothing was written; its log says what to change |
| `backup` | copies the SQLite file as of one moment and names the run | nothing was written; trigger a new run |
| `stage` | one task per entity: makes every item, compares it with the last run, writes the change set to S3 | nothing was written; clear the task, or trigger a new run |
| `plan` | adds up the change set; refuses too many rejects, row ids that changed, and conflicts | nothing was written; read `rejects.csv`, then correct the rows or raise `max_rejects` |
| `approve` | shows the plan to a person and waits, unless the deployment or a schedule needs no approval | nothing was written; a rejection, or no answer in time, ends the run |
| `open_run` | takes the target; skips all later tasks in a dry run or if there is nothing to write | another run has the target; the log prints the commands that resume or undo it |
| `migrate` | writes puts and updates part by part, parents first; safe to retry and to clear | it is retried; a permanent error ends the run and rolls it back |
| `remove` | deletes the items of rows that are gone from the source, children first | as `migrate` |
| `verify` | scans the tables, proves every item, queries the indexes, requests `app_url` | the keys are listed in `verification/`; the run is rolled back unless `on_failure` is `keep` |
| `rollback` | undoes the run if a task above failed | the target stays open; run `make rollback RUN=… ENVIRONMENT=…` |
| `report` | commits the run or records its failure, writes `report.json` and `report.html`; fails unless all is well | its log says what happened and what to do |

**A run failed.** Read the log of `report`. Its last lines say what happened and what to do. If the run failed before
`open_run`, it wrote nothing. After a rollback, clear `open_run` with its downstream tasks to write the same change set
again, or trigger a new run. If the run died and left the target open, resume it with the param `resume`, or undo it with
the DAG `rollback_…`. Until then no other run can write.

**Stop a run** by marking it failed. What it wrote is undone, or kept if `on_failure` is `keep`, and the report is written.
Clearing a task of a committed run writes nothing. Clearing `backup` with its downstream tasks starts a new run.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

from airflow.sdk import DAG, Context, TaskGroup, TriggerRule, dag, task
from airflow.sdk.definitions.param import ParamsDict

from accession.mapping import Mapping
from accession.params import MigrateParams
from accession_airflow import tasks
from accession_airflow.alerts import make_alerts
from accession_airflow.approval import PlanApprovalOperator
from accession_airflow.asset_events import make_outlet
from accession_airflow.form import make_params
from accession_airflow.links import AuditLink
from accession_airflow.retries import RETRIES
from accession_airflow.settings import find_source_queue

POOL = "dynamodb_writes"
MANY = 12  # entities; more are shown in groups by level


def _each_level(mapping: Mapping) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield the groups of entities level by level, parents first. Tasks that are made meanwhile are shown together if
    there are many entities."""
    if len(mapping.entities) <= MANY:
        yield mapping.groups
        return
    for number, level in enumerate(mapping.levels):
        with TaskGroup(f"level-{number}", tooltip=", ".join(chain(*level))):  # no entity has a hyphen in its name
            yield level


def make_migration(mapping: Mapping, file: Path) -> DAG:
    """Return the migration DAG of a mapping. Its tasks load the mapping from its file again."""
    queue = find_source_queue()

    @dag(
        dag_id=f"migrate_{mapping.name}",
        schedule=mapping.schedule,
        catchup=False,
        max_active_runs=16,  # of different targets; a target has one owner
        doc_md=__doc__,
        tags=["accession", mapping.name],
        default_args=RETRIES,
        **make_alerts(),
    )
    def migrate() -> None:
        # Airflow would split the result of a task that is annotated to return a dict into an XCom for each key. Such a task
        # is annotated with Any. So is what a call of a task returns here: it stands for the result, and can also be wired.

        @task(queue=queue)
        def preflight(**context: Unpack[Context]) -> Any:
            return tasks.preflight(file, context)

        @task(queue=queue)
        def backup(**context: Unpack[Context]) -> str:
            return tasks.backup(file, context)

        @task
        def plan(run: str, **context: Unpack[Context]) -> Any:
            return tasks.plan(file, context, run=run)

        @task(trigger_rule=TriggerRule.NONE_FAILED)
        def open_run(run: str, **context: Unpack[Context]) -> int:
            return tasks.open_run(file, context, run=run)

        @task(pool=POOL)
        def remove(run: str, epoch: int, **context: Unpack[Context]) -> Any:
            return tasks.remove_items(file, context, run=run, epoch=epoch)

        @task(pool=POOL)
        def rollback(run: str, epoch: int, **context: Unpack[Context]) -> Any:
            return tasks.rollback(file, context, run=run, epoch=epoch)

        @task(queue=queue, outlets=[make_outlet(mapping.name)])
        def report(**context: Unpack[Context]) -> Any:
            return tasks.report(file, context)

        def stage_entity(name: str) -> Any:
            @task(task_id=name)
            def stage(run: str, id_maps: dict[str, str], **context: Unpack[Context]) -> list[int]:
                return tasks.stage_entity(file, context, name=name, run=run, id_maps=id_maps)

            return stage

        def migrate_part(name: str) -> Any:
            @task(task_id=name, pool=POOL, map_index_template="{{ label | default(ti.map_index) }}")
            def migrate(run: str, epoch: int, part: int, **context: Unpack[Context]) -> Any:
                return tasks.migrate_part(file, context, name=name, run=run, epoch=epoch, part=part)

            return migrate

        def verify_entity(name: str) -> Any:
            @task(task_id=name)
            def verify(run: str, **context: Unpack[Context]) -> Any:
                return tasks.verify_entity(file, context, name=name, run=run)

            return verify

        @task(task_id="application" if "application" not in mapping.entities else "ask_application")
        def application(run: str, **context: Unpack[Context]) -> int | None:
            return tasks.ask_application(file, context, run=run)

        checked = preflight()
        run: Any = backup()
        checked >> run

        staged: dict[str, Any] = {}
        with TaskGroup("stage") as stage_group:
            for level in _each_level(mapping):
                for first, *others in level:
                    id_maps = {parent: staged[parent]["id_map"] for parent in mapping.find_group_parents(first)}
                    staged[first] = stage_entity(first)(run, id_maps)
                    for name in others:  # they are staged by the task of the first, and find their results
                        staged[name] = stage_entity(name)(run, {})
                        staged[first] >> staged[name]

        planned = plan(run)
        approve = PlanApprovalOperator(
            task_id="approve",
            mapping_file=file,
            subject="Write this change set?",
            body="{{ ti.xcom_pull(task_ids='plan')['text'] }}",
        )
        epoch: Any = open_run(run)
        stage_group >> planned >> approve >> epoch

        migrated: dict[str, Any] = {}
        with TaskGroup("migrate") as migrate_group:
            for level in _each_level(mapping):
                for name in chain(*level):
                    migrated[name] = migrate_part(name).partial(run=run, epoch=epoch).expand(part=staged[name])
                    for parent in mapping.parents[name]:
                        migrated[parent] >> migrated[name]

        removed = remove(run, epoch)
        with TaskGroup("verify") as verify_group:
            verified: dict[str, Any] = {}
            for level in _each_level(mapping):
                for name in chain(*level):
                    verified[name] = verify_entity(name)(run)
                    first = mapping.find_table_mates(name)[0]
                    if first != name:  # it proves the table, and the others find their results
                        verified[first] >> verified[name]
            application(run)

        # Both are teardowns, since those run when a person marks the run failed, and again when a writer is cleared. The
        # report runs last, whatever was skipped, and it alone decides whether the run fails.
        undone = rollback(run, epoch).as_teardown(setups=epoch, on_failure_fail_dagrun=True)
        reported: Any = report().as_teardown(setups=epoch, on_failure_fail_dagrun=True)
        reported.operator.trigger_rule = TriggerRule.ALL_DONE
        reported.operator.operator_extra_links = (AuditLink(),)
        epoch >> migrate_group >> removed >> verify_group >> undone >> reported

    made: DAG = migrate()
    made.params = ParamsDict(make_params(MigrateParams))  # last, since each task would copy those of its DAG four times
    return made
