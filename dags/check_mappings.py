"""An import error of this file names a broken mapping, which has no DAG in Airflow until it is corrected."""

from accession_airflow import check_mappings

check_mappings(globals())
