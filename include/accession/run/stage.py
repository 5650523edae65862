"""Stage: read the snapshot, make and check every item, compare it with the head, and write ID map and change set.

One SQL statement joins each row with the new ids of its parents and with the head's record for its key, so memory does
not grow with the number of rows. From the second run on, items that are about to be changed or created are read from
the target with strong consistency. An item that is found there is the before image, or a conflict.
"""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from accession.artifacts import (
    MAX_PARTS,
    Counts,
    Entry,
    PartWriter,
    RunFolder,
    StagedEntity,
    attach,
    compare_rejects,
    copy_tombstones,
    count_entries,
    create_id_map,
    finish_id_map,
    has_changed,
    mark_conflicts,
)
from accession.errors import RefusedError
from accession.items import ItemBuilder, Orphan, Reject, RowKey, is_unicode
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.match import Recorded, Same, match_recorded
from accession.run.reconcile import Reconciler
from accession.run.staging_query import count_rows, find_key_affinity, is_rejected, select_gone, select_rows
from accession.source import explaining, open_snapshot
from accession.target import load_state


def stage_entity(run: RunContext, name: str, id_maps: Mapping[str, str]) -> StagedEntity:
    """Write the ID map and the change set of one entity. `id_maps` has the S3 address of each parent's map.

    Safe to repeat: the result of an earlier attempt is used again. Nothing is written to DynamoDB. Raises RefusedError
    if this run has the target open.
    """
    found = run.folder.find_staged(name)
    if found is not None:
        return found
    state = load_state(run.store)
    if state is not None and state.open is not None and state.open.run == run.name:
        raise RefusedError(f"Run {run.name} has the target open: it cannot be staged again. Resume or undo it.")
    if run.manifest.unchanged and run.head is not None:
        staged = _repeat_head(run.head, name)
    else:
        with (
            tempfile.TemporaryDirectory(prefix="accession-") as folder,
            explaining(Path(run.manifest.source)),
            _Stager(run, name, Path(folder)) as stager,
        ):
            staged = stager.stage(id_maps)
    run.store.claim(run.folder.path_of_staged(name), staged.dump())
    return run.folder.load_staged(name)


def _repeat_head(head: RunFolder, name: str) -> StagedEntity:
    """Return the result of staging if nothing changed since the head: no parts, and the ID map of the head."""
    now = datetime.now(UTC).isoformat()
    staged = head.load_staged(name)
    rows = staged.counts.source_rows
    return staged.model_copy(
        update={
            "counts": Counts(source_rows=rows, unchanged=rows, adjusted=staged.counts.adjusted),
            "records_changed": False,
            "rejects": {"new": 0, "remaining": 0, "resolved": 0},
            "parts": [],
            "started_at": now,
            "ended_at": now,
        }
    )


