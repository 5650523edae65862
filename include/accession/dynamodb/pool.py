"""Connections that are kept open, as many as are of use."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from accession.dynamodb.connection import Connection

FIRST = 8  # connections that are opened without further thought
BUSY = 0.75  # the share of a core above which this process, and not the network, holds requests up
IDLE_SECONDS = 20.0  # an idle connection is not used again after so long: servers hang up without asking
LOOK_SECONDS = 0.05  # after which an idle connection may have been hung up without our having seen it


class Pool:
    """Leases one connection to each request, and opens more while this process has time left.

    A TLS handshake costs as much CPU time as five requests, and a process that computes all the time is not made faster
    by more of them. So their number doubles, from FIRST, only after a round of answers that left the processor idle.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        clock: Callable[[], float],
        cpu_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._connect, self._clock, self._cpu_clock = connect, clock, cpu_clock
        self._idle: list[Connection] = []
        self._size, self._most = 0, FIRST
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._answers, self._since, self._cpu_since = 0, clock(), cpu_clock()

    async def lease(self) -> Connection:
        """Return an open connection, as soon as there is one."""
        while True:
            if (connection := await self._take_idle()) is not None:
                return connection
            if self._size < self._most:
                return await self._open()
            await self._wait()

    def release(self, connection: Connection) -> None:
        """Take a connection back, to use it again unless its request was given up."""
        if connection.is_open:
            connection.released_at = self._clock()
            self._idle.append(connection)
            self._answers += 1
            if self._answers >= self._size:
                self._measure()
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

    def _measure(self) -> None:
        now, cpu = self._clock(), self._cpu_clock()
        if self._waiting and cpu - self._cpu_since < BUSY * (now - self._since):
            self._most *= 2
            self._wake(self._most - self._size)
        self._answers, self._since, self._cpu_since = 0, now, cpu
