"""Functions that block, asked beside the event loop: the fence, the shared cap, the refresh of credentials."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")


class Poll(Generic[T]):
    """Asks `function` in the executor, once for all who wait for it, and keeps its last answer."""

    def __init__(self, function: Callable[[], T], executor: Executor, clock: Callable[[], float]) -> None:
        self._function, self._executor, self._clock = function, executor, clock
        self._asking: asyncio.Future[T] | None = None
        self._answered_at = float("-inf")
        self.answer: T | None = None

    @property
    def age(self) -> float:
        """Seconds since the last answer; infinite before the first."""
        return self._clock() - self._answered_at

    async def refresh(self, ahead: float, oldest: float) -> None:
        """Return when the last answer is younger than `oldest` seconds; 0 waits for an answer of its own.

        One that is older than `ahead` is renewed meanwhile. Raises what the function raises to those who wait for it.
        """
        while self.age >= oldest:
            await self.ask()
            if not oldest:
                return
        if self.age >= ahead:
            self.ask_ahead()

    async def ask(self) -> T:
        """Return the next answer. Raises what the function raises."""
        return await asyncio.shield(self._begin())  # others may wait for it too

    def ask_ahead(self) -> None:
        """Have the function asked, and go on. An error shows when the last answer has grown too old."""
        self._begin()

    def _begin(self) -> "asyncio.Future[T]":
        if self._asking is None:
            self._asking = asyncio.get_running_loop().run_in_executor(self._executor, self._call)
            self._asking.add_done_callback(self._end)
        return self._asking

    def _call(self) -> T:
        answer = self._function()
        # Its age counts from here on, whenever the loop gets to it.
        self._answered_at, self.answer = self._clock(), answer
        return answer

    def _end(self, asked: "asyncio.Future[T]") -> None:
        self._asking = None
        if not asked.cancelled():
            asked.exception()  # nobody else may look at it
