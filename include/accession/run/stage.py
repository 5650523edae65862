"""Stage: read the snapshot, make and check every item, compare it with the head, and write ID map and change set.

One SQL statement joins each row with the new ids of its parents and with the head's record for its key, so memory does
not grow with the number of rows. From the second run on, items that are about to be changed or created are read from
the target with strong consistency. An item that is found there is the before image, or a conflict.
"""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

from accession.artifacts import (
    Counts,
    Entry,
    Part,
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
    open_id_map,
    sample_keys,
)
from accession.digest import hash_file
from accession.errors import RefusedError
from accession.items import (
    Converted,
    ItemBuilder,
    ItemKey,
    Orphan,
    Reject,
    RowKey,
    Table,
    find_key_schemas,
    is_unicode,
    join_key,
    show_key,
)
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.match import Match, Recorded, Same, match_kept, match_recorded
from accession.run.reconcile import Reconciler
from accession.run.staging_query import StagingQuery, find_affinities
from accession.source import explaining, open_snapshot
from accession.target import load_state

SAMPLED_KEYS = 100  # of each entity; a later run that finds no change in the source looks their items up


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
            explaining(run.manifest.source),
            _Stager(run, name, Path(folder)) as stager,
        ):
            staged = stager.stage(id_maps)
    run.store.claim(run.folder.path_of_staged(name), staged.dump())
    return run.folder.load_staged(name)


