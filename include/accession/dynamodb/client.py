"""DynamoDB: tables, fast batch writes, conditional writes, reads, parallel scan.

Everything speaks DynamoDB's typed JSON as it is on the wire, as bytes or parsed by orjson: {"a": {"S": "x"}, "b":
{"B": "<base64>"}}; never boto3's parsed form. Limits are from the Developer Guide, "Quotas in Amazon DynamoDB", and
from the API reference of each operation.

Nothing is written a second time unseen: if the answer to a write is lost, the write is repeated only under a condition
that the application's changes do not meet, and its own effect is not mistaken for the application's.
"""

import asyncio
import random
import time
import weakref
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from accession.column_types import TypedValue
from accession.dynamodb.batch_writer import Batch, BatchWriter, PutOutcome, measure_batch, split_puts
from accession.dynamodb.conditional_writer import ConditionalWriter
from accession.dynamodb.conditions import Delete, PutAbsent, Update
from accession.dynamodb.description import TableDescription, read_description
from accession.dynamodb.endpoint import find_endpoint
from accession.dynamodb.handover import call_all, scan_table
from accession.dynamodb.rate import Limit
from accession.dynamodb.reader import BATCH_KEYS, Reader
from accession.dynamodb.requests import FENCE_SECONDS, Requests
from accession.dynamodb.runner import LoopThread, Runner
from accession.dynamodb.transport import HttpTransport, Transport
from accession.errors import TransientError
from accession.items import ItemKey, Table, TypedItem

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

T = TypeVar("T")
R = TypeVar("R")
W = TypeVar("W", Update, Delete, PutAbsent)

LOOK_SECONDS = 20.0  # patience of a preflight that finds nobody at the endpoint


