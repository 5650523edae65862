"""Later runs: the second and every one after it, exact, minimal and safe (docs/architecture.md)."""

import json
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import write_sample
from accession.errors import (
    ConflictError,
    FencedError,
    RefusedError,
    SourceError,
    StoreError,
    TargetError,
    TransientError,
    VerificationError,
)
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.target import load_state, log_path, take_over, unseal_target
from conftest import Library
from driver import Driver, seal_target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "site.db"
    write_sample(path, users=6, books=8, user_books=12, orphans=0, odd=0)
    return path


def edit(source: Path, *statements: str) -> None:
    with closing(sqlite3.connect(source)) as db, db:
        for statement in statements:
            db.execute(statement)


def run(library: Library, source: Path, **params: Any) -> Driver:
    driver = Driver(library, source, **params)
    report = driver.run()
    assert report.status in ("verified", "unchanged", "dry_run"), report.reason
    return driver


def tables(driver: Driver) -> dict[str, dict[str, Any]]:
    keys = {name: entity.target.keys[0] for name, entity in driver.mapping.entities.items()}
    return {name: {item[keys[name]]["S"]: item for item in driver.scan(name)} for name in driver.mapping.order}


def change_target(library: Library, entity: str, key_name: str, key: str, **attributes: Any) -> None:
    library.aws.client("dynamodb").update_item(
        TableName=library.tables[entity],
        Key={key_name: {"S": key}},
        UpdateExpression="SET " + ", ".join(f"#{n} = :{n}" for n in attributes),
        ExpressionAttributeNames={f"#{n}": n for n in attributes},
        ExpressionAttributeValues={f":{n}": value for n, value in attributes.items()},
    )


def delete_in_target(library: Library, entity: str, key_name: str, key: str) -> None:
    library.aws.client("dynamodb").delete_item(TableName=library.tables[entity], Key={key_name: {"S": key}})


def ids(driver: Driver, entity: str) -> dict[Any, str]:
    return {entry.old_key: entry.new_id for entry in driver.id_map(entity) if entry.latest}


def test_an_unchanged_source_writes_nothing_and_is_still_recorded(library: Library, source: Path) -> None:
    first = run(library, source)
    before = tables(first)
    second = Driver(library, source)
    report = second.run()
    assert report.status == "unchanged"
    assert report.write_units.consumed == 0
    assert report.totals["unchanged"] == 26
    assert tables(second) == before
    state = load_state(second.store)
    assert state is not None
    assert state.head == first.run_name
    assert state.log_tail.sequence == 2


def test_a_touched_file_with_equal_rows_is_unchanged_too(library: Library, source: Path) -> None:
    run(library, source)
    edit(source, "CREATE TABLE other (x)")
    assert Driver(library, source).run().status == "unchanged"


def test_only_what_changed_is_written(library: Library, source: Path) -> None:
    first = run(library, source)
    edit(
        source,
        "UPDATE book SET title = 'Emma' WHERE id = 3",
        "INSERT INTO book (id, title, author, isbn) VALUES (100, 'New', 'A', '9780000099999')",
        "DELETE FROM user_book WHERE id = 5",
    )
    second = Driver(library, source)
    report = second.run()
    assert report.status == "verified"
    totals = report.totals
    assert (totals["put"], totals["updated"], totals["deleted"], totals["unchanged"]) == (1, 1, 1, 24)
    book = second.items("book")
    assert book[3]["title"] == {"S": "Emma"}
    assert book[100]["title"] == {"S": "New"}
    assert 5 not in second.items("user_book")
    assert ids(first, "book")[3] == ids(second, "book")[3]
    assert first.items("book")[3]["created_at"] == book[3]["created_at"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE book SET title = 'Other' WHERE id = 2",
        "UPDATE book SET isbn = '9789999999999' WHERE id = 2",
        "UPDATE book SET isbn = NULL WHERE id = 2",
        "UPDATE user SET username = 'renamed' WHERE id = 2",
        "UPDATE user SET email = 'new@example.org' WHERE id = 2",
        "UPDATE user_book SET rating = 1, status = 'x' WHERE id = 2",
    ],
)
def test_an_edited_row_keeps_its_id(library: Library, source: Path, statement: str) -> None:
    entity = statement.split()[1]
    first = run(library, source)
    edit(source, statement)
    second = run(library, source)
    assert ids(first, entity) == ids(second, entity)


