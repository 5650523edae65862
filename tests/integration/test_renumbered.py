"""Tables without a key: rows are found by their row ids, and a run that finds too many of them changed is refused."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.artifacts import StagedEntity
from accession.errors import ParamsError, RefusedError
from accession.mapping import load_mapping
from accession.params import MigrateParams
from conftest import Library
from driver import Driver
from tables import create_tables

ROWS = 100
MAPPING = """
name: journal
entities:
  line:
    source: {table: line, key: rowid}
    target: {table: "Lines-{environment}", key: KEY}
    attributes:
      text: {column: text, type: string}
      level: {column: level, type: number}
    identity: [[text]]
"""
KEYS = ["line_id", "{rowid: keep}"]


@pytest.fixture(params=KEYS)
def make(request: pytest.FixtureRequest, library: Library, tmp_path: Path) -> Callable[..., Driver]:
    """Runs over a table of a hundred rows, with new ids and with kept row ids."""
    source, file = tmp_path / "journal.db", tmp_path / "journal.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("CREATE TABLE line (text TEXT, level INTEGER)")
        db.executemany("INSERT INTO line VALUES (?, 0)", [(f"line {n}",) for n in range(1, ROWS + 1)])
    file.write_text(MAPPING.replace("KEY", request.param))
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    return lambda **params: Driver(library, source, mapping=mapping, **params)


def edit(driver: Driver, *statements: str) -> None:
    with closing(sqlite3.connect(driver.source, isolation_level=None)) as db:
        for statement in statements:
            db.execute(statement)


def read_ids(driver: Driver) -> dict[str, int]:
    with closing(sqlite3.connect(driver.source)) as db:
        return dict(db.execute("SELECT text, rowid FROM line"))


def scan(driver: Driver) -> list[str]:
    return sorted(json.dumps(item, sort_keys=True) for item in driver.scan("line"))


def count(staged: StagedEntity) -> tuple[int, int]:
    return staged.counts.matched, staged.counts.renumbered


def test_a_run_after_vacuum_is_refused_unless_it_is_allowed(make: Callable[..., Driver]) -> None:
    first = make()
    assert first.run().status == "verified"
    assert count(first.index("line")) == (0, 0)
    before, ids = scan(first), read_ids(first)
    edit(first, "DELETE FROM line WHERE rowid = 5", "VACUUM")
    now = read_ids(first)
    moved = sum(ids[text] != number for text, number in now.items())
    assert moved == 95, "VACUUM renumbers"
    refused = make()
    message = f"95 of {ROWS - 1} rows of entity line are not what the last run found under their row ids, over 10 %"
    with pytest.raises(RefusedError, match=f"^{message}: nothing was written.* set allow_renumbered .*\\.$"):
        refused.run()
    assert count(refused.index("line")) == (ROWS - 1, 95)
    assert scan(first) == before
    assert refused.end(is_verified=False).status == "refused"
    allowed = make(allow_renumbered=True)
    assert allowed.run().status == "verified"
    assert sorted(item["text"]["S"] for item in allowed.scan("line")) == sorted(now)
    if "rowid" in allowed.mapping.entities["line"].target.keys:
        assert {item["text"]["S"]: int(item["rowid"]["N"]) for item in allowed.scan("line")} == now
    allowed.undo()
    assert scan(first) == before


@pytest.mark.parametrize(("swapped", "is_refused"), [(10, False), (11, True)])
def test_ten_percent_are_allowed_and_no_row_more(make: Callable[..., Driver], swapped: int, is_refused: bool) -> None:
    make().run()
    edit(make(), f"UPDATE line SET text = 'other ' || rowid WHERE rowid <= {swapped}", "UPDATE line SET level = 1")
    driver = make()
    if is_refused:
        with pytest.raises(RefusedError, match="11 of 100 rows of entity line"):
            driver.run()
    else:
        assert driver.run().status == "verified"
    assert count(driver.index("line")) == (ROWS, swapped)


def test_rows_that_come_and_go_are_no_change_of_row_ids(make: Callable[..., Driver]) -> None:
    make().run()
    edit(make(), "DELETE FROM line WHERE rowid % 2", "INSERT INTO line SELECT text || '!', 1 FROM line")
    driver = make()
    assert driver.run().status == "verified"
    assert count(driver.index("line")) == (ROWS // 2, 0)


def test_a_resume_cannot_allow_it_later() -> None:
    given = MigrateParams(resume="20260105T120000Z-0123abcd", allow_renumbered=True)
    with pytest.raises(ParamsError, match="Param allow_renumbered cannot change in a resume"):
        MigrateParams().resume_with(given)


def test_a_key_of_the_table_is_never_counted(library: Library, tmp_path: Path) -> None:
    """VACUUM leaves an INTEGER PRIMARY KEY alone; another thing in its place is replaced as ever."""
    source, file = tmp_path / "journal.db", tmp_path / "journal.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("CREATE TABLE line (id INTEGER PRIMARY KEY, text TEXT, level INTEGER)")
        db.executemany("INSERT INTO line (text) VALUES (?)", [(f"line {n}",) for n in range(1, ROWS + 1)])
    file.write_text(MAPPING.replace("KEY", "line_id").replace("rowid", "id"))
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)

    def make(**params: Any) -> Driver:
        return Driver(library, source, mapping=mapping, **params)

    make().run()
    edit(make(), "UPDATE line SET text = 'other ' || id")
    driver = make()
    assert driver.run().status == "verified"
    assert (driver.index("line").counts.put, count(driver.index("line"))) == (ROWS, (0, 0))
