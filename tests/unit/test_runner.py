"""The loop's own thread: errors and results come back, signals arrive, and nothing is left behind."""

import asyncio
import gc
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from types import FrameType

import pytest

from accession.dynamodb.runner import LoopThread


class TimedOutError(BaseException):
    """As Airflow's time-out of a task: not an Exception."""


@pytest.fixture
def runner() -> Iterator[LoopThread]:
    runner = LoopThread()
    yield runner
    runner.close(lambda: None)


def test_a_coroutine_runs_on_another_thread_and_its_result_comes_back(runner: LoopThread) -> None:
    async def find_thread() -> threading.Thread:
        return threading.current_thread()

    assert runner.run(find_thread()) is not threading.current_thread()


def test_an_error_comes_back(runner: LoopThread) -> None:
    async def fail() -> None:
        raise ValueError("as expected")

    with pytest.raises(ValueError, match="as expected"):
        runner.run(fail())


@pytest.mark.parametrize("_", range(8))
def test_an_exception_of_a_signal_arrives_and_cancels_the_work(runner: LoopThread, _: int) -> None:
    """One in fifteen arrived when the loop ran in the main thread."""
    ended: list[str] = []

    async def work() -> None:
        try:
            while True:
                await asyncio.sleep(0.0001)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    def interrupt(_: int, __: FrameType | None) -> None:
        raise TimedOutError

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR1))
    timer.start()
    try:
        begun = time.monotonic()
        with pytest.raises(TimedOutError):
            runner.run(work())
        assert time.monotonic() - begun < 5
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
    assert ended == ["cancelled"]


def test_nothing_is_left_after_the_end() -> None:
    before, cleaned = threading.active_count(), []
    runner = LoopThread()
    assert threading.active_count() == before, "it begins with the first call"
    runner.run(asyncio.sleep(0))
    assert threading.active_count() == before + 1
    runner.close(lambda: cleaned.append(threading.current_thread().name))
    runner.close(lambda: cleaned.append("again"))
    assert threading.active_count() == before
    assert cleaned == ["accession-loop"]


def test_a_call_after_the_end_is_told_and_leaves_no_coroutine_behind(runner: LoopThread) -> None:
    runner.run(asyncio.sleep(0))
    runner.close(lambda: None)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(RuntimeError, match=r"^This connection to DynamoDB is closed: open another one\.$"):
            runner.run(asyncio.sleep(0))
        gc.collect()
    assert [str(warning.message) for warning in warned] == []


def test_work_that_is_left_is_cancelled_at_the_end(runner: LoopThread) -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def begin() -> None:
        runner.kept = asyncio.create_task(work())  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    runner.run(begin())
    runner.close(lambda: None)
    assert ended.is_set()
    gc.collect()
