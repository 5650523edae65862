"""Faults that random histories found (test_property.py), each as short as it goes."""

from pathlib import Path
from typing import Any

import pytest
from test_history import change_target, edit, ids, run, tables

from accession.audit import audit_target
from accession.cli.sample import write_sample
from conftest import Library
from driver import Driver


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "site.db"
    write_sample(path, users=3, books=3, user_books=4, orphans=0, odd=0)
    return path


def test_the_register_holds_after_the_undo_of_a_run_that_died_before_its_report(library: Library, source: Path) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate("user")
    driver.undo()
    audit = audit_target(driver.store)
    assert audit.ok, audit.first_problem
    path = f"runs/{driver.run_name}/changes/user/index.json"
    driver.store.put(path, driver.store.get(path) + b" ")
    assert [damage.path for damage in audit_target(driver.store).problems] == [path]


@pytest.mark.parametrize("while_waiting", [False, True])
def test_a_row_whose_parent_is_gone_is_an_orphan_though_the_application_kept_the_parents_item(
    library: Library, source: Path, while_waiting: bool
) -> None:
    edit(source, "UPDATE user_book SET book_id = 1", "UPDATE user_book SET book_id = 2 WHERE id = 1")
    first = run(library, source)
    key = ids(first, "book")[2]
    if not while_waiting:
        change_target(library, "book", "book_id", key, title={"S": "the app's"})
    edit(source, "DELETE FROM book WHERE id = 2", "UPDATE user_book SET rating = 5 WHERE id = 1")
    second = Driver(library, source, on_conflict="keep", max_rejects=1)
    second.stage_all()
    second.plan()
    if while_waiting:
        change_target(library, "book", "book_id", key, title={"S": "the app's"})
        second.open()
        second.migrate_all()
        for name in second.mapping.order:
            second.verify(name)
    second.end()
    edit(source, "UPDATE user_book SET rating = 4 WHERE id = 1")
    third = run(library, source, on_conflict="keep", max_rejects=1)
    assert key in tables(third)["book"]
    assert [list(driver.rejects("user_book")) for driver in (second, third)] == [[1], [1]]


def test_the_applications_attributes_survive_a_conflict_that_was_met_while_writing_and_then_taken_back(
    library: Library, source: Path
) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    change_target(library, "book", "book_id", key, shelf={"S": "A3"})
    edit(source, "UPDATE book SET author = 'Somebody' WHERE id = 3")
    run(library, source, on_conflict="overwrite")
    edit(source, "UPDATE book SET author = 'Third' WHERE id = 3")
    third = Driver(library, source, on_conflict="keep")
    third.stage_all()
    third.plan()
    change_target(library, "book", "book_id", key, author={"S": "the app's"})
    third.open()
    third.migrate_all()
    for name in third.mapping.order:
        third.verify(name)
    third.end()
    change_target(library, "book", "book_id", key, author={"S": "Somebody"})
    last = run(library, source)
    item = tables(last)["book"][key]
    assert (item["author"], item["shelf"]) == ({"S": "Third"}, {"S": "A3"})


def test_two_edits_in_two_runs_are_two_edits_though_the_first_was_kept_back_as_a_conflict(
    library: Library, source: Path
) -> None:
    edit(source, "UPDATE book SET isbn = '9780000000001' WHERE id = 3")
    first = run(library, source)
    change_target(library, "book", "book_id", ids(first, "book")[3], genre={"S": "the app's"})
    edit(source, "UPDATE book SET title = 'Corrected' WHERE id = 3")
    run(library, source, on_conflict="keep")
    edit(source, "UPDATE book SET isbn = '9780000000002' WHERE id = 3")
    third = run(library, source, on_conflict="keep")
    assert ids(third, "book") == ids(first, "book")


@pytest.mark.parametrize("attributes", [{"genre": {"S": "the app's"}}, {"shelf": {"S": "A3"}}])
def test_what_the_application_does_elsewhere_in_an_item_while_the_run_waits_is_a_conflict_too(
    library: Library, source: Path, attributes: dict[str, Any]
) -> None:
    first = run(library, source)
    key = ids(first, "book")[3]
    edit(source, "UPDATE book SET author = 'Somebody' WHERE id = 3")
    second = Driver(library, source, on_conflict="keep")
    second.stage_all()
    second.plan()
    change_target(library, "book", "book_id", key, **attributes)
    second.open()
    second.migrate_all()
    for name in second.mapping.order:
        second.verify(name)
    assert second.end().status == "verified"
    assert tables(second)["book"][key]["author"] != {"S": "Somebody"}
