"""The promise of a draft, for random schemas and values: it loads, and no attribute rejects a value of its source."""

import re
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from accession.draft import compare_schema, draft_mapping
from accession.items import find_key_schemas
from accession.mapping import Mapping, load_mapping
from accession.run import lint_mapping
from accession.run.relation import find_affinities
from accession.source import quote

NAMES = [
    "id", "a", "B", "user_id", "user id", 'quo"te', "per%cent", "{brace}", "a:b", "select", "yes", "null", "1", "<<",
    "=", "rowid", "größe", "雪", "#x", "- y", "it's", "back\\slash", "tab\there", "line\nbreak", "token", "email",
    "[list]", "2026-01-05", "keep", "new_id", "&anchor", "!tag", "@at", "a, b", "k: v", "~", "É", "é",
]  # fmt: skip
DECLARED = [
    "", "INTEGER", "INT", "TEXT", "VARCHAR(20)", "REAL", "NUMERIC", "DECIMAL(10,2)", "BLOB", "BOOLEAN", "TINYINT(1)",
    "DATE", "DATETIME", "TIMESTAMP", "JSON", "STRING", "ANY", "INTEGER NOT NULL", "TEXT NOT NULL",
    "TEXT COLLATE NOCASE",
]  # fmt: skip
TEXTS = [
    "", "x", "1", "007", "1.50", "2026-01-05", "2026-01-05 00:00:00", "2026-01-05T12:34:56.7+02:00", "2026-02-30",
    "true", '{"a": 1}', '["x","y"]', '{"a": "\\ud800"}', "[1e999]", "a,b", "nul\0", "雪", "x" * 1500, "x" * 3000,
    "a#b", "A", "a",
]  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.sampled_from(TEXTS),
    st.sampled_from([0, 1, 2, -5, 2**62, 1_700_000_000, 1_700_000_000_000]),
    st.sampled_from([0.5, -2.25, 1e17, 2460000.5]),
    st.sampled_from([b"", b"x", b"y" * 3000]),
)


@st.composite
def sources(draw: st.DrawFn) -> tuple[list[str], list[tuple[str, list[tuple[Any, ...]]]]]:
    """Statements that make tables, and rows of each table."""
    tables = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique_by=str.lower))
    columns = {
        table: draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique_by=fold_case)) for table in tables
    }
    statements, rows = ["CREATE TABLE base (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"], []
    for table in tables:
        own = columns[table]
        parts = [f"{quote(name)} {draw(st.sampled_from(DECLARED))}" for name in own]
        keys = draw(st.lists(st.sampled_from(own), max_size=4, unique=True))
        if keys:
            parts.append(f"PRIMARY KEY ({', '.join(map(quote, keys))})")
        some = st.lists(st.sampled_from(own), min_size=1, max_size=3, unique=True)
        uniques = draw(st.lists(some, max_size=2))
        parts += [f"UNIQUE ({', '.join(map(quote, unique))})" for unique in uniques]
        for _ in range(draw(st.integers(0, 3))):
            parent = draw(st.sampled_from([*tables, "base", "missing"]))
            there = columns.get(parent, ["id", "name"])
            width = draw(st.integers(1, min(2, len(own), len(there))))
            child = draw(st.permutations(own))[:width]
            named = draw(st.permutations(there))[:width] if draw(st.booleans()) else []
            to = f"({', '.join(map(quote, named))})" if named else ""
            parts.append(f"FOREIGN KEY ({', '.join(map(quote, child))}) REFERENCES {quote(parent)}{to}")
        has_rowid = draw(st.booleans()) or not keys
        without = "" if has_rowid else " WITHOUT ROWID"
        statements.append(f"CREATE TABLE {quote(table)} ({', '.join(parts)}){without}")
        values: st.SearchStrategy[list[tuple[Any, ...]]] = st.lists(st.tuples(*[VALUES for _ in own]), max_size=6)
        rows.append((table, draw(values)))
    return statements, rows


def fold_case(name: str) -> str:
    """SQLite takes only ASCII letters of two cases for one."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def write_source(path: Path, statements: list[str], rows: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)
        for table, values in rows:
            for row in values:
                with suppress(sqlite3.IntegrityError):  # a text in an INTEGER PRIMARY KEY
                    db.execute(f"INSERT OR IGNORE INTO {quote(table)} VALUES ({','.join('?' * len(row))})", row)


def list_rejects(mapping: Mapping, source: Path, folder: Path) -> list[str]:
    """Stage all rows without writing. Return why rows would be rejected, but for rows whose parents are missing."""
    found = lint_mapping(mapping, source, folder)
    assert found.faults == ()
    reasons = [reason for tally in found.tallies.values() for _, reason in tally.rejects.values()]
    return [reason for reason in reasons if not re.search(r" refers to (no|a) ", reason)]


@given(sources(), st.booleans())
def test_every_draft_loads_and_rejects_no_value_of_its_source(
    given: tuple[list[str], list[tuple[str, list[tuple[Any, ...]]]]], new_ids: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder, "x.db"), Path(folder, "x.yaml")
        write_source(source, *given)
        before = source.read_bytes()
        draft = draft_mapping(source, "x", new_ids=new_ids)
        file.write_text(draft.text, encoding="utf-8")
        mapping = load_mapping(file)
        assert len(mapping.entities) + len(draft.left_out) == len(given[0])
        assert compare_schema(source, mapping) == [] or draft.left_out
        assert source.read_bytes() == before
        assert sorted(Path(folder).iterdir()) == [source, file]
        assert list_rejects(mapping, source, Path(folder)) == []
        with closing(sqlite3.connect(source)) as db:
            schemas = find_key_schemas(mapping, find_affinities(db, mapping))
        assert schemas == find_key_schemas(mapping, {}), "the tables can be made without the source"
