"""Nothing is lost, doubled or overwritten when DynamoDB throttles, fails, hands back and hangs up."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import boto3
import orjson
import pytest

from accession.aws import REQUEST_TIMEOUT_SECONDS
from accession.dynamodb import Delete, DynamoDB, PutAbsent, Update, client_config
from accession.errors import AccessError, FencedError, PermanentError, TransientError
from accession.items import ItemKey, KeySchema, Table, TypedItem
from conftest import Library
from driver import hurry, open_hasty
from faults.proxy import ACCOUNT, HOT_KEYS, PROVISIONED, TABLE_LIMIT, Faults, Proxy

EVERYTHING = Faults(
    throttle=0.3, unprocessed=0.3, error_before=0.06, error_after=0.06, cut_before=0.06, cut_after=0.06, damaged=0.06
)
Connect = Callable[..., DynamoDB]
Outcomes = Iterator[tuple[PutAbsent | Update | Delete, bool]]
BROKEN = {"throttled", "error_before", "error_after", "cut_before", "cut_after", "damaged"}
ANSWER_LOST = Faults(error_after=0.2, cut_after=0.2)
LOST = {
    "an error": Faults(error_after=1.0),
    "a dropped connection": Faults(cut_after=1.0),
    "a damaged answer": Faults(damaged=1.0),
    "an unreadable answer": Faults(damaged=1.0, checksums=False),
}


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def proxy(library: Library) -> Iterator[Proxy]:
    with Proxy(library.aws.endpoint) as proxy:
        yield proxy


@pytest.fixture
def connect(proxy: Proxy) -> Connect:
    """A DynamoDB behind the proxy."""
    client = boto3.client("dynamodb", endpoint_url=proxy.endpoint, config=client_config())
    return partial(open_hasty, client)


@pytest.fixture
def table(library: Library) -> str:
    return library.tables["book"]


@pytest.fixture
def direct(library: Library) -> DynamoDB:
    """The same tables without the proxy: what is really there."""
    return DynamoDB(boto3.client("dynamodb", config=client_config()))


def make_items(count: int) -> list[TypedItem]:
    return [
        {
            "book_id": {"S": f"key-{number}"},
            "isbn": {"S": f"isbn-{number}"},
            "rating": {"N": str(number)},
            "title": {"S": "図書館 naïve"},
            "cover": {"B": "AAEC"},
        }
        for number in range(count)
    ]


def as_puts(items: list[TypedItem]) -> list[tuple[str, bytes]]:
    return [(item["book_id"]["S"], orjson.dumps(item)) for item in items]


def by_key(items: list[TypedItem]) -> dict[str, TypedItem]:
    assert max(Counter(item["book_id"]["S"] for item in items).values(), default=1) == 1
    return {item["book_id"]["S"]: item for item in items}


def keyed(table: str) -> Table:
    return Table(table, KeySchema(("book_id",)))


def key(item: TypedItem) -> ItemKey:
    return ItemKey(item["book_id"]["S"])


def read_all(dynamodb: DynamoDB, table: str) -> dict[str, TypedItem]:
    return by_key([item for _, page in dynamodb.scan_pages(table, 3) for items in page for item in items])


def test_no_item_is_lost_when_everything_breaks(proxy: Proxy, connect: Connect, direct: DynamoDB, table: str) -> None:
    items = make_items(2500)  # some 250 requests, so that each kind of fault comes about a dozen times
    progress: list[int] = []
    proxy.faults, dynamodb = EVERYTHING, connect()
    assert dynamodb.put_items(keyed(table), as_puts(items), progress.append) == (2500, [])
    assert sum(progress) == 2500
    assert read_all(direct, table) == by_key(items)
    assert set(proxy.counts) >= BROKEN | {"unprocessed_items"}, proxy.counts
    assert dynamodb.throttled >= proxy.counts["throttled"]


def test_a_number_of_writes_is_exact_also_in_a_last_small_batch(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    proxy.faults = Faults(unprocessed=1.0)
    for count in (0, 1, 2, 24, 25, 26):
        assert connect().put_items(keyed(table), as_puts(make_items(count))) == (count, [])
    assert len(read_all(direct, table)) == 26
    assert proxy.counts["unprocessed_items"] > 0


def test_no_item_is_missed_while_reading_when_everything_breaks(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    items = make_items(600)
    for item in items:
        item["text"] = {"S": "x" * 20_000}
    direct.put_items(keyed(table), as_puts(items))
    proxy.faults, dynamodb = EVERYTHING, connect()
    keys = [ItemKey(f"key-{number}") for number in range(700)]
    assert dynamodb.read_items(keyed(table), keys) == by_key(items)
    assert read_all(dynamodb, table) == by_key(items)
    for number in range(20):
        isbn = {"isbn": {"S": f"isbn-{number}"}}
        assert dynamodb.finds_item(keyed(table), "isbn-index", isbn, ItemKey(f"key-{number}")) is True
        assert dynamodb.finds_item(keyed(table), "isbn-index", isbn, ItemKey("another")) is False
    assert proxy.counts["throttled"] > 0 and proxy.counts["unprocessed_keys"] > 0


def test_a_page_that_was_damaged_and_has_no_checksum_is_refused(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    items = make_items(20)
    for item in items:
        item["text"] = {"S": "x" * 20_000}
    direct.put_items(keyed(table), as_puts(items))
    proxy.faults = Faults(damaged=1.0, checksums=False, only=("Scan",))
    with pytest.raises(TransientError, match=f"An item of table {table} came damaged"):
        read_all(connect(), table)


def test_a_write_whose_answer_was_lost_is_known_as_our_own(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    items = make_items(40)
    changed = [item | {"rating": {"N": "1000"}} for item in items]
    proxy.faults, dynamodb = ANSWER_LOST, connect()

    def put(items: list[TypedItem]) -> Outcomes:
        return dynamodb.put_absent_items(keyed(table), [PutAbsent(key(item), item) for item in items])

    def update(items: list[TypedItem]) -> Outcomes:
        updates = [Update(key(item), item, item | {"rating": {"N": "1000"}}) for item in items]
        return dynamodb.update_items(keyed(table), updates)

    def delete(items: list[TypedItem]) -> Outcomes:
        return dynamodb.delete_items(keyed(table), [Delete(key(item), item) for item in items])

    for write, on, then in ((put, items, items), (update, items, changed), (delete, changed, [])):
        lost = proxy.counts["error_after"] + proxy.counts["cut_after"]
        assert [done for _, done in write(on)] == [True] * 40
        assert read_all(direct, table) == by_key(then)
        assert proxy.counts["error_after"] + proxy.counts["cut_after"] > lost


class Application:
    """What the application does: `work`, when the first request of an operation is applied, before it is answered.

    The answer is lost as `faults` says. After it, nothing breaks. `seen` counts the requests that were applied.
    """

    def __init__(self, proxy: Proxy, operation: str, work: Callable[[], object], faults: Faults | None = None) -> None:
        self._proxy, self._operation, self._work = proxy, operation, work
        self.seen: Counter[str] = Counter()
        proxy.applied, proxy.faults = self._see, faults or Faults()

    def _see(self, operation: str, _: bytes) -> None:
        self.seen[operation] += 1
        if operation == self._operation and self.seen[operation] == 1:
            self._work()
            self._proxy.faults = Faults()


@pytest.mark.parametrize("lost", LOST)
def test_what_the_application_changes_while_the_answer_to_a_batch_is_lost_is_kept(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str, lost: str
) -> None:
    """The batch was sent again, over the edit, and the run ended verified."""
    items = make_items(25)
    theirs = items[3] | {"rating": {"N": "5000"}}
    application = Application(
        proxy, "BatchWriteItem", lambda: direct.put_items(keyed(table), as_puts([theirs])), LOST[lost]
    )
    progress: list[int] = []
    waits: list[float] = []

    async def wait(seconds: float) -> None:
        waits.append(seconds)
        await hurry(seconds)

    assert connect(sleep=wait).put_items(keyed(table), as_puts(items), progress.append) == (24, ["key-3"])
    assert sum(progress) == 24
    # DynamoDB may apply a request later if it answered nothing.
    assert (REQUEST_TIMEOUT_SECONDS in waits) == (lost == "a dropped connection")
    assert read_all(direct, table) == by_key(items) | {"key-3": theirs}
    assert application.seen == {"BatchWriteItem": 1, "BatchGetItem": 1}, "nothing was absent, so nothing is sent again"


def test_an_item_that_the_application_makes_before_a_batch_is_repeated_is_kept(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    """The batch was not applied. The look finds nothing; then the application puts its own item."""
    items = make_items(3)
    theirs = items[1] | {"rating": {"N": "5000"}}

    def put_theirs() -> None:
        direct.put_items(keyed(table), as_puts([theirs]))

    application = Application(proxy, "BatchGetItem", put_theirs, Faults(cut_before=1.0, only=("BatchWriteItem",)))
    assert connect().put_items(keyed(table), as_puts(items)) == (2, ["key-1"])
    assert read_all(direct, table) == by_key(items) | {"key-1": theirs}
    assert application.seen["PutItem"] == 3, "one of them was refused"


def test_no_batch_is_ever_sent_again_after_its_answer_was_lost(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    items = make_items(60)
    proxy.faults = Faults(cut_before=0.5, cut_after=0.5, only=("BatchWriteItem",))
    assert connect(in_flight=1).put_items(keyed(table), as_puts(items)) == (60, [])
    assert proxy.counts["cut_before"] + proxy.counts["cut_after"] == 3
    assert read_all(direct, table) == by_key(items)


def test_an_item_that_is_put_again_and_was_applied_late_is_our_own(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    """DynamoDB applies the batch after the look found nothing."""
    items = make_items(3)
    Application(
        proxy,
        "BatchGetItem",
        lambda: direct.put_items(keyed(table), as_puts(items)),
        Faults(cut_before=1.0, only=("BatchWriteItem",)),
    )
    assert connect().put_items(keyed(table), as_puts(items)) == (3, [])


@pytest.mark.parametrize("lost", [None, *LOST])
def test_an_attribute_that_the_application_adds_just_before_a_delete_is_put_back(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str, lost: str | None
) -> None:
    """The condition of a delete does not see it, and the item was gone with it."""
    item = make_items(1)[0]
    theirs = item | {"by_the_application": {"S": "kept"}}
    direct.put_items(keyed(table), as_puts([theirs]))
    passed: list[None] = []
    proxy.applied = lambda operation, _: setattr(proxy, "faults", Faults()) if operation == "PutItem" else None

    def check() -> None:
        if passed:
            raise FencedError("another run owns the target now")
        passed.append(None)
        if lost:
            proxy.faults = replace(LOST[lost], only=("PutItem",))

    ((_, done),) = connect(check=check, fence_seconds=0).delete_items(keyed(table), [Delete(key(item), item)])
    assert not done
    assert read_all(direct, table) == by_key([theirs]), "with the fence or without it"


def test_an_item_that_the_application_makes_before_it_is_put_back_is_the_applications(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    item = make_items(1)[0]
    direct.put_items(keyed(table), as_puts([item | {"by_the_application": {"S": "old"}}]))
    newer = item | {"by_the_application": {"S": "new"}}
    Application(proxy, "DeleteItem", lambda: direct.put_items(keyed(table), as_puts([newer])))
    assert [done for _, done in connect().delete_items(keyed(table), [Delete(key(item), item)])] == [False]
    assert read_all(direct, table) == by_key([newer])


def test_an_item_that_cannot_be_put_back_is_told(proxy: Proxy, connect: Connect, direct: DynamoDB, table: str) -> None:
    item = make_items(1)[0]
    direct.put_items(keyed(table), as_puts([item | {"by_the_application": {"S": "not-for-logs"}}]))
    proxy.faults = Faults(deny=1.0, only=("PutItem",))
    with pytest.raises(PermanentError, match=f"Item key-0 of table {table} is deleted, .* could not be put") as caught:
        list(connect().delete_items(keyed(table), [Delete(key(item), item)]))
    assert "not-for-logs" not in str(caught.value)


def test_the_applications_work_is_kept_when_everything_breaks(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    items = make_items(20)
    theirs = [item | {"rating": {"N": "5000"}} for item in items]
    direct.put_items(keyed(table), as_puts(theirs))
    proxy.faults, dynamodb = EVERYTHING, connect()

    updates = [Update(key(item), item, item | {"rating": {"N": "1000"}}) for item in items]
    for outcomes in (
        dynamodb.update_items(keyed(table), updates),
        dynamodb.put_absent_items(keyed(table), [PutAbsent(key(item), item) for item in items]),
        dynamodb.delete_items(keyed(table), [Delete(key(item), item) for item in items]),
    ):
        assert [done for _, done in outcomes] == [False] * 20
    assert read_all(direct, table) == by_key(theirs)
    assert proxy.counts["throttled"] > 0


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(throttle=1.0), HOT_KEYS),
        (Faults(throttle=1.0, throttle_reasons=()), "throttled"),
        (Faults(error_before=1.0), "InternalServerError|ServiceUnavailable"),
        (Faults(cut_before=1.0), "ConnectionClosedError"),
    ],
    ids=["throttled", "throttled without reasons", "failing", "hanging up"],
)
def test_a_writer_gives_up_after_long_patience_and_says_how_much_is_missing(
    proxy: Proxy, connect: Connect, table: str, faults: Faults, reason: str
) -> None:
    clock = Clock()
    proxy.faults, dynamodb = faults, connect(in_flight=2, clock=clock, sleep=clock.sleep)
    with pytest.raises(TransientError, match=rf"^60 items for table {table} are not written\. .*({reason})"):
        dynamodb.put_items(keyed(table), as_puts(make_items(60)))
    assert clock.now >= 300
    assert proxy.counts["requests"] > 20


def test_what_got_through_before_giving_up_is_not_counted_as_missing(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    clock = Clock()
    dynamodb = connect(in_flight=1, clock=clock, sleep=clock.sleep)

    def puts() -> Iterator[tuple[str, bytes]]:
        for number, put in enumerate(as_puts(make_items(75))):
            if number == 51:  # two batches are out; the third goes into a wall
                while len(read_all(direct, table)) < 50:
                    pass
                proxy.faults = Faults(throttle=1.0)
            yield put

    with pytest.raises(TransientError, match=r"^25 items"):
        dynamodb.put_items(keyed(table), puts())
    assert len(read_all(direct, table)) == 50


def test_a_writer_that_lost_its_target_sends_nothing_more(proxy: Proxy, connect: Connect, table: str) -> None:
    proxy.faults = EVERYTHING
    checks = 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks > 10:
            raise FencedError("another run owns the target now")

    with pytest.raises(FencedError):
        connect(in_flight=1, check=check, fence_seconds=0).put_items(keyed(table), as_puts(make_items(800)))
    assert proxy.counts["requests"] - proxy.counts["BatchGetItem"] == 10


def test_a_refused_permission_names_the_action_and_is_not_tried_again(
    proxy: Proxy, connect: Connect, table: str
) -> None:
    proxy.faults = Faults(deny=1.0)
    with pytest.raises(AccessError, match=f"dynamodb:DescribeTable on table {table}"):
        connect().describe_table(table)
    assert proxy.counts["requests"] == 1
    with pytest.raises(AccessError, match=f"dynamodb:BatchWriteItem on table {table}"):
        connect().put_items(keyed(table), as_puts(make_items(1)))


@pytest.mark.parametrize("reason", [TABLE_LIMIT, PROVISIONED, ACCOUNT])
def test_a_tables_limit_slows_all_writers(proxy: Proxy, connect: Connect, table: str, reason: str) -> None:
    clock = Clock()
    proxy.faults = Faults(throttle=0.3, throttle_reasons=(reason,))
    connect(in_flight=1, clock=clock, sleep=clock.sleep).put_items(keyed(table), as_puts(make_items(500)))
    assert proxy.counts["throttled"] > 0
    assert clock.now > 2, "500 items of two units at the lowest rate, 250 units a second, take about 4 s"


def test_a_hot_key_range_slows_only_its_own_items(proxy: Proxy, connect: Connect, table: str) -> None:
    clock = Clock()
    proxy.faults = Faults(throttle=0.3, throttle_reasons=(HOT_KEYS,))
    connect(in_flight=1, clock=clock, sleep=clock.sleep).put_items(keyed(table), as_puts(make_items(500)))
    assert proxy.counts["throttled"] > 0
    assert clock.now < 2


def test_the_others_do_not_wait_for_a_hot_key_range(
    proxy: Proxy, connect: Connect, direct: DynamoDB, table: str
) -> None:
    """It takes nothing until they are all written: whoever waited for it would give up."""
    items, clock, done = make_items(2500), Clock(), 0
    hot = "isbn-7"  # and isbn-70 to 79, 700 to 799: 111 of them
    proxy.faults = Faults(hot=hot)

    def count(written: int) -> None:
        nonlocal done
        done += written
        if done == 2500 - 111:
            assert clock.now < 1, "what was left over for the hot range's sake slowed the others"
            assert not any(hot in item["isbn"]["S"] for item in read_all(direct, table).values())
            proxy.faults = Faults()

    dynamodb = connect(in_flight=4, clock=clock, sleep=clock.sleep)
    assert dynamodb.put_items(keyed(table), as_puts(items), count) == (2500, [])
    assert done == 2500
    assert proxy.counts["throttled"] > 0 and proxy.counts["unprocessed_items"] > 0
    assert read_all(direct, table) == by_key(items)
