"""The thread that the event loop runs on: not the main thread, whose signals the loop would swallow."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

import uvloop

R = TypeVar("R")

BESIDE = 4  # threads for what blocks: credentials, the fence, the shared cap, names of hosts
JOIN_SECONDS = 5.0


class Runner(Protocol):
    """Run coroutines on one event loop, for callers that wait. A simulation puts its own in place of LoopThread."""

    executor: Executor

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine to its end."""

    def close(self, clean: Callable[[], None]) -> None:
        """Call `clean` on the loop if it ever ran, and end the loop."""


class LoopThread:
    """An event loop on a daemon thread, which begins with the first call and ends with `close`."""

    def __init__(self) -> None:
        self.executor: Executor = ThreadPoolExecutor(BESIDE, thread_name_prefix="accession-beside")
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def run(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine and wait for its end. Raises RuntimeError after `close`.

        An exception in the waiting thread, such as one from a signal, cancels it. The coroutine has ended when the
        exception is raised.
        """
        try:
            loop = self._loop or self._begin()
        except RuntimeError:
            coroutine.close()
            raise
        result: Future[R] = Future()
        tasks: list[asyncio.Task[R]] = []

        def begin() -> None:
            tasks.append(loop.create_task(coroutine))
            tasks[0].add_done_callback(end)

        def end(task: asyncio.Task[R]) -> None:
            if task.cancelled():
                result.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(task.result())

        def cancel() -> None:
            tasks[0].cancel()

        loop.call_soon_threadsafe(begin)
        try:
            return result.result()
        except BaseException:
            if not result.done():
                loop.call_soon_threadsafe(cancel)
                wait([result])
            raise

    def _begin(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._is_closed:
                raise RuntimeError("This connection to DynamoDB is closed: open another one.")
            if self._loop is None:
                self._loop = uvloop.new_event_loop()
                self._thread = threading.Thread(target=_work, args=(self._loop,), name="accession-loop", daemon=True)
                self._thread.start()
            return self._loop

    def close(self, clean: Callable[[], None]) -> None:
        """Call `clean` on the loop if it ever ran, and end its thread. Safe to repeat."""
        with self._lock:
            loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
            self._is_closed = True
        self.executor.shutdown(wait=False, cancel_futures=True)
        if loop is None or thread is None:
            return

        def stop() -> None:
            clean()
            loop.stop()

        loop.call_soon_threadsafe(stop)
        if thread is not threading.current_thread():  # the garbage collector may have called this method there
            thread.join(JOIN_SECONDS)


def _work(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
