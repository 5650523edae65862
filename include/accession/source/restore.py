"""Restore the SQLite source from a backup.

A source is a local file here: to restore an `s3://` source, the caller uploads the backup to its key.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from accession.database_file import MAGIC, SIDE_FILES
from accession.digest import hash_file
from accession.errors import SourceError
from accession.source.database import LOCK_BYTES, count_rows, explaining
from accession.source.snapshot import scratch_copy, sync


@dataclass(frozen=True)
class RestoreResult:
    """The new paths of the files that the backup replaced; empty if the backup was in place already."""

    moved_aside: tuple[Path, ...]


def restore_source(backup: Path, path: Path, sha256: str, rows: Mapping[str, int]) -> RestoreResult:
    """Replace the source with the backup, keeping the source's mode and owner. Safe to repeat.

    The file, its -wal, -shm and -journal are moved aside together, as `<name>.aside-<n>` and the like, so that they
    remain a database that opens. A file that any process has open or locked is refused. Digest and rows are checked
    before and, through a new connection, after. When this raises SourceError, all files are as they were. The restored
    file is in rollback-journal mode, whatever mode the source was in.
    """
    path = path.resolve()
    if hash_file(backup) != sha256:
        raise SourceError(
            f"The backup {backup} does not have the digest that its run recorded: it is damaged; use another run's."
        )
    here = [Path(f"{path}{suffix}") for suffix in ("", *SIDE_FILES)]
    here = [file for file in here if os.path.lexists(file)]
    if path.is_dir():
        raise SourceError(f"{path} is a folder: name the file in it that the backup is to replace.")
    if here == [path] and hash_file(path) == sha256:
        return RestoreResult(())
    moved: dict[Path, Path] = {}
    with explaining(path), scratch_copy(path.parent) as copy, _locking(path):
        _expect_unused(path, here)
        shutil.copyfile(backup, copy)
        if path.exists():
            shutil.copymode(path, copy)
            os.chown(copy, path.stat().st_uid, path.stat().st_gid)
        sync(copy)
        _expect_restored(copy, sha256, rows)
        taken = [file.name for file in path.parent.iterdir()]
        names = (f"{path.name}.aside-{n}" for n in count(1))
        aside = next(name for name in names if not any(other.startswith(name) for other in taken))
        is_placed = False
        try:
            for file in here:
                moved[file] = file.rename(path.with_name(aside + file.name.removeprefix(path.name)))
            copy.rename(path)
            is_placed = True
            sync(path.parent)
            _expect_restored(path, sha256, rows)
            _expect_unused(path, list(moved.values()))  # it may have been opened between the first check and the move
        except BaseException:
            if is_placed:
                path.unlink(missing_ok=True)
            for file, target in moved.items():
                target.rename(file)
            raise
    return RestoreResult(tuple(moved.values()))


def peek_file(path: Path) -> bytes:
    """Return the first bytes of a file; none if it is empty or not there."""
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC))
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}): check the path of the restore.") from error


def expect_replaceable(head: bytes, place: str) -> None:
    """Raise SourceError if a file that begins with `head` is not a SQLite database. An empty file is one."""
    if head and head != MAGIC:
        raise SourceError(
            f"{place} is not a SQLite database, so no backup is put in its place: move it aside, then restore again."
        )


@contextmanager
def _locking(path: Path) -> Iterator[None]:
    """Hold SQLite's exclusive lock, but not through SQLite, which would replay a journal or refuse a damaged file."""
    if not path.exists():
        yield
        return
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, *LOCK_BYTES)
        except (BlockingIOError, PermissionError) as error:
            raise SourceError(f"{path} is in use (locked): stop the application, then restore again.") from error
        yield


def _expect_unused(path: Path, files: Sequence[Path]) -> None:
    """Raise SourceError if another process has one of the files open (Linux only; idle connections hold no lock)."""
    wanted = {(file.stat().st_dev, file.stat().st_ino) for file in files}
    for handle in Path("/proc").glob("[0-9]*/fd/*"):
        process = handle.parts[2]
        with suppress(OSError):
            seen = handle.stat()
            if (seen.st_dev, seen.st_ino) in wanted and process != str(os.getpid()):
                name = Path("/proc", process, "comm").read_text().strip()
                raise SourceError(f"{path} is in use by {name} (process {process}): stop it, then restore again.")


def _expect_restored(path: Path, sha256: str, rows: Mapping[str, int]) -> None:
    if hash_file(path) != sha256 or count_rows(path, list(rows)) != dict(rows):
        raise SourceError(f"{path} is not what the backup's run recorded (digest or row counts): use another backup.")
