"""Many calls at once: each is made once, no more than asked at a time, and the first error ends all."""

import threading
import time
from collections.abc import Iterator

import pytest

from accession.threads import run_all


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_every_call_is_made_once_and_comes_back_with_its_result(count: int) -> None:
    assert sorted(run_all(range(count), lambda number: number * 2, 4)) == [
        (number, number * 2) for number in range(count)
    ]


def test_no_more_calls_run_at_once_than_asked() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def call(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    list(run_all(range(60), call, 5))
    assert most == 5


def test_calls_are_taken_in_the_callers_thread_and_not_far_ahead() -> None:
    taken, threads = 0, set[threading.Thread]()

    def calls() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            threads.add(threading.current_thread())
            yield number

    for done, _ in enumerate(run_all(calls(), lambda number: number, 3)):
        assert taken - done <= 6
    assert threads == {threading.current_thread()}


def test_the_first_error_stops_all_and_leaves_no_thread() -> None:
    before, made = threading.active_count(), list[int]()

    def call(number: int) -> None:
        made.append(number)
        if number == 7:
            raise ValueError("seven")
        time.sleep(0.001)

    with pytest.raises(ValueError, match="seven"):
        list(run_all(range(10_000), call, 4))
    assert len(made) < 30
    assert threading.active_count() == before


def test_a_caller_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    results = run_all(iter(int, 1), lambda number: number, 4)  # calls without end
    next(results)
    results.close()
    assert threading.active_count() == before


def test_an_error_of_the_calls_themselves_is_raised() -> None:
    def calls() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(run_all(calls(), lambda number: number, 4))
