"""The mapping files of a deployment: of this repository, and of the folder that the deployment names."""

import logging
from functools import lru_cache
from pathlib import Path

from accession.mapping import Mapping, check_mappings, find_mappings
from accession_airflow.settings import read_setting

logger = logging.getLogger(__name__)


def list_files(beside: Path) -> list[Path]:
    """Return the mapping files, sorted by name: of the repository, and of the folder that the setting `mappings` names.

    Without the setting it is `mappings` in the folder `beside`, if there is one. A relative path is taken from there.
    Raises MappingError if the folder that the setting names does not exist.
    """
    folder = beside / (read_setting("mappings") or "mappings")
    return find_mappings(folder if folder.is_dir() or read_setting("mappings") else None)


def index_mappings() -> dict[str, Mapping]:
    """Return the sound mappings by the ids of their migration DAGs, as their files are now.

    This is for processes that parse no DAG files: without the setting, the folder is that in Airflow's DAGs folder.
    """
    from airflow.configuration import conf

    files = list_files(Path(conf.get("core", "dags_folder")))
    return _load(tuple((file, _find_version(file)) for file in files))


def _find_version(file: Path) -> tuple[int, ...]:
    """Return what changes with a file; empty for one that vanished since it was listed."""
    try:
        about = file.stat()
    except FileNotFoundError:
        return ()
    return about.st_mtime_ns, about.st_size, about.st_ino


@lru_cache(maxsize=1)
def _load(versions: tuple[tuple[Path, tuple[int, ...]], ...]) -> dict[str, Mapping]:
    sound, errors = check_mappings(file for file, _ in versions)
    for error in errors:
        logger.warning("A mapping is left out of the audit pages. %s", error)
    return {f"migrate_{mapping.name}": mapping for mapping in sound.values()}
