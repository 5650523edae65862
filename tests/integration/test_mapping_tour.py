"""Every example of docs/mapping-tour.md, migrated: the items are those that the page shows."""

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from accession.mapping import load_mapping
from conftest import REPO, Library
from driver import Driver
from tables import create_tables, plain

PAGE = (REPO / "docs/mapping-tour.md").read_text()
SECTION = re.compile(r"^## (?P<title>.+?)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
EXAMPLES = {match["title"]: match["text"] for match in SECTION.finditer(PAGE)}
REJECTS = {"Rows that cannot be migrated": {2: "day: day: 'yesterday' is not a day, such as 2026-01-05"}}


def take(text: str, language: str) -> str:
    [block] = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return str(block)


def read_value(value: dict[str, Any]) -> Any:
    [(kind, content)] = value.items()
    match kind:
        case "L":
            return [read_value(element) for element in content]
        case "M":
            return {name: read_value(element) for name, element in content.items()}
        case "N":
            return float(content)
        case "S" if is_uuid(content):
            return "<new id>"
        case _:
            return plain(value)


def is_uuid(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def list_items(driver: Driver) -> Iterator[str]:
    tables = {entity.target.table: name for name, entity in driver.mapping.entities.items()}
    for name in tables.values():
        for item in driver.scan(name):
            yield json.dumps({key: read_value(value) for key, value in item.items()}, sort_keys=True)


@pytest.mark.parametrize("title", EXAMPLES)
def test_an_example_makes_the_items_that_the_page_shows(title: str, library: Library, tmp_path: Path) -> None:
    text, source = EXAMPLES[title], tmp_path / "example.db"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(take(text, "sql"))
    path = tmp_path / "example.yaml"
    path.write_text(take(text, "yaml"))
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=1)
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    shown = [json.loads(line, parse_int=float) for line in take(text, "json").splitlines()]
    assert sorted(list_items(driver)) == sorted(json.dumps(item, sort_keys=True) for item in shown)
    rejects = {key: reason for name in driver.mapping.order for key, reason in driver.rejects(name).items()}
    assert rejects == REJECTS.get(title, {})


def test_the_page_has_an_example_for_each_kind_of_mapping() -> None:
    assert len(EXAMPLES) == 8