def test_a_row_id_used_again_by_another_thing_gets_a_new_id_and_its_references_follow(
    library: Library, source: Path
) -> None:
    edit(source, "UPDATE user_book SET user_id = 2 WHERE id = 1")
    first = run(library, source)
    edit(source, "UPDATE user SET username = 'someone', email = 'else@example.org' WHERE id = 2")
    second = run(library, source)
    old, new = ids(first, "user")[2], ids(second, "user")[2]
    assert old != new
    assert old not in tables(second)["user"]
    referring = second.items("user_book")[1]
    assert referring["user_id"] == {"S": new}
    assert ids(first, "user_book")[1] != ids(second, "user_book")[1]
    assert ids(first, "user_book")[1] not in tables(second)["user_book"]


def test_an_id_that_comes_back_two_runs_after_its_deletion_never_gets_the_old_uuid(
    library: Library, source: Path
) -> None:
    first = run(library, source)
    with closing(sqlite3.connect(source)) as db:
        row = db.execute("SELECT * FROM book WHERE id = 8").fetchone()
    edit(source, "DELETE FROM user_book WHERE book_id = 8", "DELETE FROM book WHERE id = 8")
    run(library, source)
    edit(source, "UPDATE book SET title = 'x' WHERE id = 1")
    run(library, source)
    with closing(sqlite3.connect(source)) as db, db:
        db.execute(f"INSERT INTO book VALUES ({','.join('?' * len(row))})", row)
    last = run(library, source)
    assert ids(last, "book")[8] != ids(first, "book")[8]
    assert {entry.generation for entry in last.id_map("book") if entry.old_key == 8} == {0, 1}


def test_deletes_keep_leaves_the_items_and_counts_them_as_held(library: Library, source: Path) -> None:
    first = run(library, source)
    edit(source, "DELETE FROM user_book WHERE id = 4")
    second = Driver(library, source, deletes="keep")
    report = second.run()
    assert report.totals["deleted"] == 0
    assert ids(first, "user_book")[4] in tables(second)["user_book"]
    third = Driver(library, source)
    report = third.run()
    assert (report.status, report.totals["deleted"]) == ("verified", 1)
    assert ids(first, "user_book")[4] not in tables(third)["user_book"]


APPLICATION_EDITS: dict[str, Callable[[Library, str], None]] = {
    "changed": lambda library, key: change_target(library, "book", "book_id", key, title={"S": "the app's"}),
    "attribute added": lambda library, key: change_target(library, "book", "book_id", key, shelf={"S": "A3"}),
    "deleted": lambda library, key: delete_in_target(library, "book", "book_id", key),
}


@pytest.mark.parametrize("kind", APPLICATION_EDITS)
def test_the_applications_work_is_a_conflict_and_refuses_by_default(library: Library, source: Path, kind: str) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    APPLICATION_EDITS[kind](library, key)
    before = tables(first)
    edit(source, "UPDATE book SET author = 'Somebody' WHERE id = 3")
    second = Driver(library, source)
    second.preflight()
    second.stage_all()
    with pytest.raises(RefusedError, match="1 items were changed in the target"):
        second.plan()
    assert second.end(failure="refused").status == "refused"
    assert tables(second) == before
    state = load_state(second.store)
    assert state is not None
    assert state.head == first.run_name
    assert state.open is None


@pytest.mark.parametrize("kind", APPLICATION_EDITS)
def test_a_kept_conflict_leaves_the_item_and_shows_again(library: Library, source: Path, kind: str) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    APPLICATION_EDITS[kind](library, key)
    before = tables(first)["book"].get(key)
    edit(source, "UPDATE book SET author = 'Somebody' WHERE id = 3")
    second = run(library, source, on_conflict="keep")
    assert tables(second)["book"].get(key) == before
    assert [entry.state for entry in second.id_map("book") if entry.old_key == 3] == ["kept_conflict"]
    third = Driver(library, source, on_conflict="keep")
    report = third.run()
    assert report.totals["conflicts"] == 1
    assert tables(third)["book"].get(key) == before


