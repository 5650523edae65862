"""The library's DynamoDB against a real MiniStack: what goes in comes back, conditions protect, nothing is skipped."""

import base64
import gc
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import orjson
import pytest

from accession.dynamodb import Delete, DynamoDB, PutAbsent, Update, client_config
from accession.dynamodb.reader import LOOK_UP_PAGES, Reader
from accession.errors import CredentialsError, FencedError, PermanentError, TargetError, TransientError
from accession.items import ItemKey, KeySchema, Table, TypedItem
from conftest import Library, LocalAws


@pytest.fixture
def dynamodb(library: Library) -> DynamoDB:
    return DynamoDB(boto3.client("dynamodb", config=client_config()))


@pytest.fixture
def table(library: Library) -> str:
    return library.tables["user_book"]


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def make_item(number: int, **more: Any) -> TypedItem:
    return {
        "user_book_id": {"S": f"key-{number}"},
        "user_id": {"S": f"user-{number % 3}"},
        "book_id": {"S": f"book-{number % 2}"},
        "rating": {"N": str(number)},
        **more,
    }


def as_puts(items: list[TypedItem]) -> list[tuple[str, bytes]]:
    return [(item["user_book_id"]["S"], orjson.dumps(item)) for item in items]


def keyed(table: str) -> Table:
    return Table(table, KeySchema(("user_book_id",)))


def read_all(dynamodb: DynamoDB, table: str, segments: int = 1) -> list[TypedItem]:
    return [item for _, page in dynamodb.scan_pages(table, segments) for items in page for item in items]


def read_one(dynamodb: DynamoDB, table: str, key: str = "key-1") -> TypedItem | None:
    return dynamodb.read_items(keyed(table), [ItemKey(key)]).get(ItemKey(key))


def update_item(dynamodb: DynamoDB, table: str, key: str, before: TypedItem, after: TypedItem) -> bool:
    ((_, done),) = dynamodb.update_items(keyed(table), [Update(ItemKey(key), before, after)])
    return done


def put_absent_item(dynamodb: DynamoDB, table: str, item: TypedItem) -> bool:
    ((_, done),) = dynamodb.put_absent_items(keyed(table), [PutAbsent(ItemKey(item["user_book_id"]["S"]), item)])
    return done


def delete_item(dynamodb: DynamoDB, table: str, key: str, before: TypedItem) -> bool:
    ((_, done),) = dynamodb.delete_items(keyed(table), [Delete(ItemKey(key), before)])
    return done


# Tables


def test_a_table_is_described_with_its_keys_and_indexes(dynamodb: DynamoDB, table: str) -> None:
    found = dynamodb.describe_table(table)
    assert (found.name, found.status, found.key, found.key_type, found.sort_key) == (
        table, "ACTIVE", "user_book_id", "S", None,
    )  # fmt: skip
    assert found.arn.endswith(f":table/{table}")
    assert found.indexes == {
        "user-index": (("user_id",), ()),
        "user-book-index": (("user_id",), ("book_id",)),
    }
    assert found.index_status == {"user-index": "ACTIVE", "user-book-index": "ACTIVE"}


def test_a_table_is_empty_until_it_holds_an_item(dynamodb: DynamoDB, table: str) -> None:
    assert dynamodb.is_empty(table)
    dynamodb.put_items(keyed(table), as_puts([make_item(1)]))
    assert not dynamodb.is_empty(table)


@pytest.mark.parametrize(
    "call",
    [
        lambda dynamodb: dynamodb.describe_table("Nowhere"),
        lambda dynamodb: dynamodb.is_empty("Nowhere"),
        lambda dynamodb: dynamodb.put_items(keyed("Nowhere"), as_puts([make_item(1)])),
        lambda dynamodb: dynamodb.read_items(keyed("Nowhere"), [ItemKey("a")]),
        lambda dynamodb: delete_item(dynamodb, "Nowhere", "a", make_item(1)),
    ],
)
def test_a_missing_table_is_named_with_the_remedy(dynamodb: DynamoDB, call: Callable[[DynamoDB], object]) -> None:
    with pytest.raises(TargetError, match=r"^Table Nowhere does not exist in us-east-1: run make deploy"):
        call(dynamodb)


# Writes


