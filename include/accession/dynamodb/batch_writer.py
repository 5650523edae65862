"""Many new items: BatchWriteItem, with unprocessed items retried and hot key ranges last."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import orjson

from accession.dynamodb.answers import LostAnswerError, ThrottledError
from accession.dynamodb.backoff import Backoff
from accession.dynamodb.crew import find_call
from accession.dynamodb.reader import Reader
from accession.dynamodb.recovery import Recovery
from accession.dynamodb.requests import Requests
from accession.errors import PermanentError, TransientError
from accession.items import ItemKey, Table

BATCH_ITEMS = 25  # API reference, BatchWriteItem
BATCH_BYTES = 16_000_000 - 4_096  # BatchWriteItem: 16 MB, taken as the smaller of its two readings, less our brackets
DEFERRED_BYTES = 16_000_000  # of items whose key range is hot, held back until the others are written

HEAD = b'{"ReturnConsumedCapacity":"TOTAL","RequestItems":{%b:[{"PutRequest":{"Item":'
BETWEEN = b'}},{"PutRequest":{"Item":'
TAIL = b"}}]}}"

Batch = list[bytes]


class PutOutcome(NamedTuple):
    """The outcome of puts.

    `written` items are in the table as they were put. `conflicts` has the keys of those that the application changed
    while the answer to their batch was lost.
    """

    written: int
    conflicts: list[ItemKey]


class BatchWriter:
    """Put batches of items into one table. For the errors see DynamoDB.

    `written` counts items; `conflicts` has the keys of items that the application changed while the answer to their
    batch was lost.
    """

    def __init__(self, requests: Requests, reader: Reader, table: Table) -> None:
        self._requests, self._table = requests, table.name
        self._recovery = Recovery(requests, reader, table)
        self._head = HEAD % orjson.dumps(table.name)
        self.written = 0
        self.conflicts: list[ItemKey] = []
        self.deferred: list[Batch] = []
        self._deferred_bytes = 0

    async def put(self, batch: Batch) -> int:
        """Put a batch, and return how many items were written now. Items of a hot key range are deferred while the
        buffer has room."""
        return await self._put(batch, may_defer=True)

    async def put_deferred(self, batch: Batch) -> int:
        """Put a batch that was deferred: wait for its key range."""
        return await self._put(batch, may_defer=False)

    async def _put(self, batch: Batch, *, may_defer: bool) -> int:
        written = 0
        at_once = False
        backoff: Backoff | None = None
        while batch:
            body = b"".join((self._head, BETWEEN.join(batch), TAIL))
            units = float(sum([(len(item) + 1023) >> 10 for item in batch]))  # of 1 KB
            wait_for_hot = not may_defer or self._deferred_bytes >= DEFERRED_BYTES
            try:
                answer = await self._requests.write(
                    "BatchWriteItem",
                    self._table,
                    body,
                    units,
                    wait_for_hot=wait_for_hot,
                    at_once=at_once,
                    repeats=False,
                )
            except ThrottledError:
                self.deferred.append(batch)
                self._deferred_bytes += measure_batch(batch)
                break
            except LostAnswerError as error:
                conflicts = await self._recovery.recover(batch, error)
                self.conflicts += conflicts
                written += len(batch) - len(conflicts)
                self.written += len(batch) - len(conflicts)
                break
            unprocessed = answer["UnprocessedItems"].get(self._table, ())
            left = [orjson.dumps(entry["PutRequest"]["Item"]) for entry in unprocessed]
            written += len(batch) - len(left)
            self.written += len(batch) - len(left)
            if left:
                if backoff is None or len(left) < len(batch):
                    backoff = self._requests.backoff()
                # The first unprocessed items go again at once, to be taken or refused for a reason.
                at_once = self._requests.leave_over() and find_call().may_go_on
                if not at_once and not await backoff.wait():
                    raise TransientError(
                        f"DynamoDB left them unprocessed for {backoff.seconds:.0f} s. Raise its capacity."
                    )
            batch = left
        return written


def measure_batch(batch: Batch) -> int:
    """Return the size of a batch's items in bytes."""
    return sum(map(len, batch))


def split_puts(puts: Iterable[tuple[str, bytes]]) -> Iterator[tuple[Batch, int]]:
    """Split items into batches as BatchWriteItem takes them: at most 25, at most 16 MB, no key twice.

    Yield each batch with its size in bytes.
    """
    iterator = iter(puts)
    while some := list(islice(iterator, BATCH_ITEMS)):
        batch = list(dict(some).values())
        size = measure_batch(batch)
        if len(batch) == len(some) and size + len(batch) * len(BETWEEN) <= BATCH_BYTES:
            yield batch, size
        else:
            for part in _split_some(some):
                yield part, measure_batch(part)


def _split_some(puts: list[tuple[str, bytes]]) -> Iterator[Batch]:
    """Split a few puts that do not fit into one batch."""
    batch: dict[str, bytes] = {}
    size = 0
    for key, item in puts:
        if len(item) > BATCH_BYTES:
            raise PermanentError(
                f"An item of {len(item)} bytes does not fit into a request. Staging rejects items over 400 KB, so "
                "this change set is damaged: trigger a new run."
            )
        length = len(item) + len(BETWEEN)
        if size + length > BATCH_BYTES or key in batch:
            yield list(batch.values())
            batch, size = {}, 0
        batch[key] = item
        size += length
    yield list(batch.values())
