"""Whole runs in one process, without a scheduler: what they leave behind, and what they leave out."""

import json
import re
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import write_sample
from conftest import Library, LocalAws, make_library
from sessions import TOKENS, write_sessions

pytestmark = [pytest.mark.timeout(280), pytest.mark.filterwarnings("ignore")]

MIGRATE = "migrate_book_library"


@dataclass(frozen=True)
class Ran:
    """A finished run, its target, its source and where Airflow keeps its things."""

    dag_run: Any
    library: Library
    source: Path
    home: Path
    mapping: str = "book_library"

    def objects(self) -> dict[str, bytes]:
        """All objects of the target, by path."""
        s3, prefix = self.library.aws.client("s3"), f"{self.mapping}/{self.library.environment}/"
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=self.library.bucket, Prefix=prefix)
        return {
            entry["Key"].removeprefix(prefix): s3.get_object(Bucket=self.library.bucket, Key=entry["Key"])[
                "Body"
            ].read()
            for page in pages
            for entry in page.get("Contents", ())
        }

    def leftovers(self) -> dict[str, bytes]:
        """Everything that a run leaves behind but backups, change sets and tables."""
        left = {path: data for path, data in self.objects().items() if not re.search("^backups/|/changes/", path)}
        return left | {str(path): path.read_bytes() for path in self.home.rglob("*") if path.is_file()}

    def report(self) -> Any:
        return json.loads(next(data for path, data in self.objects().items() if path.endswith("/report.json")))


def run_dag(airflow_home: Path, library: Library, source: Path, **conf: Any) -> Ran:
    from airflow.dag_processing.dagbag import DagBag

    given = {
        "source": str(source),
        "environment": library.environment,
        "bucket": library.bucket,
        "approval": "never",
    }
    dag = DagBag(str(Path(__file__).parents[2] / "dags")).dags[MIGRATE]
    return Ran(dag.test(run_conf=given | conf), library, source, airflow_home)


