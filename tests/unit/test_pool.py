"""Connections are used again, and opened only while they are of use."""

import asyncio
from contextlib import closing
from typing import Any

import pytest

from accession.dynamodb.pool import FIRST, Pool
from simulated import SimulatedLoop


class Line:
    """A connection that is open until it is aborted."""

    def __init__(self) -> None:
        self.is_open = True
        self.leased_at = self.released_at = 0.0

    def abort(self) -> None:
        self.is_open = False


class Lab:
    """Requests in simulated time: each waits `answer` seconds on its way and takes `cpu` seconds of this process."""

    def __init__(self, answer: float, cpu: float) -> None:
        self.loop, self.answer, self.cpu, self.cpu_time = SimulatedLoop(), answer, cpu, 0.0
        self.opened: list[Line] = []
        self.pool = Pool(self.connect, self.loop.time, lambda: self.cpu_time)
        self.busy_until = 0.0

    async def connect(self) -> Any:
        await asyncio.sleep(self.answer)
        self.opened.append(Line())
        return self.opened[-1]

    async def request(self) -> None:
        connection = await self.pool.lease()
        await asyncio.sleep(self.answer)
        # The answers are computed on one after the other.
        self.busy_until = max(self.busy_until, self.loop.now) + self.cpu
        await asyncio.sleep(self.busy_until - self.loop.now)
        self.cpu_time += self.cpu
        self.pool.release(connection)

    def run(self, workers: int, requests: int) -> int:
        """How many connections so many workers came to use."""

        async def work() -> None:
            for _ in range(requests):
                await self.request()

        async def run() -> None:
            await asyncio.gather(*[work() for _ in range(workers)])

        with closing(self.loop):
            self.loop.run_until_complete(run())
        return len(self.opened)


@pytest.mark.parametrize(
    ("answer", "cpu", "least", "most"),
    [(0.0003, 0.0002, FIRST, FIRST), (0.003, 0.0002, 30, 48), (0.01, 0.0002, 64, 64), (0.01, 0.01, FIRST, FIRST)],
    ids=["next door", "near", "far", "far, and much to compute"],
)
def test_as_many_connections_as_keep_the_process_busy(answer: float, cpu: float, least: int, most: int) -> None:
    assert least <= Lab(answer, cpu).run(64, 50) <= most


def test_one_at_a_time_needs_one() -> None:
    assert Lab(0.01, 0.0002).run(1, 50) == 1


def test_a_connection_that_was_lost_is_replaced_and_waiters_go_on() -> None:
    lab = Lab(0.001, 0.001)

    async def lose() -> None:
        for _ in range(30):
            await asyncio.sleep(0.01)
            for line in lab.opened:
                line.abort()

    async def run() -> None:
        await asyncio.gather(lose(), *[lab.request() for _ in range(200)])

    with closing(lab.loop):
        lab.loop.run_until_complete(asyncio.wait_for(run(), 60))
    assert len(lab.opened) > FIRST


def test_waiters_that_are_cancelled_take_no_connection_with_them() -> None:
    lab = Lab(0.01, 0.001)

    async def run() -> None:
        tasks = [asyncio.ensure_future(lab.request()) for _ in range(100)]
        await asyncio.sleep(0.025)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        idle: list[Any] = [*lab.pool._idle]
        for line in lab.opened:
            if line not in idle:  # its request was cancelled between lease and release
                lab.pool.release(line)  # type: ignore[arg-type]
        await asyncio.gather(*[lab.request() for _ in range(100)])

    with closing(lab.loop):
        lab.loop.run_until_complete(asyncio.wait_for(run(), 60))
