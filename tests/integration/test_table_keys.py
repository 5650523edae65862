"""Keys that two rows may want: collisions, keys that are freed and taken in one run, and keys that change."""

from collections.abc import Callable
from pathlib import Path

import pytest

from accession.audit import audit_target
from accession.errors import RefusedError
from conftest import Library
from driver import Driver
from second_auditor import find_damage
from tables import edit, later, make_driver, read, scan_all, select
from verify_register import Target

SCHEMA = """
CREATE TABLE account (id INTEGER PRIMARY KEY, email TEXT, name TEXT);
CREATE TABLE note (id INTEGER PRIMARY KEY, account INTEGER REFERENCES account, text TEXT);
INSERT INTO account VALUES (1, 'a@x', 'Ada'), (2, 'b@x', 'Bo'), (3, 'c@x', 'Cy');
INSERT INTO note VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 3, 'three');
"""
MAPPING = """
name: accounts
entities:
  account:
    source: {table: account, key: id}
    target: {table: "Accounts-{environment}", key: {pk: "ACCOUNT#{email}", sk: "#META"}}
    attributes:
      name: {column: name, type: string}
  note:
    source: {table: note, key: id}
    target: {table: "Notes-{environment}", key: {account: "{@account}", id: keep}}
    attributes:
      account: {column: account, references: {entity: account, part: pk}}
      text: {column: text, type: string}
"""


@pytest.fixture
def accounts(library: Library, tmp_path: Path) -> Driver:
    return make_driver(library, tmp_path, SCHEMA, MAPPING)


def expect_accounts(driver: Driver, without: str = "0") -> None:
    query = f"SELECT email, name FROM account WHERE id NOT IN ({without})"
    wanted = {(f"ACCOUNT#{email}", "#META"): {"name": name} for email, name in select(driver, query)}
    assert read(driver, "account", "pk", "sk") == wanted
    query = f"SELECT n.id, email, text FROM note n JOIN account a ON a.id = account WHERE a.id NOT IN ({without})"
    notes = {(f"ACCOUNT#{email}", key): {"text": text} for key, email, text in select(driver, query)}
    assert read(driver, "note", "account", "id") == notes


def expect_sound(driver: Driver, folder: Path) -> None:
    """Every auditor finds nothing."""
    assert audit_target(driver.store).ok
    for path in driver.store.list():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(driver.store.get(path))
    target = Target(folder)
    target.verify({})
    assert target.findings == []
    assert find_damage(folder) == set()


def count(driver: Driver, name: str) -> tuple[int, int, int]:
    counts = driver.index(name).counts
    return counts.put, counts.updated, counts.deleted


def test_rows_with_one_key_are_rejected_and_name_each_other(accounts: Driver, tmp_path: Path) -> None:
    edit(accounts, "INSERT INTO account VALUES (4, 'a@x', 'Al'), (5, 'e@x', 'Eve'), (6, 'a@x', 'Abe')")
    driver = later(accounts, max_rejects=9)
    assert driver.run().status == "verified"
    key = 'its key ["ACCOUNT#a@x","#META"] is also that of account'
    assert driver.rejects("account") == {1: f"id: {key} 4", 4: f"id: {key} 1", 6: f"id: {key} 1"}
    assert driver.rejects("note") == {1: "account: account 1 refers to a row of account that was rejected itself"}
    expect_accounts(driver, "1, 4, 6")
    assert later(accounts, max_rejects=9).run().status == "unchanged"
    edit(accounts, "DELETE FROM account WHERE id IN (4, 6)")
    third = later(accounts)
    assert third.run().status == "verified"
    expect_accounts(third)
    expect_sound(third, tmp_path / "bucket")


def test_an_item_that_is_there_keeps_its_key(accounts: Driver, tmp_path: Path) -> None:
    accounts.run()
    before = scan_all(accounts)
    edit(accounts, "INSERT INTO account VALUES (4, 'a@x', 'Al'); INSERT INTO note VALUES (4, 4, 'four')")
    second = later(accounts, max_rejects=2)
    assert second.run().status == "unchanged"
    assert list(second.rejects("account")) == [4]
    assert list(second.rejects("note")) == [4]
    assert scan_all(accounts) == before
    edit(accounts, "UPDATE account SET email = 'free@x' WHERE id = 1")
    third = later(accounts)
    assert third.run().status == "verified"
    expect_accounts(third)
    expect_sound(third, tmp_path / "bucket")


