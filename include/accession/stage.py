"""Stage: read the snapshot in key order, make and check every item, compare with the head, write ID map and change set.

One SQL statement joins each row with the new ids of its parents and with what the head recorded for its key, so memory
stays flat however many rows there are. From the second run on, the keys about to change or be created are read from the
target (consistently): what is there is the before image, or a conflict.
"""

import logging
import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from accession.change_set import (
    MAX_PARTS,
    Change,
    Counts,
    Index,
    PartWriter,
    encode_change,
    encode_put,
    index_path,
    load_index,
)
from accession.dynamodb import DynamoDB
from accession.errors import RefusedError
from accession.executed import find_conflicts
from accession.id_map import (
    RESOLVING,
    Entry,
    RejectedRow,
    State,
    add_entries,
    add_rejects,
    attach,
    compare_rejects,
    copy_tombstones,
    count_entries,
    create_id_map,
    finish_id_map,
    has_changed,
    mark_conflicts,
)
from accession.items import (
    ItemBuilder,
    Orphan,
    Prepared,
    Reject,
    TypedItem,
    checksum_item,
    is_same_thing,
    is_unicode,
    measure_item,
)
from accession.manifest import Manifest, fetch_backup, run_path
from accession.mapping import Entity
from accession.mapping import Mapping as EntityMapping
from accession.progress import Progress
from accession.snapshot import open_snapshot
from accession.source import find_affinity, quote
from accession.state import load_state
from accession.store import Store

logger = logging.getLogger(__name__)

PENDING_ROWS = 1000  # rows held back at most while their items are read from the target
BATCH_ENTRIES = 2000
NEVER_WRITTEN = b"\0" * 32  # checksum of an item that was there before us and was kept: the conflict shows again


class Recorded(NamedTuple):
    """What the head says of a key."""

    generation: int
    new_id: str
    identity: bytes
    checksum: bytes
    row_checksum: bytes | None
    first_seen: str
    state: State


class Pending(NamedTuple):
    """A change that waits for what the target holds. `prepared` is None for a delete."""

    old_key: Any
    new_id: str
    entry: Entry
    recorded: Recorded | None
    prepared: Prepared | None


def stage_entity(
    store: Store, mapping: EntityMapping, manifest: Manifest, name: str, id_maps: Mapping[str, str], dynamodb: DynamoDB
) -> Index:
    """Write the ID map and the change set of one entity. `id_maps` are the S3 URIs of its parents' maps.

    Safe to repeat: what an earlier attempt finished is used again. Writes nothing to DynamoDB. Raises RefusedError
    while the target is open by this very run.
    """
    if store.has(index_path(manifest.run, name)):
        return load_index(store, manifest.run, name)
    state = load_state(store)
    if state is not None and state.open is not None and state.open.run == manifest.run:
        raise RefusedError(f"run {manifest.run} has the target open: it cannot be staged again; resume or undo it.")
    if manifest.unchanged and manifest.parent is not None:
        index = _repeat_head(store, manifest, name)
    else:
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            staging = _Staging(store, mapping, manifest, name, dynamodb, Path(folder))
            with staging.files:
                index = staging.stage(id_maps)
    store.claim(index_path(manifest.run, name), index.dump())
    return load_index(store, manifest.run, name)


def _repeat_head(store: Store, manifest: Manifest, name: str) -> Index:
    """Nothing changed since the head: no parts, and the head's ID map stands."""
    assert manifest.parent is not None
    now = datetime.now(UTC).isoformat()
    head = load_index(store, manifest.parent, name)
    rows = head.counts.source_rows
    return head.model_copy(
        update={
            "counts": Counts(source_rows=rows, unchanged=rows, adjusted=head.counts.adjusted),
            "records_changed": False,
            "rejects": {"new": 0, "remaining": 0, "resolved": 0},
            "parts": [],
            "started_at": now,
            "ended_at": now,
        }
    )


