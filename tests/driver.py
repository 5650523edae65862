"""The steps of a run, driven as the tasks of the DAG drive them, without Airflow."""

import asyncio
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accession.artifacts import (
    Change,
    Entry,
    Execution,
    Manifest,
    Plan,
    Report,
    Rollback,
    StagedEntity,
    Store,
    Verification,
    open_id_map,
)
from accession.artifacts.id_map import COLUMNS
from accession.aws import REQUEST_TIMEOUT_SECONDS
from accession.conf import check_params
from accession.dynamodb import DynamoDB, client_config
from accession.host import Host
from accession.items import TypedItem
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.params import MigrateParams
from accession.run import Outcome, Run, refuse_plan
from accession.target import LogRecord, append_record, make_seal
from conftest import Library

BY = "the tests"
IMPATIENT = Host(sleep=lambda _: None)  # nobody waits for other writers: none is alive in a test


async def hurry(seconds: float) -> None:
    """Wait, but not for a request that may still be in flight: a test knows when it has ended."""
    await asyncio.sleep(seconds if seconds < REQUEST_TIMEOUT_SECONDS else 0.01)


HASTE = 10.0


def open_hasty(client: Any, **options: Any) -> DynamoDB:
    """Return a connection for which time passes ten times as fast, so that nobody waits long after a throttle."""

    async def sleep(seconds: float) -> None:
        await hurry(seconds / HASTE if seconds < REQUEST_TIMEOUT_SECONDS else seconds)

    return DynamoDB(client, **{"clock": lambda: HASTE * time.monotonic(), "sleep": sleep} | options)


def seal_target(store: Store, reason: str, by: str) -> LogRecord:
    """Seal a target by a record of its own, as version 0.1.0 did."""
    seal = make_seal(store, reason, by)
    return append_record(
        store, action="seal", by=by, status="sealed", note=reason, change=lambda state: {"sealed": seal}
    )


class Driver:
    """One run against `library`. Each step may be called alone, in order; `run` calls them all.

    `params` are the params of the DAG. `client` speaks to DynamoDB, to put a faulty proxy in its place.
    """

    def __init__(
        self, library: Library, source: Path, *, mapping: Mapping | None = None, client: Any = None, **params: Any
    ) -> None:
        self.library, self.source = library, source
        self.mapping = mapping or load_mapping(MAPPINGS / "book_library.yaml")
        given = {"environment": library.environment, "bucket": library.bucket, "source": str(source), **params}
        self.params = check_params(MigrateParams, given)
        self.store = Store(library.aws.client("s3"), library.bucket, self.mapping.name, library.environment, IMPATIENT)
        self.client = client or library.aws.client("dynamodb", config=client_config())
        self.run_name = ""
        self.epoch: int | None = None

    @property
    def steps(self) -> Run:
        """The run that `start` named, as every task opens it anew."""
        return self.load_run(self.run_name)

    def load_run(self, name: str) -> Run:
        """A run by its name."""
        return Run.load(self.store, self.mapping, name, self.connect())

    @property
    def manifest(self) -> Manifest:
        """The manifest of the run that `start` named."""
        return self.steps.manifest

    def connect(self, epoch: int | None = None) -> DynamoDB:
        """DynamoDB, as every task opens it anew; with an epoch, for writing under the fence."""
        return DynamoDB(self.client, sleep=hurry) if epoch is None else self.steps.connect_writer(epoch, cap=None)

    def preflight(self) -> None:
        """Check everything that can be known before."""
        Run.preflight(self.store, self.mapping, self.params, self.connect(), self.source)

    def start(self) -> Manifest:
        """Back the source up and name the run."""
        run = Run.backup(
            self.store,
            self.mapping,
            self.params,
            self.connect(),
            self.source,
            source_name=str(self.source),
            by=BY,
            airflow_run_id=f"manual__{datetime.now(UTC).isoformat()}",
        )
        self.run_name = run.name
        return run.manifest

    def stage(self, name: str) -> StagedEntity:
        """Stage one entity; its parents are staged already."""
        return self.steps.stage(name)

    def stage_all(self) -> dict[str, StagedEntity]:
        """Name the run and stage all entities, parents first."""
        self.start()
        return {name: self.stage(name) for name in self.mapping.order}

    def plan(self) -> Plan:
        """Add up the change set. Raises RefusedError when the params refuse it."""
        plan = self.steps.plan()
        refuse_plan(plan)
        return plan

    def open(self) -> int:
        """Take the target; the epoch."""
        gate = self.steps.open_run()
        assert gate.epoch is not None, gate.reason
        self.epoch = gate.epoch
        return gate.epoch

    def migrate(self, name: str) -> list[Execution]:
        """Write the parts of one entity."""
        parts = range(len(self.index(name).parts))
        assert self.epoch is not None
        return [self.steps.migrate(name, part, self.epoch) for part in parts]

    def migrate_all(self) -> None:
        """Write all parts, parents first, then delete what is gone, children first."""
        assert self.epoch is not None
        for name in self.mapping.order:
            self.migrate(name)
        self.steps.remove(self.epoch)

    def verify(self, name: str) -> Verification:
        """Prove one table."""
        return self.steps.verify(name)

    def end(self, **changes: Any) -> Report:
        """End the run, as verified unless told otherwise."""
        found: dict[str, Any] = {"is_verified": self.epoch is not None, "epoch": self.epoch}
        if self.source.exists():
            has_changed = self.steps.find_drift(self.source).changed
            found["source_at_end"] = "changed" if has_changed else "unchanged"
        outcome = Outcome(**found | changes)
        return self.steps.report(outcome)

    def run(self) -> Report:
        """Every step of a run in which nothing goes wrong. What a step raises comes through."""
        self.preflight()
        self.stage_all()
        self.plan()
        gate = self.steps.open_run()
        if gate.epoch is not None:
            self.epoch = gate.epoch
            self.migrate_all()
            for name in self.mapping.order:
                self.verify(name)
        return self.end()

    def undo(self, accept_conflicts: bool = False) -> Rollback:
        """Undo the run, as the rollback DAG does."""
        return self.steps.undo(BY, accept_conflicts=accept_conflicts)

    def index(self, name: str) -> StagedEntity:
        """What staging said of one entity."""
        return self.steps.folder.load_staged(name)

    def changes(self, name: str) -> list[Change]:
        """The change set of one entity."""
        return [change for part in self.index(name).parts for change in self.steps.folder.read_changes(name, part)]

    def rejects(self, name: str) -> dict[Any, str]:
        """Old key → reason of what was rejected."""
        return {change.old_key: change.reason or "" for change in self.changes(name) if change.op == "reject"}

    def scan(self, name: str) -> list[TypedItem]:
        """Every item of the entity's table, as it is on the wire."""
        table = self.mapping.entities[name].table(self.library.environment)
        return [item for _, page in self.connect().scan_pages(table, 1) for items in page for item in items]

    def items(self, name: str) -> dict[Any, TypedItem]:
        """Old key → item, for every item of the entity's table that the run's ID map knows."""
        found = {item[self.mapping.entities[name].target.keys[0]]["S"]: item for item in self.scan(name)}
        return {entry.old_key: found[entry.new_id] for entry in self.id_map(name) if entry.new_id in found}

    def id_map(self, name: str) -> list[Entry]:
        """The run's ID map of one entity."""
        with TemporaryDirectory() as folder:
            path = self.store.download(self.store.path(self.index(name).id_map), Path(folder) / "id_map.db")
            with closing(open_id_map(path)) as id_map:
                return [Entry(*row) for row in id_map.execute(f"SELECT {COLUMNS} FROM id_map ORDER BY entry")]
