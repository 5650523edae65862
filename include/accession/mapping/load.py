"""Load mapping files. Every error names the file, the entity and the field, and says what is allowed there."""

import hashlib
import os
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from accession.errors import MappingError
from accession.mapping.model import Mapping
from accession.place import ROOT
from accession.validation import explain_faults

MAPPINGS = ROOT / "mappings"  # of this repository; the wheel brings none
VARIABLE = "ACCESSION_MAPPINGS"  # the alias of the setting `mappings`, for what runs without Airflow


class _Strict(yaml.constructor.SafeConstructor):
    """Construct YAML strictly: a key that occurs twice is an error, and numbers keep every digit."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value]
        for number, key in enumerate(keys):
            if any(key.value == earlier.value for earlier in keys[:number]):
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} occurs twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> Decimal | float:
        try:
            return Decimal(str(self.construct_scalar(node)).replace("_", ""))
        except InvalidOperation:  # .inf, .nan, and numbers to the base of 60
            return self.construct_yaml_float(node)


class _Loader(_Strict, yaml.SafeLoader):
    """The parser in Python. It knows the line of a fault."""


class _FastLoader(_Strict, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # one of two
    """The parser in C, a tenth of the cost: Airflow parses the DAGs, and so the mappings, again and again."""


for _loader in (_Loader, _FastLoader):
    _loader.add_constructor("tag:yaml.org,2002:float", _Strict.construct_number)  # type: ignore[type-var]  # it is one


def _parse(raw: bytes) -> Any:
    try:
        return yaml.load(raw, _FastLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError):
        return yaml.load(raw, _Loader)  # noqa: S506  a SafeLoader, too


def load_mapping(path: Path | str) -> Mapping:
    """Read and validate a mapping file.

    Raises MappingError naming file, entity and field of every fault that was found. Read-only.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise MappingError(f"{path}: the mapping cannot be read ({error.strerror}): check its path.") from error
    try:
        data = _parse(raw)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise MappingError(f"{path}{where}: this is not valid YAML ({getattr(error, 'problem', error)}).") from error
    if not isinstance(data, dict):
        raise MappingError(f"{path}: a mapping has the keys name and entities at its top.")
    entities = data.get("entities")
    if isinstance(entities, dict):
        for name, entity in entities.items():
            if isinstance(entity, dict) and "name" in entity:
                raise MappingError(f"{path}: entities.{name}.name: there is no such key, {name} is the name.")
        named = {n: {**e, "name": n} if isinstance(e, dict) else e for n, e in entities.items()}
        data = {**data, "entities": named}
    if "sha256" in data:
        raise MappingError(f"{path}: sha256: there is no such key, it is computed.")
    try:
        return Mapping.model_validate({**data, "sha256": hashlib.sha256(raw).hexdigest()})
    except ValidationError as error:
        faults = explain_faults(error, Mapping)
        raise MappingError(f"{path}: {'. '.join(faults)}.", [f"{fault}." for fault in faults]) from error
    except UnicodeEncodeError as error:
        raise MappingError(
            f"{path}: a text in it is not valid Unicode: correct the escape \\u{ord(error.object[error.start]):04x}."
        ) from error


def find_line(path: Path, fault: str) -> int | None:
    """Return the line of the field that a fault begins with, as in "entities.book.source: …"; of the nearest field
    above it if the file does not have it. Return None if there is none."""
    node: Any = yaml.compose(path.read_text(), _Loader)
    line, rest = None, fault
    while isinstance(node, yaml.MappingNode):
        named = [(key, value) for key, value in node.value if rest.startswith((f"{key.value}.", f"{key.value}:"))]
        if not named:
            break
        key, node = named[0]
        line, rest = key.start_mark.line + 1, rest[len(key.value) + 1 :].lstrip()
    return line


def name_folder() -> Path:
    """Return the folder of the user's mappings: what `ACCESSION_MAPPINGS` names, else that of this repository."""
    return Path(os.environ.get(VARIABLE) or MAPPINGS)


def find_mappings(folder: Path | None = None) -> list[Path]:
    """Return the mapping files of `folder` and of this repository, sorted by name: one pair of DAGs each.

    Without `folder`, the environment variable `ACCESSION_MAPPINGS` may name one. Raises MappingError if that folder
    does not exist.
    """
    named = folder or os.environ.get(VARIABLE)
    if named and not Path(named).is_dir():
        raise MappingError(f"{named}: this folder of mappings does not exist: create it, or correct the setting.")
    folders = {MAPPINGS.resolve(), Path(named).resolve()} if named else {MAPPINGS}
    return sorted((path for one in folders for path in one.glob("*.yaml")), key=lambda path: (path.name, path))


def check_mappings(paths: Iterable[Path]) -> tuple[dict[Path, Mapping], list[MappingError]]:
    """Return the sound mappings by their files, and the errors of the others.

    Besides its own faults, a mapping has an error if its file does not have its name, or if two files have one name:
    the ids of their DAGs would be the same.
    """
    names: dict[str, list[Path]] = {}
    for path in paths:
        names.setdefault(path.stem, []).append(path)
    sound: dict[Path, Mapping] = {}
    errors: list[MappingError] = []
    for name, (path, *others) in names.items():
        try:
            if others:
                raise MappingError(f"{path}: {others[0]} has the same name: rename one of them, and the mapping in it.")
            mapping = load_mapping(path)
            if mapping.name != name:
                raise MappingError(f"{path}: name: {mapping.name} is not the file's name: rename one of them.")
        except MappingError as error:
            errors.append(error)
        else:
            sound[path] = mapping
    return sound, errors
