"""The audit pages: who may see them, what they show, and that neither data nor requests can do harm."""

import csv
import io
import os
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from accession.artifacts import RejectedRow, RunFolder, add_rejects, create_id_map, finish_id_map, run_path
from accession.cli.sample import write_sample
from accession.commands import show_rollback
from accession.digest import hash_file
from accession.errors import VerificationError
from accession.mapping import MAPPINGS, load_mapping
from accession.target import PATH, log_path
from conftest import Library, LocalAws, make_library
from driver import BY, Driver, seal_target
from sessions import SECRET, TOKENS, write_sessions
from xcoms import forget, push

DAG = "migrate_book_library"
EVIL = "<script>alert('x')</script>"
ROUTES = (
    "/",
    "/go?dag_id={dag}&run_id=r",
    "{target}",
    "{target}/audit",
    "{run}",
    "{run}/rows",
    "{run}/ids?q=1",
    "{run}/artifacts",
)

FILES = ("rejects.csv", "report.html", "report.json", "plan.json")


class Site:
    """The pages of one run, asked by a user of Airflow."""

    def __init__(self, app: Any, token: str | None, driver: Driver, dag: str = DAG) -> None:
        from fastapi.testclient import TestClient

        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = TestClient(app, headers=headers, raise_server_exceptions=True, follow_redirects=False)
        self.target = f"/{dag}/{driver.library.bucket}/{driver.library.environment}"
        self.run = f"{self.target}/{driver.run_name}"

    def get(self, path: str, status: int = 200) -> str:
        answer = self.client.get(path.format(dag=DAG, target=self.target, run=self.run))
        assert answer.status_code == status, answer.text
        text: str = answer.text
        return text

    def text(self, path: str) -> str:
        """What a person reads."""
        html = re.sub(r"<(style|script)>.*?</\1>", "", self.get(path), flags=re.DOTALL)
        return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.fixture(scope="module")
def app(airflow_home: Path, aws: LocalAws) -> Any:
    os.environ.setdefault(
        "AIRFLOW__API_AUTH__JWT_SECRET", "for the tests of this process alone, 64 bytes or more, as it should"
    )
    from airflow.api_fastapi.app import init_auth_manager
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:  # runs of other tests, whose buckets would be targets too
        session.query(DagRun).delete()
    init_auth_manager()
    from accession_airflow.page import make_app

    return make_app()


@pytest.fixture(autouse=True)
def no_result_is_kept(airflow_home: Path) -> None:
    from accession_airflow.single_audit import AUDITS

    AUDITS.forget()


def make_token(role: str | None = "admin") -> str:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return str(get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="curator", role=role)))


