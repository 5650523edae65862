"""An event loop in simulated time, and the runner that gives each DynamoDB of a process one of its own."""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any, TypeVar, TypeVarTuple

from simulation.world import Killed, Process, Strand

R = TypeVar("R")
Ts = TypeVarTuple("Ts")


class _Selector:
    """Lets the strand of the loop wait where a loop would wait for sockets."""

    def __init__(self) -> None:
        self.strand: Strand | None = None
        self.is_woken = self.is_selecting = False

    def select(self, timeout: float | None) -> list[Any]:
        strand = self.strand
        assert strand is not None
        if not self.is_woken and (timeout is None or timeout > 0):
            self.is_selecting = True
            try:
                if timeout is None:
                    strand.pause()
                else:
                    strand.wait(timeout)
            finally:
                self.is_selecting = False
        self.is_woken = False
        return []

    def wake(self) -> None:
        if self.is_selecting and not self.is_woken:
            assert self.strand is not None
            self.strand.wake()
        self.is_woken = True

    def close(self) -> None:
        """Nothing is open."""


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop of a process. Its time passes in `select`; what is asked beside it runs in strands of their own."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process
        self._selector = _Selector()
        self._clock_resolution = 1e-6
        self.set_exception_handler(lambda *_: None)

    def begin(self) -> None:
        """Run in a strand of its own from now on."""
        self._selector.strand = self._process.spawn(self.run_forever)

    def time(self) -> float:
        return self._process.monotonic()

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        self._selector.wake()

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], R], *args: *Ts) -> "asyncio.Future[R]":
        future: asyncio.Future[R] = self.create_future()

        def settle(result: R | None, error: Exception | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def call() -> None:
            try:
                result, error = func(*args), None
            except Killed:
                return
            except Exception as raised:  # noqa: BLE001 -- handed on to those who wait
                result, error = None, raised
            if not self.is_closed():
                self.call_soon_threadsafe(settle, result, error)

        self._process.spawn(call)
        return future

    def shut(self) -> None:
        """Drop everything that has not ended."""
        for task in asyncio.all_tasks(self):
            with suppress(RuntimeError):
                task.get_coro().close()
        if not self.is_running():
            self.close()


class SimulatedRunner:
    """Runs coroutines on one loop, as LoopThread does, for strands that wait."""

    executor: Any = None

    def __init__(self, process: Process) -> None:
        self._process = process
        self._loop: SimulatedLoop | None = None

    @property
    def loop(self) -> SimulatedLoop:
        """The loop, which begins with the first call."""
        if self._loop is None:
            self._loop = SimulatedLoop(self._process)
            self._loop.begin()
            self._process.on_end.append(self._loop.shut)
        return self._loop

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine and wait for its end."""
        try:
            strand, loop = self._process.current(), self.loop
        except Killed:
            coroutine.close()
            raise
        tasks: list[asyncio.Task[R]] = []

        def begin() -> None:
            tasks.append(loop.create_task(coroutine))
            tasks[0].add_done_callback(lambda _: strand.wake())

        loop.call_soon_threadsafe(begin)
        try:
            while not (tasks and tasks[0].done()):
                strand.pause()
        except Killed:
            if not tasks:
                coroutine.close()
            raise
        return tasks[0].result()

    def close(self, clean: Callable[[], None]) -> None:
        """Call `clean`; the loop ends with its process."""
        clean()
