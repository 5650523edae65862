"""A whole run, its undo and a later run while DynamoDB throttles, hands items back, fails and drops connections."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB, client_config
from accession.run import Run
from accession.run.batches import FRESH_KEYS
from conftest import Library
from driver import Driver, open_hasty
from faults.proxy import Faults, Proxy

FAULTS = Faults(
    throttle=0.3, unprocessed=0.3, error_before=0.03, error_after=0.03, cut_before=0.03, cut_after=0.03
)  # fmt: skip


class HastyDriver(Driver):
    """A run for which time passes faster."""

    def connect(self, epoch: int | None = None) -> DynamoDB:
        return open_hasty(self.client) if epoch is None else super().connect(epoch)


def read_tables(driver: Driver) -> dict[str, list[dict[str, Any]]]:
    """Every table by its wire form, read without the faults."""
    return {name: sorted(driver.scan(name), key=str) for name in driver.mapping.order}


@pytest.mark.timeout(280)
def test_a_run_a_delta_and_their_undo_lose_nothing(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=150, books=150, user_books=300, orphans=0, odd=0)
    with Proxy(library.aws.endpoint, FAULTS) as proxy:
        client = library.aws.client("dynamodb", endpoint_url=proxy.endpoint, config=client_config())
        first = HastyDriver(library, source, client=client)
        assert first.run().status == "verified"
        expected = {name: {c.key: c.item for c in first.changes(name)} for name in first.mapping.order}
        clear = Driver(library, source)
        keys = {name: entity.target.keys[0] for name, entity in clear.mapping.entities.items()}
        before = read_tables(clear)
        assert {n: {i[keys[n]]["S"]: i for i in items} for n, items in before.items()} == expected

        with closing(sqlite3.connect(source)) as db, db:
            edited = db.execute("UPDATE book SET description = 'edited' WHERE id % 3 = 0").rowcount
            deleted = db.execute("DELETE FROM user_book WHERE id % 4 = 0").rowcount
        second = HastyDriver(library, source, client=client)
        report = second.run()
        assert (report.totals["updated"], report.totals["deleted"]) == (edited, deleted)
        assert not second.undo().conflicts
        assert read_tables(clear) == before
        assert not first.undo().conflicts
        assert not any(read_tables(clear).values())
        counts = dict(proxy.counts)
    assert counts["throttled"] > 0 and counts["unprocessed_items"] > 0, counts
    assert counts["cut_before"] + counts["cut_after"] > 0, counts


@pytest.fixture
def proxy(library: Library) -> Iterator[Proxy]:
    with Proxy(library.aws.endpoint) as proxy:
        yield proxy


def open_driver(library: Library, source: Path, proxy: Proxy, **params: Any) -> Driver:
    client = library.aws.client("dynamodb", endpoint_url=proxy.endpoint, config=client_config())
    return Driver(library, source, client=client, on_conflict="keep", **params)


def begin(driver: Driver) -> Driver:
    driver.stage_all()
    driver.plan()
    driver.open()
    return driver


def once(operation: str, table: str, work: Callable[[bytes], object]) -> Callable[[str, bytes], None]:
    """Call `work` with the first request of an operation to a table that is applied, before it is answered."""
    done: list[bytes] = []

    def see(applied: str, body: bytes) -> None:
        if applied == operation and table.encode() in body and not done:
            done.append(body)
            work(body)

    return see


def add_attribute(library: Library, entity: str, key: dict[str, Any]) -> None:
    library.aws.client("dynamodb").update_item(
        TableName=library.tables[entity],
        Key=key,
        UpdateExpression="SET by_the_application = :v",
        ExpressionAttributeValues={":v": {"S": "kept"}},
    )


def test_an_edit_while_an_answer_is_lost_is_a_conflict_of_its_source_row(
    library: Library, tmp_path: Path, proxy: Proxy
) -> None:
    source = write_sample(tmp_path / "site.db", users=3, books=5, user_books=5, orphans=0, odd=0)
    driver = begin(open_driver(library, source, proxy))
    edited = next(change for change in driver.changes("book") if change.old_key == 3)

    def edit(_: bytes) -> None:
        add_attribute(library, "book", {"book_id": {"S": edited.key}})
        proxy.faults = Faults()

    proxy.applied = once("BatchWriteItem", library.tables["book"], edit)
    driver.migrate("user")
    proxy.faults = Faults(cut_after=1.0, only=("BatchWriteItem",))
    (execution,) = driver.migrate("book")
    assert execution.written == 4
    ((key, old_key, checksum),) = [(one.key, one.old_key, one.checksum) for one in execution.conflicts]
    assert (key, old_key, checksum) == (edited.key, 3, None)
    assert {item["book_id"]["S"]: item for item in driver.scan("book")}[key]["by_the_application"] == {"S": "kept"}
    proof = driver.verify("book")
    assert (proof.verified, proof.held) == (4, 1)


def test_an_attribute_that_is_added_between_the_look_and_the_delete_is_kept_as_a_conflict(
    library: Library, tmp_path: Path, proxy: Proxy
) -> None:
    source = write_sample(tmp_path / "site.db", users=5, books=5, user_books=12, orphans=0, odd=0)
    assert open_driver(library, source, proxy).run().status == "verified"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("DELETE FROM user_book")
    driver = begin(open_driver(library, source, proxy))
    added = driver.changes("user_book")[2]
    table = library.tables["user_book"]
    key = {"user_book_id": {"S": added.key}}
    proxy.applied = once("BatchGetItem", table, lambda _: add_attribute(library, "user_book", key))
    assert driver.epoch is not None
    (execution,) = driver.steps.remove(driver.epoch)
    assert [conflict.key for conflict in execution.conflicts] == [added.key]
    assert added.before is not None
    assert driver.scan("user_book") == [added.before | {"by_the_application": {"S": "kept"}}]


def test_an_attribute_that_is_added_between_the_look_and_an_undo_is_kept_as_a_conflict(
    library: Library, tmp_path: Path, proxy: Proxy
) -> None:
    source = write_sample(tmp_path / "site.db", users=5, books=5, user_books=12, orphans=0, odd=0)
    driver = open_driver(library, source, proxy)
    assert driver.run().status == "verified"
    added = driver.changes("user_book")[2]
    table = library.tables["user_book"]
    key = {"user_book_id": {"S": added.key}}
    proxy.applied = once("BatchGetItem", table, lambda _: add_attribute(library, "user_book", key))
    rollback = driver.undo(accept_conflicts=True)
    assert [conflict["key"] for conflict in rollback.conflicts] == [added.key]
    assert added.item is not None
    assert driver.scan("user_book") == [added.item | {"by_the_application": {"S": "kept"}}]


def test_items_are_read_only_just_before_they_are_deleted(library: Library, tmp_path: Path, proxy: Proxy) -> None:
    """A thousand keys were read at once; at a capped rate they were deleted minutes later."""
    source = write_sample(tmp_path / "site.db", users=10, books=40, user_books=400, orphans=0, odd=0)
    assert Driver(library, source).run().status == "verified"
    with closing(sqlite3.connect(source)) as db, db:
        db.execute("DELETE FROM user_book")
    table = library.tables["user_book"]
    ahead, most = 0, 0

    def count(operation: str, body: bytes) -> None:
        nonlocal ahead, most
        if operation == "BatchGetItem" and (asked := orjson.loads(body)["RequestItems"].get(table)):
            ahead += len(asked["Keys"])
        elif operation in {"DeleteItem", "PutItem"}:
            ahead -= 1
        most = max(most, ahead)

    driver = begin(open_driver(library, source, proxy))
    proxy.applied = count
    assert driver.epoch is not None
    (execution,) = driver.steps.remove(driver.epoch)
    assert (execution.written, ahead) == (400, 0)
    assert most <= FRESH_KEYS + 2 * 64, "a batch of keys, and what is in flight"


def test_every_writer_of_a_step_is_closed_at_its_end(library: Library, tmp_path: Path) -> None:
    opened: list[DynamoDB] = []

    class Watched(Run):
        def connect_writer(self, epoch: int, **given: Any) -> DynamoDB:
            opened.append(super().connect_writer(epoch, **given))
            return opened[-1]

    source = write_sample(tmp_path / "site.db", users=2, books=2, user_books=2, orphans=0, odd=0)
    driver = begin(Driver(library, source))
    assert driver.epoch is not None
    run = Watched.load(driver.store, driver.mapping, driver.run_name, driver.connect())
    run.migrate("user", 0, driver.epoch)
    run.remove(driver.epoch)
    run.undo("the tests")
    assert len(opened) == 2, "there is nothing to remove"
    for writer in opened:
        with pytest.raises(RuntimeError, match="closed"):
            writer.is_empty(library.tables["user"])
