"""Many new items: BatchWriteItem, several in flight, what it leaves over sent again, hot key ranges last."""

import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import orjson

from accession.dynamodb.requests import Paced
from accession.dynamodb.retry import ThrottledError
from accession.errors import PermanentError, TransientError
from accession.threads import run_all, stopped

BATCH_ITEMS = 25  # API reference, BatchWriteItem
BATCH_BYTES = 16_000_000 - 4_096  # BatchWriteItem: 16 MB, taken as the smaller of its two readings, less our brackets
ASIDE_BYTES = 16_000_000  # of items whose key range is hot, held back until the others are written

HEAD = b'{"ReturnConsumedCapacity":"TOTAL","RequestItems":{%b:[{"PutRequest":{"Item":'
BETWEEN = b'}},{"PutRequest":{"Item":'
TAIL = b"}}]}}"


class BatchWriter:
    """Puts into one table, `in_flight` requests at once. For the errors see DynamoDB."""

    def __init__(self, requests: Paced, table: str, in_flight: int) -> None:
        self._requests, self._table, self._in_flight = requests, table, in_flight
        self._head = HEAD % orjson.dumps(table)
        self._taken = self._done = 0
        self._lock = threading.Lock()
        self._aside = _Aside()

    def put_all(self, puts: Iterable[tuple[str, bytes]], written: Callable[[int], None] | None = None) -> int:
        """Put every item, and return how many; see DynamoDB.put_items."""
        try:
            for _, count in chain(
                run_all(self._take(puts), lambda batch: self._put(batch, may_wait=False), self._in_flight),
                # By then it holds what it will.
                run_all(self._aside.batches, lambda batch: self._put(batch, may_wait=True), self._in_flight),
            ):
                if written is not None:
                    written(count)
        except TransientError as error:
            left = self._taken - self._done
            raise TransientError(f"{left} items for table {self._table} are not written: {error}") from error
        return self._done

    def _take(self, puts: Iterable[tuple[str, bytes]]) -> Iterator[list[bytes]]:
        for batch in split_puts(puts):
            self._taken += len(batch)
            yield batch

    def _put(self, batch: list[bytes], *, may_wait: bool) -> int:
        """How many of a batch were written now. What is hot goes aside, where there is room, unless it may wait."""
        written = 0
        backoff, at_once = self._requests.backoff(), False
        while batch:
            body = self._head + BETWEEN.join(batch) + TAIL
            units = float(sum(-(-len(item) // 1024) for item in batch))
            wait_for_hot = may_wait or self._aside.is_full
            try:
                answer = self._requests.write(
                    "BatchWriteItem", self._table, body, units, wait_for_hot=wait_for_hot, at_once=at_once
                )
            except ThrottledError:
                self._aside.add(batch)
                break
            unprocessed = answer["UnprocessedItems"].get(self._table, ())
            left = [orjson.dumps(entry["PutRequest"]["Item"]) for entry in unprocessed]
            if len(left) < len(batch):
                backoff.progress()
                written += self._count(len(batch) - len(left))
            if left:
                # The first to be left over goes again at once, to be taken or refused for a reason.
                at_once = self._requests.leave_over()
                if not at_once and (stopped() or not backoff.wait()):
                    raise TransientError(
                        f"DynamoDB left them unprocessed for {backoff.seconds:.0f} s: raise its capacity"
                    )
            batch = left
        return written

    def _count(self, number: int) -> int:
        with self._lock:
            self._done += number
        return number


class _Aside:
    """Batches that are written last, within bounds. Safe for many threads."""

    def __init__(self) -> None:
        self.batches: list[list[bytes]] = []
        self._bytes = 0
        self._lock = threading.Lock()

    @property
    def is_full(self) -> bool:
        return self._bytes >= ASIDE_BYTES

    def add(self, batch: list[bytes]) -> None:
        with self._lock:
            self.batches.append(batch)
            self._bytes += sum(map(len, batch))


def split_puts(puts: Iterable[tuple[str, bytes]]) -> Iterator[list[bytes]]:
    """Items in batches as BatchWriteItem takes them: at most 25, at most 16 MB, no key twice."""
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
