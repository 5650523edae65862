"""The ID map: what it takes, what it refuses, how it joins and compares."""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.artifacts import (
    Entry,
    RejectedRow,
    add_entries,
    add_rejects,
    attach,
    compare_rejects,
    copy_tombstones,
    count_entries,
    create_id_map,
    finish_id_map,
    has_changed,
    list_rejects,
    mark_conflicts,
    open_id_map,
)
from accession.artifacts.id_map import COLUMNS
from accession.errors import SourceError
from accession.items import ItemKey

NEVER = b"\0" * 32


def make_entry(old_key: Any, **changes: Any) -> Entry:
    generation = changes.get("generation", 0)
    entry = Entry(old_key, 0, 1, ItemKey(f"new-{old_key}-{generation}"), b"", NEVER, None, "2026-01-05", "live", 1)
    return entry._replace(**changes)


def write_map(
    path: Path, entries: Iterable[Entry] = (), rejects: Iterable[RejectedRow] = (), head: Path | None = None, **how: str
) -> Path:
    connection = create_id_map(path, **{"affinity": "INTEGER", **how})
    add_entries(connection, entries)
    add_rejects(connection, rejects)
    if head:
        copy_tombstones(connection, head)
    finish_id_map(connection)
    return path


def read_map(path: Path) -> list[Entry]:
    with closing(open_id_map(path)) as db:
        return [Entry(*row) for row in db.execute(f"SELECT {COLUMNS} FROM id_map ORDER BY entry")]


@pytest.mark.parametrize("key", [0, -5, 2**63 - 1, -(2**63), "abc", "", "雪", "a\0b"])
def test_keys_come_back_as_they_were(tmp_path: Path, key: Any) -> None:
    path = write_map(tmp_path / "m.db", [make_entry(key)], affinity="")
    assert read_map(path) == [make_entry(key)]
    assert count_entries(path) == 1


def test_a_key_may_not_come_twice_in_one_generation(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Two rows have the same key"):
        write_map(tmp_path / "m.db", [make_entry(5), make_entry(5, new_id="other")])
    assert write_map(tmp_path / "m.db", [make_entry(5), make_entry(5, generation=1)])


def test_keys_that_make_the_same_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Two keys have the same text, but one is a number and one is text"):
        write_map(tmp_path / "m.db", [make_entry(5), make_entry("5")], affinity="")


@pytest.mark.parametrize("gone", ["tombstone", "kept_delete"])
@pytest.mark.parametrize(("before", "now"), [("5", 5), (5, "5")])
def test_a_key_whose_type_changed_since_the_last_run_is_named(tmp_path: Path, gone: str, before: Any, now: Any) -> None:
    with pytest.raises(SourceError, match=r"^Key 5 was a number in the last run .* Declare it as before"):
        write_map(tmp_path / "m.db", [make_entry(now), make_entry(before, state=gone, latest=0)], affinity="")


def test_a_map_is_closed_whatever_goes_wrong_with_it(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.db", [make_entry(1)])

    def fail() -> Iterable[tuple[str, bytes | None]]:
        raise KeyError
        yield

    with pytest.raises(KeyError) as kept:  # which keeps the frame, and all that it holds
        mark_conflicts(path, fail())
    with pytest.raises(sqlite3.DatabaseError) as kept_too:
        (tmp_path / "bad.db").write_bytes(b"no database" * 1000)
        open_id_map(tmp_path / "bad.db")
    assert kept and kept_too
    assert [
        link for link in Path("/proc/self/fd").iterdir() if link.exists() and tmp_path in link.resolve().parents
    ] == []


def test_a_finished_map_cannot_be_changed(tmp_path: Path) -> None:
    with closing(open_id_map(write_map(tmp_path / "m.db"))) as db, pytest.raises(sqlite3.OperationalError):
        db.execute("DELETE FROM id_map")


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
def test_a_map_stands_beside_a_source_of_its_encoding(tmp_path: Path, encoding: str) -> None:
    path = write_map(tmp_path / "m?%20 #.db", [make_entry("雪", new_id="id")], affinity="TEXT", encoding=encoding)
    with closing(sqlite3.connect("file::memory:", uri=True)) as db:
        db.execute(f'PRAGMA encoding = "{encoding}"')
        db.execute("CREATE TABLE t (c TEXT)")
        db.execute("INSERT INTO t VALUES ('雪')")
        db.commit()
        attach(db, path, "map_t")
        assert db.execute("SELECT new_id FROM t JOIN map_t.id_map ON old_key = +c").fetchall() == [("id",)]


def test_a_map_in_another_encoding_is_refused_with_its_remedy(tmp_path: Path) -> None:
    path = write_map(tmp_path / "m.db", encoding="UTF-16le")
    with closing(sqlite3.connect("file::memory:", uri=True)) as db:
        db.execute("CREATE TABLE t (c)")
        with pytest.raises(SourceError, match=r"m\.db cannot be read beside the source .*recreate it in the old one"):
            attach(db, path, "map_t")


def test_tombstones_stay_for_ever_and_the_newest_generation_is_the_latest(tmp_path: Path) -> None:
    gone = make_entry(1, state="tombstone")
    replaced = make_entry(2, state="tombstone")
    kept = make_entry(3, state="kept_delete")
    head = write_map(tmp_path / "head.db", [gone, replaced, kept])
    now = [make_entry(2, generation=1)]
    path = write_map(tmp_path / "m.db", now, head=head)
    assert set(read_map(path)) == {*now, gone._replace(written=0), replaced._replace(latest=0, written=0)}


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "held_reject"},
        {"checksum": b"\1" * 32},
        {"row_checksum": b"\1" * 32},
        {"identity": b"\1" * 8},
        {"new_id": "other"},
        {"latest": 0},
        {"first_seen": "2027-01-05"},
    ],
)
def test_any_change_of_an_entry_is_a_change_of_the_map(tmp_path: Path, changes: dict[str, Any]) -> None:
    head = write_map(tmp_path / "head.db", [make_entry(1), make_entry(2)])
    path = write_map(tmp_path / "m.db", [make_entry(1), make_entry(2, **changes)])
    assert has_changed(path, head)
    assert has_changed(head, path)


