"""Stage: read the snapshot in key order, make and check every item, compare with the head, write ID map and change set.

One SQL statement joins each row with the new ids of its parents and with what the head recorded for its key, so memory
stays flat however many rows there are. From the second run on, the keys about to change or be created are read from the
target (consistently): what is there is the before image, or a conflict.
"""

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accession.artifacts import (
    MAX_PARTS,
    RESOLVING,
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
from accession.items import ItemBuilder, ItemKey, Orphan, Reject, is_same_thing, is_unicode
from accession.mapping import Entity
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.reconcile import Pending, Reconciler, Recorded
from accession.source import explaining, find_affinity, open_snapshot, quote
from accession.target import load_state


def stage_entity(run: RunContext, name: str, id_maps: Mapping[str, str]) -> StagedEntity:
    """Write the ID map and the change set of one entity. `id_maps` are the S3 addresses of its parents' maps.

    Safe to repeat: what an earlier attempt finished is used again. Writes nothing to DynamoDB. Raises RefusedError
    while the target is open by this very run.
    """
    found = run.folder.find_staged(name)
    if found is not None:
        return found
    state = load_state(run.store)
    if state is not None and state.open is not None and state.open.run == run.name:
        raise RefusedError(f"run {run.name} has the target open: it cannot be staged again; resume or undo it.")
    if run.manifest.unchanged and run.head is not None:
        staged = _repeat_head(run.head, name)
    else:
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            staging = _Staging(run, name, Path(folder))
            with staging.files, explaining(Path(run.manifest.source)):
                staged = staging.stage(id_maps)
    run.store.claim(run.folder.path_of_staged(name), staged.dump())
    return run.folder.load_staged(name)


def _repeat_head(head: RunFolder, name: str) -> StagedEntity:
    """Nothing changed since the head: no parts, and the head's ID map stands."""
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


class _Staging:
    def __init__(self, run: RunContext, name: str, folder: Path) -> None:
        self.run, self.name, self.folder = run, name, folder
        self.store, self.manifest, self.dynamodb = run.store, run.manifest, run.dynamodb
        self.entity: Entity = run.mapping.entities[name]
        self.table = run.map_table(name)
        self.builder = ItemBuilder(self.entity, run.mapping, run.manifest.namespace)
        self.now = run.manifest.started_at
        self.files = ExitStack()  # open until staging ends, wherever it ends
        self.shares_identity = True
        self.attributes = set(self.entity.attributes)  # ours, those of earlier runs too
        self.width = 1 + len(self.entity.columns) + len(self.entity.references)

    def stage(self, id_maps: Mapping[str, str]) -> StagedEntity:
        started = datetime.now(UTC).isoformat()
        read_before = self.dynamodb.consumed_read_units
        head = self._fetch_head()
        snapshot = self.files.enter_context(
            closing(open_snapshot(self.run.folder.fetch_backup(self.manifest, self.folder)))
        )
        for parent, uri in id_maps.items():
            attach(
                snapshot,
                self.store.download(self.store.path(uri), self.folder / f"parent_{parent}.db"),
                f"map_{parent}",
            )
        if head is not None:
            attach(snapshot, head, "head")
        key = quote(self.entity.source.key)
        table = quote(self.entity.source.table)
        rows: int = snapshot.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]
        lines = rows + (count_entries(head) if head else 0)
        per_part = max(self.run.params.rows_per_part, -(-lines // MAX_PARTS))
        map_file = self.folder / f"{self.name}.db"
        encoding = snapshot.execute("PRAGMA encoding").fetchone()[0]
        id_map = self.files.enter_context(closing(create_id_map(map_file, self._find_affinity(snapshot), encoding)))
        parts = self.files.enter_context(PartWriter(self.folder / f"{self.name}.jsonl.gz", per_part, self._upload_part))
        self.reconciler = Reconciler(self.run, self.builder, self.table, id_map, parts, self.attributes)
        self.parents = snapshot
        progress = Progress(f"stage {self.name}", rows, "rows")

        previous: Any = None
        for row in snapshot.execute(self._select(table, key, head is not None)):
            self._stage_row(row, previous)
            previous = row[0]
            progress.add(1)
        if head is not None:
            for recorded in snapshot.execute(self._select_gone(table, key)):
                self.reconciler.add_gone(recorded[0], Recorded(*recorded[1:8]), recorded[8])
        self.reconciler.close()
        if head is not None:
            copy_tombstones(id_map, head)
        finish_id_map(id_map)
        progress.finish()

        map_path = self.run.folder.path_of_id_map(self.name)
        digest = self.store.upload(map_path, map_file)
        written = parts.close()
        return StagedEntity(
            entity=self.name,
            table=self.table.name,
            key=self.table.key,
            indexes=dict(self.entity.indexes),
            counts=Counts(
                source_rows=rows,
                read_units=self.dynamodb.consumed_read_units - read_before,
                **self.reconciler.counts,
            ),
            rejects=compare_rejects(map_file, head),
            identity=self.entity.identity,
            attributes=tuple(sorted(self.attributes)),
            records_changed=any(part.writes for part in written) or has_changed(map_file, head),
            id_map=self.store.uri(map_path),
            id_map_sha256=digest,
            parts=written,
            started_at=started,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def _upload_part(self, number: int, file: Path) -> str:
        return self.store.upload(self.run.folder.path_of_part(self.name, number), file)

    def _fetch_head(self) -> Path | None:
        if self.run.head is None or self.name not in self.run.head.load_plan().entities:
            return None
        staged = self.run.head.load_staged(self.name)
        self.shares_identity = bool(set(staged.identity) & set(self.entity.identity))
        self.attributes |= set(staged.attributes)
        head = self.store.download(self.store.path(staged.id_map), self.folder / "head.db", staged.id_map_sha256)
        met = self.run.head.find_write_conflicts(self.name)
        mark_conflicts(head, ((kept.key, bytes.fromhex(kept.checksum) if kept.checksum else None) for kept in met))
        return head

    def _find_affinity(self, snapshot: sqlite3.Connection) -> str:
        table, key = self.entity.source.table, self.entity.source.key
        for _, name, declared, *_ in snapshot.execute("SELECT * FROM pragma_table_xinfo(?)", (table,)):
            if name.lower() == key.lower():
                return find_affinity(declared)
        return ""

    def _select(self, table: str, key: str, has_head: bool) -> str:
        """Key, columns, new ids of the parents, and what the head recorded; in key order.

        The plus takes the affinity from a column, so that keys compare as the ID map declares them (as SQLite's own
        foreign keys do, by the parent's declaration), and its index serves every row.
        """
        columns = [f"s.{key}", *(f"s.{quote(column)}" for column in self.entity.columns)]
        joins = []
        for number, (attribute, parent) in enumerate(self.entity.references.items()):
            column = quote(self.entity.attributes[attribute].column or "")
            columns.append(f"p{number}.new_id")
            joins.append(
                f"LEFT JOIN map_{parent}.id_map p{number} ON p{number}.old_key = +s.{column} "
                f"AND p{number}.latest AND p{number}.state IN {RESOLVING}"
            )
        if has_head:
            columns += [f"h.{field}" for field in Recorded._fields]
            joins.append(f"LEFT JOIN head.id_map h ON h.old_key = +s.{key} AND h.latest")
        return f"SELECT {', '.join(columns)} FROM main.{table} s {' '.join(joins)} ORDER BY s.{key}"

    def _select_gone(self, table: str, key: str) -> str:
        """What the head recorded and the source no longer holds; items of earlier generations that were kept."""
        return (
            f"SELECT h.old_key, {', '.join(f'h.{field}' for field in Recorded._fields)}, h.latest FROM head.id_map h "
            f"LEFT JOIN main.{table} s ON h.old_key = s.{key} COLLATE BINARY "
            f"WHERE h.state != 'tombstone' AND (s.{key} IS NULL OR NOT h.latest) ORDER BY h.old_key, h.generation"
        )

    def _stage_row(self, row: tuple[Any, ...], previous: Any) -> None:
        old_key = row[0]
        width = self.width
        recorded = Recorded(*row[width:]) if len(row) > width and row[width] is not None else None
        try:
            if type(old_key) not in (int, str) or old_key == "":
                raise Reject(self.entity.source.key, "the key is neither an integer nor text")
            if old_key == previous and type(old_key) is type(previous):
                raise Reject(self.entity.source.key, "the key occurs twice")
            converted = self.builder.convert(row[1:width])
            identity = converted.identity
            known = recorded is not None and recorded.state != "tombstone"
            same = known and recorded is not None and self._is_same(recorded.identity, identity)
            generation = 0 if recorded is None else recorded.generation + (not same)
            first_seen = recorded.first_seen if same and recorded is not None else self.now
            new_id = recorded.new_id if same and recorded is not None else self.builder.make_id(old_key, generation)
            prepared = self.builder.complete(converted, ItemKey(new_id), first_seen)
        except Reject as reject:
            reason = self._explain_orphan(reject) if isinstance(reject, Orphan) else str(reject)
            holds = recorded is not None and recorded.state != "tombstone" and old_key != previous
            self.reconciler.reject(old_key, reject, reason, recorded if holds else None)
            return
        if converted.adjusted:
            self.reconciler.counts["adjusted"] += converted.adjusted
        entry = Entry(
            old_key, generation, 1, new_id, identity, prepared.checksum, None, first_seen, "live", 1
        )  # fmt: skip
        if recorded is not None and same:
            if prepared.checksum == (recorded.row_checksum or recorded.checksum):
                self.reconciler.keep_unchanged(entry, recorded)
            else:
                self.reconciler.wait(Pending(old_key, new_id, entry, recorded, prepared))
            return
        if recorded is not None and known:
            self.reconciler.add_gone(old_key, recorded, 0)
        self.reconciler.add_new(old_key, prepared, entry)

    def _is_same(self, recorded: bytes, found: bytes) -> bool:
        """Whether a row is the thing that was recorded for its key. Where the mapping names none of the alternatives of
        the head any more there is nothing to compare, and a row stays what it was."""
        return not self.shares_identity or is_same_thing(recorded, found)

    def _explain_orphan(self, orphan: Orphan) -> str:
        """An orphan whose parent is in the source says that the parent was rejected."""
        if orphan.old_key is None:
            return f"{orphan.column} is NULL, it must refer to a {orphan.parent}"
        if isinstance(orphan.old_key, str) and not is_unicode(orphan.old_key):
            return str(orphan)  # SQLite cannot be asked for it
        query = f"SELECT 1 FROM map_{orphan.parent}.rejects WHERE old_key = ?"
        if self.parents.execute(query, (orphan.old_key,)).fetchone():
            return f"{orphan.column} {orphan.shown} refers to a {orphan.parent} that was rejected itself"
        return str(orphan)
