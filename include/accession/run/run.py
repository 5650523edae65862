"""One run, from preflight to report: the steps, the gate and the approval rule in one object.

The tasks of the DAG call these methods, and so does any program without Airflow. Nothing else opens, gates, commits
or releases a target.
"""

from collections.abc import Mapping as Lookup
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Self

from accession.artifacts import (
    Execution,
    Plan,
    Report,
    Rollback,
    RunFolder,
    StagedEntity,
    Store,
    Verification,
    peek_object,
    place_object,
)
from accession.dynamodb import DynamoDB
from accession.errors import RefusedError
from accession.mapping import Mapping
from accession.params import MigrateParams
from accession.run.backup import start_run
from accession.run.context import RunContext
from accession.run.end import Outcome
from accession.run.finish import end_run
from accession.run.lineage import check_resumable, expect_entities
from accession.run.lookups import ask_application
from accession.run.migrate import migrate_part, remove_items
from accession.run.plan import make_plan
from accession.run.preflight import check_all, check_empty, check_table, describe_tables, find_staged_schemas
from accession.run.rollback import find_undone, take_for_undo, undo_run
from accession.run.samples import expect_samples
from accession.run.stage import stage_entity
from accession.run.table_owner import claim_table
from accession.run.verify import verify_entity
from accession.source import SourceDrift, expect_replaceable, peek_file, restore_source, source_changed
from accession.target import State, load_state, open_target, settle, take_over, unseal_target


class Gate(NamedTuple):
    """The permission to write: the epoch in which the run owns the target, or the reason why it writes nothing."""

    epoch: int | None
    reason: str = ""