@pytest.mark.parametrize("kind", APPLICATION_EDITS)
def test_an_overwritten_conflict_keeps_the_applications_attributes_and_can_be_undone(
    library: Library, source: Path, kind: str
) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    APPLICATION_EDITS[kind](library, key)
    before = tables(first)
    edit(source, "UPDATE book SET author = 'Somebody' WHERE id = 3")
    second = run(library, source, on_conflict="overwrite")
    item = tables(second)["book"][key]
    assert item["author"] == {"S": "Somebody"}
    assert item["title"] == first.items("book")[3]["title"]
    if kind == "attribute added":
        assert item["shelf"] == {"S": "A3"}
    edit(source, "UPDATE book SET author = 'Third' WHERE id = 3")
    third = run(library, source)
    assert tables(third)["book"][key].get("shelf") == item.get("shelf")
    third.undo()
    second.undo()
    assert tables(second) == before


def test_a_change_while_the_run_waits_is_a_conflict_that_stops_it(library: Library, source: Path) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    edit(source, "UPDATE book SET author = 'Somebody', title = 'New' WHERE id = 3")
    second = Driver(library, source)
    second.stage_all()
    second.plan()
    change_target(library, "book", "book_id", key, title={"S": "the app's"})
    second.open()
    with pytest.raises(RefusedError, match="changed by the application"):
        second.migrate("book")
    assert tables(second)["book"][key]["title"] == {"S": "the app's"}
    second.undo()
    assert tables(second)["book"][key]["author"] == first.items("book")[3]["author"]


def test_a_conflict_met_while_writing_is_kept_held_and_shows_again(library: Library, source: Path) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    edit(source, "UPDATE book SET author = 'Somebody', title = 'New' WHERE id = 3")
    second = Driver(library, source, on_conflict="keep")
    second.stage_all()
    second.plan()
    change_target(library, "book", "book_id", key, title={"S": "the app's"})
    second.open()
    second.migrate_all()
    assert second.verify("book").held == 1
    for name in ("user", "user_book"):
        second.verify(name)
    assert second.end().status == "verified"
    third = Driver(library, source, on_conflict="refuse")
    third.stage_all()
    with pytest.raises(RefusedError, match="1 items were changed"):
        third.plan()


@pytest.mark.parametrize("on_conflict", ["refuse", "keep"])
def test_work_of_the_application_elsewhere_is_reported_and_what_is_gone_makes_the_run_red_unless_it_is_accepted(
    library: Library, source: Path, on_conflict: str
) -> None:
    first = run(library, source)
    change_target(library, "book", "book_id", ids(first, "book")[2], title={"S": "the app's"})
    delete_in_target(library, "user_book", "user_book_id", ids(first, "user_book")[7])
    change_target(library, "user", "user_id", "somebody-new", username={"S": "n"})
    edit(source, "UPDATE book SET title = 'Emma' WHERE id = 3")
    report = Driver(library, source, on_conflict=on_conflict).run()
    assert report.status == "verified"
    assert report.entities["book"].drifted == 1
    assert report.entities["user_book"].lost == 1
    assert report.entities["user"].unexpected == 1
    assert report.note.endswith("1 lost, 1 drifted, verified")
    assert report.is_good == (on_conflict == "keep")
    assert on_conflict == "keep" or "1 items of earlier runs are gone" in (report.reason or "")


