"""Batches: lists of bounded length and size, so that memory does not grow with the rows or their size. Pure."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from accession.artifacts import Change
from accession.items import measure_item

T = TypeVar("T")

READ_KEYS = 1000  # items that are read from the target together
READ_BYTES = 8_000_000  # their expected size: with the items that they are compared with, 16 MB are in memory
FRESH_KEYS = 100  # items that are read just before they are written: one BatchGetItem request


def split_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def split_reads(things: Iterable[T], measure: Callable[[T], int], keys: int = READ_KEYS) -> Iterator[list[T]]:
    """Yield consecutive lists of at most `keys` things. A list ends when their sizes add up to READ_BYTES."""
    batch: list[T] = []
    size = 0
    for thing in things:
        batch.append(thing)
        size += measure(thing)
        if len(batch) == keys or size >= READ_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def measure_change(change: Change) -> int:
    """Return the size in bytes of the larger one of a change's items, which is about that of the item in the target."""
    return max(measure_item(change.before or {}), measure_item(change.item or {}))