@pytest.mark.parametrize(
    ("edits", "counts"),
    [
        # A swap, a ring of three, a key that a removed row leaves to a new one, and one that moves into a freed key.
        ("UPDATE account SET email = CASE id WHEN 1 THEN 'b@x' ELSE 'a@x' END WHERE id < 3", (0, 2, 0)),
        ("UPDATE account SET email = CASE id WHEN 1 THEN 'b@x' WHEN 2 THEN 'c@x' ELSE 'a@x' END", (0, 3, 0)),
        ("DELETE FROM note WHERE account = 1; DELETE FROM account WHERE id = 1;"
         "INSERT INTO account VALUES (9, 'a@x', 'New')", (0, 1, 0)),
        ("UPDATE account SET email = 'd@x' WHERE id = 1; UPDATE account SET email = 'a@x' WHERE id = 2", (1, 1, 1)),
        ("UPDATE account SET email = 'd@x' WHERE id = 1", (1, 0, 1)),
    ],
)  # fmt: skip
def test_a_key_that_is_freed_and_taken_is_one_update(
    accounts: Driver, tmp_path: Path, edits: str, counts: tuple[int, int, int]
) -> None:
    accounts.run()
    before = scan_all(accounts)
    edit(accounts, edits)
    second = later(accounts)
    assert second.run().status == "verified"
    assert count(second, "account") == counts
    keys = [change.key for change in second.changes("account")]
    assert len(keys) == len(set(keys))
    expect_accounts(second)
    expect_sound(second, tmp_path / "bucket")
    assert later(accounts).run().status == "unchanged"
    second = later(accounts)
    edit(accounts, "UPDATE note SET text = text || '!'")
    assert second.run().status == "verified"
    expect_accounts(second)
    second.undo()
    Driver(accounts.library, accounts.source, mapping=accounts.mapping).load_run(second.manifest.parent or "").undo(
        "me"
    )
    assert scan_all(accounts) == before


def touch(driver: Driver, **change: str) -> None:
    """The application edits Ada's item."""
    driver.library.aws.client("dynamodb").update_item(
        TableName=driver.mapping.entities["account"].table(driver.library.environment),
        Key={"pk": {"S": "ACCOUNT#a@x"}, "sk": {"S": "#META"}},
        UpdateExpression="SET " + ", ".join(f"{name} = :{name}" for name in change),
        ExpressionAttributeValues={f":{name}": {"S": value} for name, value in change.items()},
    )


@pytest.mark.parametrize("change", [lambda driver: touch(driver, seen="now"), lambda driver: touch(driver, seen="x")])
def test_an_item_that_the_application_changed_is_not_taken_over_unasked(
    accounts: Driver, change: Callable[[Driver], None]
) -> None:
    accounts.run()
    change(accounts)
    edit(accounts, "UPDATE account SET email = CASE id WHEN 1 THEN 'b@x' ELSE 'a@x' END WHERE id < 3")
    second = later(accounts)
    second.start()
    second.stage("account")
    second.stage("note")
    with pytest.raises(RefusedError, match="conflict"):
        second.plan()
    third = later(accounts, on_conflict="overwrite")
    assert third.run().status == "verified"
    expect_accounts(third)


@pytest.mark.parametrize(
    "edits",
    [
        # Row 1 wants the key of row 2, so it keeps its own, and so on down the list.
        "UPDATE page SET slug = 'b' WHERE id = 1; UPDATE page SET slug = 'a' WHERE id = 3;"
        "INSERT INTO page VALUES (4, 'c', NULL)",
        # The parent of row 1 is gone.
        "UPDATE page SET slug = 'z', up = 99 WHERE id = 1; UPDATE page SET slug = 'a' WHERE id = 3;"
        "INSERT INTO page VALUES (4, 'c', NULL)",
    ],
)
def test_the_key_of_an_item_that_a_rejected_row_keeps_is_not_free(library: Library, tmp_path: Path, edits: str) -> None:
    driver = make_driver(
        library,
        tmp_path,
        "CREATE TABLE page (id INTEGER PRIMARY KEY, slug TEXT, up INTEGER);"
        "INSERT INTO page VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', NULL);",
        """
name: other
entities:
  page:
    source: {table: page, key: id}
    target: {table: "Pages-{environment}", key: {pk: "PAGE#{slug}"}}
    attributes: {up: {column: up, references: page, optional: true}}
""",
        max_rejects=9,
    )
    driver.run()
    before = scan_all(driver)
    edit(driver, edits)
    second = later(driver, max_rejects=9)
    assert second.run().status == "unchanged"
    assert set(second.rejects("page")) == {1, 3, 4}
    assert second.rejects("page")[4] == "id: its key PAGE#c is also that of page 3"
    assert scan_all(driver) == before
    edit(driver, "UPDATE page SET slug = 'new', up = NULL WHERE id = 1")
    third = later(driver)
    assert third.run().status == "verified"
    assert set(read(third, "page", "pk")) == {("PAGE#new",), ("PAGE#b",), ("PAGE#a",), ("PAGE#c",)}
    expect_sound(third, tmp_path / "bucket")


