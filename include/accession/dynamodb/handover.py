"""Hand work from a waiting thread to the event loop and back: many calls in chunks, and the pages of a scan."""

from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
import orjson

from accession.dynamodb.crew import IN_FLIGHT_BYTES, Crew
from accession.dynamodb.reader import Page, Place, Reader
from accession.dynamodb.runner import Runner
from accession.errors import TransientError
from accession.items import TypedItem

T = TypeVar("T")
R = TypeVar("R")

CHUNKS = 4  # in which what may be in flight is handed over
PARSED_ITEMS = 64  # of a page at once: what they take stays in the processor's cache until they are done with


def call_all(
    runner: Runner, in_flight: int, calls: Iterable[tuple[T, int]], function: Callable[[T], Coroutine[Any, Any, R]]
) -> Iterator[tuple[T, R]]:
    """Call `function` for every argument on the loop. Yield the arguments with their results, as they end.

    `calls` are arguments and their sizes in bytes, taken in this thread, a chunk ahead. The first error stops all: no
    further request begins, those in flight end, and the error is raised.
    """
    crew = Crew(function, in_flight)
    with _ending(runner, crew):
        for chunk in _split_calls(calls, max(in_flight // CHUNKS, 1)):
            yield from runner.run(crew.begin(chunk))
        yield from runner.run(crew.take(0))


def scan_table(
    runner: Runner, reader: Reader, table: str, segments: int
) -> Iterator[tuple[int, Iterator[list[TypedItem]]]]:
    """Yield the pages of all segments of a table as they come, each with the number of its segment."""

    async def scan(place: Place) -> Page:
        return await reader.scan_page(table, place, segments)

    crew = Crew(scan, segments)
    with _ending(runner, crew):
        pages = runner.run(crew.begin([(Place(segment, None), 0) for segment in range(segments)]))
        unfinished = segments
        while unfinished:
            pages = pages or runner.run(crew.take_some())
            place, page = pages.pop(0)
            if page.next:
                pages += runner.run(crew.begin([(page.next, 0)]))
            else:
                unfinished -= 1
            if page.items:
                yield place.segment, _parse(table, page.items)


@contextmanager
def _ending(runner: Runner, crew: Crew[Any, Any]) -> Iterator[None]:
    """Cancel the calls of a crew that have not ended."""
    try:
        yield
    finally:
        if crew.is_active:
            runner.run(crew.abandon())


def _split_calls(calls: Iterable[tuple[T, int]], most: int) -> Iterator[list[tuple[T, int]]]:
    """Yield chunks of at most `most` calls, and of a share of the bytes that may be in flight."""
    chunk: list[tuple[T, int]] = []
    total = 0
    for call in calls:
        chunk.append(call)
        total += call[1]
        if len(chunk) == most or total >= IN_FLIGHT_BYTES // CHUNKS:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _parse(table: str, items: list[msgspec.Raw]) -> Iterator[list[TypedItem]]:
    for start in range(0, len(items), PARSED_ITEMS):
        try:
            yield orjson.loads(b"[%b]" % b",".join(items[start : start + PARSED_ITEMS]))
        except orjson.JSONDecodeError as error:
            raise TransientError(f"An item of table {table} came damaged over the network. Try again.") from error
