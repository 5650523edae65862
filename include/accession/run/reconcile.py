"""Reconcile: decide what to do with each row, by the head's record and the item that the target has now.

Each decision is written at once, as entries and rejects of the ID map and as lines of the change set. Memory does not
grow with the number of rows.
"""

import sqlite3
from collections import Counter
from typing import Any, NamedTuple

from accession.artifacts import (
    Change,
    Entry,
    EntryState,
    PartWriter,
    RejectedRow,
    add_entries,
    add_rejects,
    encode_change,
    encode_put,
)
from accession.items import (
    MAX_ITEM_BYTES,
    ItemBuilder,
    ItemKey,
    Prepared,
    Reject,
    RowKey,
    Table,
    TypedItem,
    checksum_item,
    clean_key,
    measure_item,
)
from accession.run.batches import READ_BYTES, READ_KEYS
from accession.run.context import RunContext
from accession.run.match import Match, Recorded, Replaced, Same
from accession.run.table_keys import TableKeys

BATCH_ENTRIES = 2000
READ_UNIT_BYTES = 4096  # of a strongly consistent read (Developer Guide, "DynamoDB throughput capacity")
NEVER_WRITTEN = b"\0" * 32  # checksum of an item that was there before us and is kept: it is a conflict in each run


class Pending(NamedTuple):
    """A change that waits until its item is read from the target. `prepared` is None for a delete.

    `recorded` is the head's record of the item. With `takes_over` it is that of another row, which gave up the key.
    """

    old_key: RowKey
    new_id: ItemKey
    entry: Entry
    recorded: Recorded | None
    prepared: Prepared | None
    takes_over: bool = False


