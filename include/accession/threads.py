"""Run many calls that wait for a network in a few threads."""

import threading
from collections.abc import Callable, Generator, Iterable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def run_all(calls: Iterable[T], function: Callable[[T], R], in_flight: int) -> Generator[tuple[T, R], None, None]:
    """Yield each call with its result, in the order in which they end, with up to `in_flight` of them at once.

    `calls` is read in the caller's own thread, at most twice `in_flight` ahead. After the first error, no further call
    begins. The error is raised when the calls in flight have ended. If the caller stops early, the calls end the same
    way.
    """
    inbox: SimpleQueue[tuple[T] | None] = SimpleQueue()
    outbox: SimpleQueue[tuple[T, R] | BaseException] = SimpleQueue()
    stop, threads, waiting = threading.Event(), list[threading.Thread](), 0

    def work() -> None:
        while (call := inbox.get()) is not None and not stop.is_set():
            try:
                outbox.put((call[0], function(call[0])))
            except BaseException as error:  # noqa: BLE001 -- raised again below, in the caller's thread
                outbox.put(error)
                stop.set()

    def take() -> tuple[T, R]:
        result = outbox.get()
        if isinstance(result, BaseException):
            raise result
        return result

    try:
        for call in calls:
            inbox.put((call,))
            waiting += 1
            if len(threads) < in_flight:
                threads.append(threading.Thread(target=work, name=f"accession-{len(threads)}", daemon=True))
                threads[-1].start()
            if waiting >= 2 * in_flight:
                waiting -= 1
                yield take()
        for _ in range(waiting):
            yield take()
    finally:
        stop.set()
        for _ in threads:
            inbox.put(None)
        for thread in threads:
            thread.join()
