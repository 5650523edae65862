"""The part of Accession that knows Airflow, and nothing about rows."""
