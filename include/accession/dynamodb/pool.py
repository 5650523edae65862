"""Connections that are kept open, as many as are useful."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from accession.dynamodb.connection import Connection

FIRST = 8  # connections that are opened without measuring
MARGIN = 3.0  # most answers take longer than the fastest one
IDLE_SECONDS = 20.0  # an idle connection is not used again after so long: servers hang up without asking
LOOK_SECONDS = 0.05  # after which an idle connection may have been hung up without our having seen it


class Pool:
    """Lease one connection to each request, and open as many as keep this process busy.

    A TLS handshake costs as much CPU time as ten requests. So beyond FIRST, connections are opened only if requests
    wait for one, and no more than this process can serve: the time of an answer, divided by the CPU time of a request.
    With answers of 10 ms that is as many as are asked for, with answers of 1 ms only a few.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._connect, self._clock, self._cpu_clock = connect, clock, cpu_clock
        self._idle: list[Connection] = []
        self._size, self._most = 0, FIRST
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answers, self._cpu_since = 0, cpu_clock()
        self._fastest = float("inf")  # of all answers: later ones also wait for this process

    async def lease(self) -> Connection:
        """Return an open connection, as soon as there is one."""
        connection: Connection | None = None
        while connection is None:
            connection = await self._take_idle()
            if connection is None and self._size < self._most:
                connection = await self._open()
            elif connection is None:
                await self._wait()
        connection.leased_at = self._clock()
        return connection

    def release(self, connection: Connection) -> None:
        """Take a connection back, to use it again unless its request was given up."""
        if connection.is_open:
            connection.released_at = self._clock()
            self._idle.append(connection)
            self._count(connection.released_at - connection.leased_at)
        else:
            self._drop(connection)
        self._wake(1)

    def close(self) -> None:
        """Drop all idle connections."""
        while self._idle:
            self._drop(self._idle.pop())

    async def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            try:
                idle = self._clock() - connection.released_at
                if idle > LOOK_SECONDS:  # let the loop take in that the server hung up
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                if connection.is_open and idle < IDLE_SECONDS:
                    return connection
            except asyncio.CancelledError:
                self.release(connection)
                raise
            self._drop(connection)
        return None

    async def _open(self) -> Connection:
        self._size += 1
        try:
            return await self._connect()
        except BaseException:
            self._size -= 1
            self._wake(1)
            raise

    def _drop(self, connection: Connection) -> None:
        connection.abort()
        self._size -= 1

    async def _wait(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake(1)
            raise

    def _wake(self, number: int) -> None:
        while self._waiting and number:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                number -= 1

    def _count(self, seconds: float) -> None:
        """Count an answer and its time. After a round of them, find how many connections are useful."""
        self._answers += 1
        self._fastest = min(self._fastest, seconds)
        if self._answers < self._size:
            return
        cpu = self._cpu_clock()
        if self._waiting:
            useful = MARGIN * self._fastest * self._answers / max(cpu - self._cpu_since, 1e-6)
            self._most = max(self._most, int(useful))
            self._wake(self._most - self._size)
        self._answers, self._cpu_since = 0, cpu