@pytest.mark.parametrize("count", [0, 1, 24, 25, 26, 51, 500])
def test_every_item_of_any_number_is_written_once(dynamodb: DynamoDB, table: str, count: int) -> None:
    items = [make_item(number) for number in range(count)]
    progress: list[int] = []
    assert dynamodb.put_items(keyed(table), as_puts(items), progress.append) == (count, [])
    assert sum(progress) == count and len(progress) == -(-count // 25)
    assert sorted(read_all(dynamodb, table), key=str) == sorted(items, key=str)
    assert dynamodb.consumed_write_units >= count


def test_every_type_and_script_reads_back_as_it_went_in(dynamodb: DynamoDB, table: str) -> None:
    item = make_item(
        1,
        text={"S": "naïve 図書館 📚 \x00 \u2028 \\ \" '"},
        empty={"S": ""},
        binary={"B": base64.b64encode(bytes(range(256))).decode()},
        null={"NULL": True},
        no={"BOOL": False},
        precise={"N": "12345678901234567890123456789012345678"},
        small={"N": "-0.000000000000000000000000000001"},
        json={"M": {"list": {"L": [{"N": "1"}, {"S": "zwei"}, {"M": {}}, {"L": []}]}}},
    )
    dynamodb.put_items(keyed(table), as_puts([item]))
    assert read_one(dynamodb, table) == item
    assert read_all(dynamodb, table) == [item]


def test_items_near_the_limit_are_split_over_requests_by_size(dynamodb: DynamoDB, table: str) -> None:
    items = [make_item(number, text={"S": "\x01" * 390_000}) for number in range(8)]  # 2.3 MB each on the wire
    puts = as_puts(items)
    assert sum(len(item) for _, item in puts) > 16_000_000
    progress: list[int] = []
    dynamodb.put_items(keyed(table), puts, progress.append)
    assert sorted(progress) == [2, 6]
    assert len(read_all(dynamodb, table)) == 8


def test_a_key_that_comes_twice_does_not_sink_its_batch(dynamodb: DynamoDB, table: str) -> None:
    assert dynamodb.put_items(keyed(table), as_puts([make_item(1), make_item(2), make_item(1)])) == (3, [])
    assert {item["user_book_id"]["S"] for item in read_all(dynamodb, table)} == {"key-1", "key-2"}


def test_puts_are_taken_only_as_they_are_needed(table: str) -> None:
    taken, ahead = 0, list[int]()

    def puts() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        for put in as_puts([make_item(number) for number in range(1000)]):
            taken += 1
            yield put

    dynamodb = DynamoDB(boto3.client("dynamodb", config=client_config()), in_flight=2)
    done = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        ahead.append(taken - done)

    dynamodb.put_items(keyed(table), puts(), written)
    assert max(ahead) <= 4 * 25


def test_a_writer_that_lost_its_target_stops(table: str) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 3:
            raise FencedError("another run owns the target now")

    dynamodb = DynamoDB(boto3.client("dynamodb", config=client_config()), in_flight=1, check=check, fence_seconds=0)
    with pytest.raises(FencedError):
        dynamodb.put_items(keyed(table), as_puts([make_item(number) for number in range(500)]))
    assert len(read_all(dynamodb, table)) == 75


def test_what_the_service_refuses_is_told_without_values(dynamodb: DynamoDB, table: str) -> None:
    with pytest.raises(PermanentError, match=f"refused dynamodb:BatchWriteItem on table {table}") as caught:
        dynamodb.put_items(keyed(table), as_puts([make_item(1, rating={"N": "not-for-logs"})]))
    assert "not-for-logs" not in str(caught.value)


# Conditional writes


def test_an_update_changes_what_differs_and_nothing_else(dynamodb: DynamoDB, table: str) -> None:
    before = make_item(1, status={"S": "reading"}, old={"NULL": True})
    dynamodb.put_items(keyed(table), as_puts([before | {"by_the_application": {"S": "kept"}}]))
    after = {**before, "status": {"S": "read"}, "new": {"BOOL": True}}
    del after["old"]
    assert update_item(dynamodb, table, "key-1", before, after)
    assert read_one(dynamodb, table) == after | {"by_the_application": {"S": "kept"}}
    assert update_item(dynamodb, table, "key-1", before, after), "repeating is safe"
    assert update_item(dynamodb, table, "key-1", after, before), "and so is the way back"
    assert read_one(dynamodb, table) == before | {"by_the_application": {"S": "kept"}}


@pytest.mark.parametrize(
    "touched",
    [
        {"status": {"S": "by the application"}},
        {"status": None},
        {"old": {"S": "by the application"}},
        {"new": {"S": "by the application"}},
    ],
    ids=["set attribute changed", "set attribute gone", "removed attribute changed", "added attribute there"],
)
def test_an_update_leaves_alone_what_the_application_changed(
    dynamodb: DynamoDB, table: str, touched: TypedItem
) -> None:
    before = make_item(1, status={"S": "reading"}, old={"NULL": True})
    after = make_item(1, status={"S": "read"}, new={"BOOL": True})
    held = {name: value for name, value in (before | touched).items() if value is not None}
    dynamodb.put_items(keyed(table), as_puts([held]))
    assert not update_item(dynamodb, table, "key-1", before, after)
    assert read_one(dynamodb, table) == held


@pytest.mark.parametrize("name", ["status", "old", "new"])
def test_an_update_is_not_repeated_over_what_the_application_put_back(
    dynamodb: DynamoDB, table: str, name: str
) -> None:
    """It was applied, its answer was lost, and the application reverted one: each is as before or as after."""
    before = make_item(1, status={"S": "reading"}, old={"NULL": True}, other={"N": "1"})
    after = make_item(1, status={"S": "read"}, new={"BOOL": True}, other={"N": "2"})
    reverted = {key: value for key, value in after.items() if key != name}
    reverted |= {name: before[name]} if name in before else {}
    dynamodb.put_items(keyed(table), as_puts([reverted]))
    assert not update_item(dynamodb, table, "key-1", before, after)
    assert not update_item(dynamodb, table, "key-1", after, before)
    assert read_one(dynamodb, table) == reverted


def test_an_update_never_creates_an_item(dynamodb: DynamoDB, table: str) -> None:
    assert not update_item(dynamodb, table, "key-1", make_item(1), make_item(1, new={"S": "x"}))
    assert not update_item(dynamodb, table, "key-1", make_item(1), make_item(1))
    assert read_one(dynamodb, table) is None


def test_an_update_of_very_many_attributes_fits_its_expression(dynamodb: DynamoDB, table: str) -> None:
    before = make_item(1, **{f"attribute{number}": {"N": "1"} for number in range(100)})
    after = make_item(1, **{f"attribute{number}": {"N": "2"} for number in range(100)})
    dynamodb.put_items(keyed(table), as_puts([before]))
    assert update_item(dynamodb, table, "key-1", before, after)
    assert read_one(dynamodb, table) == after
    assert delete_item(dynamodb, table, "key-1", after)


def test_an_item_is_put_only_where_nothing_is(dynamodb: DynamoDB, table: str) -> None:
    assert put_absent_item(dynamodb, table, make_item(1))
    assert not put_absent_item(dynamodb, table, make_item(1, status={"S": "other"}))
    assert not put_absent_item(dynamodb, table, make_item(1))
    assert read_one(dynamodb, table) == make_item(1)


@pytest.mark.parametrize(
    "touched",
    [{"rating": {"N": "5"}}, {"rating": {"NULL": True}}, {"rating": None}, {"binary": {"B": "AAEC"}}],
    ids=["changed", "null", "gone", "binary changed"],
)
def test_a_changed_item_is_not_deleted(dynamodb: DynamoDB, table: str, touched: TypedItem) -> None:
    before = make_item(1, binary={"B": "AAED"})
    held = {name: value for name, value in (before | touched).items() if value is not None}
    dynamodb.put_items(keyed(table), as_puts([held]))
    assert not delete_item(dynamodb, table, "key-1", before)
    assert read_one(dynamodb, table) == held


def test_an_item_is_deleted_once(dynamodb: DynamoDB, table: str) -> None:
    item = make_item(1, binary={"B": "AAED"}, null={"NULL": True}, empty={"S": ""}, json={"M": {"a": {"L": []}}})
    dynamodb.put_items(keyed(table), as_puts([item, make_item(2)]))
    assert delete_item(dynamodb, table, "key-1", item)
    assert not delete_item(dynamodb, table, "key-1", item)
    assert read_all(dynamodb, table) == [make_item(2)]


# Reads


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 250])
def test_items_are_read_by_key_and_absent_ones_are_absent(dynamodb: DynamoDB, table: str, count: int) -> None:
    items = [make_item(number) for number in range(count)]
    dynamodb.put_items(keyed(table), as_puts(items))
    keys = [ItemKey(f"key-{number}") for number in range(count + 5)]
    found = dynamodb.read_items(keyed(table), keys + keys[:7])
    assert found == {item["user_book_id"]["S"]: item for item in items}