def _repeat_head(head: RunFolder, name: str) -> StagedEntity:
    """Return the result of staging if nothing changed since the head: no parts, and the ID map of the head."""
    now = head.store.host.timestamp()
    staged = head.load_staged(name)
    samples = staged.samples
    if samples is None:
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            file = head.store.download(head.store.path(staged.id_map), Path(folder, "id_map.db"), staged.id_map_sha256)
            with closing(open_id_map(file)) as id_map:
                samples = sample_keys(id_map, SAMPLED_KEYS)
    rows = staged.counts.source_rows
    return staged.model_copy(
        update={
            "counts": Counts(
                source_rows=rows,
                unchanged=rows,
                adjusted=staged.counts.adjusted,
                item_bytes=staged.counts.item_bytes,
            ),
            "records_changed": False,
            "samples": samples,
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
        self.keys = len(self.entity.source.keys)
        self.width = self.keys + len(self.entity.columns) + len(self.entity.references)
        self.shares_identity = True
        self.attributes = set(self.entity.attributes)  # those that we write, in this run and in earlier ones
        self.files = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.files.close()

    def stage(self, id_maps: Mapping[str, str]) -> StagedEntity:
        """Stage all rows, then the records of the head that have no row in the source."""
        started = self.run.host.timestamp()
        units_before = self.run.dynamodb.consumed_read_units
        head = self._fetch_head()
        self.snapshot = self._open_snapshot(id_maps, head)
        self.query = StagingQuery(self.snapshot, self.run.mapping, self.entity)
        schemas = find_key_schemas(self.run.mapping, find_affinities(self.snapshot, self.run.mapping))
        self.builder = ItemBuilder(self.entity, self.run.mapping, schemas, self.run.manifest.namespace)
        table = Table(self.run.name_table(self.name), self.builder.key)
        rows = self.query.count_rows()
        map_file = self.folder / f"{self.name}.db"
        id_map = self._create_id_map(map_file)
        parts = self._open_parts(rows + (count_entries(head) if head else 0))
        self.reconciler = Reconciler(self.run, self.builder, id_map, parts, self.attributes, table)
        self._stage_rows(rows, head is not None)
        self.reconciler.close()
        if head is not None and self.entity.new_id is not None:
            copy_tombstones(id_map, head)
        samples = sample_keys(id_map, SAMPLED_KEYS)
        finish_id_map(id_map)
        digest = hash_file(map_file)
        map_path = self.run.folder.path_of_id_map(self.name, digest)
        self.store.upload(map_path, map_file)
        closed = parts.close()
        return StagedEntity(
            entity=self.name,
            table=table.name,
            key=table.key,
            kept=self.entity.new_id is None,
            counts=Counts(
                source_rows=rows,
                read_units=self.run.dynamodb.consumed_read_units - units_before,
                **self.reconciler.counts,
            ),
            rejects=compare_rejects(map_file, head),
            identity=self.entity.identity,
            attributes=tuple(sorted(self.attributes)),
            samples=samples,
            records_changed=any(part.writes for part in closed) or has_changed(map_file, head),
            id_map=self.store.uri(map_path),
            id_map_sha256=digest,
            parts=closed,
            started_at=started,
            ended_at=self.run.host.timestamp(),
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
            sha256 = self.run.folder.load_staged(parent).id_map_sha256
            file = self.store.download(self.store.path(uri), self.folder / f"parent_{parent}.db", sha256)
            attach(snapshot, file, f"map_{parent}")
        if head is not None:
            attach(snapshot, head, "head")
        return snapshot

    def _create_id_map(self, file: Path) -> sqlite3.Connection:
        encoding = self.snapshot.execute("PRAGMA encoding").fetchone()[0]
        affinities = self.query.find_key_affinities()
        return self.files.enter_context(closing(create_id_map(file, affinities, encoding)))

    def _open_parts(self, lines: int) -> PartWriter:
        """Open the change set, which has at most `lines` lines."""
        file, rows = self.folder / f"{self.name}.jsonl.gz", self.run.params.rows_per_part
        return self.files.enter_context(PartWriter(file, rows, lines, self._upload_part))

    def _upload_part(self, part: Part, file: Path) -> None:
        self.store.upload(self.run.folder.path_of_part(self.name, part), file)

    def _stage_rows(self, rows: int, has_head: bool) -> None:
        progress = Progress(f"stage {self.name}", rows, "rows")
        previous: tuple[RowKey, ...] = ()
        for row in self.snapshot.execute(self.query.select_rows(has_head=has_head)):
            values = row[: self.keys]
            self._stage_row(
                row, values, repeats=values == previous and list(map(type, values)) == list(map(type, previous))
            )
            previous = values
            progress.add(1)
        if has_head:
            for old_key, *recorded, latest in self.snapshot.execute(self.query.select_gone()):
                self.reconciler.add_gone(old_key, Recorded(*recorded), latest)
        progress.finish()

    def _stage_row(self, row: tuple[Any, ...], values: tuple[RowKey, ...], *, repeats: bool) -> None:
        """Make the item of a row, match the row with the head's record, and reconcile it."""
        width = self.width
        recorded = Recorded(*row[width:]) if len(row) > width and row[width] is not None else None
        try:
            old_key = self._read_key(values)
            if repeats:
                raise Reject(self.entity.source.key_name, "the key occurs twice")
            converted = self.builder.convert(row[self.keys : width])
            match, key = self._match(recorded, converted, old_key)
            first_seen = match.recorded.first_seen if type(match) is Same else self.run.manifest.started_at
            prepared = self.builder.complete(converted, key, first_seen)
        except Reject as reject:
            is_held = recorded is not None and recorded.state != "tombstone" and not repeats
            shown = values[0] if len(values) == 1 else show_key(values)
            self.reconciler.reject(shown, reject, self._explain(reject), recorded if is_held else None)
            return
        if converted.adjusted:
            self.reconciler.counts["adjusted"] += converted.adjusted
        identity, checksum = converted.identity, prepared.checksum
        entry = Entry(old_key, match.generation, 1, key, identity, checksum, None, first_seen, "live", 1)
        self.reconciler.add(match, entry, prepared)

    def _read_key(self, values: tuple[RowKey, ...]) -> int | str:
        """Return the key of a row as one value. Raises Reject."""
        if len(values) == 1:
            [value] = values
            if type(value) not in (int, str) or value == "":
                raise Reject(self.entity.source.key_name, "the key is neither an integer nor text")
            return value  # type: ignore[return-value]  # it is one of the two
        if not all(type(value) in (int, str) for value in values):
            raise Reject(self.entity.source.key_name, "a part of the key is neither an integer nor text")
        texts = [value for value in values if isinstance(value, str)]
        if not all(map(is_unicode, texts)):
            raise Reject(self.entity.source.key_name, "the key is not valid Unicode")
        if any("\0" in text for text in texts):  # SQLite's json_extract, which reads the ID map, would end there
            raise Reject(self.entity.source.key_name, "a part of the key has a NUL character")
        return join_key(values)

    def _match(self, recorded: Recorded | None, converted: Converted, old_key: int | str) -> tuple[Match, ItemKey]:
        """Return how a row matches the head's record, and the key of its item. Raises Reject."""
        if self.entity.new_id is None:
            key = self.builder.find_key(converted, old_key, 0)
            return match_kept(recorded, key), key
        match = match_recorded(recorded, converted.identity, shares_identity=self.shares_identity)
        if type(match) is Same:
            return match, match.recorded.new_id
        return match, self.builder.find_key(converted, old_key, match.generation)

    def _explain(self, reject: Reject) -> str:
        """Return the reason of a reject. If the parent of an orphan was rejected, the reason says so."""
        if not isinstance(reject, Orphan):
            return str(reject)
        if None in reject.old_key:
            return f"{reject.column} is NULL, it must refer to a {reject.parent}"
        if not all(is_unicode(value) for value in reject.old_key if isinstance(value, str)):
            return str(reject)  # such a text cannot be bound in a query
        if self.query.is_rejected(reject.reference, reject.old_key):
            return f"{reject.column} {reject.shown} refers to a {reject.parent} that was rejected itself"
        return str(reject)
