"""The migration DAG of each mapping for Airflow. The wiring is in plugins/accession_airflow/migrate_dag.py."""

from accession_airflow import make_dags

make_dags(globals(), "migrate")
