"""Leave in Airflow's database what a task pushed, without the task."""

import json
import sqlite3
from contextlib import closing
from typing import Any

from conftest import AIRFLOW_HOME


def push(dag_id: str, run_id: str, task_id: str, key: str, value: Any) -> None:
    """Insert an XCom of a run that is there. Airflow's own way needs an instance of the task as well."""
    with closing(sqlite3.connect(AIRFLOW_HOME / "airflow.db", timeout=60)) as database, database:
        database.execute(
            "INSERT INTO xcom (dag_run_id, task_id, map_index, key, dag_id, run_id, value, timestamp) "
            "SELECT id, ?, -1, ?, dag_id, run_id, ?, '2026-01-05 12:00:00' FROM dag_run "
            "WHERE dag_id = ? AND run_id = ?",
            (task_id, key, json.dumps(json.dumps(value)), dag_id, run_id),
        )


def forget(*run_ids: str) -> None:
    """Remove what was pushed in these runs."""
    with closing(sqlite3.connect(AIRFLOW_HOME / "airflow.db", timeout=60)) as database, database:
        database.executemany("DELETE FROM xcom WHERE run_id = ?", [(run_id,) for run_id in run_ids])
