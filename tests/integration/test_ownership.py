"""Two processes and one target: old and new attempts, DAG runs that outlive their turn, ends that come too late."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_history import (
    change_target,
    delete_in_target,
    edit,
    forget_results,
    ids,
    run,
    source,
    tables,
    wait_with_an_edit,
)

from accession.artifacts import Attempt, Changed, PartStep, Store
from accession.audit import audit_target
from accession.dynamodb import DynamoDB
from accession.errors import FencedError, RefusedError, TransientError
from accession.mapping import MAPPINGS, load_mapping
from accession.run.attempt import begin_attempt
from accession.run.rollback import take_for_undo
from accession.target import load_state, open_target, take_over
from accession.target.state import Open
from conftest import Library
from driver import BY, IMPATIENT, Driver

__all__ = ["source"]


def find_owner(driver: Driver) -> Open | None:
    state = load_state(driver.store)
    assert state is not None
    return state.open


def find_head(driver: Driver) -> str | None:
    state = load_state(driver.store)
    assert state is not None
    return state.head


def while_settling(driver: Driver, do: Callable[[], Any]) -> None:
    """Have something happen while a process waits for older writers, once."""

    def sleep(seconds: float) -> None:
        driver.store.host = IMPATIENT
        do()

    driver.store.host = replace(IMPATIENT, sleep=sleep)


def open_first(library: Library, source: Path, **params: Any) -> Driver:
    driver = Driver(library, source, **params)
    driver.stage_all()
    driver.plan()
    driver.open()
    return driver


# Attempts at a part


def test_an_attempt_that_wakes_after_a_newer_one_writes_nothing_more(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    assert driver.epoch is not None
    folder, at = driver.steps.folder, PartStep("book", 0, "migrate")
    attempt, is_first = begin_attempt(folder, at, driver.epoch)
    frozen = driver.steps.connect_writer(driver.epoch, cap=None, newer=folder.path_of_mark(attempt.next))
    assert is_first
    driver.migrate("book")
    key = ids(driver, "book")[3]
    change_target(library, "book", "book_id", key, title={"S": "the app's"})
    puts = [(change.key or "", b"{}") for change in driver.changes("book")]
    with pytest.raises(FencedError, match="a newer attempt at the same part took over"):
        frozen.put_items(driver.steps.find_table(driver.steps.folder.load_staged("book")), puts)
    assert tables(driver)["book"][key]["title"] == {"S": "the app's"}


def test_a_new_attempt_waits_for_one_that_has_not_ended_and_for_no_other(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    waits: list[float] = []
    driver.store.host = replace(IMPATIENT, sleep=waits.append)
    driver.migrate("book")
    driver.migrate("book")
    assert not waits, "it is done"
    forget_results(driver)
    driver.migrate("book")
    assert waits == [23.0]
    epoch = driver.steps._take_over()
    driver.epoch, waits[:] = epoch, []
    driver.migrate("book")
    assert not waits, "all attempts of the older epoch were waited for when it was taken over"


def test_a_part_that_is_done_is_not_written_again_by_a_late_attempt(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    (first,) = driver.migrate("book")
    key = ids(driver, "book")[3]
    delete_in_target(library, "book", "book_id", key)
    assert driver.migrate("book") == [first]
    assert key not in tables(driver)["book"]


class Interrupting:
    """An S3 client that lets something happen before it leaves the first mark of a part."""

    def __init__(self, client: Any, mark: str, meanwhile: Any) -> None:
        self._client, self._mark, self._meanwhile = client, mark, meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **given: Any) -> Any:
        if given["Key"].endswith(self._mark) and self._meanwhile:
            meanwhile, self._meanwhile = self._meanwhile, None
            meanwhile()
        return self._client.put_object(**given)


def test_an_attempt_that_finds_its_part_done_only_after_its_mark_puts_nothing_again(
    library: Library, source: Path
) -> None:
    """Found by the model of ownership: `find_done` had looked before the other attempt began."""
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    epoch = driver.open()
    key = driver.changes("book")[0].key
    assert key is not None

    def finish_elsewhere() -> None:
        other = Driver(library, source)
        other.run_name, other.epoch = driver.run_name, epoch
        other.migrate("book")
        delete_in_target(library, "book", "book_id", key)

    driver.store.client = Interrupting(driver.store.client, f"book/00000.migrate.{epoch}.1.started", finish_elsewhere)
    driver.migrate("book")
    assert key not in {item["book_id"]["S"] for item in driver.scan("book")}


def test_an_undo_does_not_trust_what_an_attempt_met_before_a_newer_one_wrote(library: Library, source: Path) -> None:
    driver, key = wait_with_an_edit(library, source)
    before = tables(driver)["book"][key]
    change_target(library, "book", "book_id", key, genre={"S": "the app's"})
    with pytest.raises(RefusedError, match=key):
        driver.migrate("book")
    assert driver.epoch is not None
    driver.steps.rollback(BY, driver.epoch)
    change_target(library, "book", "book_id", key, genre=before["genre"])  # its owner takes the edit back
    driver.open()
    driver.migrate("book")
    attempts = driver.steps.folder.list_attempts(PartStep("book", 0, "migrate"))
    newest = driver.steps.folder.path_of_execution(attempts[PartStep("book", 0, "migrate")][-1])
    driver.store.client.delete_object(Bucket=driver.store.bucket, Key=driver.store.prefix + newest)  # it was killed
    assert tables(driver)["book"][key]["title"] == {"S": "Emma II"}
    assert driver.undo().entities["book"].restored == 1
    assert tables(driver)["book"][key] == before


# Undo and rollback


def test_an_undo_that_is_repeated_is_the_same_undo(library: Library, source: Path) -> None:
    first = run(library, source)
    edit(source, "UPDATE book SET title = 'Emma' WHERE id = 3")
    second = run(library, source)
    undone = second.undo()
    assert second.undo() == undone, "and not the advice to undo the good run below it"
    assert find_head(second) == first.run_name
    assert find_owner(second) is None


def test_an_undo_that_wakes_after_another_closed_the_target_leaves_its_record_as_it_is(
    library: Library, source: Path
) -> None:
    """Found by the simulation: it had nothing to write, so no fence stopped it, and it replaced rollback.json."""
    driver = run(library, source)
    while_settling(driver, driver.undo)
    with pytest.raises(FencedError, match="no longer owns the target"):
        driver.undo()
    assert find_owner(driver) is None
    assert audit_target(driver.store).ok


def test_the_undo_of_a_committed_run_records_what_a_resume_in_between_has_left(library: Library, source: Path) -> None:
    """Found by the simulation: an undo died, a resume executed parts again, and an undo ended what both had begun."""
    driver = run(library, source)
    take_for_undo(driver.store, driver.run_name)
    driver.epoch = driver.steps._take_over()  # the resume
    driver.migrate("user")
    driver.verify("user")
    driver.undo()
    assert find_owner(driver) is None
    assert audit_target(driver.store).ok


def test_undos_that_end_at_the_same_moment_are_told_apart_by_a_sentence(library: Library, source: Path) -> None:
    driver = run(library, source)
    replace_document = Store.replace
    late: list[str] = []

    def replace_late(self: Store, path: str, data: bytes, seen: Any) -> str:
        if not late:
            late.append(path)
            driver.undo()
        return replace_document(self, path, data, seen)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FencedError):
        patch.setattr(Store, "replace", replace_late)
        driver.undo()
    assert late
    assert audit_target(driver.store).ok


def test_a_proof_that_begins_as_the_run_ends_leaves_the_recorded_one_as_it_is(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    path_of_proof = driver.steps.folder.path_of_verification("book")
    find = Store.find
    ended: list[str] = []

    def find_late(self: Store, path: str) -> Any:
        if path == path_of_proof and not ended:
            ended.append(path)
            assert driver.end().status == "verified"
        return find(self, path)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RefusedError, match="does not have the target"):
        patch.setattr(Store, "find", find_late)
        driver.verify("book")
    assert ended
    assert audit_target(driver.store).ok


def test_a_proof_that_ends_after_an_undo_leaves_nothing_behind(library: Library, source: Path) -> None:
    """Found by the simulation: it had stood still for minutes while it read the table."""
    driver = open_first(library, source)
    driver.migrate_all()
    upload = Store.upload
    undone: list[str] = []

    def upload_late(self: Store, path: str, *arguments: Any, **more: Any) -> None:
        upload(self, path, *arguments, **more)
        if "/verification/" in path and not undone:
            undone.append(path)
            driver.undo()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RefusedError, match="does not have the target"):
        patch.setattr(Store, "upload", upload_late)
        driver.verify("book")
    assert undone
    assert audit_target(driver.store).ok


def test_an_attempt_that_ends_after_an_undo_leaves_no_result_behind(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    put_items = DynamoDB.put_items
    undone: list[str] = []

    def put_late(self: DynamoDB, table: Any, *arguments: Any, **more: Any) -> Any:
        outcome = put_items(self, table, *arguments, **more)
        undone.append(table.name)
        driver.undo()
        return outcome

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FencedError, match="no longer owns the target"):
        patch.setattr(DynamoDB, "put_items", put_late)
        driver.migrate("user")
    assert undone
    assert audit_target(driver.store).ok


def test_a_report_that_wakes_after_another_was_recorded_records_nothing(library: Library, source: Path) -> None:
    """Found by the simulation: of a run that never had the target, so no epoch told the two reports apart."""
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    replace_document = Store.replace
    recorded: list[str] = []

    def replace_late(self: Store, path: str, data: bytes, seen: Any) -> str:
        digest = replace_document(self, path, data, seen)
        if path.endswith("report.html") and not recorded:
            recorded.append(path)
            driver.end(is_verified=False, failure="somebody stopped it")
        return digest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "replace", replace_late)
        report = driver.end(is_verified=False, failure="somebody stopped it")
    assert recorded
    assert report == driver.steps.folder.load_report()
    assert audit_target(driver.store).ok


def test_a_report_that_stands_still_after_its_look_at_the_state_replaces_no_recorded_report(
    library: Library, source: Path
) -> None:
    """Found by the simulation: it woke after the commit, and took the recorded report for the one of before."""
    driver = open_first(library, source)
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    recorded: list[str] = []

    def load_and_wait(store: Store) -> Any:
        state = load_state(store)
        if not recorded:
            recorded.append("")
            recorded.append(driver.end().status)
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accession.run.finish.load_state", load_and_wait)
        assert driver.end().status == "verified"
    assert recorded == ["", "verified"]
    assert audit_target(driver.store).ok


def test_a_gate_that_stands_still_does_not_open_a_target_that_was_opened_and_closed_since(
    library: Library, source: Path
) -> None:
    """Found by the simulation: it left a target open that nobody worked on, minutes after the undo."""
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    undone: list[str] = []

    def stand_still(*_: Any) -> None:
        if not undone:
            undone.append("")
            driver.open()
            driver.undo()

    with pytest.MonkeyPatch.context() as patch, pytest.raises(FencedError, match="opened and closed"):
        patch.setattr("accession.run.run.check_empty", stand_still)
        driver.steps.open_run()
    assert undone
    assert find_owner(driver) is None


def test_an_automatic_rollback_that_is_repeated_succeeds(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate("user")
    assert driver.epoch is not None
    undone = driver.steps.rollback(BY, driver.epoch)
    assert driver.steps.rollback(BY, driver.epoch) == undone
    assert driver.end(is_rolled_back=True).status == "rolled_back"
    assert driver.steps.rollback(BY, driver.epoch) == undone


def test_an_automatic_rollback_leaves_a_resume_alone(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate("user")
    stale = driver.epoch
    assert stale is not None
    driver.epoch = driver.steps._take_over()  # the resume, by another Airflow
    driver.migrate_all()
    with pytest.raises(RefusedError, match="Another resume or undo of run"):
        driver.steps.rollback(BY, stale)
    for name in driver.mapping.order:
        driver.verify(name)
    assert driver.end().status == "verified"


def test_a_gate_does_not_join_the_epoch_of_an_undo(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    assert driver.open() == driver.epoch, "its own retry goes on"
    take_over(driver.store, driver.run_name)
    with pytest.raises(RefusedError, match="A resume or undo of run"):
        driver.open()


def test_an_undo_keeps_to_its_cap(library: Library, source: Path) -> None:
    driver = run(library, source)
    begun = time.monotonic()
    undone = driver.steps.undo(BY, write_units_per_second=20)
    assert undone.write_units >= 26
    assert time.monotonic() - begun >= 26 / 20 - 0.2


# The end of a run


def test_a_report_that_comes_late_does_not_close_the_target_under_a_resume(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    while_settling(driver, lambda: take_over(driver.store, driver.run_name))
    with pytest.raises(FencedError, match="no longer owns the target"):
        driver.end(is_verified=False, failure="S3 is busy")
    assert find_owner(driver) == Open(run=driver.run_name, epoch=3, origin=3)
    report = driver.end(is_verified=False, failure="S3 is busy")
    assert report.is_open


@pytest.mark.parametrize("epoch", [1, None], ids=["with its epoch", "whose open_run died"])
def test_a_report_of_a_dag_run_that_lost_the_target_closes_nothing(
    library: Library, source: Path, epoch: int | None
) -> None:
    driver = open_first(library, source)
    take_over(driver.store, driver.run_name)
    report = driver.end(is_verified=False, failure="S3 is busy", epoch=epoch)
    assert (report.status, report.is_open) == ("failed", True)
    assert find_owner(driver) == Open(run=driver.run_name, epoch=2, origin=2)


def test_a_run_that_wrote_nothing_gives_the_target_up_only_when_no_writer_can_begin(
    library: Library, source: Path
) -> None:
    driver = open_first(library, source)
    assert driver.epoch is not None
    at = PartStep("book", 0, "migrate")
    mark = driver.steps.folder.path_of_mark(Attempt(driver.epoch, 1, at))
    while_settling(driver, lambda: driver.store.claim(mark, b"2026-01-05T12:00:00+00:00 token"))
    assert driver.end(is_verified=False, failure="S3 is busy").is_open
    assert find_owner(driver) is not None


def test_a_run_is_not_committed_while_a_writer_is_at_work(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    assert driver.epoch is not None
    mark = driver.steps.folder.path_of_mark(Attempt(driver.epoch, 2, PartStep("book", 0, "migrate")))
    driver.store.claim(mark, b"2026-01-05T12:00:00+00:00 token")
    report = driver.end()
    assert (report.status, report.is_open) == ("failed", True)


def test_a_report_does_not_overwrite_the_end_that_another_recorded_meanwhile(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    late = driver.steps
    render = __import__("accession.run.finish", fromlist=["render_html"]).render_html
    committed: list[str] = []

    def render_late(*args: Any) -> str:
        if not committed:
            committed.append("")
            committed.append(driver.end().status)
        return str(render(*args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accession.run.finish.render_html", render_late)
        report = driver.end(is_verified=False, failure="somebody stopped it")
    assert committed == ["", "verified"]
    assert report.status == "verified"
    assert late.folder.load_report().status == "verified"
    assert find_head(driver) == driver.run_name


def test_a_record_lists_the_report_that_is_there_though_another_dag_run_reports_meanwhile(
    library: Library, source: Path
) -> None:
    """The report of a DAG run that lost the target came between the report of the resume and its record."""
    driver = open_first(library, source)
    lost, driver.epoch = driver.epoch, take_over(driver.store, driver.run_name).epoch
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    claim = driver.store.claim
    others: list[str] = []

    def claim_late(path: str, data: bytes) -> bool:
        if path.startswith("log/") and not others:
            others.append("")
            others.append(driver.end(is_verified=False, failure="S3 is busy", epoch=lost).status)
        return claim(path, data)

    driver.store.claim = claim_late  # type: ignore[method-assign]
    assert driver.end().status == "verified"
    assert others == ["", "failed"]
    assert driver.steps.folder.load_report().status == "verified"
    audit = audit_target(driver.store)
    assert audit.ok, audit.first_problem


def test_a_proof_that_comes_late_does_not_replace_a_newer_one(library: Library, source: Path) -> None:
    driver = open_first(library, source)
    driver.migrate_all()
    store = driver.store
    earlier = store.find(driver.steps.folder.path_of_verification("book"))
    driver.verify("book")
    with pytest.raises(Changed):
        store.replace(driver.steps.folder.path_of_verification("book"), b"{}", earlier)


# Two buckets and one table


def test_a_table_belongs_to_one_target(library: Library, source: Path) -> None:
    first = run(library, source)
    library.aws.client("s3").create_bucket(Bucket=f"{library.bucket}-other")
    other = Driver(library, source, existing_items="keep")
    other.store = Store(
        library.aws.client("s3"), f"{library.bucket}-other", other.mapping.name, library.environment, IMPATIENT
    )
    with pytest.raises(RefusedError, match=f"belongs to the target {first.store.uri('')}, not to"):
        other.preflight()
    other.stage_all()
    other.plan()
    with pytest.raises(RefusedError, match="remove the tag accession:target of the table"):
        other.open()
    assert find_owner(other) is None


# One version of the mapping


def test_a_mapping_that_is_edited_in_the_middle_of_a_run_stops_it_and_lets_it_be_undone(
    library: Library, source: Path, tmp_path: Path
) -> None:
    edited = tmp_path / "book_library.yaml"
    edited.write_text((MAPPINGS / "book_library.yaml").read_text() + "\n# edited\n")
    driver = Driver(library, source)
    driver.start()
    driver.stage("user")
    first, driver.mapping = driver.mapping, load_mapping(edited)
    with pytest.raises(RefusedError, match="mapping book_library was changed since run"):
        driver.stage("book")
    driver.mapping = first
    driver.stage("book")
    driver.stage("user_book")
    driver.plan()
    driver.mapping = load_mapping(edited)
    with pytest.raises(RefusedError, match="was changed since"):
        driver.plan()
    with pytest.raises(RefusedError, match="was changed since"):
        driver.open()
    driver.mapping = first
    driver.open()
    driver.migrate("user")
    driver.mapping = load_mapping(edited)
    for step in (driver.migrate, driver.verify):
        with pytest.raises(RefusedError, match="was changed since"):
            step("user")
    assert driver.epoch is not None
    with pytest.raises(RefusedError, match="was changed since"):
        driver.steps.remove(driver.epoch)
    assert driver.steps.rollback(BY, driver.epoch).proved
    assert driver.end(is_verified=False, is_rolled_back=True).status == "rolled_back"


# The verdict


def test_a_seal_needs_a_source_that_is_proved_unchanged(library: Library, source: Path) -> None:
    driver = Driver(library, source, seal="cutover")
    driver.stage_all()
    driver.plan()
    edit(source, "INSERT INTO user (username, email, password_hash) VALUES ('late', 'late@example.org', 'x')")
    driver.open()
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    report = driver.end()
    assert (report.status, report.source_at_end, report.is_good) == ("verified", "changed", False)
    assert "not sealed: the source changed after its backup" in (report.reason or "")
    state = load_state(driver.store)
    assert state is not None
    assert (state.sealed, state.head) == (None, driver.run_name)


def test_a_source_that_cannot_be_compared_is_unknown_and_not_unchanged(library: Library, source: Path) -> None:
    driver = Driver(library, source, seal="cutover")
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    for name in driver.mapping.order:
        driver.verify(name)
    source.rename(source.with_suffix(".gone"))
    report = driver.end()
    assert (report.status, report.source_at_end, report.is_good) == ("verified", "unknown", False)
    assert load_state(driver.store).sealed is None  # type: ignore[union-attr]


def test_a_run_over_emptied_tables_is_never_green(library: Library, source: Path) -> None:
    first = run(library, source)
    keys = {name: driver_ids for name in first.mapping.order if (driver_ids := ids(first, name))}
    for name, known in keys.items():
        for key in known.values():
            delete_in_target(library, name, first.mapping.entities[name].target.keys[0], key)
    unchanged = Driver(library, source)
    unchanged.stage_all()
    unchanged.plan()
    assert unchanged.manifest.unchanged
    with pytest.raises(RefusedError, match=r"6 of 6 items that were looked up in table .* are gone"):
        unchanged.open()
    edit(source, "INSERT INTO user (username, email, password_hash) VALUES ('new', 'new@example.org', 'x')")
    report = Driver(library, source).run()
    assert (report.totals["lost"], report.is_good) == (26, False)
    assert "26 items of earlier runs are gone" in (report.reason or "")
    sealing = Driver(library, source, seal="cutover").run()
    assert not sealing.is_good
    assert load_state(first.store).sealed is None  # type: ignore[union-attr]


class LaggingDynamoDB(DynamoDB):
    """Its indexes find nothing yet."""

    def finds_item(self, *_: Any, **__: Any) -> bool | None:
        return False


def test_an_index_that_lags_is_not_a_failed_proof_and_undoes_nothing(
    library: Library, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = open_first(library, source)
    driver.migrate_all()
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    driver.store.host = replace(IMPATIENT, monotonic=lambda: now[0], sleep=sleep)
    with monkeypatch.context() as patch:
        patch.setattr(driver, "connect", lambda: LaggingDynamoDB(driver.client))
        for name in driver.mapping.order:
            with pytest.raises(TransientError, match="is proved, but its indexes lag"):
                driver.verify(name)
    assert now[0] >= 300
    assert driver.steps.only_lags()
    report = driver.end(is_verified=False, failure="its indexes lag")
    assert (report.status, report.is_open) == ("failed", True)
    for name in driver.mapping.order:
        driver.verify(name)
    assert not driver.end().is_open


def test_a_target_that_was_left_by_a_crash_between_open_and_its_answer_is_opened_again(
    library: Library, source: Path
) -> None:
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    taken = open_target(driver.store, driver.run_name, None).open
    assert taken is not None
    assert driver.open() == taken.epoch
