"""The lint of a mapping says before a run which rows the run rejects."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import test_groups
import test_kept_keys
import test_queries
import test_shared_tables

from accession.cli.lint import lint_files
from accession.mapping import load_mapping
from accession.run import lint_mapping
from conftest import Library
from driver import Driver
from sessions import SECRET, write_sessions
from tables import create_tables


@pytest.mark.parametrize(
    ("schema", "mapping", "edits", "rejected"),
    [
        (
            test_groups.SCHEMA, test_groups.MAPPING,
            "UPDATE team SET lead = 3 WHERE code = 'a'; UPDATE person SET team = 'x' WHERE id = 3",
            {"team": 3, "person": 5, "badge": 2},
        ),
        (
            test_shared_tables.SCHEMA, test_shared_tables.MAPPING,
            "INSERT INTO guest VALUES ('a@x', 'Eve'); INSERT INTO album VALUES (4, 'x', 9)",
            {"artist": 0, "album": 1, "fan": 1, "guest": 1},
        ),
        (
            test_queries.SCHEMA, test_queries.MAPPING,
            "UPDATE customer SET joined = 'soon' WHERE id = 1; INSERT INTO line VALUES (9, 1, 'x', 'free')",
            {"customer": 1, "invoice": 2, "line": 1},
        ),
        (
            test_kept_keys.SCHEMA, test_kept_keys.MAPPING,
            "UPDATE track SET days = 'noon' WHERE nr = 10; INSERT INTO album VALUES (X'00', 'x', 99, 'Nobody')",
            {"artist": 0, "album": 1, "track": 1, "play": 1, "log": 0},
        ),
    ],
)  # fmt: skip
def test_the_lint_counts_what_a_run_rejects(
    library: Library, tmp_path: Path, schema: str, mapping: str, edits: str, rejected: dict[str, int]
) -> None:
    source, path = tmp_path / "source.db", tmp_path / "mapping.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(schema + edits)
    path.write_text(mapping)
    driver = Driver(library, source, mapping=load_mapping(path), max_rejects=20)
    (tmp_path / "lint").mkdir()
    found = lint_mapping(driver.mapping, source, tmp_path / "lint")
    assert found.faults == ()
    assert {name: tally.rejected for name, tally in found.tallies.items()} == rejected
    create_tables(library.aws.client("dynamodb"), driver.mapping, source, library.environment)
    assert driver.run().status == "verified"
    for name, tally in found.tallies.items():
        assert len(driver.rejects(name)) == tally.rejected
        assert driver.index(name).counts.source_rows == tally.rows
        reasons = set(driver.rejects(name).values())
        assert all(any(reason.endswith(first) for reason in reasons) for _, first in tally.rejects.values())


def test_the_lint_shows_no_secret_key(library: Library, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, mapping = write_sessions(tmp_path, library)
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("INSERT INTO event VALUES (90, 'tok-none', NULL, 'x'), (91, 'tok-other', NULL, 'x')")
    assert lint_files([tmp_path / "sessions.yaml"], source) == 0
    printed = capsys.readouterr().out
    driver = Driver(library, source, mapping=mapping, max_rejects=99)
    driver.run()
    rejected = {name: len(driver.rejects(name)) for name in mapping.order}
    assert f"{sum(rejected.values())} would be rejected" in printed
    assert "entities.event: 3 of 15 rows would be rejected (token •••" in printed
    assert not SECRET.search(printed)
