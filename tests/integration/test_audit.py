"""The audit of a real history in a real bucket: each object altered, removed or added in turn is found and named."""

import gzip
import hashlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from accession.artifacts import Manifest, Report, Store
from accession.audit import Audit, audit_target, show_audit
from accession.audit.audit import BACKUP_DAYS
from accession.cli import main
from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB, client_config
from accession.errors import FencedError, StoreError
from accession.host import Host
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.params import MigrateParams
from accession.run import Outcome, Run
from accession.target import LogRecord, State, log_path, take_over
from alterations import FolderStore
from driver import IMPATIENT, seal_target

REPO = Path(__file__).parent.parent.parent


class History:
    """A target and its source, driven by the library alone, without Airflow."""

    def __init__(self, library: Any, folder: Path) -> None:
        self.library = library
        self.mapping: Mapping = load_mapping(MAPPINGS / "book_library.yaml")
        self.s3 = library.aws.client("s3")
        self.store = Store(self.s3, library.bucket, "book_library", library.environment, IMPATIENT)
        self.source = write_sample(folder / "site.db", users=4, books=5, user_books=6, orphans=0, odd=0)

    def connect(self, check: Callable[[], None] | None = None) -> DynamoDB:
        return DynamoDB(boto3.client("dynamodb", config=client_config()), check=check)

    def edit(self, sql: str) -> None:
        with closing(sqlite3.connect(self.source)) as db, db:
            db.execute(sql)

    def load(self, run: str) -> Run:
        return Run.load(self.store, self.mapping, run, self.connect())

    def stage(self, **params: Any) -> Manifest:
        wanted = MigrateParams(environment=self.library.environment, **params)
        about = {"source_name": str(self.source), "by": "ann", "airflow_run_id": "manual__1"}
        run = Run.backup(self.store, self.mapping, wanted, self.connect(), self.source, **about)
        for name in self.mapping.order:
            run.stage(name)
        run.plan()
        return run.manifest

    def write(self, manifest: Manifest) -> int:
        run = self.load(manifest.run)
        epoch = run.open_run().epoch
        assert epoch is not None
        for name in self.mapping.order:
            run.migrate(name, 0, epoch)
        run.remove(epoch)
        return epoch

    def verify(self, manifest: Manifest) -> None:
        for name in self.mapping.order:
            self.load(manifest.run).verify(name)

    def end(self, manifest: Manifest, **ended: Any) -> Report:
        return self.load(manifest.run).report(Outcome(**ended))

    def run(self, **params: Any) -> Report:
        manifest = self.stage(**params)
        if manifest.unchanged:
            return self.end(manifest)
        epoch = self.write(manifest)
        self.verify(manifest)
        return self.end(manifest, is_verified=True, epoch=epoch)

    def undo(self, run: str, by: str = "bob") -> bytes:
        """The state.json that it began with."""
        before = b""

        def settled(_: float) -> None:
            nonlocal before
            before = self.store.get("state.json")

        self.store.host = Host(sleep=settled)
        self.load(run).undo(by)
        self.store.host = IMPATIENT
        return before

    @contextmanager
    def changed(self, path: str, data: bytes | None) -> Iterator[None]:
        """With other bytes at `path`, or none; put right afterwards."""
        before = self.store.find(path)
        key = self.store.prefix + path
        if data is None:
            self.s3.delete_object(Bucket=self.store.bucket, Key=key)
        else:
            self.store.put(path, data)
        yield
        if before is None:
            self.s3.delete_object(Bucket=self.store.bucket, Key=key)
        else:
            self.store.put(path, before.data)

    def audit(self, days: int = 0) -> Audit:
        return audit_target(self.store, now=lambda: datetime.now(UTC) + timedelta(days=days))


@pytest.fixture
def history(library: Any, tmp_path: Path) -> History:
    return History(library, tmp_path)