class Reconciler:
    """Decide about the rows of one entity. `close` must be called last: it decides the pending changes.

    `keys` are those of its table.
    """

    def __init__(
        self,
        run: RunContext,
        builder: ItemBuilder,
        id_map: sqlite3.Connection,
        parts: PartWriter,
        attributes: set[str],
        table: Table,
        keys: TableKeys,
    ) -> None:
        self.builder, self.dynamodb, self.id_map, self.parts = builder, run.dynamodb, id_map, parts
        self.table, self.keys = table, keys
        self.ours = attributes | set(self.table.key.names)
        self.on_conflict, self.deletes = run.params.on_conflict, run.params.deletes
        # The tables of a first run are empty, unless the params allow items in them.
        self.reads_target = run.head is not None or run.params.existing_items == "keep"
        self.counts: Counter[str] = Counter()
        self.entries: list[Entry] = []
        self.rejects: list[RejectedRow] = []
        self.pending: list[Pending] = []
        self.pending_bytes = 0
        self.found_bytes = MAX_ITEM_BYTES  # the size that we expect of an item in the target

    def add(self, match: Match, entry: Entry, prepared: Prepared) -> None:
        """Decide about a row that makes an item."""
        self.counts["item_bytes"] += prepared.size
        if type(match) is Same:
            recorded = match.recorded
            if prepared.checksum == (recorded.row_checksum or recorded.checksum):
                self.counts["unchanged"] += 1
                entry = entry._replace(checksum=recorded.checksum, row_checksum=recorded.row_checksum, written=0)
                self._add(entry)
            else:
                self._add_pending(Pending(entry.old_key, entry.new_id, entry, recorded, prepared))
            return
        if type(match) is Replaced:
            self.add_gone(entry.old_key, match.recorded, 0)
        former = self.keys.find_former(entry.new_id)
        if former is not None or self.reads_target:
            takes_over = former is not None
            self._add_pending(Pending(entry.old_key, entry.new_id, entry, former, prepared, takes_over))
        else:
            self._put(entry.old_key, prepared, entry)

    def reject(self, old_key: Any, reject: Reject, recorded: Recorded | None) -> None:
        """Reject a row that cannot be migrated. With `recorded`, its item was migrated earlier and stays as it is."""
        shown = clean_key(old_key)
        self.counts["rejected"] += 1
        if recorded is not None:
            self.counts["outdated"] += 1
            self._add(keep_entry(old_key, recorded, "held_reject", latest=1))
        self.rejects.append(RejectedRow(shown, reject.column, str(reject), int(recorded is not None)))
        new_id = recorded.new_id if recorded is not None else None
        self.parts.add("reject", encode_change(Change("reject", new_id, shown, reason=f"{reject.column}: {reject}")))

    def add_gone(self, old_key: Any, recorded: Recorded, latest: int) -> None:
        """Decide about an item of a row that is gone or became another thing. We delete only items that we wrote."""
        if taker := self.keys.find_taker(recorded.new_id):
            if taker != self.builder.entity.name:  # one map has one entry for a key
                self._add(keep_entry(old_key, recorded, "tombstone", latest))
            return
        if recorded.checksum == NEVER_WRITTEN:
            self._add(keep_entry(old_key, recorded, "tombstone", latest))
        elif self.deletes == "keep":
            self.counts["kept_back"] += 1
            self._add(keep_entry(old_key, recorded, "kept_delete", latest))
        else:
            tombstone = keep_entry(old_key, recorded, "tombstone", latest)
            self._add_pending(Pending(old_key, recorded.new_id, tombstone, recorded, None))

    def _add_pending(self, pending: Pending) -> None:
        """Add a change that depends on the item that the target has."""
        self.pending.append(pending)
        self.pending_bytes += max(self.found_bytes, len(pending.prepared.data) if pending.prepared else 0)
        if len(self.pending) >= READ_KEYS or self.pending_bytes >= READ_BYTES:
            self._decide()

    def _decide(self) -> None:
        """Read the items of the pending changes from the target, and decide each change."""
        if not self.pending:
            return
        keys = [ItemKey(pending.new_id) for pending in self.pending]
        found = self.dynamodb.read_items(self.table, keys)
        # Large items may come again, so the size that we expect falls slowly.
        self.found_bytes = max([self.found_bytes // 2, *map(measure_item, found.values())])
        for pending, key in zip(self.pending, keys, strict=True):
            self._decide_one(pending, found.get(key))
        self.pending.clear()
        self.pending_bytes = 0

    def _decide_one(self, pending: Pending, before: TypedItem | None) -> None:
        old_key, recorded, prepared = pending.old_key, pending.recorded, pending.prepared
        current = checksum_item(before) if before is not None else None
        if prepared is None and before is None:  # gone on both sides
            self._add(pending.entry)
            return
        if prepared is not None and current == prepared.checksum:  # the application made the same change
            self.counts["unchanged"] += 1
            self._add(pending.entry._replace(written=0))
            return
        is_put = pending.takes_over and before is None
        expected = recorded.checksum if recorded is not None and not is_put else None
        is_conflict = current != expected
        if is_conflict:
            self.counts["conflicts"] += 1
            if self.on_conflict != "overwrite":
                self._keep_conflict(pending, before)
                return
        if prepared is None:
            self._delete(pending, before)
        elif before is None:
            self._put(old_key, prepared, pending.entry)
        else:
            self._update(pending, before, is_conflict)

    def _keep_conflict(self, pending: Pending, before: TypedItem | None) -> None:
        self.counts["kept_back"] += 1
        reason = (
            "deleted in the target since we wrote it" if before is None else "changed in the target since we wrote it"
        )
        if pending.recorded is None or pending.takes_over:
            reason = "already in the target, and not ours"
            entry = pending.entry._replace(checksum=NEVER_WRITTEN, state="kept_conflict", written=0)
        else:
            # The row is still the same thing, whatever happened to its item. A row that is gone resolves no reference.
            state: EntryState = "kept_conflict" if pending.prepared else "kept_delete"
            entry = keep_entry(pending.old_key, pending.recorded, state, pending.entry.latest)
            entry = entry._replace(identity=pending.entry.identity)
        self._add(entry)
        item = pending.prepared.item if pending.prepared else None
        change = Change("conflict", pending.new_id, pending.old_key, before=before, item=item, reason=reason)
        self.parts.add("conflict", encode_change(change))

    def _delete(self, pending: Pending, before: TypedItem | None) -> None:
        assert before is not None
        units = self.builder.count_write_units(before, measure_item(before))
        self.counts["deleted"] += 1
        self.counts["write_units"] += units
        self._count_reread(before)
        self._add(pending.entry._replace(written=1))
        self.parts.add("delete", encode_change(Change("delete", pending.new_id, pending.old_key, units, before=before)))

    def _update(self, pending: Pending, before: TypedItem, is_conflict: bool) -> None:
        """Update an item. If not all of it is ours, it keeps the attributes that no run of ours has written."""
        assert pending.prepared is not None
        recorded = pending.recorded
        keeps_foreign = is_conflict or (recorded is not None and recorded.row_checksum is not None)
        keeps_foreign = keeps_foreign and not pending.takes_over
        foreign = {name: value for name, value in before.items() if name not in self.ours}
        try:
            merged = self.builder.merge(pending.prepared, foreign if keeps_foreign else {})
        except Reject as reject:
            self.reject(pending.old_key, reject, recorded)
            return
        row_checksum = pending.prepared.checksum if merged.checksum != pending.prepared.checksum else None
        self.counts["updated"] += 1
        self.counts["write_units"] += merged.write_units
        self._count_reread(before)
        self._add(pending.entry._replace(checksum=merged.checksum, row_checksum=row_checksum))
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

    def _count_reread(self, before: TypedItem) -> None:
        self.counts["reread_units"] += -(-measure_item(before) // READ_UNIT_BYTES)

    def _put(self, old_key: Any, prepared: Prepared, entry: Entry) -> None:
        counts = self.counts
        counts["put"] += 1
        counts["write_units"] += prepared.write_units
        counts["put_bytes"] += len(prepared.data)
        self._add(entry)
        self.parts.add("put", encode_put(entry.new_id, old_key, prepared.write_units, prepared.checksum, prepared.data))

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if len(self.entries) + len(self.rejects) >= BATCH_ENTRIES:
            self._flush()

    def _flush(self) -> None:
        add_entries(self.id_map, self.entries)
        add_rejects(self.id_map, self.rejects)
        self.entries.clear()
        self.rejects.clear()

    def close(self) -> None:
        """Decide the changes that are pending, and write the entries and rejects that are buffered."""
        self._decide()
        self._flush()


def keep_entry(old_key: Any, recorded: Recorded, state: EntryState, latest: int) -> Entry:
    """Return the head's entry, with another state."""
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