@pytest.mark.parametrize("segments", [1, 4])
def test_a_scan_over_all_segments_sees_every_item_once(dynamodb: DynamoDB, table: str, segments: int) -> None:
    items = [make_item(number, text={"S": "x" * 30_000}) for number in range(150)]  # 4.5 MB: several pages
    dynamodb.put_items(keyed(table), as_puts(items))
    seen = Counter(item["user_book_id"]["S"] for item in read_all(dynamodb, table, segments))
    assert seen == Counter(f"key-{number}" for number in range(150))
    assert dynamodb.consumed_read_units > 0
    assert segments > 1 or len(list(dynamodb.scan_pages(table, 1))) > 3, "a test of one page would prove little"


def test_an_index_finds_the_keys_over_all_pages(dynamodb: DynamoDB, table: str) -> None:
    items = [make_item(number, text={"S": "x" * 30_000}) for number in range(150)]
    dynamodb.put_items(keyed(table), as_puts(items))

    def find(index: str, **values: str) -> set[int]:
        asked = {name: {"S": value} for name, value in values.items()}
        keys = [ItemKey(f"key-{number}") for number in range(150)]
        found = [dynamodb.finds_item(keyed(table), index, asked, key) for key in keys]
        assert None not in found
        return {number for number in range(150) if found[number]}

    assert find("user-index", user_id="user-1") == set(range(1, 150, 3))
    assert find("user-book-index", user_id="user-1", book_id="book-0") == set(range(4, 150, 6))
    assert find("user-index", user_id="nobody") == set()


