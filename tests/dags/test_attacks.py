"""What somebody could try who may trigger the DAGs, and how it ends: tests/attacks.py has the sentences.

What a run would have written, read or requested is looked at afterwards.
"""

import gzip
import sqlite3
import threading
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accession.artifacts import RunFolder
from accession.cli.sample import write_sample
from accession.errors import AccessionError, RefusedError, StoreError
from accession.mapping import MAPPINGS
from accession.params import MigrateParams
from accession.run import ask_application
from accession.target import load_state, open_target
from attacks import ENDS
from conftest import DEPLOYMENT, Library
from driver import Driver, seal_target
from xcoms import forget, push

MIGRATE, ROLLBACK = "migrate_book_library", "rollback_book_library"


class Attacker:
    """Somebody who may trigger the DAGs of a deployment that configured its source and its bucket, and nothing else."""

    def __init__(self, driver: Driver, xcoms: dict[tuple[str, str], Any]) -> None:
        self.driver, self.xcoms = driver, xcoms
        self.answers: dict[str, Any] = {}
        self.run_type = "manual"

    def call(self, task: str, dag_id: str = MIGRATE, *, arguments: dict[str, Any] | None = None, **conf: Any) -> Any:
        """Call the body of a task as Airflow does, in a run with that conf."""
        from accession_airflow import tasks

        return getattr(tasks, task)(MAPPINGS / "book_library.yaml", self.make_context(dag_id, conf), **arguments or {})

    def make_context(self, dag_id: str, conf: dict[str, Any]) -> dict[str, Any]:
        given = {"environment": self.driver.library.environment} | conf
        return {
            "params": given,
            "dag_run": SimpleNamespace(
                conf=given, run_id="r", run_type=self.run_type, triggering_user_name="mallory", dag_id=dag_id
            ),
            "dag": SimpleNamespace(dag_id=dag_id, task_ids=[]),
            "ti": SimpleNamespace(
                xcom_pull=lambda task_ids, key="return_value": self.xcoms.get((task_ids, key)),
                xcom_push=lambda key, value: self.answers.update({key: value}),
            ),
        }

    def ask(self, dags: Any, dag_id: str = MIGRATE, **conf: Any) -> Any:
        return dags[dag_id].task_dict["approve"].execute(self.make_context(dag_id, conf))

    def answer(self, dags: Any, person: dict[str, str] | None, chosen: str = "Approve", **conf: Any) -> Any:
        event = {
            "chosen_options": [chosen],
            "params_input": {},
            "responded_by_user": person,
            "responded_at": datetime.now(UTC),
        }
        return dags[MIGRATE].task_dict["approve"].execute_complete(self.make_context(MIGRATE, conf), event)