def test_a_row_gone_bad_keeps_its_item_and_children_until_it_is_mended(library: Library, source: Path) -> None:
    edit(source, "UPDATE user_book SET book_id = 3 WHERE id = 1")
    first = run(library, source)
    item = first.items("book")[3]
    edit(source, "UPDATE book SET title = x'00' WHERE id = 3", "UPDATE user_book SET rating = 'x' WHERE id = 2")
    second = run(library, source, max_rejects=2)
    assert second.items("book")[3] == item
    assert second.items("user_book")[1]["book_id"] == item["book_id"]
    assert [e.state for e in second.id_map("book") if e.old_key == 3] == ["held_reject"]
    assert second.index("book").rejects == {"new": 1, "remaining": 0, "resolved": 0}
    edit(source, "UPDATE book SET title = 'Mended' WHERE id = 3", "UPDATE user_book SET rating = 'y' WHERE id = 3")
    third = run(library, source, max_rejects=2)
    assert third.items("book")[3]["title"] == {"S": "Mended"}
    assert third.items("book")[3]["book_id"] == item["book_id"]
    assert third.index("book").rejects == {"new": 0, "remaining": 0, "resolved": 1}
    assert third.index("user_book").rejects == {"new": 1, "remaining": 1, "resolved": 0}
    listed = third.store.get(f"runs/{third.run_name}/rejects.csv").decode()
    assert all(word in listed for word in ("new", "remaining", "resolved"))


def test_a_chain_of_runs_is_undone_newest_first_to_the_state_before(library: Library, source: Path) -> None:
    states, drivers = [], []
    empty = Driver(library, source)
    states.append(tables(empty))
    for statement in (
        "UPDATE book SET title = 'One' WHERE id = 1",
        "DELETE FROM user_book WHERE id IN (1, 2)",
        "UPDATE user SET username = 'a', email = 'b@c.d' WHERE id = 1",
    ):
        edit(source, statement)
        drivers.append(run(library, source))
        states.append(tables(drivers[-1]))
    with pytest.raises(RefusedError, match=f"run {drivers[2].run_name} stands on it"):
        drivers[1].undo()
    for driver, state in zip(reversed(drivers), reversed(states[:-1]), strict=True):
        driver.undo()
        assert tables(driver) == state
    again = run(library, source)
    assert tables(again)["book"].keys() == states[-1]["book"].keys()


def test_a_run_after_an_undo_is_as_if_the_undone_had_not_been(library: Library, source: Path) -> None:
    run(library, source)
    edit(source, "INSERT INTO book (id, title, author, isbn) VALUES (100, 'New', 'A', '9780000099999')")
    second = run(library, source)
    second.undo()
    third = run(library, source)
    assert ids(second, "book") == ids(third, "book")


def test_an_undo_keeps_and_lists_what_the_application_changed_since(library: Library, source: Path) -> None:
    first = run(library, source)
    edit(source, "UPDATE book SET title = 'Emma' WHERE id IN (3, 4)")
    second = run(library, source)
    key = ids(first, "book")[3]
    change_target(library, "book", "book_id", key, title={"S": "the app's"})
    with pytest.raises(ConflictError, match=key):
        second.undo()
    state = load_state(second.store)
    assert state is not None
    assert state.open is not None
    assert second.items("book")[4] == first.items("book")[4]
    with pytest.raises(RefusedError) as refused:
        Driver(library, source).preflight()
    assert f"RESUME={second.run_name}" in str(refused.value)
    assert f"make rollback RUN={second.run_name} ENVIRONMENT={library.environment}" in str(refused.value)
    undone = second.undo(accept_conflicts=True)
    assert [conflict["key"] for conflict in undone.conflicts] == [key]
    assert tables(second)["book"][key]["title"] == {"S": "the app's"}
    state = load_state(second.store)
    assert state is not None
    assert (state.open, state.head) == (None, first.run_name)


def test_a_sealed_target_refuses_runs_and_undos_until_unsealed(library: Library, source: Path) -> None:
    first = Driver(library, source, seal="cutover to the cloud")
    assert first.run().status == "verified"
    with pytest.raises(RefusedError, match="sealed by the tests"):
        Driver(library, source).preflight()
    with pytest.raises(RefusedError, match="sealed"):
        first.undo()
    edit(source, "UPDATE book SET title = 'Emma' WHERE id = 3")
    assert run(library, source, dry_run=True).params.dry_run
    unseal_target(first.store, "one more delta", "the tests")
    assert run(library, source).run_name != first.run_name
    seal_target(first.store, "again", "the tests")
    with pytest.raises(RefusedError, match="sealed"):
        Driver(library, source).preflight()


