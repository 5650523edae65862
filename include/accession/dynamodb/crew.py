"""Many calls at once on the event loop, within bounds on their number and size."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

IN_FLIGHT_BYTES = 32_000_000


class Call:
    """One call, as the requests that it makes see it.

    It is not cancelled while `is_sent`, and not retried once `is_over`. While it `must_end`, it is
    never cancelled and still retried, because it restores what it removed. `queued_seconds` is how long it has waited
    for its turn under the rate.
    """

    __slots__ = ("is_over", "is_sent", "must_end", "queued_seconds")

    def __init__(self) -> None:
        self.is_sent = self.is_over = self.must_end = False
        self.queued_seconds = 0.0

    @property
    def may_go_on(self) -> bool:
        """Tell whether a request of the call may be repeated."""
        return self.must_end or not self.is_over


_call: ContextVar[Call] = ContextVar("call")


def find_call() -> Call:
    """Return the call that this task runs, or one of its own for a task outside a crew."""
    call = _call.get(None)
    if call is None:
        call = Call()
        _call.set(call)
    return call


class Crew(Generic[T, R]):
    """Call `function` for many arguments, at most `in_flight` and 32 MB of them at once. Use it on one event loop.

    The first error stops all: no further request is sent, those in flight end, and the error is raised.
    """

    def __init__(self, function: Callable[[T], Coroutine[Any, Any, R]], in_flight: int) -> None:
        self._function, self._in_flight = function, in_flight
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._bytes = 0
        self._ended: list[tuple[T, R]] = []
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_enough: Callable[[], bool] = bool

    @property
    def is_active(self) -> bool:
        """Tell whether any call has not ended."""
        return bool(self._tasks)

    async def begin(self, calls: list[tuple[T, int]]) -> list[tuple[T, R]]:
        """Wait for room, then begin calls of so many bytes each. Return the calls that ended since the last time."""
        size = sum([size for _, size in calls])
        await self._wait(lambda: self._has_room(len(calls), size))
        if self._error is None:
            for argument, size in calls:
                self._start(argument, size)
        return await self.take(len(self._tasks))

    async def take(self, active: int) -> list[tuple[T, R]]:
        """Wait until at most `active` calls have not ended. Return the calls that ended since the last time."""
        await self._wait(lambda: len(self._tasks) <= active)
        if self._error is not None:
            await self._wait(lambda: not self._tasks)
            raise self._error
        ended, self._ended = self._ended, []
        return ended

    async def take_some(self) -> list[tuple[T, R]]:
        """Wait until a call has ended, if any is active. Return the calls that ended since the last time."""
        await self._wait(lambda: bool(self._ended) or not self._tasks)
        return await self.take(len(self._tasks))

    async def abandon(self) -> None:
        """Cancel all calls but those that must end, and wait until they have ended. Requests in flight are dropped."""
        for task, call in list(self._tasks.items()):
            call.is_over = True
            if not call.must_end:
                task.cancel()
        await self._wait(lambda: not self._tasks)

    def _has_room(self, calls: int, size: int) -> bool:
        """Tell whether calls fit within both bounds. A call that is larger than the bound goes alone."""
        return not self._tasks or (
            len(self._tasks) + calls <= self._in_flight and self._bytes + size <= IN_FLIGHT_BYTES
        )

    def _start(self, argument: T, size: int) -> None:
        call = Call()
        task = asyncio.get_running_loop().create_task(self._run(argument, call))
        self._tasks[task] = call
        self._bytes += size

        def end(task: asyncio.Task[None]) -> None:
            del self._tasks[task]
            self._bytes -= size
            error = None if task.cancelled() else task.exception()
            if error is not None and self._error is None:
                self._stop(error)
            if self._waiter is not None and not self._waiter.done() and (self._error is not None or self._is_enough()):
                self._waiter.set_result(None)

        task.add_done_callback(end)

    async def _run(self, argument: T, call: Call) -> None:
        _call.set(call)
        result = await self._function(argument)
        self._ended.append((argument, result))

    def _stop(self, error: BaseException) -> None:
        self._error = error
        for task, call in self._tasks.items():
            call.is_over = True
            if not call.is_sent and not call.must_end:
                task.cancel()

    async def _wait(self, is_enough: Callable[[], bool]) -> None:
        """Wait until it is enough, or until an error and the end of all calls."""
        while not is_enough() and (self._error is None or self._tasks):
            self._waiter, self._is_enough = asyncio.get_running_loop().create_future(), is_enough
            await self._waiter