def test_a_look_up_through_an_index_stops_at_its_item_and_reads_ten_pages_at_most(
    dynamodb: DynamoDB, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read the whole partition: of an index by genre, a good part of the table for each look-up."""
    items = [make_item(number, user_id={"S": "one"}, text={"S": "x" * 250_000}) for number in range(60)]
    dynamodb.put_items(keyed(table), as_puts(items))
    pages: list[list[TypedItem]] = []
    read = Reader._read_page

    async def keep(self: Reader, *request: Any) -> tuple[list[Any], TypedItem | None]:
        items, start = await read(self, *request)
        pages.append(items)
        return items, start

    monkeypatch.setattr(Reader, "_read_page", keep)

    def find(key: str) -> bool | None:
        pages.clear()
        return dynamodb.finds_item(keyed(table), "user-index", {"user_id": {"S": "one"}}, ItemKey(key))

    assert find("nothing") is None
    assert len(pages) == LOOK_UP_PAGES
    first, third = (pages[number][0]["user_book_id"]["S"] for number in (0, 2))
    assert find(first) is True and len(pages) == 1
    assert find(third) is True and len(pages) == 3


# The client


def test_the_client_behaves_as_ever_for_others(table: str) -> None:
    client = boto3.client("dynamodb")
    for _ in range(2):  # a second DynamoDB on the same client registers nothing twice
        dynamodb = DynamoDB(client)
        dynamodb.put_items(keyed(table), as_puts([make_item(1, binary={"B": "AAEC"})]))
    assert client.scan(TableName=table)["Items"][0]["binary"] == {"B": b"\x00\x01\x02"}
    client.put_item(TableName=table, Item={"user_book_id": {"S": "key-2"}, "binary": {"B": b"\x00"}})
    assert read_one(dynamodb, table, "key-2") == {"user_book_id": {"S": "key-2"}, "binary": {"B": "AA=="}}
    with pytest.raises(client.exceptions.ConditionalCheckFailedException):
        client.put_item(
            TableName=table, Item={"user_book_id": {"S": "key-2"}}, ConditionExpression="attribute_not_exists(user_id)"
            " AND attribute_not_exists(user_book_id)",
        )  # fmt: skip


def test_a_client_lives_as_long_as_its_results_are_read(dynamodb: DynamoDB, table: str) -> None:
    dynamodb.put_items(keyed(table), as_puts([make_item(number) for number in range(3)]))

    def connect() -> DynamoDB:
        return DynamoDB(boto3.client("dynamodb", config=client_config()))

    assert len([item for _, page in connect().scan_pages(table, 1) for items in page for item in items]) == 3
    updates = [Update(ItemKey("key-1"), make_item(1), make_item(1))]
    assert [done for _, done in connect().update_items(keyed(table), updates)] == [True]


def test_nothing_is_left_of_a_client_that_nobody_holds(dynamodb: DynamoDB, table: str) -> None:
    before = threading.active_count()
    others = [DynamoDB(boto3.client("dynamodb", config=client_config())) for _ in range(3)]
    for other in others:
        other.is_empty(table)
    assert threading.active_count() > before
    with others.pop() as closed:
        closed.is_empty(table)
    del other, others
    gc.collect()
    assert [thread.name for thread in threading.enumerate()].count("accession-loop") <= 1
    closed.close()


def test_missing_credentials_are_told_with_the_action(aws: LocalAws, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    client = boto3.Session().client("dynamodb", config=client_config())
    with pytest.raises(CredentialsError, match=r"no AWS credentials for dynamodb:DescribeTable on table Some: set"):
        DynamoDB(client).describe_table("Some")


def test_nobody_at_the_endpoint_is_told_soon() -> None:
    clock = Clock()
    client = boto3.client(
        "dynamodb", endpoint_url="http://127.0.0.1:9", region_name="us-east-1", aws_access_key_id="a",
        aws_secret_access_key="b", config=client_config(),
    )  # fmt: skip
    with pytest.raises(TransientError, match=r"dynamodb:DescribeTable on table Some failed .*EndpointConnection"):
        DynamoDB(client, clock=clock, sleep=clock.sleep).describe_table("Some")
    assert 15 < clock.now < 30