class DynamoDB:
    """Read and write as a boto3 client would (see `client_config`), with up to `in_flight` requests at a time.

    The requests are made on an event loop on a thread of its own, which begins with the first call and ends with
    `close`, a `with` block or the object itself. The methods wait for it. An exception in the waiting thread, such as
    one from a signal, cancels the requests in flight.

    `write_units_per_second` caps all writes of this object together; if it is a function, it is called repeatedly.
    `read_units_per_second` caps its reads of items: scans, look-ups and reads by key. A write
    request goes out only if `check` passed less than `fence_seconds` before. With 0, each write waits for a check that
    ends after its turn has come; writes that wait at the same time share one. The errors of `check` stop the writer.
    Both functions may block: they are called on another thread. Raises TargetError for a missing table,
    CredentialsError and AccessError for credentials and permissions, TransientError when DynamoDB failed for 300 s,
    else PermanentError.

    `clock`, `sleep`, `jitter`, `make_runner` and `open_transport` are there for tests and simulations.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        *,
        write_units_per_second: float | Callable[[], float] | None = None,
        limit: Limit | None = None,
        read_units_per_second: float | None = None,
        in_flight: int = 64,
        check: Callable[[], None] | None = None,
        fence_seconds: float = FENCE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        make_runner: Callable[[], Runner] = LoopThread,
        open_transport: Callable[[], Awaitable[Transport]] | None = None,
    ) -> None:
        self._runner = make_runner()
        self._requests = Requests(
            open_transport or partial(_open_transport, client, self._runner, clock),
            client.meta.region_name,
            self._runner.executor,
            write_units_per_second=write_units_per_second,
            limit=limit,
            read_units_per_second=read_units_per_second,
            check=check,
            fence_seconds=fence_seconds,
            clock=clock,
            sleep=sleep,
            jitter=jitter,
        )
        self._reader = Reader(self._requests)
        self._in_flight = in_flight
        self._reconnect = partial(
            type(self),
            client,
            in_flight=in_flight,
            fence_seconds=fence_seconds,
            clock=clock,
            sleep=sleep,
            jitter=jitter,
            make_runner=make_runner,
            open_transport=open_transport,
        )
        self._close = weakref.finalize(self, self._runner.close, self._requests.close)

    def close(self) -> None:
        """Drop all connections and end the loop. Safe to repeat."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fenced(
        self,
        check: Callable[[], None],
        write_units_per_second: float | Callable[[], float] | None = None,
        limit: Limit | None = None,
        read_units_per_second: float | None = None,
    ) -> "DynamoDB":
        """Return another connection like this one, which calls `check` before each write and keeps to the caps.

        `limit` is that of the table as an earlier writer found it.
        """
        return self._reconnect(
            check=check,
            write_units_per_second=write_units_per_second,
            limit=limit,
            read_units_per_second=read_units_per_second,
        )

    def capped(self, read_units_per_second: float) -> "DynamoDB":
        """Return another connection like this one, for reading, which keeps to the cap."""
        return self._reconnect(read_units_per_second=read_units_per_second)

    @property
    def consumed_write_units(self) -> float:
        """Return the write units that DynamoDB charged so far, indexes included."""
        return self._requests.write_units

    @property
    def consumed_read_units(self) -> float:
        """Return the read units that DynamoDB charged so far."""
        return self._requests.read_units

    @property
    def limit(self) -> Limit | None:
        """Return the limit of the table that was found; None if there was no throttle."""
        return self._requests.limit

    @property
    def throttled(self) -> int:
        """Return how many requests DynamoDB refused so far, wholly or in part, because they came too fast."""
        return self._requests.throttled

    # Tables

    def describe_table(self, name: str) -> TableDescription:
        """Return keys, indexes and status of a table. Read-only. Raises TargetError if there is none."""
        read = self._requests.read("DescribeTable", name, {"TableName": name}, patience=LOOK_SECONDS)
        return read_description(self._runner.run(read)["Table"])

    def read_tags(self, table: TableDescription) -> dict[str, str]:
        """Return the tags of a table. Read-only."""
        tags: dict[str, str] = {}
        request = {"ResourceArn": table.arn}
        while True:
            answer = self._runner.run(self._requests.read("ListTagsOfResource", table.name, request))
            tags |= {tag["Key"]: tag["Value"] for tag in answer.get("Tags", ())}
            if not answer.get("NextToken"):
                return tags
            request = {"ResourceArn": table.arn, "NextToken": answer["NextToken"]}

    def set_tag(self, table: TableDescription, name: str, value: str) -> None:
        """Give a table a tag. Safe to repeat. It shows in `read_tags` after a moment (API reference, TagResource)."""
        request = {"ResourceArn": table.arn, "Tags": [{"Key": name, "Value": value}]}
        # "If the action is successful, the service sends back an HTTP 200 response with an empty HTTP body" (ibid.)
        self._runner.run(self._requests.read("TagResource", table.name, request, decode=lambda _: {}))

    def is_empty(self, table: str) -> bool:
        """Return whether a table holds no item at all, by a strongly consistent read. Read-only."""
        return self._runner.run(self._reader.is_empty(table))

    # Writes

    def put_items(
        self, table: Table, puts: Iterable[tuple[str, bytes]], written: Callable[[int], None] | None = None
    ) -> PutOutcome:
        """Put every item, and return how many are in the table, and which ones the application changed in the meantime.

        `puts` are (key, item as typed JSON), taken in this thread as they are needed, a few batches ahead. An existing
        item is replaced. If the answer to a batch is lost, its items are read: absent items are put if they are still
        absent, and no other item is put again. `written` is called in this thread with the number of further items that
        are in the table. Items of a hot key range go last, so that the others need not wait for them. Raises
        TransientError, naming how many are not written, when nothing got through for 300 s.
        """
        writer, taken = BatchWriter(self._requests, self._reader, table), 0

        def take() -> Iterator[tuple[Batch, int]]:
            nonlocal taken
            for batch, size in split_puts(puts):
                taken += len(batch)
                yield batch, size

        def put_all() -> Iterator[tuple[Batch, int]]:
            yield from call_all(self._runner, self._in_flight, take(), writer.put)
            deferred = ((batch, measure_batch(batch)) for batch in writer.deferred)
            yield from call_all(self._runner, self._in_flight, deferred, writer.put_deferred)

        try:
            for _, count in put_all():
                if written is not None and count:
                    written(count)
        except TransientError as error:
            left = taken - writer.written - len(writer.conflicts)
            raise TransientError(f"{left} items for table {table.name} are not written. {error}") from error
        return PutOutcome(writer.written, writer.conflicts)

    def update_items(self, table: Table, updates: Iterable[Update]) -> Iterator[tuple[Update, bool]]:
        """Change items, each from its `before` to its `after`. Yield each with whether it was done, as they end.

        Lazily; only the attributes that differ are written, and one that `after` lacks is removed. False, and nothing
        changed, if the item is gone, or those attributes (the first 70) are neither all as before nor all as after. So
        it is safe to repeat.
        """
        return self._write_all(table, updates)

    def put_absent_items(self, table: Table, puts: Iterable[PutAbsent]) -> Iterator[tuple[PutAbsent, bool]]:
        """Put items whose keys are free. Yield each with whether it was done, as they end.

        Lazily. False, and nothing changed, if the table holds an item with that key.
        """
        return self._write_all(table, puts)

    def delete_items(self, table: Table, deletes: Iterable[Delete]) -> Iterator[tuple[Delete, bool]]:
        """Delete items that are as `before` says. Yield each with whether it was done, as they end.

        Lazily. False, and nothing changed, if the item differs or is gone. An item that held more than `before` is put
        back at once: see ConditionalWriter for the double fault in which it is lost.
        """
        return self._write_all(table, deletes)

    def _write_all(self, table: Table, writes: Iterable[W]) -> Iterator[tuple[W, bool]]:
        writer = ConditionalWriter(self._requests, self._reader, table)

        def encode() -> Iterator[tuple[tuple[W, bytes], int]]:
            for write in writes:
                body = writer.encode(write)
                yield (write, body), len(body)

        for (write, _), is_done in call_all(self._runner, self._in_flight, encode(), writer.write):
            yield write, is_done

    # Reads

    def read_items(self, table: Table, keys: Sequence[ItemKey]) -> dict[ItemKey, TypedItem]:
        """Return the items with these keys, by key; strongly consistent. Keys may repeat; one without an item is
        absent. Read-only."""
        distinct = list(dict.fromkeys(keys))
        chunks = ((distinct[start : start + BATCH_KEYS], 0) for start in range(0, len(distinct), BATCH_KEYS))
        found: dict[ItemKey, TypedItem] = {}
        for _, items in call_all(self._runner, self._in_flight, chunks, partial(self._reader.read_chunk, table)):
            found.update(zip(table.key.read_all(items), items, strict=True))
        return found

    def scan_pages(self, table: str, segments: int) -> Iterator[tuple[int, Iterator[list[TypedItem]]]]:
        """Yield the items of a table, page by page, as DynamoDB cuts them (1 MB); strongly consistent. Read-only.

        The segments are read in parallel, at most one page ahead each. A page comes with the number of its segment
        and in lists of a few items, which are parsed in this thread as they are taken.
        """
        yield from scan_table(self._runner, self._reader, table, segments)  # this keeps the loop while they are read

    def finds_item(self, table: Table, index: str, values: dict[str, TypedValue], key: ItemKey) -> bool | None:
        """Tell whether a look-up through an index finds the item with `key`; `values` are the index's key attributes.

        Read-only. None if it is not among the first LOOK_UP_PAGES pages and there are more. An index lags behind its
        table, by fractions of a second as a rule: ask again before believing an absence.
        """
        return self._runner.run(self._reader.finds_item(table, index, values, key))


async def _open_transport(client: "DynamoDBClient", runner: Runner, clock: Callable[[], float]) -> Transport:
    loop = asyncio.get_running_loop()
    endpoint = await loop.run_in_executor(runner.executor, find_endpoint, client)
    return HttpTransport(endpoint, runner.executor, clock)