class Run(RunContext):
    """One run of a migration. Its methods are the tasks of the DAG, and are safe to repeat."""

    # Before the run has a name

    @staticmethod
    def preflight(
        store: Store, mapping: Mapping, params: MigrateParams, dynamodb: DynamoDB, source: Path | None
    ) -> None:
        """Check everything that can be checked before a run. Read-only, except for a probe object that is removed.

        `source` is None for a resumed run, which reads its backup. Raises the AccessionError of the first failure.
        """
        check_all(mapping, params, source, store, dynamodb)

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
        """Write the ID map and the change set of one entity, and of its whole group. Their parents are staged already.

        `id_maps` has the S3 address of the ID map of each parent. If it is not given, the addresses are looked up.
        """
        self._expect_mapping()
        if id_maps is None:
            parents = self.mapping.find_group_parents(entity)
            id_maps = {parent: self.folder.load_staged(parent).id_map for parent in parents}
        return stage_entity(self, entity, id_maps)

    def plan(self) -> Plan:
        """Add up the change set and store the plan. The caller shows the plan, then calls `refuse_plan`."""
        self._expect_mapping()
        return make_plan(self)

    def open_run(self, by: str | None = None) -> Gate:
        """Take the target, or return why nothing is to be written. This is the only gate.

        A seal is removed here if the params say so, when the run is approved, on behalf of `by` or of who triggered it.

        Raises RefusedError if another run has the target, the head moved, a first run's tables are not empty, or items
        of an unchanged source are gone; FencedError if the target was opened and closed in the meantime.
        """
        self._expect_mapping()
        state = self._unseal(by or self.manifest.triggered_by)
        if self.params.resume:
            return Gate(self._take_over())
        if self.params.dry_run:
            return Gate(None, "This is a dry run: nothing is written.")
        # A target is proved once more before it is sealed.
        if self.folder.load_plan().is_empty and not self.params.seal:
            if self.params.on_conflict != "keep":
                expect_samples(self)
            return Gate(None, "The change set is empty: there is nothing to write.")
        if state is not None and state.head == self.name:
            return Gate(None, f"Run {self.name} is committed already: there is nothing to write.")
        is_ours = state is not None and state.open is not None and state.open.run == self.name
        is_first = self.manifest.parent is None and (state is None or state.head is None)
        if is_first and not is_ours and self.params.existing_items == "refuse":
            check_empty(self.mapping, self.manifest.environment, self.dynamodb)
        for entity in self.mapping.order:
            claim_table(self.store, self.dynamodb, self.name_table(entity))
        opened = open_target(self.store, self.name, self.manifest.parent, state).open
        assert opened is not None
        return Gate(opened.epoch)

    # Under the fence

    def migrate(self, entity: str, part: int, epoch: int) -> Execution:
        """Write the puts and updates of one part."""
        self._expect_mapping()
        return migrate_part(self, entity, part, epoch)

    def remove(self, epoch: int) -> list[Execution]:
        """Delete the items that the change set deletes, children first."""
        self._expect_mapping()
        return remove_items(self, epoch)

    def verify(self, entity: str) -> Verification:
        """Prove one table. Raises VerificationError, which names keys, if the table differs from the source."""
        self._expect_mapping()
        return verify_entity(self, entity)

    def ask_application(self) -> int | None:
        """Request the application's URL, if the params give one, and return the status. Raises VerificationError."""
        return ask_application(self.params.app_url) if self.params.app_url else None

    def only_lags(self) -> bool:
        """Tell whether every table is proved, and only indexes lag. Such a run should be proved again, not undone."""
        found = self.folder.find_verifications(self.mapping.order).values()
        is_proved = len(found) == len(self.mapping.order) and all(one.ok or one.lagging for one in found)
        return is_proved and any(one.lagging for one in found)

    def rollback(self, by: str, epoch: int) -> Rollback:
        """Undo the run after a failure, prove it, and close the target. `epoch` is the one that `open_run` returned.

        Safe to repeat. Raises RefusedError if another resume or undo took the target since.
        """
        if undone := find_undone(self):
            return undone
        taken = self._take_over(epoch)
        caps = self.params.write_units_per_second, self.params.read_units_per_second
        with self.connect_writer(taken, cap=caps[0], read_cap=caps[1]) as dynamodb:
            return undo_run(self, dynamodb, epoch=taken, by=by)

    def report(self, outcome: Outcome) -> Report:
        """End the run: commit it, release the target or leave it open, then write the report and record the end."""
        return end_run(self, outcome)

    # A finished run

    def check_undo(self) -> None:
        """Check that the tables can be undone. Raises RefusedError or TargetError. Read-only."""
        if self.folder.find_plan():  # a run without a plan wrote nothing
            expect_entities(self.folder, self.mapping)
        tables = describe_tables(self.mapping, self.store.environment, self.dynamodb)
        schemas = find_staged_schemas(self.folder, self.mapping, tables)
        for name, table in tables.items():
            check_table(self.mapping, name, table, schemas)

    def undo(
        self,
        by: str,
        *,
        accept_conflicts: bool = False,
        write_units_per_second: float | None = None,
        read_units_per_second: float | None = None,
    ) -> Rollback:
        """Undo the run that was committed last, or that left the target open, and prove it.

        Safe to repeat. Raises ConflictError if the application changed items since and `accept_conflicts` is not set.
        Everything else is undone then, and the target stays open.
        """
        if undone := find_undone(self):
            return undone
        opened = take_for_undo(self.store, self.name).open
        assert opened is not None
        settle(self.host)
        caps = write_units_per_second, read_units_per_second
        with self.connect_writer(opened.epoch, cap=caps[0], read_cap=caps[1]) as dynamodb:
            return undo_run(self, dynamodb, epoch=opened.epoch, by=by, accept_conflicts=accept_conflicts)

    def find_drift(self, source: Path) -> SourceDrift:
        """Compare the source with the backup of the run. Read-only. Raises SourceError."""
        snapshot = self.manifest.snapshot
        with TemporaryDirectory(prefix="accession-") as folder:
            return source_changed(source, snapshot.sha256, snapshot.rows, Path(folder))

    def restore_source(self, place: str) -> list[str]:
        """Put the backup of the run at a path or an s3:// address, and return the new places of the files moved aside.

        Raises SourceError, and changes no file, if the existing file is in use or not a SQLite database, or if the
        backup has expired.
        """
        with TemporaryDirectory(prefix="accession-") as folder:
            backup = self.folder.fetch_backup(self.manifest, Path(folder))
            if place.startswith("s3://"):
                expect_replaceable(peek_object(self.store.client, place), place)
                aside = place_object(self.store.client, backup, place)
                return [aside] if aside else []
            expect_replaceable(peek_file(Path(place)), place)
            snapshot = self.manifest.snapshot
            moved = restore_source(backup, Path(place), snapshot.sha256, snapshot.rows).moved_aside
            return [str(path) for path in moved]

    def _expect_mapping(self) -> None:
        """Raise RefusedError unless the mapping is the version that the run began with."""
        if self.mapping.sha256 != self.manifest.mapping_sha256:
            raise RefusedError(
                f"The mapping {self.mapping.name} was changed since run {self.name} began (SHA-256 "
                f"{self.manifest.mapping_sha256[:12]}…, now {self.mapping.sha256[:12]}…): put that version back and "
                "clear this task, or trigger a new run."
            )

    def _unseal(self, by: str) -> State | None:
        """Remove the seal if the params say so, and return the state. The task of a run that has ended removes none."""
        state = load_state(self.store)
        if not self.params.unseal or state is None or state.head != self.manifest.parent:
            return state
        unseal_target(self.store, self.params.unseal, by)
        return load_state(self.store)

    def _take_over(self, origin: int | None = None) -> int:
        opened = take_over(self.store, self.name, origin).open
        if opened is None:
            raise RefusedError(f"Run {self.name} does not have the target open: trigger a new run.")
        settle(self.host)
        return opened.epoch
