"""A real second process beside the test: the application that has the SQLite file open."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRELUDE = "import os, signal, sqlite3, sys, time\npath = sys.argv[1]\n"
READY = "\nprint('ready', flush=True)\n"
WAIT = READY + "sys.stdin.read()\n"

WAL_WRITER = """
db = sqlite3.connect(path)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA wal_autocheckpoint = 0")
db.execute("CREATE TABLE IF NOT EXISTS book (id INTEGER PRIMARY KEY, title TEXT)")
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.executemany("INSERT INTO book (title) VALUES (?)", [(f"Title {n}",) for n in range(1000)])
db.commit()
"""


@contextmanager
def running(code: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Run code that prints `ready` in a second process; it ends with the block, orderly if it waits for its stdin."""
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def run(code: str, path: Path) -> str:
    """Run code in a second process to its end, however it ends, and return what it printed."""
    command = [sys.executable, "-c", PRELUDE + code, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def die(code: str, path: Path) -> None:
    """Run code in a second process that is then killed as by a power cut: nothing is closed or tidied."""
    run(code + "\nos.kill(os.getpid(), signal.SIGKILL)\n", path)
