"""A restored source is exactly the backup, what stood there before is kept together, and a failure changes nothing."""

import errno
import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import pytest
from test_source import make

from accession.errors import SourceError
from accession.source import restore, restore_source, take_snapshot
from accession.source.database import count_rows
from accession.source.snapshot import Snapshot
from second_process import WAIT, WAL_WRITER, die, running

ROWS = {"user": 1, "user_book": 2}
WORSE = (
    "db = sqlite3.connect(path)\ndb.execute('PRAGMA journal_mode = WAL')\ndb.execute('DELETE FROM user')\ndb.commit()\n"
)


def everything(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "instance").mkdir()
    return make(tmp_path / "instance" / "site [1].db")


@pytest.fixture
def backup(tmp_path: Path, path: Path) -> Path:
    take_snapshot(path, tmp_path / "backup.db")
    return tmp_path / "backup.db"


@pytest.fixture
def taken(tmp_path: Path, path: Path) -> Snapshot:
    return take_snapshot(path, tmp_path / "again.db")


def test_the_backup_comes_back_and_an_old_wal_does_not_leak_into_it(path: Path, backup: Path, taken: Snapshot) -> None:
    die(WORSE, path)
    path.chmod(0o640)
    before = everything(path.parent)
    assert set(before) == {"site [1].db", "site [1].db-wal", "site [1].db-shm"}
    moved = restore_source(backup, path, taken.sha256, ROWS).moved_aside
    assert path.read_bytes() == backup.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert count_rows(path, ["user"]) == {"user": 1}
    assert {file.name for file in moved} == {"site [1].db.aside-1" + side for side in ("", "-wal", "-shm")}
    assert {file.name.replace(".aside-1", ""): file.read_bytes() for file in moved} == before
    assert count_rows(path.parent / "site [1].db.aside-1", ["user"]) == {"user": 0}, (
        "a database that opens, with its WAL"
    )


def test_the_owner_stays(path: Path, backup: Path, taken: Snapshot) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may give files away")
    os.chown(path, 1234, 4321)
    with closing(sqlite3.connect(path)) as db:
        db.execute("DELETE FROM user")
        db.commit()
    restore_source(backup, path, taken.sha256, ROWS)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


def test_restoring_again_changes_nothing_and_later_ones_keep_the_earlier(
    path: Path, backup: Path, taken: Snapshot
) -> None:
    die(WORSE, path)
    restore_source(backup, path, taken.sha256, ROWS)
    once = everything(path.parent)
    assert restore_source(backup, path, taken.sha256, ROWS).moved_aside == ()
    assert everything(path.parent) == once
    die(WORSE, path)
    moved = restore_source(backup, path, taken.sha256, ROWS).moved_aside
    assert moved[0].name == "site [1].db.aside-2"
    assert once.items() <= everything(path.parent).items()


def test_a_lost_source_and_one_with_only_a_wal_left(path: Path, backup: Path, taken: Snapshot) -> None:
    die(WORSE, path)
    path.unlink()
    moved = restore_source(backup, path, taken.sha256, ROWS).moved_aside
    assert {file.name for file in moved} == {"site [1].db.aside-1-wal", "site [1].db.aside-1-shm"}
    assert path.read_bytes() == backup.read_bytes()


def test_a_damaged_source_and_one_with_a_hot_journal_are_replaced(path: Path, backup: Path, taken: Snapshot) -> None:
    path.write_bytes(b"garbage")
    Path(f"{path}-journal").write_bytes(b"left behind")
    moved = restore_source(backup, path, taken.sha256, ROWS).moved_aside
    assert [file.read_bytes() for file in moved] == [b"garbage", b"left behind"]
    assert count_rows(path, ["user_book"]) == {"user_book": 2}


def test_a_link_stays_a_link(tmp_path: Path, path: Path, backup: Path, taken: Snapshot) -> None:
    (tmp_path / "link.db").symlink_to(path)
    die(WORSE, path)
    restore_source(backup, tmp_path / "link.db", taken.sha256, ROWS)
    assert (tmp_path / "link.db").is_symlink()
    assert path.read_bytes() == backup.read_bytes()


OPEN = "db = sqlite3.connect(path, isolation_level=None)\n"
READ = "rows = db.execute('SELECT * FROM user')\nrows.fetchall()\n"