def test_a_key_that_is_made_of_a_rejected_parents_key_stays_with_it(library: Library, tmp_path: Path) -> None:
    """Parent and child are staged together; both tables have keys that collide."""
    driver = make_driver(
        library,
        tmp_path,
        "CREATE TABLE list (id INTEGER PRIMARY KEY, slug TEXT, first INTEGER);"
        "CREATE TABLE entry (id INTEGER PRIMARY KEY, list INTEGER, text TEXT);"
        "INSERT INTO list VALUES (1, 'a', 1), (2, 'b', NULL); INSERT INTO entry VALUES (1, 1, 'x'), (2, 2, 'y');",
        """
name: other
entities:
  list:
    source: {table: list, key: id}
    target: {table: "Lists-{environment}", key: {pk: "LIST#{slug}"}}
    attributes: {first: {column: first, references: {entity: entry, part: sk}, optional: true}}
  entry:
    source: {table: entry, key: id}
    target: {table: "Entries-{environment}", key: {pk: "{@list}", sk: "ENTRY#{text}"}}
    attributes: {list: {column: list, references: list}}
""",
        max_rejects=9,
    )
    driver.run()
    edit(
        driver,
        "UPDATE list SET slug = 'b' WHERE id = 1;"  # list 2 has it
        "INSERT INTO entry VALUES (3, 1, 'z'), (4, 2, 'w'), (5, 2, 'w')",
    )
    second = later(driver, max_rejects=9)
    assert second.run().status == "verified"
    assert list(second.rejects("list")) == [1]
    assert list(second.rejects("entry")) == [4, 5]
    assert set(read(second, "entry", "pk", "sk")) == {
        ("LIST#a", "ENTRY#x"), ("LIST#a", "ENTRY#z"), ("LIST#b", "ENTRY#y"),
    }  # fmt: skip
    expect_sound(second, tmp_path / "bucket")


def test_a_row_goes_back_to_a_key_whose_item_was_kept(library: Library, tmp_path: Path) -> None:
    driver = make_driver(
        library,
        tmp_path,
        "CREATE TABLE seat (id INTEGER PRIMARY KEY, room TEXT); INSERT INTO seat VALUES (1, 'x'), (2, 'y');",
        """
name: other
entities:
  seat:
    source: {table: seat, key: id}
    target: {table: "Seats-{environment}", key: {id: keep, room: keep}}
""",
        max_rejects=9,
    )
    driver.run()
    for room, deletes in (("z", "keep"), ("x", "keep"), ("x", "delete")):
        edit(driver, f"UPDATE seat SET room = '{room}' WHERE id = 1")
        last = later(driver, deletes=deletes)
        last.run()
        kept = {(1, "z")} if deletes == "keep" else set()
        assert set(read(last, "seat", "id", "room")) == {(1, "x"), (2, "y")} | kept
    expect_sound(last, tmp_path / "bucket")


def test_a_new_id_changes_with_the_other_part_of_its_key(library: Library, tmp_path: Path) -> None:
    driver = make_driver(
        library,
        tmp_path,
        "CREATE TABLE task (id INTEGER PRIMARY KEY, state TEXT, text TEXT);"
        "INSERT INTO task VALUES (1, 'open', 'one'), (2, 'done', 'two');",
        """
name: other
entities:
  task:
    source: {table: task, key: id}
    target: {table: "Tasks-{environment}", key: {pk: "TASK#{state}", sk: new_id}}
    attributes: {text: {column: text, type: string}}
""",
        max_rejects=9,
    )
    driver.run()
    [(_, two), (_, one)] = sorted(read(driver, "task", "pk", "sk"))
    edit(driver, "UPDATE task SET state = 'done', text = 'One' WHERE id = 1; UPDATE task SET text = 'Two' WHERE id = 2")
    second = later(driver)
    assert second.run().status == "verified"
    assert count(second, "task") == (1, 1, 1)
    items = read(second, "task", "pk", "sk")
    assert sorted((pk, item["text"]) for (pk, _), item in items.items()) == [("TASK#done", "One"), ("TASK#done", "Two")]
    assert ("TASK#done", two) in items
    assert one not in {sk for _, sk in items}
    edit(driver, "UPDATE task SET state = 'open' WHERE id = 1")
    third = later(driver)
    assert third.run().status == "verified"
    assert one not in {sk for _, sk in read(third, "task", "pk", "sk")}
    expect_sound(third, tmp_path / "bucket")