class _Staging:
    def __init__(
        self, store: Store, mapping: EntityMapping, manifest: Manifest, name: str, dynamodb: DynamoDB, folder: Path
    ) -> None:
        self.store, self.manifest, self.name, self.dynamodb, self.folder = store, manifest, name, dynamodb, folder
        self.entity: Entity = mapping.entities[name]
        self.table = self.entity.table(manifest.environment)
        self.builder = ItemBuilder(self.entity, mapping, manifest.namespace)
        self.now = manifest.started_at
        # The tables of a first run were found empty, unless the params say that something may be there.
        self.reads_target = manifest.parent is not None or manifest.policy("existing_items") == "keep"
        self.files = ExitStack()  # open until staging ends, wherever it ends
        self.shares_identity = True
        self.counts: dict[str, int] = {}
        self.entries: list[Entry] = []
        self.rejects: list[RejectedRow] = []
        self.pending: list[Pending] = []

    def stage(self, id_maps: Mapping[str, str]) -> Index:
        started = datetime.now(UTC).isoformat()
        read_before = self.dynamodb.consumed_read_units
        head = self._fetch_head()
        snapshot = self.files.enter_context(
            closing(open_snapshot(fetch_backup(self.store, self.manifest, self.folder)))
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
        per_part = max(int(self.manifest.policy("rows_per_part")), -(-lines // MAX_PARTS))
        map_file = self.folder / f"{self.name}.db"
        encoding = snapshot.execute("PRAGMA encoding").fetchone()[0]
        self.id_map = self.files.enter_context(
            closing(create_id_map(map_file, self._find_affinity(snapshot), encoding))
        )
        self.parts = self.files.enter_context(
            PartWriter(self.store, self.manifest.run, self.name, per_part, self.folder)
        )
        self.parents = snapshot
        progress = Progress(f"stage {self.name}", rows, "rows")

        previous: Any = None
        for row in snapshot.execute(self._select(table, key, head is not None)):
            self._stage_row(row, previous)
            previous = row[0]
            if len(self.entries) + len(self.rejects) >= BATCH_ENTRIES:
                self._flush_entries()
            progress.add(1)
        if head is not None:
            for recorded in snapshot.execute(self._select_gone(table, key)):
                self._stage_gone(recorded[0], Recorded(*recorded[1:8]), recorded[8])
        self._decide()
        self._flush_entries()
        if head is not None:
            copy_tombstones(self.id_map, head)
        finish_id_map(self.id_map)
        progress.finish()

        map_path = run_path(self.manifest.run, f"id_map/{self.name}.db")
        digest = self.store.upload(map_path, map_file)
        parts = self.parts.close()
        writes = sum(part.writes for part in parts)
        return Index(
            entity=self.name,
            table=self.table,
            counts=Counts(source_rows=rows, read_units=self.dynamodb.consumed_read_units - read_before, **self.counts),
            rejects=compare_rejects(map_file, head),
            identity=self.entity.identity,
            records_changed=writes > 0 or has_changed(map_file, head),
            id_map=self.store.uri(map_path),
            id_map_sha256=digest,
            parts=parts,
            started_at=started,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def _fetch_head(self) -> Path | None:
        if self.manifest.parent is None:
            return None
        index = load_index(self.store, self.manifest.parent, self.name)
        self.shares_identity = bool(set(index.identity) & set(self.entity.identity))
        head = self.store.download(self.store.path(index.id_map), self.folder / "head.db", index.id_map_sha256)
        met = find_conflicts(self.store, self.manifest.parent, self.name)
        mark_conflicts(head, ((kept.key, bytes.fromhex(kept.checksum) if kept.checksum else None) for kept in met))
        return head

    def _find_affinity(self, snapshot: sqlite3.Connection) -> str:
        table, key = self.entity.source.table, self.entity.source.key
        for _, name, declared, *_ in snapshot.execute("SELECT * FROM pragma_table_info(?)", (table,)):
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

    def _count(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number

    def _stage_row(self, row: tuple[Any, ...], previous: Any) -> None:
        old_key = row[0]
        width = 1 + len(self.entity.columns) + len(self.entity.references)
        recorded = Recorded(*row[width:]) if len(row) > width and row[width] is not None else None
        try:
            if type(old_key) not in (int, str) or old_key == "":
                raise Reject(self.entity.source.key, "the key is neither an integer nor text")
            if old_key == previous and type(old_key) is type(previous):
                raise Reject(self.entity.source.key, "the key occurs twice")
            item, adjusted = self.builder.convert(row[1:width])
            identity = self.builder.digest_identity(item)
            known = recorded is not None and recorded.state != "tombstone"
            same = known and recorded is not None and self._is_same(recorded.identity, identity)
            generation = 0 if recorded is None else recorded.generation + (not same)
            first_seen = recorded.first_seen if same and recorded is not None else self.now
            try:
                new_id = recorded.new_id if same and recorded is not None else self.builder.make_id(old_key, generation)
            except UnicodeEncodeError:
                raise Reject(self.entity.source.key, "the key is not valid Unicode") from None
            prepared = self.builder.prepare(item, new_id, first_seen)
        except Reject as reject:
            self._reject(old_key, reject, recorded, duplicate=old_key == previous)
            return
        if adjusted:
            self._count("adjusted", adjusted)
        entry = Entry(
            old_key, generation, 1, new_id, identity, prepared.checksum, None, first_seen, "live", 1
        )  # fmt: skip
        if recorded is not None and same:
            if prepared.checksum == (recorded.row_checksum or recorded.checksum):
                self._count("unchanged")
                self.entries.append(
                    entry._replace(
                        identity=identity,
                        checksum=recorded.checksum,
                        row_checksum=recorded.row_checksum,
                        written=0,
                    )
                )
            else:
                self._wait(Pending(old_key, new_id, entry, recorded, prepared))
            return
        if recorded is not None and known:
            self._stage_gone(old_key, recorded, 0)
        if self.reads_target:
            self._wait(Pending(old_key, new_id, entry, None, prepared))
        else:
            self._put(old_key, prepared, entry)

    def _is_same(self, recorded: bytes, found: bytes) -> bool:
        """Whether a row is the thing that was recorded for its key. Where the mapping names none of the alternatives of
        the head any more there is nothing to compare, and a row stays what it was."""
        return not self.shares_identity or is_same_thing(recorded, found)

    def _put(self, old_key: Any, prepared: Prepared, entry: Entry) -> None:
        self._count("put")
        self._count("write_units", prepared.write_units)
        self._count("put_bytes", len(prepared.data))
        self.entries.append(entry)
        self.parts.add("put", encode_put(entry.new_id, old_key, prepared.write_units, prepared.checksum, prepared.data))

    def _reject(self, old_key: Any, reject: Reject, recorded: Recorded | None, duplicate: bool) -> None:
        held = recorded is not None and recorded.state != "tombstone" and not duplicate
        reason = self._word_orphan(reject) if isinstance(reject, Orphan) else str(reject)
        shown = old_key if type(old_key) in (int, float, type(None)) else str(old_key).encode(errors="replace").decode()
        self._count("rejected")
        if held and recorded is not None:
            self.entries.append(_keep(old_key, recorded, "held_reject", latest=1))
        self.rejects.append(RejectedRow(shown, reject.column, reason, int(held)))
        new_id = recorded.new_id if held and recorded is not None else None
        self.parts.add("reject", encode_change(Change("reject", new_id, shown, reason=f"{reject.column}: {reason}")))

    def _word_orphan(self, orphan: Orphan) -> str:
        """An orphan whose parent is in the source says that the parent was rejected."""
        if orphan.old_key is None:
            return f"{orphan.column} is NULL, it must refer to a {orphan.parent}"
        if isinstance(orphan.old_key, str) and not is_unicode(orphan.old_key):
            return str(orphan)  # SQLite cannot be asked for it
        query = f"SELECT 1 FROM map_{orphan.parent}.rejects WHERE old_key = ?"
        if self.parents.execute(query, (orphan.old_key,)).fetchone():
            return f"{orphan.column} {orphan.shown} refers to a {orphan.parent} that was rejected itself"
        return str(orphan)

    def _stage_gone(self, old_key: Any, recorded: Recorded, latest: int) -> None:
        """An item whose row is gone, or whose row id belongs to another thing now. One that we never wrote is not ours
        to delete."""
        if recorded.checksum == NEVER_WRITTEN:
            self.entries.append(_keep(old_key, recorded, "tombstone", latest))
            return
        if self.manifest.policy("deletes") == "keep":
            self._count("kept_back")
            self.entries.append(_keep(old_key, recorded, "kept_delete", latest))
            return
        self._wait(Pending(old_key, recorded.new_id, _keep(old_key, recorded, "tombstone", latest), recorded, None))

    def _wait(self, pending: Pending) -> None:
        self.pending.append(pending)
        if len(self.pending) >= PENDING_ROWS:
            self._decide()

    def _decide(self) -> None:
        """Read what the target holds for the pending changes, and decide each."""
        if not self.pending:
            return
        keys = [pending.new_id for pending in self.pending]
        found = self.dynamodb.read_items(self.table, self.entity.target.key, keys)
        for pending in self.pending:
            self._decide_one(pending, found.get(pending.new_id))
        self.pending.clear()

    def _decide_one(self, pending: Pending, before: TypedItem | None) -> None:
        old_key, recorded, prepared = pending.old_key, pending.recorded, pending.prepared
        held = checksum_item(before) if before is not None else None
        if prepared is None and before is None:  # gone on both sides
            self.entries.append(pending.entry)
            return
        if prepared is not None and held == prepared.checksum:  # the application made the same change
            self._count("unchanged")
            self.entries.append(pending.entry._replace(written=0))
            return
        expected = recorded.checksum if recorded is not None else None
        is_conflict = held != expected
        if is_conflict:
            self._count("conflicts")
            if self.manifest.policy("on_conflict") != "overwrite":
                self._keep_conflict(pending, before)
                return
        if prepared is None:
            self._delete(pending, before)
        elif before is None:
            self._put(old_key, prepared, pending.entry)
        else:
            self._update(pending, before, is_conflict)

    def _keep_conflict(self, pending: Pending, before: TypedItem | None) -> None:
        self._count("kept_back")
        reason = (
            "deleted in the target since we wrote it" if before is None else "changed in the target since we wrote it"
        )
        if pending.recorded is None:
            reason = "already in the target, and not ours"
            entry = pending.entry._replace(checksum=NEVER_WRITTEN, state="kept_conflict", written=0)
        else:
            # The row is the same thing as before, whatever became of its item; one that is gone resolves no reference.
            state: State = "kept_conflict" if pending.prepared else "kept_delete"
            entry = _keep(pending.old_key, pending.recorded, state, pending.entry.latest)
            entry = entry._replace(identity=pending.entry.identity)
        self.entries.append(entry)
        item = pending.prepared.item if pending.prepared else None
        change = Change("conflict", pending.new_id, pending.old_key, before=before, item=item, reason=reason)
        self.parts.add("conflict", encode_change(change))

    def _delete(self, pending: Pending, before: TypedItem | None) -> None:
        assert before is not None
        units = self.builder.count_write_units(before, measure_item(before))
        self._count("deleted")
        self._count("write_units", units)
        self.entries.append(pending.entry._replace(written=1))
        self.parts.add("delete", encode_change(Change("delete", pending.new_id, pending.old_key, units, before=before)))

    def _update(self, pending: Pending, before: TypedItem, is_conflict: bool) -> None:
        """Attributes that the application added survive: in an item of which not all is ours, those that the mapping
        does not name."""
        assert pending.prepared is not None
        recorded = pending.recorded
        keeps = is_conflict or (recorded is not None and recorded.row_checksum is not None)
        kept = {n: v for n, v in before.items() if n not in self.entity.attributes and n != self.entity.target.key}
        merged = self.builder.merge(pending.prepared, kept if keeps else {})
        row_checksum = pending.prepared.checksum if merged.checksum != pending.prepared.checksum else None
        self._count("updated")
        self._count("write_units", merged.write_units)
        self.entries.append(pending.entry._replace(checksum=merged.checksum, row_checksum=row_checksum))
        change = Change(
            "update",
            pending.new_id,
            pending.old_key,
            merged.write_units,
            merged.checksum.hex(),
            before,
            merged.item,
            "changed in the target since we wrote it: overwritten" if is_conflict else None,
        )
        self.parts.add("update", encode_change(change))

    def _flush_entries(self) -> None:
        add_entries(self.id_map, self.entries)
        add_rejects(self.id_map, self.rejects)
        self.entries.clear()
        self.rejects.clear()


def _keep(old_key: Any, recorded: Recorded, state: State, latest: int) -> Entry:
    """The head's entry in another state."""
    return Entry(
        old_key,
        recorded.generation,
        latest,
        recorded.new_id,
        recorded.identity,
        recorded.checksum,
        recorded.row_checksum,
        recorded.first_seen,
        state,
        0,
    )