class _Stager:
    """Stage one entity in a folder of its own. Its files are open until the `with` block ends."""

    def __init__(self, run: RunContext, name: str, folder: Path) -> None:
        self.run, self.store, self.name, self.folder = run, run.store, name, folder
        self.entity = run.mapping.entities[name]
        self.builder = ItemBuilder(self.entity, run.mapping, run.manifest.namespace)
        self.width = 1 + len(self.entity.columns) + len(self.entity.references)
        self.shares_identity = True
        self.attributes = set(self.entity.attributes)  # those that we write, in this run and in earlier ones
        self.files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def stage(self, id_maps: Mapping[str, str]) -> StagedEntity:
        """Stage all rows, then the records of the head that have no row in the source."""
        started = datetime.now(UTC).isoformat()
        units_before = self.run.dynamodb.consumed_read_units
        head = self._fetch_head()
        self.snapshot = self._open_snapshot(id_maps, head)
        rows = count_rows(self.snapshot, self.entity)
        map_file = self.folder / f"{self.name}.db"
        id_map = self._create_id_map(map_file)
        parts = self._open_parts(rows + (count_entries(head) if head else 0))
        self.reconciler = Reconciler(self.run, self.builder, id_map, parts, self.attributes)
        self._stage_rows(rows, head is not None)
        self.reconciler.close()
        if head is not None:
            copy_tombstones(id_map, head)
        finish_id_map(id_map)
        map_path = self.run.folder.path_of_id_map(self.name)
        digest = self.store.upload(map_path, map_file)
        closed = parts.close()
        table = self.run.map_table(self.name)
        return StagedEntity(
            entity=self.name,
            table=table.name,
            key=table.key,
            indexes=dict(self.entity.indexes),
            counts=Counts(
                source_rows=rows,
                read_units=self.run.dynamodb.consumed_read_units - units_before,
                **self.reconciler.counts,
            ),
            rejects=compare_rejects(map_file, head),
            identity=self.entity.identity,
            attributes=tuple(sorted(self.attributes)),
            records_changed=any(part.writes for part in closed) or has_changed(map_file, head),
            id_map=self.store.uri(map_path),
            id_map_sha256=digest,
            parts=closed,
            started_at=started,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def _fetch_head(self) -> Path | None:
        """Download the head's ID map, and mark the conflicts that its writers met."""
        if self.run.head is None or self.name not in self.run.head.load_plan().entities:
            return None
        staged = self.run.head.load_staged(self.name)
        self.shares_identity = bool(set(staged.identity) & set(self.entity.identity))
        self.attributes |= set(staged.attributes)
        head = self.store.download(self.store.path(staged.id_map), self.folder / "head.db", staged.id_map_sha256)
        conflicts = self.run.head.find_write_conflicts(self.name)
        mark_conflicts(head, ((one.key, bytes.fromhex(one.checksum) if one.checksum else None) for one in conflicts))
        return head

    def _open_snapshot(self, id_maps: Mapping[str, str], head: Path | None) -> sqlite3.Connection:
        """Open the backup, with the parents' ID maps and the head's attached."""
        backup = self.run.folder.fetch_backup(self.run.manifest, self.folder)
        snapshot = self.files.enter_context(closing(open_snapshot(backup)))
        for parent, uri in id_maps.items():
            file = self.store.download(self.store.path(uri), self.folder / f"parent_{parent}.db")
            attach(snapshot, file, f"map_{parent}")
        if head is not None:
            attach(snapshot, head, "head")
        return snapshot

    def _create_id_map(self, file: Path) -> sqlite3.Connection:
        encoding = self.snapshot.execute("PRAGMA encoding").fetchone()[0]
        affinity = find_key_affinity(self.snapshot, self.entity)
        return self.files.enter_context(closing(create_id_map(file, affinity, encoding)))

    def _open_parts(self, lines: int) -> PartWriter:
        """Open the change set. If there would be more than MAX_PARTS parts, the parts are larger instead."""
        size = max(self.run.params.rows_per_part, -(-lines // MAX_PARTS))
        return self.files.enter_context(PartWriter(self.folder / f"{self.name}.jsonl.gz", size, self._upload_part))

    def _upload_part(self, number: int, file: Path) -> str:
        return self.store.upload(self.run.folder.path_of_part(self.name, number), file)

    def _stage_rows(self, rows: int, has_head: bool) -> None:
        progress = Progress(f"stage {self.name}", rows, "rows")
        previous: RowKey = None
        for row in self.snapshot.execute(select_rows(self.entity, has_head)):
            self._stage_row(row, previous)
            previous = row[0]
            progress.add(1)
        if has_head:
            for old_key, *recorded, latest in self.snapshot.execute(select_gone(self.entity)):
                self.reconciler.add_gone(old_key, Recorded(*recorded), latest)
        progress.finish()

    def _stage_row(self, row: tuple[Any, ...], previous: RowKey) -> None:
        """Make the item of a row, match the row with the head's record, and reconcile it."""
        old_key, width = row[0], self.width
        recorded = Recorded(*row[width:]) if len(row) > width and row[width] is not None else None
        try:
            if type(old_key) not in (int, str) or old_key == "":
                raise Reject(self.entity.source.key, "the key is neither an integer nor text")
            if old_key == previous and type(old_key) is type(previous):
                raise Reject(self.entity.source.key, "the key occurs twice")
            converted = self.builder.convert(row[1:width])
            match = match_recorded(recorded, converted.identity, shares_identity=self.shares_identity)
            if type(match) is Same:
                key, first_seen = match.recorded.new_id, match.recorded.first_seen
            else:
                key, first_seen = self.builder.make_id(old_key, match.generation), self.run.manifest.started_at
            prepared = self.builder.complete(converted, key, first_seen)
        except Reject as reject:
            is_held = recorded is not None and recorded.state != "tombstone" and old_key != previous
            self.reconciler.reject(old_key, reject, self._explain(reject), recorded if is_held else None)
            return
        if converted.adjusted:
            self.reconciler.counts["adjusted"] += converted.adjusted
        identity, checksum = converted.identity, prepared.checksum
        entry = Entry(old_key, match.generation, 1, key, identity, checksum, None, first_seen, "live", 1)
        self.reconciler.add(match, entry, prepared)

    def _explain(self, reject: Reject) -> str:
        """Return the reason of a reject. If the parent of an orphan was rejected, the reason says so."""
        if not isinstance(reject, Orphan):
            return str(reject)
        if reject.old_key is None:
            return f"{reject.column} is NULL, it must refer to a {reject.parent}"
        if isinstance(reject.old_key, str) and not is_unicode(reject.old_key):
            return str(reject)  # such a text cannot be bound in a query
        if is_rejected(self.snapshot, reject.parent, reject.old_key):
            return f"{reject.column} {reject.shown} refers to a {reject.parent} that was rejected itself"
        return str(reject)