def test_a_dry_run_writes_nothing(library: Library, source: Path) -> None:
    driver = Driver(library, source, dry_run=True)
    report = driver.run()
    assert report.status == "dry_run"
    assert report.totals["put"] == 26
    assert not any(tables(driver).values())
    assert run(library, source).run_name != driver.run_name


def test_a_run_staged_on_an_older_head_is_refused(library: Library, source: Path) -> None:
    run(library, source)
    edit(source, "UPDATE book SET title = 'Emma' WHERE id = 3")
    slow = Driver(library, source)
    slow.stage_all()
    slow.plan()
    run(library, source)
    with pytest.raises(RefusedError, match="was staged on"):
        slow.open()


def test_a_stale_writer_is_fenced_when_another_took_the_target_over(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    take_over(driver.store, driver.run_name)
    with pytest.raises(FencedError, match="stopped"):
        driver.migrate("user")
    assert not driver.scan("user")


def test_an_interrupted_run_is_resumed_with_its_own_change_set(library: Library, source: Path) -> None:
    driver = Driver(library, source, rows_per_part=100)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate("user")
    edit(source, "UPDATE book SET title = 'later' WHERE id = 1")
    opened = take_over(driver.store, driver.run_name).open
    assert opened is not None
    driver.epoch = opened.epoch
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    assert driver.end().status == "verified"
    assert driver.items("book")[1]["title"] != {"S": "later"}


def test_a_changed_mapping_changes_what_it_changes(library: Library, source: Path, tmp_path: Path) -> None:
    run(library, source)
    text = (MAPPINGS / "book_library.yaml").read_text()
    line = "      cover_image_url: {column: cover_image_url, type: string}\n"
    assert line in text
    slimmer = tmp_path / "book_library.yaml"
    slimmer.write_text(text.replace(line, ""))
    second = Driver(library, source, mapping=load_mapping(slimmer))
    report = second.run()
    assert report.totals["updated"] == 8
    assert all("cover_image_url" not in item for item in second.scan("book"))
    second.undo()
    assert all("cover_image_url" in item for item in second.scan("book"))


def test_a_mapping_with_another_identity_keeps_every_id(library: Library, source: Path, tmp_path: Path) -> None:
    first = run(library, source)
    text = (MAPPINGS / "book_library.yaml").read_text()
    assert "      - [isbn]\n      - [title, author]\n" in text
    other = tmp_path / "book_library.yaml"
    other.write_text(text.replace("      - [isbn]\n      - [title, author]\n", "      - [cover_image_url]\n"))
    second = Driver(library, source, mapping=load_mapping(other))
    assert second.run().status == "unchanged"
    assert ids(first, "book") == ids(second, "book")


def test_an_item_that_was_there_before_us_is_never_deleted(library: Library, source: Path) -> None:
    first = run(library, source)
    key = ids(first, "user_book")[5]
    first.undo()
    change_target(library, "user_book", "user_book_id", key, status={"S": "the app's"})
    second = run(library, source, existing_items="keep", on_conflict="keep")
    assert tables(second)["user_book"][key]["status"] == {"S": "the app's"}
    edit(source, "DELETE FROM user_book WHERE id = 5")
    third = run(library, source, on_conflict="overwrite")
    assert tables(third)["user_book"][key]["status"] == {"S": "the app's"}


def test_a_run_that_uses_a_backup_again_makes_it_young_again(library: Library, source: Path) -> None:
    first = run(library, source)
    s3 = library.aws.client("s3")
    key = f"{first.store.prefix}backups/{first.manifest.snapshot.sha256}.db"
    before = s3.head_object(Bucket=library.bucket, Key=key)["LastModified"]
    time.sleep(1.1)
    run(library, source)
    assert s3.head_object(Bucket=library.bucket, Key=key)["LastModified"] > before
    tags = s3.get_object_tagging(Bucket=library.bucket, Key=key)["TagSet"]
    assert tags == [{"Key": "accession", "Value": "backup"}]


def test_a_backup_is_fetched_whole_until_it_expired_and_says_so_after(
    library: Library, source: Path, tmp_path: Path
) -> None:
    driver = run(library, source)
    (tmp_path / "out").mkdir()
    backup = driver.steps.folder.fetch_backup(driver.manifest, tmp_path / "out")
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("SELECT count(*) FROM book").fetchone() == (8,)
    key = f"{driver.store.prefix}backups/{driver.manifest.snapshot.sha256}.db"
    library.aws.client("s3").delete_object(Bucket=library.bucket, Key=key)
    with pytest.raises(SourceError, match=f"The backup of run {driver.run_name} has expired"):
        driver.steps.folder.fetch_backup(driver.manifest, tmp_path / "out")


def wait_with_an_edit(library: Library, source: Path, **params: Any) -> tuple[Driver, str]:
    """A second run, staged and open, that is to change title and genre of book 3; the key of that."""
    key = ids(run(library, source), "book")[3]
    edit(source, "UPDATE book SET title = 'Emma II', genre = 'Novel' WHERE id = 3")
    driver = Driver(library, source, **params)
    driver.stage_all()
    driver.plan()
    driver.open()
    return driver, key


def forget_results(driver: Driver) -> None:
    """Remove the results of all attempts, so that they look killed."""
    for path in list(driver.store.list(f"runs/{driver.run_name}/progress/")):
        if path.endswith(".json"):
            driver.store.client.delete_object(Bucket=driver.store.bucket, Key=driver.store.prefix + path)


def test_an_undo_lists_what_a_killed_attempt_wrote_and_the_application_then_changed(
    library: Library, source: Path
) -> None:
    driver, key = wait_with_an_edit(library, source)
    driver.migrate("book")
    forget_results(driver)  # as if it had been killed
    change_target(library, "book", "book_id", key, shelf={"S": "A3"})
    with pytest.raises(RefusedError, match=key):  # a second attempt, which cannot know how far the first came
        driver.migrate("book")
    with pytest.raises(ConflictError, match=key):
        driver.undo()
    assert load_state(driver.store).open.run == driver.run_name  # type: ignore[union-attr]


def test_an_undo_leaves_alone_what_no_attempt_wrote(library: Library, source: Path) -> None:
    driver, key = wait_with_an_edit(library, source)
    change_target(library, "book", "book_id", key, shelf={"S": "A3"})
    for _ in range(2):
        with pytest.raises(RefusedError, match=key):
            driver.migrate("book")
    assert driver.undo().entities["book"].conflicts == 0
    assert tables(driver)["book"][key]["shelf"] == {"S": "A3"}


def test_a_conflict_met_while_writing_shows_again_though_nothing_else_changed(library: Library, source: Path) -> None:
    driver, key = wait_with_an_edit(library, source, on_conflict="keep")
    change_target(library, "book", "book_id", key, genre={"S": "the app's"})
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    assert driver.end().status == "verified"
    again = Driver(library, source, on_conflict="keep").run()
    assert (again.entities["book"].conflicts, again.status) == (1, "unchanged")


def test_a_proof_that_failed_is_no_success_whoever_says_so(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    change_target(library, "book", "book_id", ids(driver, "book")[3], title={"S": "other"})
    driver.verify("user")
    with pytest.raises(VerificationError):
        driver.verify("book")
    driver.verify("user_book")
    report = driver.end(is_verified=True)  # as when a person marked the task as a success
    assert (report.status, report.is_open) == ("failed", True)
    assert load_state(driver.store).head is None  # type: ignore[union-attr]


def test_a_seal_that_failed_is_made_up_for_by_a_retry_of_the_report_but_not_put_back_later(
    library: Library, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(library, source, seal="cutover")
    with monkeypatch.context() as patch:
        patch.setattr(
            "accession.run.finish.append_record", lambda *_, **__: (_ for _ in ()).throw(TransientError("S3 is busy"))
        )
        with pytest.raises(TransientError):
            driver.run()
    state = load_state(driver.store)
    assert state is not None
    assert (state.head, state.sealed) == (None, None), "commit and seal are one record"
    assert driver.end().status == "verified"
    assert load_state(driver.store).sealed.reason == "cutover"  # type: ignore[union-attr]
    unseal_target(driver.store, "one more delta", "the tests")
    driver.end()
    assert load_state(driver.store).sealed is None  # type: ignore[union-attr]


def shrink(tmp_path: Path) -> Mapping:
    """The mapping without user_book."""
    text = (MAPPINGS / "book_library.yaml").read_text()
    path = tmp_path / "book_library.yaml"
    path.write_text(text[: text.index("  user_book:")])
    return load_mapping(path)


def test_an_entity_that_comes_to_the_mapping_is_migrated(library: Library, source: Path, tmp_path: Path) -> None:
    run(library, source, mapping=shrink(tmp_path))
    second = run(library, source)
    assert len(tables(second)["user_book"]) == 12
    second.undo()
    assert tables(second)["user_book"] == {}


def test_an_entity_cannot_go_from_the_mapping_unseen(library: Library, source: Path, tmp_path: Path) -> None:
    first = run(library, source)
    smaller = shrink(tmp_path)
    for step in (Driver(library, source, mapping=smaller).preflight, Driver(library, source, mapping=smaller).start):
        with pytest.raises(RefusedError, match="wrote user_book, which the mapping book_library no longer has"):
            step()
    undoing = Driver(library, source, mapping=smaller)
    undoing.run_name = first.run_name
    with pytest.raises(RefusedError, match="wrote user_book"):
        undoing.undo()
    first.undo()
    assert not any(tables(first).values())


def test_a_run_is_not_resumed_with_another_mapping(library: Library, source: Path, tmp_path: Path) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    other = tmp_path / "book_library.yaml"
    other.write_text((MAPPINGS / "book_library.yaml").read_text() + "\n")
    for mapping, outcome in ((driver.mapping, None), (load_mapping(other), "another version of the mapping")):
        resumed = Driver(library, source, mapping=mapping, resume=driver.run_name)
        if outcome is None:
            resumed.preflight()
        else:
            with pytest.raises(RefusedError, match=outcome):
                resumed.preflight()


def test_a_table_does_not_move_under_a_target(library: Library, source: Path, tmp_path: Path) -> None:
    first = run(library, source)
    moved = tmp_path / "book_library.yaml"
    moved.write_text((MAPPINGS / "book_library.yaml").read_text().replace("BookLibrary-Users", "BookLibrary-People"))
    with pytest.raises(RefusedError, match=r"wrote user to BookLibrary-Users-\w+, and the mapping says .*-People-"):
        Driver(library, source, mapping=load_mapping(moved)).start()
    assert run(library, source).end().status == "unchanged"
    assert first.manifest.run == load_state(first.store).head  # type: ignore[union-attr]


def test_an_attribute_that_was_ours_does_not_outlive_its_mapping(
    library: Library, source: Path, tmp_path: Path
) -> None:
    """Not even in an item that also holds the application's own."""
    key = ids(run(library, source), "user")[1]
    change_target(library, "user", "user_id", key, shelf={"S": "A3"})
    edit(source, "UPDATE user SET username = 'renamed' WHERE id = 1")
    run(library, source, on_conflict="overwrite")
    renamed = tmp_path / "book_library.yaml"
    text = (MAPPINGS / "book_library.yaml").read_text()
    assert "      password_hash: {" in text
    renamed.write_text(text.replace("      password_hash: {", "      pw: {"))
    item = tables(run(library, source, mapping=load_mapping(renamed)))["user"][key]
    assert "password_hash" not in item
    assert item["shelf"] == {"S": "A3"}
    assert "pw" in item


def test_what_is_to_be_sealed_is_proved_once_more(library: Library, source: Path) -> None:
    first = run(library, source)
    sealing = Driver(library, source, seal="cutover")
    sealing.stage_all()
    assert sealing.plan().is_empty
    assert not sealing.manifest.unchanged
    assert all(len(sealing.index(name).parts) == 1 for name in sealing.mapping.order)  # so that no task is skipped
    sealing.open()
    sealing.migrate_all()
    delete_in_target(library, "book", "book_id", ids(first, "book")[3])
    for name in sealing.mapping.order:
        sealing.verify(name)
    report = sealing.end()
    assert (report.status, report.entities["book"].lost, report.is_good) == ("verified", 1, False)
    assert "not sealed: 1 items are gone" in (report.reason or "")
    assert load_state(sealing.store).sealed is None  # type: ignore[union-attr]
    accepting = Driver(library, source, seal="cutover", accept_drift=True).run()
    assert (accepting.status, accepting.is_good) == ("verified", True)
    assert load_state(sealing.store).sealed is not None  # type: ignore[union-attr]


def test_the_undo_of_a_committed_run_needs_no_marks(library: Library, source: Path) -> None:
    driver = run(library, source)
    for path in list(driver.store.list(f"runs/{driver.run_name}/progress/")):
        library.aws.client("s3").delete_object(Bucket=library.bucket, Key=driver.store.prefix + path)
    driver.undo()
    assert not any(tables(driver).values())


@pytest.mark.parametrize("path", ["manifest.json", "plan.json", "changes/book/index.json"])
def test_a_damaged_document_is_named(library: Library, source: Path, path: str) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.store.put(f"runs/{driver.run_name}/{path}", b'{"run": "secret"}')
    with pytest.raises(StoreError, match=f"{path} is damaged: it is not as it was written") as raised:
        driver.plan()
        driver.migrate("book")
    assert "secret" not in str(raised.value)


def test_a_damaged_record_is_named_when_a_report_is_made_again(library: Library, source: Path) -> None:
    driver = run(library, source)
    driver.store.put(log_path(1), b"{")
    with pytest.raises(StoreError, match=r"log/00000001\.json is damaged: it is not as it was written"):
        driver.end()


def test_a_damaged_plan_of_the_head_is_named(library: Library, source: Path) -> None:
    driver = run(library, source)
    driver.store.put(f"runs/{driver.run_name}/plan.json", b"{")
    with pytest.raises(StoreError, match=r"plan\.json is damaged"):
        Driver(library, source).preflight()


def test_a_state_that_was_removed_is_named_before_anything_else(library: Library, source: Path) -> None:
    driver = run(library, source)
    library.aws.client("s3").delete_object(Bucket=library.bucket, Key=f"{driver.store.prefix}state.json")
    with pytest.raises(StoreError, match=r"state\.json was removed: restore its last version"):
        Driver(library, source).preflight()


def test_an_index_that_the_mapping_does_not_list_is_named(library: Library, source: Path, tmp_path: Path) -> None:
    text = (MAPPINGS / "book_library.yaml").read_text()
    assert "    indexes:\n      isbn-index: [isbn]\n" in text
    without = tmp_path / "book_library.yaml"
    without.write_text(text.replace("    indexes:\n      isbn-index: [isbn]\n", ""))
    with pytest.raises(TargetError, match="has an index isbn-index on isbn, which the mapping does not list"):
        Driver(library, source, mapping=load_mapping(without)).preflight()


def test_what_sqlite_refuses_while_staging_is_a_sentence(library: Library, source: Path) -> None:
    edit(
        source,
        "ALTER TABLE book RENAME TO book_table",
        "CREATE VIEW book AS SELECT id, isbn, json_extract(title, '$') title, author, genre, cover_image_url, "
        "description FROM book_table",
    )
    driver = Driver(library, source)
    driver.start()
    with pytest.raises(SourceError, match="malformed JSON"):
        driver.stage("book")


def test_who_approved_a_run_is_known_to_its_resume(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate("user")
    failed = driver.end(is_verified=False, failure="a worker died", approved_by="ada")
    assert (failed.status, failed.is_open) == ("failed", True)
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    report = driver.end(by="grace")
    assert (report.status, report.approved_by, report.triggered_by) == ("verified", "ada", "the tests")
    assert json.loads(driver.store.get("log/00000002.json"))["by"] == "grace"


def test_a_text_of_the_source_stays_within_its_line_of_the_plan(library: Library, source: Path) -> None:
    edit(source, "UPDATE book SET title = 'a' || char(10, 10) || '## Approved' WHERE id = 1")
    driver = Driver(library, source)
    driver.stage_all()
    assert any("title=a ## Approved" in line for line in driver.plan().entities["book"].samples)
