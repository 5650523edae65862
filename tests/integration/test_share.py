"""The cap on write units is the run's, however many tasks write."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from accession.artifacts import RunFolder, Store
from accession.run.share import JOIN_SECONDS, LOOK_SECONDS, Share, count_parts_at_work
from conftest import Library

RUN = "20260105T120000Z-0123abcd"


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


def test_a_task_takes_as_much_as_there_are_parts_at_work(store: Store) -> None:
    clock = Clock()
    store.put(RunFolder(store, RUN).path_of_mark("book", 0), b"")
    share = Share(RunFolder(store, RUN), 1000, clock=lambda: clock.now, sleep=clock.sleep)
    assert (share(), clock.slept) == (1000, 0), "one alone neither waits nor shares"
    for part in range(1, 4):
        store.put(RunFolder(store, RUN).path_of_mark("book", part), b"")
    store.put(RunFolder(store, RUN).path_of_execution("book", 3), b"{}")
    assert share() == 1000, "it does not look for every request"
    clock.now += LOOK_SECONDS
    assert share() == pytest.approx(1000 / 3)
    assert count_parts_at_work(RunFolder(store, RUN)) == 3


def test_a_newcomer_writes_nothing_before_the_others_have_seen_it(store: Store) -> None:
    clock = Clock()
    shares = []
    for part in range(4):
        store.put(RunFolder(store, RUN).path_of_mark("book", part), b"")
        share = Share(RunFolder(store, RUN), 1000, clock=lambda: clock.now, sleep=clock.sleep)
        share()
        shares.append(share)
        assert sum(one() for one in shares) == pytest.approx(1000)
    assert clock.slept == 3 * JOIN_SECONDS


def test_all_threads_of_a_newcomer_wait(store: Store) -> None:
    for part in range(2):
        store.put(RunFolder(store, RUN).path_of_mark("book", part), b"")
    share = Share(RunFolder(store, RUN), 1000)
    with ThreadPoolExecutor(8) as threads:
        assert {one.result() for one in [threads.submit(share) for _ in range(8)]} == {500}
