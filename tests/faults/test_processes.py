"""Real processes that are killed, and stopped past their time and woken."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import write_sample
from accession.errors import RefusedError
from accession.target import take_over
from accession.target.ownership import CHECK_SECONDS
from conftest import Library
from driver import Driver
from faults.proxy import Faults, Proxy

LATENCY = 0.25
ROWS = 1000


@pytest.fixture
def staged(library: Library, tmp_path: Path) -> Driver:
    """A run that is about to write 1,000 users."""
    source = write_sample(tmp_path / "site.db", users=ROWS, books=1, user_books=0, orphans=0, odd=0)
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    return driver


@contextmanager
def writing(driver: Driver, proxy: Proxy) -> Iterator["subprocess.Popen[str]"]:
    """A process that writes the users, two requests at a time, each slow."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "writer.py"), driver.library.environment, driver.library.bucket,
         driver.run_name, str(driver.epoch), "user"],
        env=os.environ | {"AWS_ENDPOINT_URL_DYNAMODB": proxy.endpoint},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_half(driver: Driver, process: "subprocess.Popen[str]") -> int:
    for _ in range(300):
        assert process.poll() is None, process.communicate()[0]
        written = len(driver.scan("user"))
        if written > ROWS // 2:
            return written
        time.sleep(0.05)
    raise AssertionError("the writer does not come past its midpoint")


def test_a_killed_writer_is_finished_by_its_retry_and_the_applications_change_stays(staged: Driver) -> None:
    with Proxy(staged.library.aws.endpoint, Faults(latency=LATENCY)) as proxy, writing(staged, proxy) as process:
        written = wait_until_half(staged, process)
        process.send_signal(signal.SIGKILL)
    time.sleep(2 * LATENCY)
    assert written < ROWS
    changed = staged.scan("user")[7]["user_id"]["S"]
    staged.library.aws.client("dynamodb").update_item(
        TableName=staged.library.tables["user"],
        Key={"user_id": {"S": changed}},
        UpdateExpression="SET username = :n",
        ExpressionAttributeValues={":n": {"S": "the app's"}},
    )
    with pytest.raises(RefusedError, match=changed):
        staged.migrate("user")
    items = {item["user_id"]["S"]: item for item in staged.scan("user")}
    assert len(items) == ROWS
    assert items[changed]["username"] == {"S": "the app's"}
    expected = {change.key: change.item for change in staged.changes("user")}
    assert {key: item for key, item in items.items() if key != changed} == {
        key: item for key, item in expected.items() if key != changed
    }


def test_a_frozen_writer_that_wakes_after_the_undo_writes_nothing_more(staged: Driver) -> None:
    with Proxy(staged.library.aws.endpoint, Faults(latency=LATENCY)) as proxy, writing(staged, proxy) as process:
        wait_until_half(staged, process)
        process.send_signal(signal.SIGSTOP)
        take_over(staged.store, staged.run_name)
        time.sleep(CHECK_SECONDS + 4 * LATENCY)  # the wait of an undo, with this proxy's longest request
        staged.undo()
        assert staged.scan("user") == []
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate(timeout=30)
        assert process.returncode == 3, said
        assert "stopped: another resume, undo or run owns the target" in said
    assert staged.scan("user") == []


def test_of_two_installations_that_open_one_target_at_a_time_one_is_refused(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=3, books=3, user_books=3, orphans=0, odd=0)
    drivers = [Driver(library, source), Driver(library, source)]
    for driver in drivers:
        driver.stage_all()
        driver.plan()
    outcomes: dict[int, Any] = {}
    start = threading.Barrier(2)

    def open_one(number: int) -> None:
        start.wait()
        try:
            outcomes[number] = drivers[number].open()
        except RefusedError as error:
            outcomes[number] = str(error)

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    opened = [number for number, outcome in outcomes.items() if isinstance(outcome, int)]
    assert len(opened) == 1
    refusal = outcomes[1 - opened[0]]
    assert f"RESUME={drivers[opened[0]].run_name}" in refusal
    assert f"make rollback RUN={drivers[opened[0]].run_name}" in refusal