def test_entries_and_rejects_that_come_or_go_are_changes(tmp_path: Path) -> None:
    head = write_map(tmp_path / "head.db", [make_entry(1)], [RejectedRow(7, "c", "bad", 0)])
    same = write_map(tmp_path / "same.db", [make_entry(1, written=0)], [RejectedRow(7, "c", "bad", 0)])
    more = write_map(tmp_path / "more.db", [make_entry(1), make_entry(2)], [RejectedRow(7, "c", "bad", 0)])
    worse = write_map(tmp_path / "worse.db", [make_entry(1)], [RejectedRow(7, "c", "worse", 0)])
    assert not has_changed(same, head)
    assert has_changed(more, head)
    assert has_changed(head, more)
    assert has_changed(worse, head)
    assert has_changed(head, None)
    assert not has_changed(write_map(tmp_path / "empty.db"), None)


def test_rejects_are_new_remain_or_are_resolved(tmp_path: Path) -> None:
    def reject(*keys: Any) -> list[RejectedRow]:
        return [RejectedRow(key, "c", "bad", 0) for key in keys]

    head = write_map(tmp_path / "head.db", rejects=reject(1, 2, "x"))
    path = write_map(tmp_path / "m.db", rejects=reject(2, 3, 4))
    assert compare_rejects(path, None) == {"new": 3, "remaining": 0, "resolved": 0}
    assert compare_rejects(path, head) == {"new": 2, "remaining": 1, "resolved": 2}


def test_a_row_without_a_key_remains_a_reject(tmp_path: Path) -> None:
    nothing = RejectedRow(None, "id", "no key", 0)
    head = write_map(tmp_path / "head.db", rejects=[nothing, RejectedRow(1, "c", "bad", 0)])
    path = write_map(tmp_path / "m.db", rejects=[nothing])
    assert list(list_rejects(path, head)) == [(nothing, "remaining"), (RejectedRow(1, "c", "bad", 0), "resolved")]
