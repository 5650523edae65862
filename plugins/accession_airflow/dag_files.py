"""The calls of the DAG files: make the DAGs of the mappings, and check the mappings."""

import logging
from pathlib import Path
from typing import Any

from accession import mapping
from accession.errors import MappingError
from accession_airflow.mappings import list_files
from accession_airflow.migrate_dag import make_migration
from accession_airflow.rollback_dag import make_undo

logger = logging.getLogger(__name__)

MAKERS = {"migrate": make_migration, "rollback": make_undo}


def make_dags(namespace: dict[str, Any], kind: str) -> None:
    """Put the DAGs of all sound mappings into `namespace`. Raises MappingError if no mapping is sound."""
    sound, errors = _load(namespace)
    for error in errors:
        logger.error("A mapping is left out. %s", error)
    if errors and not sound:
        raise errors[0]
    if not sound:
        raise MappingError(
            f"{_find_folder(namespace)}: there is no mapping: put one into the folder mappings beside this file, or "
            "name its folder by the setting mappings."
        )
    for file, found in sound.items():
        for name in [kind] if kind else MAKERS:
            dag = MAKERS[name](found, file)
            namespace[dag.dag_id] = dag


def check_mappings(namespace: dict[str, Any]) -> None:
    """Raise MappingError with the sentences of all broken mappings."""
    _, errors = _load(namespace)
    if errors:
        raise MappingError("\n".join(str(error) for error in errors))


def _load(namespace: dict[str, Any]) -> tuple[dict[Path, mapping.Mapping], list[MappingError]]:
    return mapping.check_mappings(list_files(_find_folder(namespace)))


def _find_folder(namespace: dict[str, Any]) -> Path:
    return Path(namespace["__file__"]).parent
