"""The context of a run: everything that its steps work with."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from accession.artifacts import Manifest, RunFolder, StagedEntity, Store
from accession.dynamodb import DynamoDB
from accession.items import Table
from accession.mapping import Mapping
from accession.params import MigrateParams
from accession.run.share import Share
from accession.target import Fence


@dataclass(frozen=True)
class RunContext:
    """One run: its store, its mapping, its manifest, and a connection to DynamoDB for reading.

    `sleep` waits until the writers of an older epoch have stopped.
    """

    store: Store
    mapping: Mapping
    manifest: Manifest
    dynamodb: DynamoDB
    sleep: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        """Return the name of the run, such as 20260105T120000Z-0123abcd."""
        return self.manifest.run

    @cached_property
    def folder(self) -> RunFolder:
        """Return the folder of the run."""
        return RunFolder(self.store, self.name)

    @cached_property
    def head(self) -> RunFolder | None:
        """Return the folder of the run that this one was staged on, or None for a first run."""
        return RunFolder(self.store, self.manifest.parent) if self.manifest.parent else None

    @cached_property
    def params(self) -> MigrateParams:
        """Return the params that count for the run."""
        return MigrateParams(**self.manifest.params)

    def map_table(self, entity: str) -> Table:
        """Return the table that the mapping gives an entity."""
        return Table.of(self.mapping.entities[entity], self.manifest.environment)

    def find_table(self, staged: StagedEntity) -> Table:
        """Return the table that an entity was staged for. If no key was stored (0.1.0), the mapping gives it."""
        return Table(staged.table, staged.key or self.map_table(staged.entity).key)

    def connect_writer(self, epoch: int, *, is_capped: bool = True) -> DynamoDB:
        """Return a connection that writes under the fence of `epoch`, at most at this task's share of the rate cap."""
        cap = self.params.write_units_per_second if is_capped else None
        return self.dynamodb.fenced(
            Fence(self.store, self.name, epoch).check, Share(self.folder, cap) if cap is not None else None
        )