@pytest.fixture(scope="module")
def verified(airflow_home: Path, aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The sample, with its orphan and its odd date."""
    source = write_sample(tmp_path_factory.mktemp("run") / "site.db")
    return run_dag(airflow_home, make_library(aws), source, max_rejects=2)


def test_a_run_is_verified_and_says_so(verified: Ran) -> None:
    report = verified.report()
    assert str(verified.dag_run.state) == "success"
    assert report["status"] == "verified"
    assert {name: entity["verified"] for name, entity in report["entities"].items()} == {
        name: len(verified.library.scan(name)) for name in verified.library.tables
    }
    assert sum(entity["rejected"] for entity in report["entities"].values()) == 2


def test_the_run_carries_its_note(verified: Ran) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(DagRun).filter(DagRun.run_id == verified.dag_run.run_id).one()
        assert found.note == "718 put, 2 rejected, verified"


def list_events(ran: Ran) -> dict[str, Any]:
    """The extra of each asset event of a run, by the name of its asset."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        found = session.query(AssetEvent).filter(AssetEvent.source_run_id == ran.dag_run.run_id)
        return {event.asset.name: event.extra for event in found}


def test_a_run_announces_the_tables_that_it_changed(verified: Ran) -> None:
    report, events = verified.report(), list_events(verified)
    assert list(events) == [
        f"book_library/{report['environment']}/{entity['table']}" for entity in report["entities"].values()
    ]
    users = events[f"book_library/{report['environment']}/{report['entities']['user']['table']}"]
    assert users["run"] == report["run"] and users["report"].endswith(f"/{report['run']}/report.json")
    assert (users["action"], users["counts"]) == ("migrated", {"put": 120, "updated": 0, "deleted": 0})


@pytest.mark.parametrize("conf", [{"dry_run": True}, {}], ids=["dry run", "refused"])
def test_a_run_that_committed_nothing_announces_nothing(
    airflow_home: Path, library: Library, tmp_path: Path, conf: dict[str, Any]
) -> None:
    ran = run_dag(airflow_home, library, write_sample(tmp_path / "site.db"), max_rejects=2 * len(conf), **conf)
    assert ran.report()["status"] == ("dry_run" if conf else "refused")
    assert list_events(ran) == {}


def test_a_run_sends_metrics_the_way_that_airflow_does(airflow_home: Path, library: Library, tmp_path: Path) -> None:
    from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
    from airflow.sdk.observability import stats

    sent: dict[str, float] = defaultdict(float)

    def keep(stat: str, value: float = 1, *, tags: dict[str, str] | None = None, **_: Any) -> None:
        if stat.startswith("accession."):
            tags = dict(tags or {})
            assert (tags.pop("mapping"), tags.pop("environment")) == ("book_library", library.environment)
            sent[" ".join([stat, *tags.values()])] += value

    class Backend(NoStatsLogger):
        timing = gauge = staticmethod(keep)  # type: ignore[assignment]
        incr = staticmethod(lambda stat, count=1, **given: keep(stat, count, **given))  # type: ignore[assignment]

    stats.initialize(factory=Backend, export_legacy_names=False)
    try:
        ran = run_dag(airflow_home, library, write_sample(tmp_path / "site.db"), max_rejects=2)
    finally:
        stats.initialize(factory=NoStatsLogger, export_legacy_names=False)
    report = ran.report()
    seconds = [sent.pop(f"accession.seconds {step}") for step in report["seconds"]]
    assert seconds == [1000 * taken for taken in report["seconds"].values()]
    assert sent == {
        "accession.items_written": 718,
        "accession.write_units": report["write_units"]["consumed"],
        "accession.throttles": 0,
        "accession.runs verified": 1,
        "accession.rejected": 2,
        "accession.conflicts": 0,
    }


def read_secrets(source: Path) -> list[str]:
    """Every e-mail address and password hash of the sample."""
    with closing(sqlite3.connect(source)) as connection:
        return [value for row in connection.execute("SELECT email, password_hash FROM user") for value in row]


def test_nothing_personal_lies_outside_backups_changes_and_tables(verified: Ran) -> None:
    """XComs, params, ID maps, proofs, rejects, the register and the report, byte by byte. Logs: see test_paths."""
    secrets = re.compile(b"|".join(re.escape(value.encode()) for value in read_secrets(verified.source)))
    left = verified.leftovers()
    assert any("/id_map/user-" in path for path in left)
    assert any(path.endswith("airflow.db") for path in left)
    assert [path for path, data in left.items() if secrets.search(data)] == []


def test_the_search_for_secrets_can_find_some(verified: Ran) -> None:
    """In the backup, where they belong."""
    secrets = [value.encode() for value in read_secrets(verified.source)]
    assert len(secrets) == 240
    backup = next(data for path, data in verified.objects().items() if path.startswith("backups/"))
    assert all(secret in backup for secret in secrets)


def test_a_failing_run_tells_no_secrets_either(
    verified: Ran, aws: LocalAws, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Rows are refused for what their sensitive columns hold; the reasons do not repeat it."""
    source = write_sample(tmp_path / "site.db", users=20, books=10, user_books=20, orphans=0, odd=0)
    with closing(sqlite3.connect(source)) as connection:
        connection.execute("UPDATE user SET email = 'hidden' || hex(zeroblob(1200)) WHERE id = 3")
        connection.execute("UPDATE user SET password_hash = CAST(x'ff73656372657421' AS TEXT) WHERE id = 4")
        connection.commit()
    ran = run_dag(verified.home, make_library(aws), source)
    assert str(ran.dag_run.state) == "failed"
    assert ran.report()["status"] == "refused"
    assert ran.report()["entities"]["user"]["rejected"] == 2
    left = ran.leftovers()
    assert [path for path, data in left.items() if b"hidden0000" in data or b"secret!" in data] == []
    assert "hidden0000" not in caplog.text


def test_secret_keys_are_in_no_xcom_log_or_report(
    airflow_home: Path,
    library: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One run rejects rows and verifies, one is refused for what the application changed, one is undone."""
    from airflow.dag_processing.dagbag import DagBag

    source, _ = write_sessions(tmp_path, library)
    monkeypatch.setenv("AIRFLOW__ACCESSION__MAPPINGS", str(tmp_path))
    dags = DagBag(str(Path(__file__).parents[2] / "dags")).dags
    given = {"environment": library.environment, "bucket": library.bucket, "approval": "never"}

    def migrate(**conf: Any) -> Ran:
        conf = given | {"source": str(source), "max_rejects": 9} | conf
        return Ran(dags["migrate_sessions"].test(run_conf=conf), library, source, airflow_home, "sessions")

    first = migrate()
    assert first.report()["status"] == "verified"
    client, table = library.aws.client("dynamodb"), f"Sessions-{library.environment}"
    locks = [lock["lock_id"]["S"] for lock in client.scan(TableName=f"Locks-{library.environment}")["Items"]]
    assert len(locks) == len(TOKENS)
    secret = re.compile("|".join(["tok-", *locks]))  # other runs have ids of version 5 as well
    item = client.get_item(TableName=table, Key={"token": {"S": TOKENS[3]}})["Item"]
    client.put_item(TableName=table, Item=item | {"seen": {"S": "by the application"}})
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE session SET expires = 50 WHERE token = ?", (TOKENS[3],))
    assert str(migrate().dag_run.state) == "failed"
    undone = dags["rollback_sessions"].test(run_conf=given | {"run": first.report()["run"]})
    assert str(undone.state) == "failed", "the application's change is a conflict"
    left = {
        path: data
        for path, data in first.leftovers().items()
        if not re.search(r"/id_map/|/progress/|/verification/.*gz$|^verify_register", path)
    }
    assert [path for path, data in left.items() if secret.search(data.decode("latin-1"))] == []
    said = capfd.readouterr()
    assert "•••" in said.out + said.err + caplog.text
    assert not secret.search(said.out + said.err + caplog.text)


def test_a_source_that_changes_during_the_run_is_reported_with_its_rows_then_and_now(
    airflow_home: Path, aws: LocalAws, tmp_path: Path
) -> None:
    library = make_library(aws)
    source = write_sample(tmp_path / "site.db", users=5, books=5, user_books=5, orphans=0, odd=0)
    s3 = aws.client("s3", region_name=aws.region)
    edited = threading.Event()

    def edit_after_backup() -> None:
        for _ in range(600):
            found = s3.list_objects_v2(Bucket=library.bucket, Prefix=f"book_library/{library.environment}/runs/")
            if found["KeyCount"]:
                with closing(sqlite3.connect(source)) as connection, connection:
                    connection.execute("INSERT INTO book (id, title, author) VALUES (99, 'late', 'comer')")
                edited.set()
                return
            time.sleep(0.05)

    watcher = threading.Thread(target=edit_after_backup)
    watcher.start()
    ran = run_dag(airflow_home, library, source)
    watcher.join()
    assert edited.is_set()
    report = ran.report()
    assert report["status"] == "verified"
    assert report["source_changed_during_run"] is True
    assert (report["snapshot"]["rows"]["book"], report["source_rows_now"]["book"]) == (5, 6)