@pytest.mark.parametrize(
    ("use", "seen"),
    [
        pytest.param(OPEN + "db.execute('BEGIN')\n" + READ, r"\(locked\)", id="reading"),
        pytest.param(OPEN + "db.execute('BEGIN IMMEDIATE')\n", r"\(locked\)", id="writing"),
        pytest.param(OPEN + "db.execute('BEGIN EXCLUSIVE')\n", r"\(locked\)", id="exclusive"),
        pytest.param(OPEN + "db.execute('PRAGMA journal_mode = WAL')\n" + READ, r"\(locked\)", id="idle in WAL mode"),
        pytest.param(OPEN + READ, "by python", id="idle without a lock"),
    ],
)
def test_refused_while_another_process_has_it(path: Path, backup: Path, taken: Snapshot, use: str, seen: str) -> None:
    make(path, "DELETE FROM user")
    with running(use + WAIT, path):
        before = everything(path.parent)
        with pytest.raises(SourceError, match=f"in use {seen}"):
            restore_source(backup, path, taken.sha256, ROWS)
        assert everything(path.parent) == before
    restore_source(backup, path, taken.sha256, ROWS)
    assert count_rows(path, ["user"]) == {"user": 1}


def test_a_folder_is_no_place_for_a_backup(tmp_path: Path, backup: Path, taken: Snapshot) -> None:
    with pytest.raises(SourceError, match="is a folder: name the file in it"):
        restore_source(backup, tmp_path, taken.sha256, ROWS)


def test_a_file_that_cannot_be_moved_stays(
    path: Path, backup: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path, "DELETE FROM user")
    before = everything(path.parent)
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SourceError):
        restore_source(backup, path, taken.sha256, ROWS)
    assert everything(path.parent) == before


def test_a_process_that_opens_the_file_at_the_last_moment(
    path: Path, backup: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(path, "DELETE FROM user")
    before = everything(path.parent)
    late = running("file = open(path)" + WAIT, path)
    looked = restore._expect_unused

    def look(*args: object) -> None:
        looked(*args)  # type: ignore[arg-type]
        if path.exists() and path.read_bytes() == before[path.name]:
            late.__enter__()

    monkeypatch.setattr(restore, "_expect_unused", look)
    with pytest.raises(SourceError, match="in use by python"):
        restore_source(backup, path, taken.sha256, ROWS)
    assert everything(path.parent) == before
    late.__exit__(None, None, None)


def test_a_damaged_backup_or_wrong_rows_change_nothing(path: Path, backup: Path, taken: Snapshot) -> None:
    die(WORSE, path)
    before = everything(path.parent)
    with pytest.raises(SourceError, match="not what the backup's run recorded"):
        restore_source(backup, path, taken.sha256, {**ROWS, "user": 2})
    assert everything(path.parent) == before
    backup.write_bytes(backup.read_bytes()[:-1] + b"!")
    with pytest.raises(SourceError, match="it is damaged"):
        restore_source(backup, path, taken.sha256, ROWS)
    assert everything(path.parent) == before


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("moment", [1, 2], ids=["before the move", "after it"])
def test_a_failure_half_way_puts_everything_back(
    path: Path, backup: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch, *, moment: int, lost: bool
) -> None:
    die(WORSE, path)
    if lost:
        path.unlink()
    before = everything(path.parent)
    checks = iter(range(1, 10))
    expect = restore._expect_restored

    def fail(*args: object) -> None:
        if next(checks) == moment:
            raise SourceError("the disk went away")
        expect(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(restore, "_expect_restored", fail)
    with pytest.raises(SourceError, match="the disk went away"):
        restore_source(backup, path, taken.sha256, ROWS)
    assert everything(path.parent) == before
    assert len(list(path.parent.iterdir())) == len(before), "no scratch folder stays behind"


def test_a_folder_that_is_not_there(tmp_path: Path, backup: Path, taken: Snapshot) -> None:
    with pytest.raises(SourceError, match="No such file or directory"):
        restore_source(backup, tmp_path / "gone" / "site.db", taken.sha256, ROWS)


def test_the_backup_of_a_wal_database_comes_back_whole(tmp_path: Path) -> None:
    path, backup = tmp_path / "site.db", tmp_path / "backup.db"
    die(WAL_WRITER, path)
    taken = take_snapshot(path, backup)
    path.write_bytes(b"")
    restore_source(backup, path, taken.sha256, taken.rows)
    assert count_rows(path, ["book"]) == {"book": 1000}
    assert take_snapshot(path, backup).sha256 == taken.sha256, "a run after the restore sees an unchanged source"
