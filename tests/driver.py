"""The steps of a run, driven as the tasks of the DAG drive them, without Airflow."""

from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from accession.artifacts.change_set import Change, StagedEntity, load_staged_entity, read_changes
from accession.artifacts.execution import Execution
from accession.artifacts.id_map import COLUMNS, Entry, open_id_map
from accession.artifacts.manifest import Manifest, load_manifest
from accession.artifacts.plan import Plan
from accession.artifacts.report import Report
from accession.artifacts.rollback import Rollback
from accession.artifacts.store import Store
from accession.artifacts.verification import Verification
from accession.dynamodb.client import DynamoDB
from accession.dynamodb.retry import client_config
from accession.items.typed_json import TypedItem
from accession.mapping.load import MAPPINGS, load_mapping
from accession.mapping.model import Mapping
from accession.params import MigrateParams, check_params
from accession.run.backup import start_run
from accession.run.finish import Outcome, end_run
from accession.run.migrate import migrate_part, remove_items
from accession.run.plan import make_plan, refuse_plan
from accession.run.preflight import check_all, check_empty
from accession.run.rollback import take_for_undo, undo_run
from accession.run.stage import stage_entity
from accession.run.verify import verify_entity
from accession.target.fence import Fence
from accession.target.ownership import open_target
from accession.target.state import load_state
from conftest import Library

BY = "the tests"


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
        self.store = Store(library.aws.client("s3"), library.bucket, self.mapping.name, library.environment)
        self.client = client or library.aws.client("dynamodb", config=client_config())
        self.run_name = ""
        self.epoch: int | None = None

    @property
    def manifest(self) -> Manifest:
        """The manifest of the run that `start` named."""
        return load_manifest(self.store, self.run_name)

    def connect(self, epoch: int | None = None) -> DynamoDB:
        """DynamoDB, as every task opens it anew; with an epoch, for writing under the fence."""
        check = Fence(self.store, self.run_name, epoch).check if epoch is not None else None
        return DynamoDB(self.client, check=check, write_units_per_second=self.params.write_units_per_second)

    def preflight(self) -> None:
        """Check everything that can be known before."""
        check_all(self.mapping, self.params, self.source, self.store, self.connect())

    def start(self) -> Manifest:
        """Back the source up and name the run."""
        run = f"manual__{datetime.now(UTC).isoformat()}"
        manifest = start_run(self.store, self.mapping, self.params, self.source, str(self.source), BY, run)
        self.run_name = manifest.run
        return manifest

    def stage(self, name: str) -> StagedEntity:
        """Stage one entity; its parents are staged already."""
        id_maps = {parent: self.index(parent).id_map for parent in self.mapping.parents[name]}
        return stage_entity(self.store, self.mapping, self.manifest, name, id_maps, self.connect())

    def stage_all(self) -> dict[str, StagedEntity]:
        """Name the run and stage all entities, parents first."""
        self.start()
        return {name: self.stage(name) for name in self.mapping.order}

    def plan(self) -> Plan:
        """Add up the change set. Raises RefusedError when the params refuse it."""
        plan = make_plan(self.store, self.mapping, self.manifest)
        refuse_plan(plan)
        return plan

    def open(self) -> int:
        """Take the target; the epoch."""
        manifest = self.manifest
        state = load_state(self.store)
        mine = state is not None and state.open is not None and state.open.run == manifest.run
        if manifest.parent is None and not mine and manifest.param("existing_items") == "refuse":
            check_empty(self.mapping, manifest.environment, self.connect())
        opened = open_target(self.store, manifest.run, manifest.parent).open
        assert opened is not None
        self.epoch = opened.epoch
        return opened.epoch

    def migrate(self, name: str) -> list[Execution]:
        """Write the parts of one entity."""
        parts = range(len(self.index(name).parts))
        return [
            migrate_part(self.store, self.mapping, self.manifest, name, part, self.connect(self.epoch))
            for part in parts
        ]

    def migrate_all(self) -> None:
        """Write all parts, parents first, then delete what is gone, children first."""
        for name in self.mapping.order:
            self.migrate(name)
        remove_items(self.store, self.mapping, self.manifest, self.connect(self.epoch))

    def verify(self, name: str) -> Verification:
        """Prove one table."""
        return verify_entity(self.store, self.mapping, self.manifest, name, self.connect())

    def end(self, **ended: Any) -> Report:
        """End the run, as verified unless told otherwise."""
        how = Outcome(**{"is_verified": self.epoch is not None, "epoch": self.epoch} | ended)
        return end_run(self.store, self.mapping, self.manifest, how)

    def run(self) -> Report:
        """Every step of a run in which nothing goes wrong. What a step raises comes through."""
        self.preflight()
        self.stage_all()
        plan = self.plan()
        if not self.params.dry_run and not plan.is_empty:
            self.open()
            self.migrate_all()
            for name in self.mapping.order:
                self.verify(name)
        return self.end()

    def undo(self, accept_conflicts: bool = False) -> Rollback:
        """Undo the run, as the rollback DAG does, but for the wait: no other writer is alive in a test."""
        opened = take_for_undo(self.store, self.run_name).open
        assert opened is not None
        return undo_run(
            self.store,
            self.mapping,
            self.manifest,
            self.connect(opened.epoch),
            epoch=opened.epoch,
            by=BY,
            accept_conflicts=accept_conflicts,
        )

    def index(self, name: str) -> StagedEntity:
        """What staging said of one entity."""
        return load_staged_entity(self.store, self.run_name, name)

    def changes(self, name: str) -> list[Change]:
        """The change set of one entity."""
        return [
            change for part in self.index(name).parts for change in read_changes(self.store, self.run_name, name, part)
        ]

    def rejects(self, name: str) -> dict[Any, str]:
        """Old key → reason of what was rejected."""
        return {change.old_key: change.reason or "" for change in self.changes(name) if change.op == "reject"}

    def scan(self, name: str) -> list[TypedItem]:
        """Every item of the entity's table, as it is on the wire."""
        table = self.mapping.entities[name].table(self.library.environment)
        return [item for _, page in self.connect().scan_pages(table, 1) for items in page for item in items]

    def items(self, name: str) -> dict[Any, TypedItem]:
        """Old key → item, for every item of the entity's table that the run's ID map knows."""
        found = {item[self.mapping.entities[name].target.key]["S"]: item for item in self.scan(name)}
        return {entry.old_key: found[entry.new_id] for entry in self.id_map(name) if entry.new_id in found}

    def id_map(self, name: str) -> list[Entry]:
        """The run's ID map of one entity."""
        with TemporaryDirectory() as folder:
            path = self.store.download(self.store.path(self.index(name).id_map), Path(folder) / "id_map.db")
            with closing(open_id_map(path)) as id_map:
                return [Entry(*row) for row in id_map.execute(f"SELECT {COLUMNS} FROM id_map ORDER BY entry")]