@pytest.fixture(scope="module")
def verified(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A verified run over a source that wishes the reader ill."""
    folder = tmp_path_factory.mktemp("page") / "<script>alert(1)<"
    folder.mkdir()
    source = write_sample(folder / "site.db")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE user_book SET date_added = ? WHERE id = 7", (EVIL,))
    driver = Driver(make_library(aws), source, max_rejects=3)
    assert driver.run().status == "verified"
    return driver


@pytest.fixture
def site(app: Any, verified: Driver, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("ACCESSION_BUCKET", verified.library.bucket)
    return Site(app, make_token(), verified)


def open_site(app: Any, driver: Driver, monkeypatch: pytest.MonkeyPatch, dag: str = DAG) -> Site:
    from accession_airflow import audit_target

    monkeypatch.setenv("ACCESSION_BUCKET", driver.library.bucket)
    audit_target._make_client.cache_clear()  # the pages keep it for minutes; here each site has an endpoint of its own
    audit_target._make_store.cache_clear()
    return Site(app, make_token(), driver, dag)


# Who may see it


def test_every_route_is_among_those_tested(app: Any) -> None:
    assert len(app.routes) == len(ROUTES), "a page, or a description of the pages, that no test here asks for"


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(("token", "status"), [(None, 401), ("stolen", 403)])
def test_strangers_see_nothing(app: Any, verified: Driver, path: str, token: str | None, status: int) -> None:
    assert "book" not in Site(app, token, verified).get(path, status)


@pytest.mark.parametrize("path", [path for path in ROUTES if path != "/"])
def test_a_user_without_the_right_to_read_dags_sees_nothing(app: Any, verified: Driver, path: str) -> None:
    assert "book" not in Site(app, make_token(role=None), verified).get(path, 403)


@pytest.mark.parametrize("path", ROUTES[2:])
def test_pages_fetch_nothing_and_run_only_their_own_script(site: Site, path: str) -> None:
    answer = site.client.get(path.format(target=site.target, run=site.run))
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert not re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", answer.text)


# What it shows


def test_the_only_target_is_shown_at_once_and_several_are_listed(site: Site, verified: Driver) -> None:
    answer = site.client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, site.target)
    verified.store.client.put_object(Bucket=verified.library.bucket, Key="book_library/other/state.json", Body=b"{}")
    try:
        assert {"other", verified.library.environment} <= set(site.text("/").split())
    finally:
        verified.store.client.delete_object(Bucket=verified.library.bucket, Key="book_library/other/state.json")


def test_the_list_has_a_line_for_each_run(site: Site, verified: Driver) -> None:
    text = site.text("{target}")
    assert f"{verified.run_name} verified" in text
    assert f"{BY} 717 put, 3 rejected" in text
    assert "possible" in text


def test_the_run_page_begins_with_the_verdict(site: Site) -> None:
    text = site.text("{run}")
    assert text.index("All is well: 717 items are in the tables and proved equal") < text.index("Items moved")
    for part in (
        "Rejected rows",
        "book_id 599 refers to no book",
        "How to undo this run",
    ):
        assert part in text
    assert "record 1 of" in text
    assert 'class="airflow" href="/dags/migrate_book_library/runs/manual__' in site.get("{run}")


def test_the_run_page_shows_the_undo_command_as_refusals_word_it(site: Site, verified: Driver) -> None:
    command = show_rollback(verified.library.environment, verified.run_name)
    assert command.endswith("""CONF='{"approval": "never"}'"""), "make has no UI to approve a run in"
    assert f'<code class="command">{command}</code>' in unescape(site.get("{run}"))


def test_nothing_shown_is_taken_for_markup(site: Site) -> None:
    asked = quote(EVIL)
    for path in (
        *ROUTES[2:],
        f"{{run}}/rows?q={asked}",
        f"{{run}}/ids?q={asked}",
        f"/go?dag_id={asked}&run_id={asked}",
    ):
        html = site.get(path)
        assert html.count("<script") == 1, path  # our own
        assert "alert(1)<" not in html
    assert "&lt;script&gt;alert" in site.get("{run}")
    assert "&lt;script&gt;alert" in site.get("{run}/rows")


def test_no_sensitive_value_is_on_any_page(site: Site, verified: Driver) -> None:
    values = {item[name]["S"] for item in verified.scan("user")[:20] for name in ("email", "password_hash")}
    assert len(values) > 20
    for path in ROUTES[2:]:
        html = site.get(path)
        assert not [value for value in values if value in html]


def test_what_was_rejected_of_a_sensitive_column_is_masked_on_pages_and_in_files(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same two rows are rejected for what they hold, with the column marked as sensitive and without."""
    text = (MAPPINGS / "book_library.yaml").read_text()
    column = "rating: {column: rating, type: number"
    assert column in text
    (tmp_path / "book_library.yaml").write_text(text.replace(column, f"{column}, sensitive: true"))
    source = write_sample(tmp_path / "site.db")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE user_book SET rating = 'hush-hush' WHERE id = 8")
        connection.execute("UPDATE user SET email = 'hidden' || hex(zeroblob(1200)) WHERE id = 3")  # too long for a key
    shown = {}
    for mapping in (load_mapping(tmp_path / "book_library.yaml"), load_mapping(MAPPINGS / "book_library.yaml")):
        driver = Driver(make_library(library.aws), source, mapping=mapping, max_rejects=20)
        assert driver.run().totals["rejected"] >= 3
        site = open_site(app, driver, monkeypatch)
        pages = [
            site.get(path) for path in (*ROUTES[2:], "{run}/rows?entity=user", "{run}/rows?entity=user_book&q=rating")
        ]
        files = [driver.store.get(run_path(driver.run_name, name)) for name in FILES]
        shown[mapping.entities["user_book"].attributes["rating"].sensitive] = [
            *pages,
            *(file.decode() for file in files),
        ]
    assert not [text for texts in shown.values() for text in texts if "hidden0000" in text]
    assert not [text for text in shown[True] if "hush-hush" in text]
    assert any("•••" in text for text in shown[True][: len(ROUTES)])
    assert any("hush-hush" in text for text in shown[False][: len(ROUTES)])
    assert any("hush-hush" in text for text in shown[False][len(ROUTES) :])


def test_secret_keys_are_on_no_page_and_are_found_by_their_digests(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, mapping = write_sessions(tmp_path, library)
    monkeypatch.setenv("AIRFLOW__ACCESSION__MAPPINGS", str(tmp_path))
    driver = Driver(library, source, mapping=mapping, max_rejects=9)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    table = mapping.entities["session"].table(library.environment)
    library.aws.client("dynamodb").delete_item(TableName=table, Key={"token": {"S": TOKENS[0]}})
    with pytest.raises(VerificationError) as failed:
        driver.verify("session")
    driver.end(is_verified=False, failure=str(failed.value))
    site = open_site(app, driver, monkeypatch, "migrate_sessions")
    shown = driver.steps.find_mask("session").show
    entities = [f"{{run}}/rows?entity={name}" for name in mapping.entities]
    asked = f"{{run}}/ids?q={quote(shown(TOKENS[3]))}"
    pages = {path: site.get(path) for path in (*ROUTES[2:], *entities, asked)}
    assert [path for path, html in pages.items() if SECRET.search(html)] == []
    assert shown(TOKENS[0]) in pages["{run}"], "what the verification found"
    assert shown(TOKENS[7]) in pages["{run}"], "a rejected row"
    assert f"session {shown(TOKENS[3])} {shown(TOKENS[3])} live" in site.text(
        f"{{run}}/ids?q={quote(shown(TOKENS[3]))}"
    )
    assert "1 of session" in site.text(f"{{run}}/rows?entity=session&q={quote(shown(TOKENS[7]))}")
    assert "0 of session" in site.text("{run}/rows?entity=session&q=tok-")


def test_rejects_are_filtered_and_paged(site: Site) -> None:
    assert "3 of user_book" in site.text("{run}/rows")
    text = site.text("{run}/rows?entity=user_book&q=NO+book")
    assert "1 of user_book" in text
    assert "book_id 599 refers to no book" in text
    assert "0 of user" in site.text("{run}/rows?entity=user")
    assert "0 of user_book" in site.text("{run}/rows?entity=user_book&q=%25")  # not a wildcard
    assert "no entity" in site.get("{run}/rows?entity=nobody", 404)


def test_an_old_id_is_found_by_its_new_one_and_back(site: Site, verified: Driver) -> None:
    entry = next(entry for entry in verified.id_map("book") if entry.old_key == 17)
    assert entry.new_id in site.text("{run}/ids?q=17")
    text = site.text(f"{{run}}/ids?q={entry.new_id.upper()}")
    assert f"book 17 {entry.new_id}" in text
    assert "user" not in text.partition("first seen")[2]
    assert "4711 is neither an old id nor a new one" in site.text("{run}/ids?q=4711")


def test_artifacts_are_listed_as_the_register_has_them(site: Site, verified: Driver) -> None:
    text = site.text("{run}/artifacts")
    for path in verified.store.list(run_path(verified.run_name)):
        assert f"{path} {verified.store.hash(path)}" in text


def test_the_register_is_proved_and_what_was_altered_is_named(site: Site, verified: Driver) -> None:
    from accession_airflow.single_audit import AUDITS

    assert "No record and no artifact was changed." in site.text("{target}/audit")
    AUDITS.forget()  # it would be shown for a minute
    path = run_path(verified.run_name, "plan.json")
    sound = verified.store.get(path)
    verified.store.put(path, sound.replace(b"718", b"719") + b" ")
    try:
        text = site.text("{target}/audit")
        assert "A record or an artifact was changed." in text
        assert f"{path} altered" in text
        verified.store.put(path, sound)
        assert "A record or an artifact was changed." in site.text("{target}/audit"), "the result is kept"
    finally:
        verified.store.put(path, sound)
        AUDITS.forget()


def test_while_an_audit_is_made_others_are_asked_to_wait(site: Site) -> None:
    from accession_airflow.single_audit import AUDITS

    with AUDITS._lock:
        text = site.text("{target}/audit")
    assert "An audit is under way" in text
    assert "No record" in site.text("{target}/audit")


def test_looking_changes_nothing(site: Site, verified: Driver) -> None:
    def list_objects() -> list[tuple[str, str]]:
        pages = verified.store.client.get_paginator("list_objects_v2").paginate(Bucket=verified.library.bucket)
        return [(entry["Key"], entry["LastModified"].isoformat()) for page in pages for entry in page["Contents"]]

    before = list_objects()
    for path in ROUTES[2:]:
        site.get(path)
    assert list_objects() == before


# What it is asked


@pytest.mark.parametrize(
    "path",
    [
        "/migrate_book_library/{bucket}/{environment}/..%2f..",
        "/migrate_book_library/{bucket}/{environment}/20261122T103817Z-3fcd2934%0a",
        "/migrate_book_library/{bucket}/{environment}/20261122T103817Z-3fcd293",
        "/migrate_book_library/{bucket}/..",
        "/migrate_book_library/{bucket}/a%2fb",
        "/migrate_book_library/{bucket}/%0a",
        "/migrate_book_library/somebody-elses-bucket/{environment}",
        "/migrate_book_library/{bucket}%0a/{environment}",
        "/migrate_other/{bucket}/{environment}",
        "/migrate_..%2fbook_library/{bucket}/{environment}",
    ],
)
def test_an_invalid_address_never_reaches_the_store(
    site: Site, verified: Driver, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession_airflow import audit_target

    asked: list[str] = []
    client = verified.library.aws.client("s3", region_name="us-east-1")
    client.meta.events.register("before-call.s3", lambda model, **_: asked.append(model.name))
    monkeypatch.setattr(audit_target, "_make_client", lambda _period: client)
    audit_target._make_store.cache_clear()
    answer = site.client.get(path.format(bucket=verified.library.bucket, environment=verified.library.environment))
    assert answer.status_code in (404, 422)
    assert asked == []
    site.get("{target}")
    audit_target._make_store.cache_clear()
    assert asked, "a valid address does reach it"


def test_a_run_that_is_not_there_is_a_404(site: Site) -> None:
    assert "There is no run" in site.get("{target}/20200101T000000Z-01234567", 404)


# The tab of Airflow's runs


@pytest.fixture
def airflow_run(verified: Driver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Insert runs of Airflow. Only what their tasks pushed names the bucket; the API server knows none."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    monkeypatch.delenv("ACCESSION_BUCKET", raising=False)
    monkeypatch.delenv("ACCESSION_ALLOWED_BUCKETS")
    made = []

    def make(dag_id: str, run_id: str, pushed: dict[str, Any] | None = None, **conf: Any) -> None:
        with create_session() as session:
            session.add(DagRun(dag_id=dag_id, run_id=run_id, run_type="manual", conf=conf))
        made.append(run_id)
        for key, value in (pushed or {}).items():
            push(dag_id, run_id, "check" if dag_id.startswith("rollback_") else "backup", key, value)

    yield make
    forget(*made)
    with create_session() as session:
        for run in session.query(DagRun).filter(DagRun.run_id.in_(made)):
            session.delete(run)


@pytest.mark.parametrize("kind", ["migrate", "rollback"])
def test_the_tab_of_a_run_finds_it_though_its_bucket_was_configured_on_the_workers_only(
    app: Any, verified: Driver, airflow_run: Any, kind: str
) -> None:
    site = Site(app, make_token(), verified)
    site.get("{run}", 404)  # no task has used the bucket yet
    run_id, library = f"manual__{kind}", verified.library
    target = {"bucket": library.bucket, "environment": library.environment}
    conf = {"run": verified.run_name} if kind == "rollback" else {}
    pushed = {"target": target} | ({} if conf else {"run": verified.run_name})
    airflow_run(f"{kind}_book_library", run_id, pushed, **conf)
    answer = site.client.get("/go", params={"dag_id": f"{kind}_book_library", "run_id": run_id})
    assert (answer.status_code, answer.headers["location"]) == (307, site.run)
    site.get("{run}")


def test_a_bucket_that_a_run_was_asked_to_use_is_not_read(app: Any, verified: Driver, airflow_run: Any) -> None:
    """Once any bucket that somebody named in a trigger form was a target of the pages."""
    site = Site(app, make_token(), verified)
    library = verified.library
    airflow_run("rollback_book_library", "manual__2", bucket=library.bucket, environment=library.environment)
    site.get("{run}", 404)


def test_a_bucket_that_tasks_have_used_is_not_read_if_the_api_server_allows_others(
    app: Any, verified: Driver, airflow_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(app, make_token(), verified)
    library = verified.library
    target = {"bucket": library.bucket, "environment": library.environment}
    airflow_run(DAG, "manual__3", {"target": target, "run": verified.run_name})
    site.get("{run}")
    monkeypatch.setenv("ACCESSION_BUCKET", "another-one")
    site.get("{run}", 404)


def test_the_tab_says_when_there_is_nothing_yet(app: Any, verified: Driver, airflow_run: Any) -> None:
    site = Site(app, make_token(), verified)
    airflow_run(DAG, "manual__1", bucket=verified.library.bucket, environment=verified.library.environment)
    assert "no backup yet" in site.text(f"/go?dag_id={DAG}&run_id=manual__1")
    assert "other is not a DAG of Accession." in site.text("/go?dag_id=other&run_id=manual__1")


# Runs that did not go well, or have not ended


def test_a_run_at_work_shows_how_far_it_is(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2, rows_per_part=100)
    driver.start()
    driver.stage("user")
    site = open_site(app, driver, monkeypatch)
    text = site.text("{run}")
    assert "Nothing has been written yet" in text
    assert "stage.user ✓ done" in text
    assert "stage.book at work" in text
    assert "stage.user_book waiting" in text
    assert "not ended" in site.text("{target}")
    driver.stage("book")
    driver.stage("user_book")
    driver.plan()
    driver.open()
    assert driver.epoch is not None
    driver.steps.migrate("user", 0, driver.epoch)
    text = site.text("{run}")
    assert "100 of 718 items are written" in text
    assert "migrate.user at work 1 of 2 parts; 100 of 120 items" in text
    assert "migrate.book at work" in text
    assert "migrate.user_book waiting" in text
    assert "reloads by itself" in text
    assert 'http-equiv="refresh"' in site.get("{run}")
    for name in driver.mapping.order:
        driver.migrate(name)
        driver.verify(name)
    driver.end()
    assert 'http-equiv="refresh"' not in site.get("{run}")
    driver.undo()
    text = site.text("{run}")
    assert f"It has been undone by {BY}" in text
    assert "make rollback" not in text
    assert f"undone by {BY}" in site.text("{target}")


def test_conflicts_are_shown_and_searched(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Driver(library, write_sample(tmp_path / "site.db", orphans=0, odd=0))
    first.run()
    key, item = next((key, item) for key, item in first.items("book").items() if "isbn" in item)
    library.aws.client("dynamodb").put_item(TableName=library.tables["book"], Item=item | {"title": {"S": EVIL}})
    with closing(sqlite3.connect(first.source)) as connection, connection:
        connection.execute("UPDATE book SET author = 'Somebody' WHERE id = ?", (key,))
    second = Driver(library, first.source, on_conflict="keep")
    assert second.run().totals["conflicts"] == 1
    site = open_site(app, second, monkeypatch)
    assert "Items that the application changed" in site.text("{run}")
    text = site.text("{run}/rows?kind=conflicts")
    assert f"{key} {item['book_id']['S']} changed by the application" in text
    assert "1 of book" in site.text(f"{{run}}/rows?kind=conflicts&q={item['book_id']['S'][:8]}")


def test_a_failed_proof_names_the_item_and_says_what_to_do(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    item = driver.items("book")[17]
    library.aws.client("dynamodb").put_item(TableName=library.tables["book"], Item=item | {"title": {"S": EVIL}})
    with pytest.raises(VerificationError) as error:
        driver.verify("book")
    driver.end(is_verified=False, failure=f"{EVIL} {error.value}")
    site = open_site(app, driver, monkeypatch)
    text = site.text("{run}")
    assert "The run failed, and the target stays open" in text
    assert f"book 17 {item['book_id']['S']} mismatched" in text
    assert f"make migrate ENVIRONMENT={library.environment} RESUME={driver.run_name}" in text
    assert site.get("{run}").count("<script") == 1
    assert "has the target open" in site.text("{target}")


def test_look_ups_are_shown_with_those_that_ended_at_their_limit(site: Site, verified: Driver) -> None:
    tables = verified.library.tables
    shown = site.text("{run}")
    assert "Look-ups through the indexes" in shown
    assert f" email-index {tables['user']} 10 0 " in shown
    folder = RunFolder(verified.store, verified.run_name)
    stored = {folder.path_of_verification(name): proof for name, proof in folder.find_verifications(tables).items()}

    def store(**look_ups: dict[str, int]) -> None:
        for path, proof in stored.items():
            verified.store.put(path, proof.model_copy(update=look_ups).dump())

    try:
        store(look_ups={"isbn-index": 1010, EVIL: 7}, look_ups_not_known={"isbn-index": 1003})
        shown = site.text("{run}")
        assert f" isbn-index {tables['book']} 1,010 1,003 " in shown
        assert f" {tables['book']} 7 0 " in shown
        assert EVIL not in site.get("{run}")
        store(look_ups={}, look_ups_not_known={})
        assert "Look-ups" not in site.text("{run}")
    finally:
        for path, proof in stored.items():
            verified.store.put(path, proof.dump())


def test_a_damaged_register_is_shown_as_far_as_it_goes(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    driver.run()
    Driver(library, driver.source, max_rejects=2).run()
    site = open_site(app, driver, monkeypatch)
    driver.store.put(log_path(1), b"{")
    text = site.text("{target}")
    assert "record 1 damaged" in text
    assert "unchanged" in text
    driver.store.put(PATH, driver.store.get(PATH) + b" ")
    assert "changed by hand" in site.get("{target}", 502)


def test_many_records_are_paged(app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    driver.run()
    for number in range(30):
        seal_target(driver.store, f"reason {number}", BY)
    site = open_site(app, driver, monkeypatch)
    first = site.text("{target}")
    assert "reason 29" in first and "reason 5" in first and "reason 4 " not in first
    older = re.search(r'rel="next" href="([^"]*)"', site.get("{target}"))
    assert older
    last = site.text("{target}" + older[1])
    assert "reason 4" in last and f"{driver.run_name} verified" in last and "reason 5 " not in last


MILLION = 1_000_000


@pytest.mark.slow
def test_a_run_with_a_million_rejects_opens_in_a_second(
    app: Any, library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    driver.run()
    id_map = tmp_path / "user_book.db"
    connection = create_id_map(id_map, "INTEGER")
    reason = "date_added: 'some day in spring' is not a date or time"
    add_rejects(connection, (RejectedRow(number, "date_added", reason, 0) for number in range(MILLION)))
    finish_id_map(connection)
    index = driver.index("user_book")
    driver.store.upload(driver.store.path(index.id_map), id_map)
    counts = index.counts.model_copy(update={"rejected": MILLION})
    changed = index.model_copy(update={"id_map_sha256": hash_file(id_map), "counts": counts})
    driver.store.put(driver.steps.folder.path_of_staged("user_book"), changed.dump())
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(["entity", "table", "key", "column", "reason", "held", "since"])
    rows.writerows(["user_book", "t", number, "date_added", reason, "no", "new"] for number in range(MILLION))
    driver.store.put(run_path(driver.run_name, "rejects.csv"), text.getvalue().encode())
    site = open_site(app, driver, monkeypatch)
    site.get("{target}")  # connects

    def measure(path: str) -> tuple[float, str]:
        started = time.perf_counter()
        shown = site.text(path)
        return time.perf_counter() - started, shown

    assert measure("{run}")[0] < 1.0
    assert "1,000,000 of user_book" in measure("{run}/rows")[1]  # fetches the map, once
    seconds, text_shown = measure("{run}/rows?entity=user_book&page=20000")
    assert "999999" in text_shown
    assert seconds < 1.0


def test_the_plugin_costs_other_processes_no_fastapi() -> None:
    """The scheduler, each worker and each parse load the plugin; FastAPI costs more than a second."""
    code = (
        "import sys; from airflow.plugins_manager import _get_plugins; names = [p.name for p in _get_plugins()[0]]; "
        "print('accession' in names, 'fastapi' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "True False", done.stdout + done.stderr
