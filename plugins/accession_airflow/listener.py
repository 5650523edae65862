"""Copy what a run did to the note of the Airflow run: "3 put, 1 deleted, 25,996 unchanged, verified"."""

from typing import Any

from airflow.listeners import hookimpl

NOTE = "accession_note"
"""The key under which our task `report` leaves the note. Another team may also have a DAG called migrate_…."""


@hookimpl
def on_dag_run_success(dag_run: Any, msg: str) -> None:
    """Set the note of a run that succeeded. The scheduler calls this."""
    _set_note(dag_run)


@hookimpl
def on_dag_run_failed(dag_run: Any, msg: str) -> None:
    """Set the note of a run that failed. The scheduler calls this."""
    _set_note(dag_run)


def _set_note(dag_run: Any) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy.orm import object_session

    if not dag_run.dag_id.startswith("migrate_"):
        return
    session = object_session(dag_run)
    if session is not None:
        _copy_note(dag_run, session)
        return
    with create_session() as session:  # the run of `airflow dags test` belongs to no session
        _copy_note(session.get_one(DagRun, dag_run.id), session)


def _copy_note(dag_run: Any, session: Any) -> None:
    from airflow.models.xcom import XComModel

    query = XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, task_ids="report", key=NOTE)
    found = session.scalars(query).first()
    if found is not None:
        dag_run.note = XComModel.deserialize_value(found)
