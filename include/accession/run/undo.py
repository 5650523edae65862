"""The undo of a run's changes in the tables: follow them backwards, then prove the result.

First, deleted and updated items are restored, parents first. Then created items are deleted, children first. Each write
has the inverse condition. An item that the application changed since is a conflict: it is listed and kept.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

from accession.artifacts import Change, Part, PartStep, Undone
from accession.dynamodb import Delete, DynamoDB, PutAbsent, Update
from accession.items import ItemKey, TypedItem, is_same_item
from accession.progress import Progress
from accession.run.batches import FRESH_KEYS, READ_KEYS, measure_change, split_reads
from accession.run.context import RunContext
from accession.run.lineage import expect_entities
from accession.run.migrate import find_key
from accession.target import load_state

logger = logging.getLogger(__name__)

STEPS = {"put": "migrate", "update": "migrate", "delete": "remove"}  # the step that executes each kind of change


class Undo:
    """The undo of one run: it follows the changes backwards, and counts the results."""

    def __init__(self, run: RunContext, dynamodb: DynamoDB) -> None:
        self.run, self.dynamodb = run, dynamodb
        state = load_state(run.store)
        self.is_committed = state is not None and state.head == run.name  # if so, every part was executed
        self.order = expect_entities(run.folder, run.mapping)  # the mapping may have more entities by now
        self.staged = {name: run.folder.load_staged(name) for name in self.order}
        self.counts = {name: dict.fromkeys(("restored", "deleted", "already"), 0) for name in self.order}
        self.conflicts: dict[tuple[str, str], dict[str, Any]] = {}
        # The writers left these items alone because the application had changed them, so there is nothing to undo.
        self.not_written = {
            (name, conflict.key)
            for name in self.order
            for conflict in run.folder.find_write_conflicts(name)
            if conflict.checksum is not None
        }
        self.begun = run.folder.list_attempts().keys()

    def undo_all(self) -> None:
        """Restore the deleted and updated items, parents first; then delete the created ones, children first."""
        for name in self.order:
            self._undo_changes(name, "delete")
            self._undo_changes(name, "update")
        for name in reversed(self.order):
            self._undo_changes(name, "put")

    def _undo_changes(self, name: str, op: str) -> None:
        for part in self._list_parts(name, op):
            progress = Progress(f"undo {op}s of {name} part {part.part}", getattr(part, op), "items")
            self._undo_part(name, op, part, progress)
            progress.finish()

    def _list_parts(self, name: str, op: str) -> Iterator[Part]:
        """List the parts of an entity that have changes of this kind and were executed, the last one first."""
        for part in reversed(self.staged[name].parts):
            if getattr(part, op) and (self.is_committed or PartStep(name, part.part, STEPS[op]) in self.begun):
                yield part

    def _read_batches(self, name: str, part: Part, op: str, keys: int) -> Iterator[list[Change]]:
        changes = self.run.folder.read_changes(name, part)
        return split_reads((change for change in changes if change.op == op), measure_change, keys)

    def _undo_part(self, name: str, op: str, part: Part, progress: Progress) -> None:
        """Undo the changes of items that are as the run left them. Items that changed since are conflicts.

        The items are read a few at a time, just before the writes.
        """
        ready: dict[ItemKey, Change] = {}  # the changes that are being undone

        def select_ready() -> Iterator[Change]:
            for batch in self._read_batches(name, part, op, FRESH_KEYS):
                found = self._read_items(name, batch)
                for change in batch:
                    item = found.get(find_key(change))
                    is_ours, was_left = is_same_item(item, change.item), (name, change.key) in self.not_written
                    if is_same_item(item, change.before) or (was_left and not is_ours):
                        self.counts[name]["already"] += 1
                    elif is_ours and not was_left:
                        ready[find_key(change)] = change
                        yield change
                    else:
                        self._add_conflict(name, change, item)
                progress.add(len(batch))

        for write, succeeded in self._write_inverse(name, op, select_ready()):
            change = ready.pop(write.key)
            if succeeded or is_same_item(self._read_item(name, change), change.before):
                self.counts[name]["deleted" if op == "put" else "restored"] += 1
            else:
                self._add_conflict(name, change, self._read_item(name, change))

    def _write_inverse(
        self, name: str, op: str, changes: Iterator[Change]
    ) -> Iterator[tuple[Update | Delete | PutAbsent, bool]]:
        """Write the inverse of each change, and yield each write with whether its condition was met."""
        table = self.run.find_table(self.staged[name])
        match op:
            case "put":
                deletes = (Delete(find_key(change), change.item or {}) for change in changes)
                yield from self.dynamodb.delete_items(table, deletes)
            case "update":
                updates = (Update(find_key(change), change.item or {}, change.before or {}) for change in changes)
                yield from self.dynamodb.update_items(table, updates)
            case _:
                puts = (PutAbsent(find_key(change), change.before or {}) for change in changes)
                yield from self.dynamodb.put_absent_items(table, puts)

    def _read_items(self, name: str, changes: list[Change]) -> dict[ItemKey, TypedItem]:
        table = self.run.find_table(self.staged[name])
        return self.dynamodb.read_items(table, [find_key(change) for change in changes])

    def _read_item(self, name: str, change: Change) -> TypedItem | None:
        return self._read_items(name, [change]).get(find_key(change))

    def _add_conflict(self, name: str, change: Change, item: TypedItem | None) -> None:
        table, mask = self.staged[name].table, self.run.find_mask(name)
        reason = "deleted by the application since" if item is None else "changed by the application since"
        logger.warning("undo %s %s: %s, so it is left as it is", table, mask.show(change.key), reason)
        self.conflicts[name, change.key or ""] = {
            "entity": name,
            "table": table,
            "key": mask.cover(change.key),
            "old_key": mask.cover(change.old_key),
            "op": change.op,
            "reason": reason,
        }

    def prove(self) -> None:
        """Read all items again. Each must be what it was before the run, or it is a conflict."""
        for name in self.order:
            for op in STEPS:
                for part in self._list_parts(name, op):
                    for batch in self._read_batches(name, part, op, READ_KEYS):
                        self._prove_batch(name, batch)

    def _prove_batch(self, name: str, batch: list[Change]) -> None:
        found = self._read_items(name, batch)
        for change in batch:
            item = found.get(find_key(change))
            was_left = (name, change.key) in self.not_written and not is_same_item(item, change.item)
            is_known = was_left or (name, change.key) in self.conflicts
            if not is_known and not is_same_item(item, change.before):
                self._add_conflict(name, change, item)

    def count_results(self) -> dict[str, Undone]:
        """Return the numbers of each entity."""
        conflicts = Counter(entity for entity, _ in self.conflicts)
        return {
            name: Undone(table=self.staged[name].table, conflicts=conflicts[name], **counts)
            for name, counts in self.counts.items()
        }
