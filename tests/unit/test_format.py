"""docs/format.md names every field of every stored document, and the fields in its tables are those that are stored."""

import hashlib
import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from accession import artifacts, target
from accession.artifacts import change_set, create_id_map, execution, manifest, plan, report, rollback, verification
from accession.items import KeySchema, checksum_item
from accession.target import state
from verify_register import canonical_json

PAGE = (Path(__file__).parents[2] / "docs/format.md").read_text()
STORED: dict[str, tuple[type[BaseModel], ...]] = {
    "state.json": (state.State, state.Open, state.Tail, state.Seal),
    "Records": (state.LogRecord,),
    "Manifest": (manifest.Manifest, manifest.SnapshotRef),
    "Index": (change_set.StagedEntity, change_set.Part),
    "Counts": (change_set.Counts,),
    "Plan": (plan.Plan, plan.EntityPlan),
    "Progress": (execution.Execution, execution.TableLimit, execution.WriteConflict),
    "Verification": (verification.Verification, verification.Problem),
    "Rollback": (rollback.Rollback, rollback.Undone),
    "Report": (report.Report, report.EntityReport, report.TableReport, report.Amount, report.Step),
}
MODELS = {heading: {name for model in models for name in model.model_fields} for heading, models in STORED.items()}
OTHERS = {"Index": {field.name for field in fields(KeySchema)}, "Parts": set(change_set.Change._fields)}


def read_section(heading: str) -> str:
    """Return what follows a heading, up to the next one."""
    found = re.search(rf"^### {re.escape(heading)}\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def find_names(text: str) -> set[str]:
    """Return every word in a code span."""
    return {name for span in re.findall(r"`([^`\n]+)`", text) for name in re.findall(r"\w+", span)}


def find_models(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from find_models(model)


def test_every_stored_document_has_its_section() -> None:
    packages = (f"{artifacts.__name__}.", f"{target.__name__}.")
    models = {model for model in find_models(BaseModel) if model.__module__.startswith(packages)}
    bases = {base for model in models for base in model.__bases__}
    assert models - bases == {model for models in STORED.values() for model in models}


@pytest.mark.parametrize("heading", [*STORED, "Parts"])
def test_the_page_names_every_field(heading: str) -> None:
    stored = MODELS.get(heading, set()) | OTHERS.get(heading, set())
    assert stored - find_names(read_section(heading)) == set()


@pytest.mark.parametrize("heading", [*STORED, "Parts"])
def test_the_page_names_no_field_that_is_not_stored(heading: str) -> None:
    """Found when the index still had the field `indexes` on the page."""
    first_cells = "".join(re.findall(r"^\| (`[^|]+)\|", read_section(heading), re.MULTILINE))
    named = find_names(first_cells)
    assert named
    assert named - MODELS.get(heading, set()) - OTHERS.get(heading, set()) == set()


def test_the_page_names_every_column_of_an_id_map(tmp_path: Path) -> None:
    file = tmp_path / "id_map.db"
    create_id_map(file, "INTEGER").close()
    with closing(sqlite3.connect(file)) as db:
        columns = {
            column for table in ("id_map", "rejects") for (_, column, *_) in db.execute(f"PRAGMA table_info({table})")
        }
    assert columns - find_names(read_section("ID map")) == set()
    assert "generation" in columns


def test_the_example_has_the_checksum_that_the_page_gives() -> None:
    """It is the checksum of the library and of the auditor."""
    section = read_section("Checksum of an item")
    item: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", section, re.DOTALL)[0])
    text = re.findall(r"canonical JSON `(.*?)`", section, re.DOTALL)[0].replace("<7f>", "\x7f")
    assert canonical_json(item) == text.encode()
    assert hashlib.sha256(text.encode()).digest() == checksum_item(item)
    assert f"`{checksum_item(item).hex()}`" in section
