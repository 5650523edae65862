"""The Airflow plugin of Accession: the run's note."""

from typing import ClassVar

from airflow.plugins_manager import AirflowPlugin

from accession_airflow import listener


class AccessionPlugin(AirflowPlugin):
    """What Accession adds to Airflow."""

    name = "accession"
    listeners: ClassVar = [listener]
