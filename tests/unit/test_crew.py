"""Many calls at once: each is made once, no more than asked at a time, and the first error ends all."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any, TypeVar

import pytest

from accession.dynamodb.crew import Crew, find_call
from simulated import SimulatedLoop

R = TypeVar("R")


def simulate(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run it in simulated time, where no machine is too slow."""
    with closing(SimulatedLoop()) as loop:
        return loop.run_until_complete(coroutine)


def call_all(calls: list[int], function: Callable[[int], Coroutine[Any, Any, Any]], in_flight: int) -> list[Any]:
    async def run() -> list[Any]:
        crew = Crew(function, in_flight)
        ended = [await crew.begin([(call, 0)]) for call in calls]
        return [pair for pairs in [*ended, await crew.take(0)] for pair in pairs]

    return simulate(run())


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100])
def test_every_call_is_made_once_and_comes_back_with_its_result(count: int) -> None:
    assert sorted(call_all(list(range(count)), double, 4)) == [(number, number * 2) for number in range(count)]


def test_no_more_calls_run_at_once_than_asked() -> None:
    running, most = 0, 0

    async def call(_: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1

    call_all(list(range(60)), call, 5)
    assert most == 5


def test_the_first_error_stops_all() -> None:
    made: list[int] = []

    async def call(number: int) -> None:
        made.append(number)
        if number == 7:
            raise ValueError("seven")
        await asyncio.sleep(0.001)

    with pytest.raises(ValueError, match="seven"):
        call_all(list(range(10_000)), call, 4)
    assert len(made) < 30


def test_after_an_error_what_is_sent_ends_and_what_waits_is_cancelled() -> None:
    ended: list[str] = []

    async def call(number: int) -> None:
        if number == 0:
            await asyncio.sleep(0.01)
            raise ValueError("zero")
        try:
            find_call().is_sent = number == 1
            await asyncio.sleep(0.05)
            ended.append(f"{number} {'is over' if find_call().is_over else 'goes on'}")
        except asyncio.CancelledError:
            ended.append(f"{number} cancelled")
            raise

    with pytest.raises(ValueError, match="zero"):
        call_all([0, 1, 2], call, 3)
    assert ended == ["2 cancelled", "1 is over"]


def test_whoever_waits_to_retry_learns_that_all_is_over() -> None:
    """A request that was in flight is not sent again."""
    gave_up: list[int] = []

    async def call(number: int) -> None:
        if number == 0:
            await asyncio.sleep(0.01)
            raise ValueError("zero")
        find_call().is_sent = True
        while not find_call().is_over:
            await asyncio.sleep(0.001)
        gave_up.append(number)

    with pytest.raises(ValueError, match="zero"):
        call_all([0, 1], call, 2)
    assert gave_up == [1]
    assert not find_call().is_over


@pytest.mark.parametrize("ending", ["stopped", "abandoned"])
def test_a_call_that_must_end_ends(ending: str) -> None:
    """It puts back what it removed, and a retry of it goes on too."""
    ended: list[int] = []

    async def call(number: int) -> None:
        find_call().must_end = number == 1
        await asyncio.sleep(0.01)
        if number == 0:
            raise ValueError("zero")
        await asyncio.sleep(0.05)
        if find_call().may_go_on:
            ended.append(number)

    async def run() -> None:
        crew = Crew(call, 4)
        await crew.begin([(0, 0), (1, 0), (2, 0)])
        if ending == "stopped":
            with pytest.raises(ValueError, match="zero"):
                await crew.take(0)
        else:
            await asyncio.sleep(0)
            await crew.abandon()

    simulate(run())
    assert ended == [1]


def test_what_is_abandoned_is_cancelled_sent_or_not() -> None:
    async def call(number: int) -> None:
        find_call().is_sent = number == 1
        await asyncio.sleep(60)

    async def run() -> bool:
        crew = Crew(call, 4)
        await crew.begin([(1, 0), (2, 0)])
        await asyncio.sleep(0)
        await crew.abandon()
        return crew.is_active

    assert not simulate(run())
