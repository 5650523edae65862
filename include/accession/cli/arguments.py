"""What the arguments of `make` name: a mapping, and a source."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from accession.artifacts import client_config
from accession.commands import HOME_LIBRARY
from accession.errors import ParamsError
from accession.mapping import VARIABLE, Mapping, check_mappings, find_mappings
from accession.run import fetch_source


def find_mapping(name: str) -> Mapping:
    """Return the mapping of that name, or of the file with that path. Without either, the home library's.

    The folder of a path becomes the setting of the mappings' folder, so that Airflow finds the file as well. Raises
    MappingError or ParamsError.
    """
    sound, errors = check_mappings(find_files(name))
    if errors:
        raise errors[0]
    return next(iter(sound.values()))


def find_files(name: str) -> list[Path]:
    """Return the files of a mapping, as `find_mapping` names it: one if it is sound. Raises ParamsError."""
    if name.endswith(".yaml"):
        os.environ[VARIABLE] = str(Path(name).absolute().parent)
        name = Path(name).stem
    wanted, files = name or HOME_LIBRARY, find_mappings()
    found = [file for file in files if file.stem == wanted]
    if not found:
        known = ", ".join(file.stem for file in files)
        raise ParamsError(
            f"There is no mapping {wanted}: set MAPPING to one of {known or 'your own'}, or to the path of a .yaml "
            "file."
        )
    return found


@contextmanager
def open_source(source: str) -> Iterator[Path | None]:
    """Yield a source as a local file; one on S3 is fetched for as long. None if no source is named."""
    if not source.startswith("s3://"):
        yield Path(source) if source else None
        return
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        yield fetch_source(boto3.client("s3", config=client_config()), source, Path(folder), is_checkpointed=True)
