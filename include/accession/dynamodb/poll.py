"""Functions that block, called beside the event loop: the fence, the shared cap, the refresh of credentials."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Generic, TypeVar

T = TypeVar("T")


class Poll(Generic[T]):
    """Call `function` in the executor, once for all who wait for it, and keep the last answer."""

    def __init__(self, function: Callable[[], T], executor: Executor, clock: Callable[[], float]) -> None:
        self._function, self._executor, self._clock = function, executor, clock
        self._asking: asyncio.Future[T] | None = None
        self._answered_at = float("-inf")
        self.answer: T | None = None

    @property
    def age(self) -> float:
        """Return the seconds since the last answer; infinite before the first."""
        return self._clock() - self._answered_at

    async def refresh(self, ahead: float, oldest: float) -> None:
        """Return when the last answer is younger than `oldest` seconds; with 0, wait for the next answer.

        If the answer is older than `ahead`, a new one is asked for in the background. Those who wait get the function's
        errors.
        """
        while self.age >= oldest:
            await self.ask()
            if not oldest:
                return
        if self.age >= ahead:
            self.ask_ahead()

    async def ask(self) -> T:
        """Return the next answer. Raises the function's errors."""
        return await asyncio.shield(self._begin())  # others may wait for it too

    def ask_ahead(self) -> None:
        """Call the function without waiting. An error shows once the last answer is too old."""
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
