"""Many new items: BatchWriteItem, unprocessed items sent again, hot key ranges last."""

from collections.abc import Iterable, Iterator

import orjson

from accession.dynamodb.crew import find_call
from accession.dynamodb.requests import Requests
from accession.dynamodb.retry import ThrottledError
from accession.errors import PermanentError, TransientError

BATCH_ITEMS = 25  # API reference, BatchWriteItem
BATCH_BYTES = 16_000_000 - 4_096  # BatchWriteItem: 16 MB, taken as the smaller of its two readings, less our brackets
DEFERRED_BYTES = 16_000_000  # of items whose key range is hot, held back until the others are written

HEAD = b'{"ReturnConsumedCapacity":"TOTAL","RequestItems":{%b:[{"PutRequest":{"Item":'
BETWEEN = b'}},{"PutRequest":{"Item":'
TAIL = b"}}]}}"

Batch = list[bytes]


class BatchWriter:
    """Puts batches of items into one table. `written` counts items. For the errors see DynamoDB."""

    def __init__(self, requests: Requests, table: str) -> None:
        self._requests, self._table = requests, table
        self._head = HEAD % orjson.dumps(table)
        self.written = 0
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
        backoff, at_once = self._requests.backoff(), False
        while batch:
            body = self._head + BETWEEN.join(batch) + TAIL
            units = float(sum([-(-len(item) // 1024) for item in batch]))
            wait_for_hot = not may_defer or self._deferred_bytes >= DEFERRED_BYTES
            try:
                answer = await self._requests.write(
                    "BatchWriteItem", self._table, body, units, wait_for_hot=wait_for_hot, at_once=at_once
                )
            except ThrottledError:
                self.deferred.append(batch)
                self._deferred_bytes += measure_batch(batch)
                break
            unprocessed = answer["UnprocessedItems"].get(self._table, ())
            left = [orjson.dumps(entry["PutRequest"]["Item"]) for entry in unprocessed]
            if len(left) < len(batch):
                backoff.progress()
                written += len(batch) - len(left)
                self.written += len(batch) - len(left)
            if left:
                # The first unprocessed items go again at once, to be taken or refused for a reason.
                at_once = self._requests.leave_over() and not find_call().is_over
                if not at_once and not await backoff.wait():
                    raise TransientError(
                        f"DynamoDB left them unprocessed for {backoff.seconds:.0f} s: raise its capacity"
                    )
            batch = left
        return written


def measure_batch(batch: Batch) -> int:
    """Return the size of a batch's items in bytes."""
    return sum(map(len, batch))


def split_puts(puts: Iterable[tuple[str, bytes]]) -> Iterator[Batch]:
    """Split items into batches as BatchWriteItem takes them: at most 25, at most 16 MB, no key twice."""
    batch: dict[str, bytes] = {}
    size = 0
    for key, item in puts:
        if len(item) > BATCH_BYTES:
            raise PermanentError(f"an item of {len(item)} bytes does not fit a request: items over 400 KB are rejects")
        length = len(item) + len(BETWEEN)
        if len(batch) == BATCH_ITEMS or size + length > BATCH_BYTES or key in batch:
            yield list(batch.values())
            batch, size = {}, 0
        batch[key] = item
        size += length
    if batch:
        yield list(batch.values())
