"""The task `rollback` of a migration undoes its own run, and nothing in which an undo would be wrong or impossible."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accession.cli.sample import write_sample
from accession.mapping import MAPPINGS
from accession.target import load_state
from conftest import Library
from driver import Driver

Rollback = Callable[..., Any]


@pytest.fixture
def driver(library: Library, tmp_path: Path) -> Driver:
    """A first run that wrote its users."""
    source = write_sample(tmp_path / "site.db", users=3, books=3, user_books=3, orphans=0, odd=0)
    driver = Driver(library, source)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate("user")
    return driver


@pytest.fixture
def rollback(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Rollback:
    """The body of the task, as Airflow calls it after a writer has failed."""
    from accession_airflow import aws, tasks

    monkeypatch.setattr(aws, "open_store", lambda *_: driver.store)
    states = {"run": {"migrate.user": "success", "migrate.book": "failed"}}

    def call(epoch: int | None, error: str = "TransientError", **params: Any) -> Any:
        given = {"environment": driver.library.environment, "bucket": driver.library.bucket, **params}
        ti = SimpleNamespace(
            get_task_states=lambda **_: states,
            xcom_pull=lambda **_: [{"message": "it failed", "kind": error}, None],
            xcom_push=lambda **_: None,
        )
        context = {
            "params": given,
            "dag_run": SimpleNamespace(conf=None, run_id="run", run_type="manual", triggering_user_name="ann"),
            "dag": SimpleNamespace(dag_id="migrate_book_library", task_ids=["migrate.user", "migrate.book", "report"]),
            "ti": ti,
        }
        return tasks.rollback(MAPPINGS / "book_library.yaml", context, run=driver.run_name, epoch=epoch)

    return call


def is_open(driver: Driver) -> bool:
    state = load_state(driver.store)
    assert state is not None
    return state.open is not None


def test_a_failed_run_is_undone(driver: Driver, rollback: Rollback) -> None:
    assert rollback(driver.epoch)["user"]["deleted"] == 3
    assert not is_open(driver)
    assert not driver.scan("user")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"on_failure": "keep"}, "on_failure is keep"),
        ({"error": "CredentialsError"}, "AWS refused the credentials"),
        ({"epoch": None}, "never had the target"),
    ],
)
def test_a_run_is_left_open_if_an_undo_is_not_wanted_or_not_possible(
    driver: Driver, rollback: Rollback, given: dict[str, Any], reason: str
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException, match=reason):
        rollback(**{"epoch": driver.epoch} | given)
    assert is_open(driver)
    assert len(driver.scan("user")) == 3


def prove(driver: Driver, **found: bool) -> None:
    """Write and prove all, and let the proofs say what was found."""
    driver.migrate("book")
    driver.migrate("user_book")
    for name in driver.mapping.order:
        driver.verify(name)
        proof = driver.steps.folder.find_verification(name)
        assert proof is not None
        driver.store.put(driver.steps.folder.path_of_verification(name), proof.model_copy(update=found).dump())


def test_a_run_whose_tables_are_proved_is_not_undone_for_a_lagging_index(driver: Driver, rollback: Rollback) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    prove(driver, ok=False, lagging=True)
    with pytest.raises(AirflowSkipException, match="only indexes lag"):
        rollback(driver.epoch)
    assert is_open(driver)


@pytest.mark.parametrize("lags", [False, True])
def test_a_run_whose_application_does_not_answer_is_undone(driver: Driver, rollback: Rollback, lags: bool) -> None:
    prove(driver, ok=not lags, lagging=lags)
    assert rollback(driver.epoch, "VerificationError")["user"]["deleted"] == 3
    assert not is_open(driver)
