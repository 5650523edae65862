"""The cap on write units is the run's, however many tasks write."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from accession.artifacts import Attempt, Execution, PartStep, RunFolder, Store, TableLimit
from accession.host import Host
from accession.run.attempt import find_limit
from accession.run.share import JOIN_SECONDS, LOOK_SECONDS, Share, count_parts_at_work
from conftest import Library

RUN = "20260105T120000Z-0123abcd"
EPOCH = 1


@pytest.fixture
def store(library: Library) -> Iterator[Store]:
    yield Store(library.aws.client("s3"), library.bucket, "book_library", library.environment)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.slept = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.slept += seconds


def path_of_mark(store: Store, part: int) -> str:
    return RunFolder(store, RUN).path_of_mark(Attempt(EPOCH, 1, PartStep("book", part, "migrate")))


def test_a_task_takes_as_much_as_there_are_parts_at_work(store: Store) -> None:
    clock = Clock()
    store.host = Host(monotonic=lambda: clock.now, sleep=clock.sleep)
    store.put(path_of_mark(store, 0), b"")
    share = Share(RunFolder(store, RUN), 1000, EPOCH)
    assert (share(), clock.slept) == (1000, 0), "one alone neither waits nor shares"
    for part in range(1, 4):
        store.put(path_of_mark(store, part), b"")
    store.put(path_of_mark(store, 3).replace(".started", ".json"), b"{}")
    assert share() == 1000, "it does not look for every request"
    clock.now += LOOK_SECONDS
    assert share() == pytest.approx(1000 / 3)
    assert count_parts_at_work(RunFolder(store, RUN), EPOCH) == 3


def test_a_newcomer_writes_nothing_before_the_others_have_seen_it(store: Store) -> None:
    clock = Clock()
    store.host = Host(monotonic=lambda: clock.now, sleep=clock.sleep)
    shares = []
    for part in range(4):
        store.put(path_of_mark(store, part), b"")
        share = Share(RunFolder(store, RUN), 1000, EPOCH)
        share()
        shares.append(share)
        assert sum(one() for one in shares) == pytest.approx(1000)
    assert clock.slept == 3 * JOIN_SECONDS


def test_all_threads_of_a_newcomer_wait(store: Store) -> None:
    for part in range(2):
        store.put(path_of_mark(store, part), b"")
    share = Share(RunFolder(store, RUN), 1000, EPOCH)
    with ThreadPoolExecutor(8) as threads:
        assert {one.result() for one in [threads.submit(share) for _ in range(8)]} == {500}


def keep_execution(store: Store, part: int, epoch: int, limit: TableLimit | None) -> None:
    attempt = Attempt(epoch, 1, PartStep("book", part, "migrate"))
    folder, nothing = RunFolder(store, RUN), dict.fromkeys(("written", "already", "write_units", "throttled"), 0)
    execution = Execution(
        entity="book",
        part=part,
        conflicts=[],
        limit=limit,
        started_at="",
        ended_at="",
        **nothing,
    )
    store.put(folder.path_of_mark(attempt), b"")
    store.put(folder.path_of_execution(attempt), execution.dump())


def test_a_part_begins_at_the_limit_that_the_last_one_found(store: Store) -> None:
    folder, at = RunFolder(store, RUN), PartStep("book", 3, "migrate")
    assert find_limit(folder, at, EPOCH) is None, "it is the first"
    keep_execution(store, 0, EPOCH, TableLimit(units_per_second=1000.0, seconds=2.0))
    assert find_limit(folder, at, EPOCH) == (1000.0, 2.0)
    assert find_limit(folder, at, EPOCH + 1) is None, "what an older epoch found may be hours old"
    assert find_limit(folder, at._replace(step="remove"), EPOCH) is None
    keep_execution(store, 1, EPOCH, TableLimit(units_per_second=700.0, seconds=4.0))
    store.put(path_of_mark(store, 2), b"")
    assert find_limit(folder, at, EPOCH) == (700.0, 4.0), "that of a part which has ended"
    assert find_limit(folder, PartStep("user", 0, "migrate"), EPOCH) is None, "another table has another limit"
