"""What knows Airflow, and nothing about rows."""
