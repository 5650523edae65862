"""The part of Accession that knows Airflow, and nothing about rows.

Two DAG files of two lines each bring Accession into an Airflow, `make_dags(globals())` and `check_mappings(globals())`.
"""

from typing import Any


def make_dags(namespace: dict[str, Any], kind: str = "") -> None:
    """Put the DAGs of all sound mappings into the namespace of a DAG file: `make_dags(globals())`.

    The mappings are those of this repository, and of the folder that the setting `mappings` names. Without the setting
    it is the folder `mappings` beside the DAG file, if there is one. `kind` restricts the DAGs to `migrate` or
    `rollback`. A broken mapping is logged and left out. Raises MappingError if no mapping is sound.
    """
    from accession_airflow import dag_files

    dag_files.make_dags(namespace, kind)


def check_mappings(namespace: dict[str, Any]) -> None:
    """Raise MappingError that names every broken mapping: as a DAG file of its own, it is Airflow's import error.

    It takes a file of its own because Airflow takes all DAGs of a file with an import error out of service.
    """
    from accession_airflow import dag_files

    dag_files.check_mappings(namespace)