@pytest.fixture
def dags(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from airflow.dag_processing.dagbag import DagBag
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    monkeypatch.setattr(ApprovalOperator, "execute", lambda self, context: "asked")
    return DagBag(str(Path(__file__).parents[2] / "dags")).dags


@pytest.fixture
def attacker(library: Library, tmp_path: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Attacker:
    for name in DEPLOYMENT:
        monkeypatch.delenv(name)
    source = write_sample(tmp_path / "data" / "site.db", users=3, books=3, user_books=3, orphans=0, odd=0)
    monkeypatch.setenv("AIRFLOW__ACCESSION__SOURCE", str(source))
    monkeypatch.setenv("AIRFLOW__ACCESSION__BUCKET", library.bucket)
    driver = Driver(library, source)
    return Attacker(driver, {})


def refuse(attack: str, call: Callable[[], Any]) -> None:
    """The attack ends with the sentence that the table has."""
    with pytest.raises(AccessionError) as caught:
        call()
    assert ENDS[attack] in str(caught.value)


def list_objects(library: Library, bucket: str) -> list[str]:
    found = library.aws.client("s3").list_objects_v2(Bucket=bucket)
    return [entry["Key"] for entry in found.get("Contents", ())]


# Read what is not the deployment's


def test_what_is_allowed_is_done(attacker: Attacker) -> None:
    """The deployment's own source and bucket, named or not: the attacks fail for what they ask, and nothing else."""
    assert attacker.call("preflight")["started_at"]
    assert attacker.call("preflight", source=str(attacker.driver.source), bucket=attacker.driver.library.bucket)


def test_foreign_file(attacker: Attacker, airflow_home: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = airflow_home / "airflow.db"
    assert database.exists()
    refuse("foreign_file", lambda: attacker.call("preflight", source=str(database)))
    assert "mallory asked for something that this deployment does not allow." in caplog.text
    assert not list_objects(attacker.driver.library, attacker.driver.library.bucket)


@pytest.mark.parametrize("path", ["../airflow.db", "x/../../airflow.db", "../data-evil/a.db", "../data/../../a\0b"])
def test_dots(attacker: Attacker, path: str) -> None:
    folder = attacker.driver.source.parent
    refuse("dots", lambda: attacker.call("backup", source=f"{folder}/{path}"))


def test_symlink(attacker: Attacker, airflow_home: Path) -> None:
    link = attacker.driver.source.parent / "link.db"
    link.symlink_to(airflow_home / "airflow.db")
    refuse("symlink", lambda: attacker.call("backup", source=str(link)))


def test_swapped_link(attacker: Attacker, airflow_home: Path) -> None:
    """The link leads elsewhere once the params are checked."""
    from accession_airflow.job import _open_job

    link = attacker.driver.source.parent / "link.db"
    link.symlink_to(attacker.driver.source)
    job = _open_job(MAPPINGS / "book_library.yaml", attacker.make_context(MIGRATE, {"source": str(link)}))
    link.unlink()
    link.symlink_to(airflow_home / "airflow.db")
    with pytest.raises(RefusedError) as caught, job.fetch_source():
        pass
    assert ENDS["swapped_link"] in str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["s3://sources-evil/app/site.db", "s3://sources/app-evil/site.db", "s3://sources/app/../x.db", "S3://sources/app/x",
     "s3://sources/x.db", "s3:///app/site.db", "s3://sources"],
)  # fmt: skip
def test_s3_prefix(attacker: Attacker, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("AIRFLOW__ACCESSION__SOURCE", "s3://sources/app/site.db")
    refuse("s3_prefix", lambda: attacker.call("preflight", source=address))


@pytest.mark.parametrize("bucket", ["evil-bucket", "{ours}-evil", "{ours}.evil"])
def test_foreign_bucket(attacker: Attacker, bucket: str) -> None:
    library = attacker.driver.library
    foreign = bucket.format(ours=library.bucket)
    library.aws.client("s3").create_bucket(Bucket=foreign)
    for task in ("preflight", "backup"):
        refuse("foreign_bucket", partial(attacker.call, task, bucket=foreign))
    assert not list_objects(library, foreign)


@pytest.mark.parametrize("bucket", ["bück", "a%2f..%2fb", "..", "ours\n", "*"])
def test_odd_bucket(attacker: Attacker, bucket: str) -> None:
    refuse("odd_bucket", lambda: attacker.call("preflight", bucket=bucket))


def test_foreign_environment(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_ENVIRONMENTS", attacker.driver.library.environment)
    assert attacker.call("preflight")
    refuse("foreign_environment", lambda: attacker.call("preflight", environment="other-team"))


# Write where nobody should


def commit(attacker: Attacker) -> str:
    assert attacker.driver.run().status == "verified"
    return attacker.driver.run_name


def restore(attacker: Attacker, place: str, task: str = "restore_source") -> Any:
    """The undo of the tables is over, and was approved."""
    arguments = {"run": attacker.driver.run_name} if task == "restore_source" else {}
    conf = {"run": attacker.driver.run_name, "restore_to": place, "undo_tables": False}
    attacker.xcoms |= {
        ("approve", "answer"): {"chosen": ["Approve"], "person": {"id": "ada", "name": "ada"}},
        ("approve", "asked"): attacker.driver.run_name,
    }
    return attacker.call(task, ROLLBACK, arguments=arguments, **conf)


def test_restore_goes_back_to_the_own_source(attacker: Attacker) -> None:
    """It does, also if the source is gone."""
    commit(attacker)
    source = attacker.driver.source
    before = source.read_bytes()
    source.unlink()
    assert restore(attacker, str(source), "check_rollback") == attacker.driver.run_name
    restore(attacker, str(source))
    with closing(sqlite3.connect(source)) as restored:
        assert restored.execute("SELECT count(*) FROM user").fetchone() == (3,)
    assert len(before) == source.stat().st_size


def test_code_execution(attacker: Attacker, tmp_path: Path) -> None:
    """A SQLite file that is a ZIP as well, restored into a DAGs folder."""
    payload = BytesIO()
    with zipfile.ZipFile(payload, "w") as archive:
        archive.writestr("dag.py", "from airflow.sdk import DAG")
    with closing(sqlite3.connect(attacker.driver.source)) as source, source:
        source.execute("CREATE TABLE extra AS SELECT ? AS payload", (payload.getvalue(),))
    commit(attacker)
    dags = tmp_path / "dags"
    dags.mkdir()
    for name in ("evil.zip", "evil.py"):
        for task in ("check_rollback", "restore_source"):
            refuse("code_execution", partial(restore, attacker, str(dags / name), task))
    assert list(dags.iterdir()) == []


def test_overwritten_file(attacker: Attacker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not a SQLite database, in a folder to which restores may go."""
    commit(attacker)
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_RESTORES", str(tmp_path / "restored"))
    victim = tmp_path / "restored" / "settings.py"
    victim.parent.mkdir()
    victim.write_text("import os")
    refuse("overwritten_file", lambda: restore(attacker, str(victim)))
    assert [path.name for path in victim.parent.iterdir()] == ["settings.py"]
    assert victim.read_text() == "import os"
    restore(attacker, str(victim.with_name("site.db")))
    assert (victim.parent / "site.db").exists()


def test_overwritten_object(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(attacker)
    library = attacker.driver.library
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_RESTORES", f"s3://{library.bucket}/restored/")
    library.aws.client("s3").put_object(Bucket=library.bucket, Key="restored/index.html", Body=b"<html> and more")
    refuse("overwritten_object", lambda: restore(attacker, f"s3://{library.bucket}/restored/index.html"))
    refuse("foreign_restore", lambda: restore(attacker, f"s3://{library.bucket}/book_library/state.json"))
    restore(attacker, f"s3://{library.bucket}/restored/site.db")
    assert "restored/site.db" in list_objects(library, library.bucket)


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_planted_wal(attacker: Attacker, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(attacker)
    source = attacker.driver.source
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_RESTORES", str(source.parent))
    refuse("planted_wal", lambda: restore(attacker, f"{source}{suffix}"))
    assert not Path(f"{source}{suffix}").exists()


def test_forged_manifest(attacker: Attacker, tmp_path: Path) -> None:
    """The manifest in the bucket says that the source of the run was a file among the DAGs."""
    run = commit(attacker)
    folder, place = RunFolder(attacker.driver.store, run), tmp_path / "dags" / "evil.zip"
    forged = folder.load_manifest().model_copy(update={"source": str(place)})
    attacker.driver.store.put(folder.path("manifest.json"), forged.dump())
    refuse("forged_manifest", lambda: restore(attacker, str(place)))
    assert not place.exists()


@pytest.mark.parametrize("value", [True, 5, ["x"]])
def test_no_path(attacker: Attacker, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commit(attacker)
    refuse("no_path", lambda: restore(attacker, value))
    assert not (tmp_path / "True").exists()


# Write without being asked


@pytest.mark.parametrize("run_type", ["manual", "asset_materialization", "operator_triggered", "backfill"])
def test_unasked(attacker: Attacker, dags: Any, run_type: str) -> None:
    """Materialise the asset, trigger by an operator, or backfill."""
    attacker.run_type = run_type
    assert attacker.ask(dags) == "asked"
    attacker.driver.stage_all()
    attacker.driver.plan()
    refuse("unasked", lambda: open_run(attacker))
    assert not attacker.driver.scan("user")


def open_run(attacker: Attacker, **conf: Any) -> Any:
    return attacker.call("open_run", arguments={"run": attacker.driver.run_name}, **conf)


def test_never(attacker: Attacker, dags: Any) -> None:
    refuse("never", lambda: attacker.ask(dags, approval="never"))
    attacker.driver.stage_all()
    attacker.driver.plan()
    refuse("never", lambda: open_run(attacker, approval="never"))


def test_marked_success(attacker: Attacker) -> None:
    """Mark the task approve as successful, or clear the tasks before it once another plan was approved."""
    attacker.driver.stage_all()
    attacker.driver.plan()
    refuse("marked_success", lambda: open_run(attacker))
    ada = {"chosen": ["Approve"], "person": {"id": "ada", "name": "ada"}}
    attacker.xcoms |= {("approve", "answer"): ada, ("approve", "asked"): "20260105T120000Z-0123abcd"}
    refuse("marked_success", lambda: open_run(attacker))
    attacker.xcoms[("approve", "asked")] = attacker.driver.run_name
    assert open_run(attacker) == 1


def test_self_approval(attacker: Attacker, dags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ACCESSION__FOUR_EYES", "True")
    refuse("self_approval", lambda: attacker.answer(dags, {"id": "mallory", "name": "mallory"}))
    refuse("self_approval", lambda: attacker.answer(dags, {"id": "7", "name": "mallory"}))
    assert attacker.answer(dags, {"id": "ada", "name": "ada"})["chosen_options"] == ["Approve"]


def test_wrong_approver(attacker: Attacker, dags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow refuses the answer itself, and if it does not, the task does."""
    monkeypatch.setenv("AIRFLOW__ACCESSION__APPROVERS", "ada, mallory")
    monkeypatch.setenv("AIRFLOW__ACCESSION__FOUR_EYES", "True")
    attacker.ask(dags)
    assert dags[MIGRATE].task_dict["approve"].assigned_users == [{"id": "ada", "name": "ada"}]
    refuse("wrong_approver", lambda: attacker.answer(dags, {"id": "bob", "name": "bob"}))


def test_own_approver(attacker: Attacker, dags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ACCESSION__APPROVERS", "mallory")
    monkeypatch.setenv("AIRFLOW__ACCESSION__FOUR_EYES", "True")
    refuse("own_approver", lambda: attacker.ask(dags))


def test_no_answer(attacker: Attacker, dags: Any) -> None:
    """Leave the question open for ever."""
    attacker.ask(dags, approval_hours=3)
    approve = dags[MIGRATE].task_dict["approve"]
    assert (approve.response_timeout.total_seconds(), approve.defaults) == (3 * 3600, ["Reject"])
    attacker.driver.stage_all()
    attacker.driver.plan()
    end = attacker.driver.end(rejected_by="the time-out, since nobody answered")
    assert end.status == "rejected"
    assert ENDS["no_answer"] in (end.reason or "")
    attacker.xcoms[("approve", "answer")] = {"chosen": ["Reject"]}
    refuse("marked_success", lambda: open_run(attacker))


def test_local_name(attacker: Attacker, dags: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Call prod `local`, with a mapping whose tables have no environment in their names."""
    from accession_airflow import approval

    found = attacker.driver.mapping
    shared = {
        name: entity.model_copy(update={"target": entity.target.model_copy(update={"table": f"Prod-{name}"})})
        for name, entity in found.entities.items()
    }
    monkeypatch.setattr(approval, "load_mapping", lambda _: found.model_copy(update={"entities": shared}))
    assert attacker.ask(dags, environment="local") == "asked"
    monkeypatch.setattr(approval, "load_mapping", lambda _: found)
    from airflow.sdk.exceptions import AirflowSkipException

    with pytest.raises(AirflowSkipException):
        attacker.ask(dags, environment="local")


def test_unsealed(attacker: Attacker) -> None:
    """Unseal a target in a run that nobody approves, so that the next scheduled run writes."""
    driver = attacker.driver
    commit(attacker)
    seal_target(driver.store, "cutover", "ada")
    attacker.call("preflight", unseal="let me in")
    attacker.call("backup", unseal="let me in")
    again = Driver(driver.library, driver.source, unseal="let me in")
    again.stage_all()
    again.plan()
    driver.run_name = again.run_name
    refuse("unsealed", lambda: open_run(attacker, unseal="let me in"))
    state = load_state(driver.store)
    assert state is not None
    assert state.sealed is not None


def test_second_run(attacker: Attacker) -> None:
    """Two runs of a target are staged at the same time."""
    first, second = attacker.driver, Driver(attacker.driver.library, attacker.driver.source)
    for driver in (first, second):
        driver.stage_all()
        driver.plan()
    first.open()
    with pytest.raises(RefusedError, match="open and has not ended"):
        second.open()
    first.migrate_all()
    for name in first.mapping.order:
        first.verify(name)
    assert first.end().status == "verified"
    refuse("second_run", second.open)


# Reach into the network, and disturb


@pytest.mark.parametrize(
    "url",
    ["http://app.example.org.evil/", "http://app.example.org@evil/", "http://evil/?http://app.example.org/health",
     "https://app.example.org/health", "http://app.example.org:81/health", "http://app.example.org/healthy",
     "http://app.example.org/health/%2e%2e/admin", "http://169.254.169.254/latest/meta-data"],
)  # fmt: skip
def test_app_url(attacker: Attacker, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    refuse("app_url", lambda: attacker.call("preflight", app_url="http://app.example.org/health"))
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_APP_URLS", "http://app.example.org/health")
    attacker.call("preflight", app_url="http://app.example.org/health/?deep=1")
    refuse("app_url", lambda: attacker.call("preflight", app_url=url))


def test_forged_app_url(attacker: Attacker) -> None:
    """The manifest in the bucket names another URL than the params did."""
    driver = attacker.driver
    driver.stage_all()
    forged = driver.manifest.model_copy(update={"params": MigrateParams(app_url="http://127.0.0.1:9/x").model_dump()})
    driver.store.put(driver.steps.folder.path("manifest.json"), forged.dump())
    refuse("app_url", lambda: attacker.call("ask_application", arguments={"run": driver.run_name}))


def test_redirect() -> None:
    """The application answers with a redirect to an address of the worker's own network."""
    asked: list[str] = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/secret")  # type: ignore[attr-defined]
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Redirecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert ask_application(f"http://127.0.0.1:{server.server_port}/health") == 302
        server.shutdown()
    assert asked == ["/health"]


def test_foreign_resume(attacker: Attacker) -> None:
    """Resume a run whose manifest names a bucket and a URL that the deployment does not allow."""
    driver = attacker.driver
    driver.stage_all()
    open_target(driver.store, driver.run_name, None)
    for params in ({"bucket": "evil-bucket"}, {"app_url": "http://169.254.169.254/"}):
        forged = driver.manifest.model_copy(update={"params": MigrateParams(**params).model_dump()})
        driver.store.put(driver.steps.folder.path("manifest.json"), forged.dump())
        refuse("foreign_resume", lambda: attacker.call("preflight", resume=driver.run_name))


def test_other_environments_manifest(attacker: Attacker) -> None:
    """Put a manifest into the bucket that says that the run is one of another environment."""
    driver = attacker.driver
    driver.stage_all()
    forged = driver.manifest.model_copy(update={"environment": "prod"})
    driver.store.put(driver.steps.folder.path("manifest.json"), forged.dump())
    refuse("other_manifest", lambda: attacker.call("plan", arguments={"run": driver.run_name}))


def test_gzip_bomb(attacker: Attacker) -> None:
    """Put a part into the bucket that unpacks to a line of a gigabyte."""
    import hashlib
    import resource

    driver = attacker.driver
    driver.stage_all()
    folder, staged = driver.steps.folder, driver.index("user")
    packed = BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as stream:
        for _ in range(1024):
            stream.write(b" " * 1024 * 1024)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    driver.store.put(folder.path_of_part("user", staged.parts[0]), packed.getvalue())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StoreError) as caught:
        list(folder.read_changes("user", staged.parts[0].model_copy(update={"sha256": digest})))
    assert ENDS["gzip_bomb"] in str(caught.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024  # KB


def test_repeated_audits(attacker: Attacker) -> None:
    """Ask for the audit of a target 45 times at once."""
    from concurrent.futures import ThreadPoolExecutor

    from accession_airflow import single_audit

    commit(attacker)
    reads: list[str] = []
    client = attacker.driver.library.aws.client("s3", region_name="us-east-1")
    client.meta.events.register("before-call.s3.GetObject", lambda **_: reads.append("read"))
    audits = single_audit.SingleAudits()
    attacker.driver.store.client = client
    with ThreadPoolExecutor(45) as pool:
        made = list(pool.map(audits.make, [attacker.driver.store] * 45))
    once = len(reads)
    assert len({id(one) for one in made if one}) == 1
    assert audits.make(attacker.driver.store)
    assert len(reads) == once
    reads.clear()
    single_audit.SingleAudits().make(attacker.driver.store)
    assert len(reads) == once, "45 requests read as much as one"


@pytest.mark.parametrize(("key", "note"), [("note", None), ("accession_note", "3 put, verified")])
def test_foreign_listener(airflow_home: Path, key: str, note: str | None) -> None:
    """The run of a DAG of another team, called migrate_… and with a task `report`, keeps its note."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    from accession_airflow import listener

    dag_id, run_id = "migrate_of_another_team", f"manual__{key}"
    with create_session() as session:
        session.add(DagRun(dag_id=dag_id, run_id=run_id, run_type="manual"))
    push(dag_id, run_id, "report", key, "3 put, verified")
    with create_session() as session:
        run = session.query(DagRun).filter(DagRun.run_id == run_id).one()
        listener.on_dag_run_success(run, "")
        assert run.note == note
        session.delete(run)
    forget(run_id)


def test_wrong_setting(attacker: Attacker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting with a typing error stops every run, and never allows more."""
    for name, value in (
        ("FOUR_EYES", "si"),
        ("ALLOWED_BUCKETS", "Our_Bucket"),
        ("ALLOWED_APP_URLS", "app.example.org"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"AIRFLOW__ACCESSION__{name}", value)
            with pytest.raises(AccessionError, match=f"Airflow's configuration: Option {name.lower()}"):
                attacker.call("preflight")


def test_every_attack_of_the_table_is_tried() -> None:
    text = Path(__file__).read_text()
    assert [name for name in ENDS if f'"{name}"' not in text] == []
