"""The context of a run: everything that its steps need."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from accession.artifacts import Manifest, RunFolder, StagedEntity, Store
from accession.conf import restore_params
from accession.dynamodb import DynamoDB, Limit
from accession.host import Host
from accession.items import KeyMask, KeySchema, Table, find_mask
from accession.mapping import Mapping
from accession.params import MigrateParams
from accession.run.share import Share
from accession.target import Fence


@dataclass(frozen=True)
class RunContext:
    """One run: its store, its mapping, its manifest, and a connection to DynamoDB for reading."""

    store: Store
    mapping: Mapping
    manifest: Manifest
    dynamodb: DynamoDB

    @property
    def name(self) -> str:
        """Return the name of the run, such as 20260105T120000Z-0123abcd."""
        return self.manifest.run

    @property
    def host(self) -> Host:
        """Return the clocks and the randomness of the machine."""
        return self.store.host

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
        """Return the params that apply to the run."""
        return restore_params(self.name, self.manifest.params)

    def name_table(self, entity: str) -> str:
        """Return the name of the table that the mapping gives an entity."""
        return self.mapping.entities[entity].table(self.manifest.environment)

    def find_table(self, staged: StagedEntity) -> Table:
        """Return the table that an entity was staged for. If no key was stored (0.1.0), the mapping names the one
        attribute, which is text."""
        key = staged.key or KeySchema(self.mapping.entities[staged.entity].target.keys)
        return Table(staged.table, key, self.find_mask(staged.entity))

    def find_mask(self, entity: str) -> KeyMask:
        """Return what covers the keys of an entity."""
        return find_mask(self.mapping, entity, self.manifest.namespace)

    def connect_writer(
        self,
        epoch: int,
        *,
        cap: float | None,
        newer: str | None = None,
        limit: Limit | None = None,
        read_cap: float | None = None,
    ) -> DynamoDB:
        """Return a connection that writes under the fence of `epoch`, at most at this task's share of `cap`.

        `cap` is in write units per second, for the whole run; `read_cap` in read units per second, for this connection.
        `newer` is the path of the mark that a newer attempt at the same part would leave. `limit` is what an earlier
        writer found.
        """
        return self.dynamodb.fenced(
            Fence(self.store, self.name, epoch, newer).check,
            Share(self.folder, cap, epoch) if cap is not None else None,
            limit,
            read_cap,
        )

    @contextmanager
    def open_prover(self, entities: Iterable[str]) -> Iterator[DynamoDB]:
        """Yield a connection that reads at most at the share of the params' cap that the proof of a table has, which
        holds these entities.

        The tables are proved in parallel. Each has a share as large as its part of all bytes, so that together they
        keep to the cap, and end at about the same time.
        """
        cap = self.params.read_units_per_second
        if cap is None:
            yield self.dynamodb
            return
        sizes = {name: self.folder.load_staged(name).counts.item_bytes + 1 for name in self.mapping.order}
        with self.dynamodb.capped(cap * sum(map(sizes.__getitem__, entities)) / sum(sizes.values())) as dynamodb:
            yield dynamodb
