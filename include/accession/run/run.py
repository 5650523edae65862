"""One run, from preflight to report: the steps, the gate and the approval rule in one object.

The tasks of the DAG call these methods, and so does whatever runs without Airflow. Nothing else opens, gates, commits
or releases a target.
"""

from collections.abc import Mapping as Lookup
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from accession.approval import needs_approval
from accession.artifacts import (
    Execution,
    Plan,
    Report,
    Rollback,
    RunFolder,
    StagedEntity,
    Store,
    Verification,
    place_object,
)
from accession.dynamodb import DynamoDB
from accession.errors import RefusedError
from accession.mapping import Mapping
from accession.params import MigrateParams
from accession.run.backup import start_run
from accession.run.context import RunContext
from accession.run.finish import Outcome, end_run
from accession.run.lineage import check_resumable, expect_entities
from accession.run.lookups import ask_application
from accession.run.migrate import migrate_part, remove_items
from accession.run.plan import make_plan
from accession.run.preflight import check_all, check_empty, check_table
from accession.run.rollback import take_for_undo, undo_run
from accession.run.stage import stage_entity
from accession.run.verify import verify_entity
from accession.source import SourceDrift, restore_source, source_changed
from accession.target import load_state, open_target, settle, take_over, unseal_target


class Gate(NamedTuple):
    """The permission to write: the epoch in which the run owns the target, or the reason why it writes nothing."""

    epoch: int | None
    reason: str = ""


