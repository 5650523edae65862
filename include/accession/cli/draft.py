"""Draft a mapping from a database: `make draft SOURCE=x.db NAME=shop`.

If the file is there already, it is compared with the database and stays as it is.
"""

import argparse
import re
import shlex
from pathlib import Path

from accession.draft import Draft, compare_schema, draft_mapping
from accession.errors import ParamsError, SourceError
from accession.mapping import MAPPINGS, NAME, NAME_ALLOWED, load_mapping, name_folder

USAGE = "make draft SOURCE=/path/to/shop.db NAME=shop"
OPTIONS = {
    "source": "path of the SQLite file",
    "name": "name of the mapping, and of its file without .yaml",
    "new-ids": "1: integer keys get new ids",
    "out": "folder of the mapping, or its file; default the folder of all mappings",
}


def draft(options: argparse.Namespace) -> int:
    """Write a mapping of all tables, or compare the one that is there. Return 1 if that one differs."""
    source, name = _read_source(options.source), _read_name(options.name)
    path = _find_place(options.out, name)
    if path.exists():
        return _compare(source, path)
    drafted = draft_mapping(source, name, new_ids=_read_flag(options.new_ids))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(drafted.text)
    except OSError as error:
        raise ParamsError(f"{path} cannot be written ({error.strerror}): name another folder with OUT.") from error
    load_mapping(path)
    _show(drafted, path)
    _show_next(source, path)
    return 0


def _compare(source: Path, path: Path) -> int:
    found = compare_schema(source, load_mapping(path))
    if found:
        print(f"{path} is there already and stays as it is. It differs from {source}:")
        print("\n".join(f"  {sentence}" for sentence in found))
        print("Edit it, or write a new draft into another folder with OUT.")
        return 1
    print(f"{path} is there already and stays as it is. It names every table and column of {source}.")
    return 0


def _show(drafted: Draft, path: Path) -> None:
    entities = drafted.entities
    kept = sum(not isinstance(entity.target_key, str) for entity in entities)
    references = sum("references" in attribute.settings for entity in entities for attribute in entity.attributes)
    indexes = sum(len(entity.indexes) for entity in entities)
    print(f"Wrote {path}.")
    print(f"tables: {len(entities)}, {kept} of them with their own keys and {len(entities) - kept} with new ids")
    print(f"references: {references}")
    print(f"indexes: {indexes}")
    for sentence in drafted.left_out_sentences:
        print(sentence)
    if drafted.questions:
        print("Open questions, which are also comments in the file:")
        print("\n".join(f"  {question}" for question in drafted.questions))


def _show_next(source: Path, path: Path) -> None:
    is_found = path.parent.resolve() in (MAPPINGS.resolve(), name_folder().resolve())
    mapping = shlex.quote(path.stem if is_found else str(path))
    place = shlex.quote(str(source))
    print(f"check: make lint-mapping MAPPING={mapping} SOURCE={place}")
    print(f"next: make deploy MAPPING={mapping} ENVIRONMENT=dev")
    print(f"then: make migrate MAPPING={mapping} SOURCE={place} ENVIRONMENT=dev")


def _read_source(given: str) -> Path:
    if not given.strip():
        raise ParamsError(f"SOURCE is missing: {USAGE}.")
    if given.startswith("s3://"):
        raise SourceError(f"{given} is not on this machine: download it, with its -wal if there is one, and name that.")
    return Path(given)


def _read_name(given: str) -> str:
    if not given.strip():
        raise ParamsError(f"NAME is missing: {USAGE}.")
    if not re.search(NAME, given):
        raise ParamsError(f"NAME must be {NAME_ALLOWED['allowed']}: {USAGE}.")
    return given


def _find_place(out: str, name: str) -> Path:
    if out.endswith(".yaml") and Path(out).stem != name:
        raise ParamsError(f"OUT names the file {Path(out).name}, and the file of {name} is {name}.yaml.")
    return Path(out) if out.endswith(".yaml") else Path(out or name_folder()) / f"{name}.yaml"


def _read_flag(given: str) -> bool:
    if given not in ("", "0", "1"):
        raise ParamsError("NEW_IDS must be 1 or nothing: 1 gives integer keys new ids.")
    return given == "1"
