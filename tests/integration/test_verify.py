"""The proof fails when one value, one item less or one item more is in the tables, and says which."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB
from accession.errors import AccessionError, VerificationError
from accession.items import ItemKey, Table
from conftest import Library
from driver import Driver


@pytest.fixture
def written(library: Library, tmp_path: Path) -> Driver:
    """A run whose items are written and not proved yet."""
    source = write_sample(tmp_path / "site.db", users=5, books=7, user_books=9, orphans=0, odd=0)
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    return driver


def key_of(driver: Driver) -> str:
    key: str = driver.scan("book")[2]["book_id"]["S"]
    return key


def test_an_untouched_target_is_proved_and_every_index_was_asked(written: Driver) -> None:
    proofs = {name: written.verify(name) for name in written.mapping.order}
    assert {name: proof.verified for name, proof in proofs.items()} == {"user": 5, "book": 7, "user_book": 9}
    asked: dict[str, int] = {}
    for proof in proofs.values():
        asked |= proof.look_ups
    assert set(asked) == {"email-index", "username-index", "isbn-index", "user-index", "user-book-index"}
    assert all(asked.values())


def test_a_changed_value_is_mismatched_and_its_attribute_named(written: Driver) -> None:
    key = key_of(written)
    update(written, key, "SET title = :v", {":v": {"S": "tampered"}})
    with pytest.raises(VerificationError, match=f"1 mismatched: {key} .*: title"):
        written.verify("book")


def test_a_proof_that_dies_leaves_no_id_map_open(written: Driver) -> None:
    written.library.aws.client("dynamodb").delete_table(TableName=written.library.tables["book"])
    with pytest.raises(AccessionError) as kept:  # which keeps the frame, and all that it holds
        written.verify("book")
    assert kept
    opened = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            opened.append(str(link.readlink()))
    assert [file for file in opened if "id_map.db" in file] == []


def test_an_added_attribute_is_mismatched(written: Driver) -> None:
    key = key_of(written)
    update(written, key, "SET shelf = :v", {":v": {"S": "A3"}})
    with pytest.raises(VerificationError, match=f"1 mismatched: {key} .*: shelf"):
        written.verify("book")


def test_a_number_that_became_text_is_mismatched(written: Driver) -> None:
    rated = next(item for item in written.scan("user_book") if "N" in item["rating"])
    written.library.aws.client("dynamodb").update_item(
        TableName=written.library.tables["user_book"],
        Key={"user_book_id": rated["user_book_id"]},
        UpdateExpression="SET rating = :v",
        ExpressionAttributeValues={":v": {"S": rated["rating"]["N"]}},
    )
    with pytest.raises(VerificationError, match=r"1 mismatched: .*: rating"):
        written.verify("user_book")


def test_a_missing_item_is_named(written: Driver) -> None:
    key = key_of(written)
    written.library.aws.client("dynamodb").delete_item(
        TableName=written.library.tables["book"], Key={"book_id": {"S": key}}
    )
    with pytest.raises(VerificationError, match=f"1 missing: {key}"):
        written.verify("book")


def test_an_extra_item_fails_a_first_run_into_empty_tables(written: Driver) -> None:
    put_extra(written)
    with pytest.raises(VerificationError, match="1 unexpected: extra-book"):
        written.verify("book")


def test_an_extra_item_is_reported_where_existing_items_are_kept(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=2, books=2, user_books=2, orphans=0, odd=0)
    driver = Driver(library, source, existing_items="keep")
    put_extra(driver)
    report = driver.run()
    assert report.status == "verified"
    assert report.entities["book"].unexpected == 1


def test_an_index_that_does_not_find_an_item_fails_the_proof(written: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is deleted from the table, as far as the emulator is concerned it has no such index any more."""
    monkeypatch.setattr("accession.run.lookups.INDEX_SECONDS", 0.0)
    written.library.aws.client("dynamodb").update_table(
        TableName=written.library.tables["book"],
        GlobalSecondaryIndexUpdates=[{"Delete": {"IndexName": "isbn-index"}}],
    )
    with pytest.raises(AccessionError, match="isbn-index"):
        written.verify("book")


def test_an_item_that_the_application_changes_during_the_proof_is_no_fault_of_an_index(
    written: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The samples are looked up when the scan is done; by then the application has given the book another ISBN."""
    asked = DynamoDB.finds_item

    def change_first(self: DynamoDB, table: Table, index: str, values: dict[str, Any], key: ItemKey) -> bool | None:
        for item in written.library.scan("book"):
            update(written, item["book_id"]["S"], "SET isbn = :i", {":i": {"S": f"978{item['book_id']['S'][:8]}"}})
        return asked(self, table, index, values, key)

    monkeypatch.setattr(DynamoDB, "finds_item", change_first)
    assert written.verify("book").ok


def test_a_look_up_that_ends_at_its_limit_of_pages_is_counted_as_not_known_and_is_no_fault(
    written: Driver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Too many items share the key of an index. It reads no page here, so that few items are too many."""
    monkeypatch.setattr("accession.dynamodb.reader.LOOK_UP_PAGES", 0)
    proof = written.verify("book")
    assert proof.ok
    assert proof.look_ups == proof.look_ups_not_known
    assert proof.look_ups["isbn-index"] > 0
    assert f"look-ups through isbn-index of {proof.table} ended at their limit of pages" in caplog.text


def update(driver: Driver, key: str, expression: str, values: dict[str, Any]) -> None:
    driver.library.aws.client("dynamodb").update_item(
        TableName=driver.library.tables["book"],
        Key={"book_id": {"S": key}},
        UpdateExpression=expression,
        ExpressionAttributeValues=values,
    )


def put_extra(driver: Driver) -> None:
    driver.library.aws.client("dynamodb").put_item(
        TableName=driver.library.tables["book"], Item={"book_id": {"S": "extra-book"}, "title": {"S": "x"}}
    )
