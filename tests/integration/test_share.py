"""The cap on write units is the run's, however many tasks write."""

from collections.abc import Iterator

import pytest

from accession.executed import Share, count_parts_at_work, executed_path, started_path
from accession.ownership import CHECK_SECONDS
from accession.store import Store
from conftest import Library

RUN = "20260105T120000Z-0123abcd"


@pytest.fixture
def store(library: Library) -> Iterator[Store]:
    yield Store(library.aws.client("s3"), library.bucket, "book_library", library.environment)


def test_a_task_takes_as_much_as_there_are_parts_at_work(store: Store) -> None:
    now = 0.0
    share = Share(store, RUN, 1000, clock=lambda: now)
    assert share() == 1000
    for part in range(4):
        store.put(started_path(RUN, "book", part), b"")
    store.put(executed_path(RUN, "book", 3), b"{}")
    assert share() == 1000, "it looks every few seconds, not for every request"
    now = CHECK_SECONDS
    assert share() == pytest.approx(1000 / 3)
    assert count_parts_at_work(store, RUN) == 3