@pytest.fixture(scope="module")
def lived(aws: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """A verified run, an unchanged one, one that was undone, and a seal. Tests leave it as they found it."""
    from conftest import make_library

    history = History(make_library(aws), tmp_path_factory.mktemp("lived"))
    history.run()
    history.run()
    history.edit("UPDATE book SET title = 'Another title' WHERE id = 1")
    history.edit("DELETE FROM user_book WHERE id = 2")
    history.undo(history.run().run)
    seal_target(history.store, "cutover", "carla")
    yield history


def flip(data: bytes, where: int) -> bytes:
    """The same bytes, but one."""
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


def test_a_sound_history_is_sound_and_told(lived: History) -> None:
    audit = lived.audit()
    assert (audit.ok, audit.first_problem, audit.problems, audit.unregistered) == (True, None, [], [])
    assert [(line.action, line.status, line.by) for line in audit.runs] == [
        ("run", "verified", "ann"),
        ("run", "unchanged", "ann"),
        ("run", "verified", "ann"),
        ("undo", "undone", "bob"),
        ("seal", "sealed", "carla"),
    ]
    first, unchanged, third, undo, seal = audit.runs
    assert first.counts == {"source_rows": 15, "put": 15, "verified": 15}
    assert first.write_units and first.price_usd and first.undone_by is None
    assert (unchanged.write_units, unchanged.price_usd) == (0, 0)
    assert third.undone_by and third.undone_by.startswith("bob, ")
    assert (undo.counts, seal.run, seal.note) == (None, None, "cutover")
    assert (audit.head, audit.open, audit.sealed) == (first.run, None, "cutover")
    assert audit.objects == len(list(lived.store.list()))
    shown = show_audit(audit)
    assert "is sound: 5 records" in shown
    assert audit.tail_sha256 in shown
    assert re.search(rf"{third.run} +verified +ann +1 updated, 1 deleted, 13 unchanged, verified +\d+ +\$.* bob", shown)


def test_the_audit_changes_nothing(lived: History) -> None:
    def look() -> list[tuple[str, str, datetime]]:
        pages = lived.s3.get_paginator("list_object_versions").paginate(Bucket=lived.store.bucket)
        return [(v["Key"], v["VersionId"], v["LastModified"]) for page in pages for v in page["Versions"]]

    before = look()
    lived.audit()
    assert look() == before


def test_every_object_altered_by_one_byte_is_found_and_named(lived: History, tmp_path: Path) -> None:
    """In a copy of the bucket, which is fast to audit; the tests below alter some in the bucket."""
    for path in lived.store.list():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(lived.store.get(path))
    store = FolderStore(tmp_path)
    assert audit_target(store).objects == lived.audit().objects
    for path in list(store.list()):
        data = store.get(path)
        assert data, path
        (tmp_path / path).write_bytes(flip(data, len(data) // 2))
        audit = audit_target(store)
        assert not audit.ok, path
        assert audit.first_problem and audit.first_problem.startswith(f"{path} is altered"), audit.first_problem
        assert (audit.problems[0].path, audit.problems[0].kind) == (path, "altered")
        (tmp_path / path).write_bytes(data)
    assert audit_target(store).ok


def test_any_byte_of_the_last_record_counts(lived: History) -> None:
    """Only the state holds its hash. This tries every 41st byte; test_state.py tries every byte of the state."""
    path = log_path(5)
    data = lived.store.get(path)
    for where in range(0, len(data), 41):
        with lived.changed(path, flip(data, where)):
            first = lived.audit().first_problem
            assert first and first.startswith(f"{path} is altered"), (where, first)


def test_an_object_that_grew_or_became_empty_is_found(lived: History) -> None:
    for path in ("state.json", log_path(1), log_path(5), f"runs/{lived.audit().head}/manifest.json"):
        for data in (b"", lived.store.get(path) + b"\n"):
            with lived.changed(path, data):
                assert (lived.audit().first_problem or "").startswith(f"{path} is altered"), (path, data[-10:])


def test_every_object_removed_is_found_and_named(lived: History) -> None:
    """State and records in turn, as they vouch for the others; all others at once."""
    paths = list(lived.store.list())
    register = [path for path in paths if path.startswith(("state", "log/"))]
    for path in register:
        with lived.changed(path, None):
            audit = lived.audit()
            assert not audit.ok, path
            assert audit.first_problem and audit.first_problem.startswith(f"{path} is missing"), audit.first_problem
    others = [path for path in paths if path not in register]
    with ExitStack() as removed:
        for path in others:
            removed.enter_context(lived.changed(path, None))
        audit = lived.audit()
        assert [(problem.path, problem.kind) for problem in audit.problems] == [(path, "missing") for path in others]
        assert audit.damaged == len(others)
    assert lived.audit().ok


@pytest.mark.parametrize(
    "path",
    [
        "note.txt",
        "state.json.bak",
        "log/00000006.json",
        "log/00000001.json.old",
        "log/x",
        "backups/site.db",
        "runs/20260101T000000Z-00000000/plan.json",
        "runs/{run}/notes.txt",
        "runs/{run}/changes/user/00001.jsonl.gz",
        "runs/{run}/rollback.json",
        "runs/x",
    ],
)
def test_an_object_added_is_found_and_named(lived: History, path: str) -> None:
    path = path.format(run=lived.audit().head)
    with lived.changed(path, b"{}"):
        audit = lived.audit()
        assert audit.first_problem and audit.first_problem.startswith(f"{path} is added"), audit.first_problem
        assert audit.damaged == 1
        assert f"ADDED: {path}" in show_audit(audit)


def test_make_audit_fails_when_something_is_damaged(
    lived: History, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACCESSION_BUCKET", lived.store.bucket)
    call = ["audit", "--environment", lived.store.environment]
    assert main.main(call) == 0
    assert "is sound: 5 records" in capsys.readouterr().out
    with lived.changed(log_path(2), b"{}"):
        assert main.main(call) == 1
    assert f"The first problem: {log_path(2)} is altered" in capsys.readouterr().out
    assert main.main(["audit", "--environment", "elsewhere"]) == 1
    assert "no run was here yet" in capsys.readouterr().err


def test_a_record_cut_off_the_end_is_missed(lived: History) -> None:
    """If an older state.json is put back too, only a copy of the last hash kept elsewhere shows it."""
    with lived.changed(log_path(5), None):
        assert (lived.audit().first_problem or "").startswith(f"{log_path(5)} is missing")


def test_two_records_exchanged_are_found(lived: History) -> None:
    one, other = lived.store.get(log_path(2)), lived.store.get(log_path(3))
    with lived.changed(log_path(2), other), lived.changed(log_path(3), one):
        assert (lived.audit().first_problem or "").startswith(f"{log_path(2)} is altered")


def test_a_forged_record_that_says_it_is_fine_is_found(lived: History) -> None:
    """Whoever changes an artifact and its hash in the record has the hash of the record against him."""
    run = lived.audit().runs[0].run
    path = f"runs/{run}/report.html"
    record = lived.store.get(log_path(1))
    digest = hashlib.sha256(lived.store.get(path)).hexdigest().encode()
    forged = record.replace(digest, hashlib.sha256(b"forged").hexdigest().encode())
    assert forged != record
    with lived.changed(path, b"forged"), lived.changed(log_path(1), forged):
        assert (lived.audit().first_problem or "").startswith(f"{log_path(1)} is altered")


def test_an_altered_record_of_a_run_with_an_odd_name_is_named(history: History) -> None:
    """The name says when a missing backup expires."""
    history.run()
    record = history.store.get(log_path(1))
    run = re.search(rb'"run": "([^"]+)"', record)
    assert run
    forged = record.replace(b'"run": "' + run[1], b'"run": "the first one').replace(b"backups/", b"backups/x")
    with history.changed(log_path(1), forged):
        audit = history.audit()
    assert (audit.first_problem or "").startswith(f"{log_path(1)} is altered")
    assert "is not the name of a run" in show_audit(audit)


def test_a_report_that_is_registered_and_cannot_be_read_is_named(history: History) -> None:
    """As a later version may write it: the register is right, and this version cannot show its numbers."""
    report = history.run()
    path = f"runs/{report.run}/report.json"
    data = b'{"run": "another format"}'
    record = LogRecord.model_validate_json(history.store.get(log_path(1)))
    artifacts = {**record.artifacts, path: hashlib.sha256(data).hexdigest()}
    forged = record.model_copy(update={"artifacts": artifacts}).dump()
    state = State.model_validate_json(history.store.get("state.json"))
    tail = state.log_tail.model_copy(update={"sha256": hashlib.sha256(forged).hexdigest()})
    with (
        history.changed(path, data),
        history.changed(log_path(1), forged),
        history.changed("state.json", state.model_copy(update={"log_tail": tail}).dump()),
    ):
        audit = history.audit()
    assert audit.first_problem == f"{path} is altered: the register lists it as it is, but it is not a report."
    assert audit.damaged == 1


def test_backups_expire_and_young_ones_do_not(lived: History) -> None:
    backups = list(lived.store.list("backups/"))
    assert len(backups) == 2
    with lived.changed(backups[0], None), lived.changed(backups[1], None):
        young = lived.audit(days=BACKUP_DAYS - 1)
        assert {problem.path for problem in young.problems} == set(backups)
        old = lived.audit(days=BACKUP_DAYS + 1)
        assert old.ok
        assert [line.backup_expired for line in old.runs] == [True, True, True, False, False]
        assert "(backup expired)" in show_audit(old)
    template = (REPO / "include/cloudformation/artifacts.yaml").read_text()
    assert f"Id: backups-{BACKUP_DAYS}-days" in template
    assert f"ExpirationInDays: {BACKUP_DAYS}\n" in template


def test_a_run_at_work_or_dead_is_not_in_the_register_and_no_damage(history: History) -> None:
    history.run()
    history.edit("UPDATE book SET title = 'Another title' WHERE id = 1")
    manifest = history.stage()
    (note,) = [n for n in history.audit().unregistered if n.path.startswith("runs/")]
    assert note.path == f"runs/{manifest.run}/"
    assert "died before its end" in note.reason
    history.write(manifest)
    audit = history.audit()
    assert audit.ok
    assert audit.open == manifest.run
    assert f"The target is open: run {manifest.run} owns it." in show_audit(audit)


def test_a_run_left_open_may_go_on_but_its_staged_files_stand(history: History) -> None:
    manifest = history.stage()
    epoch = history.write(manifest)
    assert history.end(manifest, failure="the proof was killed").is_open
    assert history.audit().ok
    history.verify(manifest)  # as a resume does
    audit = history.audit()
    assert audit.ok
    assert "written since its last record" in audit.unregistered[0].reason
    (part,) = history.store.list(f"runs/{manifest.run}/changes/user/00000")
    with history.changed(part, gzip.compress(b"other")):
        assert (history.audit().first_problem or "").startswith(f"{part} is altered")
    assert history.end(manifest, is_verified=True, epoch=epoch).status == "verified"
    audit = history.audit()
    assert audit.ok
    assert audit.unregistered == []
    assert [(line.status, line.counts is not None) for line in audit.runs] == [("failed", False), ("verified", True)]


def test_a_record_whose_writer_died_before_the_state_counts(history: History) -> None:
    history.run()
    before = history.undo(history.audit().head or "")
    history.store.put("state.json", before)
    audit = history.audit()
    assert audit.ok
    assert [line.action for line in audit.runs] == ["run", "undo"]
    assert audit.head is None
    assert history.store.get("state.json") == before


def test_a_commit_that_came_too_late_to_count_is_no_damage(history: History) -> None:
    """Its process froze before it wrote the record; an undo had taken the target when it woke."""
    manifest = history.stage()
    epoch = history.write(manifest)
    history.verify(manifest)

    class Frozen(Store):
        def claim(self, path: str, data: bytes) -> bool:
            if path.startswith("log/"):
                take_over(history.store, manifest.run)
            return super().claim(path, data)

    sound = history.store
    history.store = Frozen(history.s3, sound.bucket, sound.mapping, sound.environment)
    with pytest.raises(FencedError):
        history.end(manifest, is_verified=True, epoch=epoch)
    history.store = sound
    audit = history.audit()
    assert (audit.ok, audit.head, audit.open) == (True, None, manifest.run)
    history.undo(manifest.run)
    assert history.audit().ok
    assert history.library.scan("user") == []


def test_what_died_before_it_was_named_is_told(history: History) -> None:
    history.run()
    source = history.source.read_bytes()
    path = f"backups/{hashlib.sha256(source).hexdigest()}.db"
    history.store.put(path, source)
    history.store.put("probe/0011", b"1")
    audit = history.audit()
    assert audit.ok
    assert [note.path for note in audit.unregistered] == [path, "probe/0011"]


def test_a_target_that_nobody_used_is_said_to_be_none(library: Any) -> None:
    store = Store(library.aws.client("s3"), library.bucket, "book_library", "elsewhere")
    with pytest.raises(StoreError, match="no run was here yet"):
        audit_target(store)