class Run(RunContext):
    """One run of a migration. Its methods are the tasks of the DAG, and are safe to repeat."""

    # Before the run has a name

    @staticmethod
    def preflight(
        store: Store, mapping: Mapping, params: MigrateParams, dynamodb: DynamoDB, source: Path | None, by: str
    ) -> None:
        """Check everything that can be checked before a run, and remove the seal if the params say so.

        `source` is None for a resumed run, which reads its backup. Raises the AccessionError of the first failure.
        """
        check_all(mapping, params, source, store, dynamodb)
        if params.unseal:
            unseal_target(store, params.unseal, by)

    @classmethod
    def backup(
        cls,
        store: Store,
        mapping: Mapping,
        params: MigrateParams,
        dynamodb: DynamoDB,
        source: Path,
        *,
        source_name: str,
        by: str,
        airflow_run_id: str,
    ) -> Self:
        """Back up the source and name a new run. The source is only read."""
        return cls(store, mapping, start_run(store, mapping, params, source, source_name, by, airflow_run_id), dynamodb)

    @classmethod
    def resume(cls, store: Store, mapping: Mapping, run: str, dynamodb: DynamoDB) -> Self:
        """Return a run that has the target open. Raises RefusedError if it does not, or cannot be resumed."""
        return cls(store, mapping, check_resumable(RunFolder(store, run), mapping), dynamodb)

    @classmethod
    def load(
        cls, store: Store, mapping: Mapping, run: str, dynamodb: DynamoDB, params: MigrateParams | None = None
    ) -> Self:
        """Return a run by its name. `params` replace the ones that it was staged with."""
        manifest = RunFolder(store, run).load_manifest()
        if params is not None:
            manifest = manifest.model_copy(update={"params": params.model_dump(mode="json")})
        return cls(store, mapping, manifest, dynamodb)

    # Nothing is written to DynamoDB yet

    def stage(self, entity: str, id_maps: Lookup[str, str] | None = None) -> StagedEntity:
        """Write the ID map and the change set of one entity. Its parents are staged already.

        `id_maps` has the S3 address of each parent's ID map. If it is not given, the addresses are looked up.
        """
        if id_maps is None:
            id_maps = {parent: self.folder.load_staged(parent).id_map for parent in self.mapping.parents[entity]}
        return stage_entity(self, entity, id_maps)

    def plan(self) -> Plan:
        """Add up the change set and store the plan. The caller shows the plan, then calls `refuse_plan`."""
        return make_plan(self)

    def needs_approval(self, plan: Plan, *, is_manual: bool) -> bool:
        """Tell whether a person must approve the plan. `is_manual`: a person, not a schedule, triggered it."""
        return needs_approval(
            self.params.environment,
            self.params.approval,
            is_manual=is_manual,
            is_dry_run=self.params.dry_run,
            is_resume=bool(self.params.resume),
            writes=plan.writes,
        )

    def open_run(self) -> Gate:
        """Take the target, or say why nothing is to be written. The only gate.

        Raises RefusedError if another run has the target, the head moved, or a first run's tables are not empty.
        """
        if self.params.resume:
            return Gate(self._take_over())
        if self.params.dry_run:
            return Gate(None, "This is a dry run: nothing is written.")
        if (
            self.folder.load_plan().is_empty and not self.params.seal
        ):  # a target is proved once more before it is sealed
            return Gate(None, "The change set is empty: there is nothing to write.")
        state = load_state(self.store)
        if state is not None and state.head == self.name:
            return Gate(None, f"Run {self.name} is committed already: there is nothing to write.")
        is_ours = state is not None and state.open is not None and state.open.run == self.name
        if self.manifest.parent is None and not is_ours and self.params.existing_items == "refuse":
            check_empty(self.mapping, self.manifest.environment, self.dynamodb)
        opened = open_target(self.store, self.name, self.manifest.parent).open
        assert opened is not None
        return Gate(opened.epoch)

    # Under the fence

    def migrate(self, entity: str, part: int, epoch: int) -> Execution:
        """Write the puts and updates of one part."""
        return migrate_part(self, entity, part, self.connect_writer(epoch))

    def remove(self, epoch: int) -> list[Execution]:
        """Delete the items that the change set deletes, children first."""
        return remove_items(self, self.connect_writer(epoch))

    def verify(self, entity: str) -> Verification:
        """Prove one table. Raises VerificationError, which names keys, if the table differs from the source."""
        return verify_entity(self, entity)

    def ask_application(self) -> int | None:
        """Request the application's URL, if the params give one, and return the status. Raises VerificationError."""
        return ask_application(self.params.app_url) if self.params.app_url else None

    def rollback(self, by: str) -> Rollback:
        """Undo the run after a failure, prove it, and close the target."""
        epoch = self._take_over()
        return undo_run(self, self.connect_writer(epoch), epoch=epoch, by=by)

    def report(self, outcome: Outcome) -> Report:
        """End the run: commit it, release the target or leave it open, then write the report and record the end."""
        return end_run(self, outcome)

    # A finished run

    def check_undo(self) -> None:
        """Check that the tables can be undone. Raises RefusedError or TargetError. Read-only."""
        if self.folder.find_plan():  # a run without a plan wrote nothing
            expect_entities(self.folder, self.mapping)
        for entity in self.mapping.entities.values():
            check_table(entity, self.store.environment, self.dynamodb)

    def undo(self, by: str, *, accept_conflicts: bool = False) -> Rollback:
        """Undo the run that was committed last, or that left the target open, and prove it.

        Raises ConflictError if the application changed items since and `accept_conflicts` is not set. Everything else
        is undone then, and the target stays open.
        """
        opened = take_for_undo(self.store, self.name).open
        assert opened is not None
        settle(self.sleep)
        dynamodb = self.connect_writer(opened.epoch, is_capped=False)
        return undo_run(self, dynamodb, epoch=opened.epoch, by=by, accept_conflicts=accept_conflicts)

    def find_drift(self, source: Path) -> SourceDrift:
        """Compare the source with the backup of the run. Read-only. Raises SourceError."""
        snapshot = self.manifest.snapshot
        with TemporaryDirectory(prefix="accession-") as folder:
            return source_changed(source, snapshot.sha256, snapshot.rows, Path(folder))

    def restore_source(self, place: str) -> list[str]:
        """Put the backup of the run at a path or an s3:// address, and return the new places of the files moved aside.

        Raises SourceError if the file is in use or the backup has expired. No file is changed then.
        """
        with TemporaryDirectory(prefix="accession-") as folder:
            backup = self.folder.fetch_backup(self.manifest, Path(folder))
            if place.startswith("s3://"):
                aside = place_object(self.store.client, backup, place)
                return [aside] if aside else []
            snapshot = self.manifest.snapshot
            moved = restore_source(backup, Path(place), snapshot.sha256, snapshot.rows).moved_aside
            return [str(path) for path in moved]

    def _take_over(self) -> int:
        opened = take_over(self.store, self.name).open
        if opened is None:
            raise RefusedError(f"Run {self.name} does not have the target open: trigger a new run.")
        settle(self.sleep)
        return opened.epoch
