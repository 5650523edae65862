"""The undo DAG of each mapping for Airflow. The wiring is in plugins/accession_airflow/rollback_dag.py."""

from accession_airflow import make_dags

make_dags(globals(), "rollback")
