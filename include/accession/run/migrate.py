"""Migrate: execute the parts of a change set. `remove_items` executes the deletes, children first.

If a part was started before (a retry, a cleared task, a resumed run), its items are read first and only those that are
not done yet are written, so nothing that the application changed in between is overwritten. If a condition fails and
the change is not done already, it is a conflict. Conflicts are listed and left as they are; under `on_conflict=refuse`
they raise an error at the end of the part.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from accession.artifacts import (
    Attempt,
    Change,
    Execution,
    Part,
    PartStep,
    StagedEntity,
    TableLimit,
    WriteConflict,
    split_put,
)
from accession.dynamodb import Delete, DynamoDB, Update
from accession.errors import RefusedError
from accession.items import ItemKey, TypedItem, checksum_item, is_same_item
from accession.progress import Progress
from accession.run.attempt import begin_attempt, find_done, find_limit, keep_result
from accession.run.batches import FRESH_KEYS, measure_change, split_reads
from accession.run.context import RunContext
from accession.target import expect_open

logger = logging.getLogger(__name__)


def find_key(change: Change) -> ItemKey:
    """Return the key of a change that has an item."""
    assert change.key
    return ItemKey(change.key)


def migrate_part(run: RunContext, name: str, number: int, epoch: int) -> Execution:
    """Write the puts and updates of one part. Safe to repeat. Raises RefusedError if a policy forbids its conflicts."""
    staged = run.folder.load_staged(name)
    return _execute(run, staged, staged.parts[number], "migrate", epoch)


def remove_items(run: RunContext, epoch: int) -> list[Execution]:
    """Delete the items that the change set deletes, children first. Safe to repeat."""
    entities = (run.folder.load_staged(name) for name in reversed(run.mapping.order))
    return [_execute(run, staged, part, "remove", epoch) for staged in entities for part in staged.parts if part.delete]


def _execute(run: RunContext, staged: StagedEntity, part: Part, step: str, epoch: int) -> Execution:
    """Execute a step of a part, unless it is done. The writer stops if a newer attempt begins."""
    expect_open(run.store, run.name)
    at = PartStep(staged.entity, part.part, step)
    if done := find_done(run.folder, at, epoch):
        return done
    attempt, is_first = begin_attempt(run.folder, at, epoch)
    if kept := keep_result(run.folder, attempt):
        return kept
    cap, newer = run.params.write_units_per_second, run.folder.path_of_mark(attempt.next)
    limit = find_limit(run.folder, at, epoch)
    with run.connect_writer(epoch, cap=cap, newer=newer, limit=limit) as dynamodb:
        execution = _PartExecution(run, staged, part, attempt, is_first, dynamodb)
        if step == "remove":
            execution.delete_items()
        if part.put and step == "migrate":
            execution.put_items()
        if part.update and step == "migrate":
            execution.update_items()
        return execution.finish()


class _PartExecution:
    """One attempt to execute a part by one step: `migrate` or `remove`."""

    def __init__(
        self, run: RunContext, staged: StagedEntity, part: Part, attempt: Attempt, is_first: bool, dynamodb: DynamoDB
    ) -> None:
        self.run, self.staged, self.part, self.step = run, staged, part, attempt.at.step
        self.attempt, self.is_first = attempt, is_first
        self.dynamodb, self.table = dynamodb, run.find_table(staged)
        self.conflicts: list[WriteConflict] = []
        self.changed_puts: set[str] = set()  # keys of items that the application changed after we put them
        self.ready: dict[ItemKey, Change] = {}  # the changes that are being written
        self.written = self.already = 0
        self.write_units_before, self.read_units_before = dynamodb.consumed_write_units, dynamodb.consumed_read_units
        self.throttled_before = dynamodb.throttled
        self.started_at = self.run.host.timestamp()
        total = part.delete if self.step == "remove" else part.put + part.update
        self.progress = Progress(f"{self.step} {staged.entity} part {part.part}", total, "items", self._show_throttled)

    def _show_throttled(self) -> str:
        throttled = self.dynamodb.throttled - self.throttled_before
        return f", {throttled:,} throttled" if throttled else ""

    def put_items(self) -> None:
        """Put the new items, in row order. New ids are hashes, so they are spread over the partitions already."""
        puts = self._read_puts()
        if not self.is_first:
            puts = self._select_absent(puts)
        outcome = self.dynamodb.put_items(self.table, puts, written=self.progress.add)
        self.written += outcome.written
        self._add_put_conflicts(self.changed_puts.union(outcome.conflicts))

    def _read_puts(self) -> Iterator[tuple[str, bytes]]:
        for line in self.run.folder.read_lines(self.staged.entity, self.part):
            put = split_put(line)
            if put is not None:
                yield put

    def _select_absent(self, puts: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """Yield the puts whose item is not in the target. One that is there and differs is a conflict."""
        for batch in split_reads(puts, lambda put: len(put[1])):
            found = self.dynamodb.read_items(self.table, [ItemKey(key) for key, _ in batch])
            for key, data in batch:
                item = found.get(ItemKey(key))
                if item is None:
                    yield key, data
                elif is_same_item(item, orjson.loads(data)):
                    self._count_done()
                else:
                    self.changed_puts.add(key)

    def _add_put_conflicts(self, keys: set[str]) -> None:
        """Add a conflict for each put whose item the application changed. The part has their old keys."""
        if not keys:
            return
        for change in self.run.folder.read_changes(self.staged.entity, self.part):
            if change.op == "put" and change.key in keys:
                self._add_conflict(
                    find_key(change), change.old_key, None, "changed by the application after we wrote it"
                )

    def update_items(self) -> None:
        """Update the items that are still as they were staged. The conditions cover the attributes that change."""
        changes = self._select_ready("update")
        updates = (Update(find_key(change), change.before or {}, change.item or {}) for change in changes)
        self._count_outcomes(self.dynamodb.update_items(self.table, updates))

    def delete_items(self) -> None:
        """Delete the items that are still as they were staged."""
        deletes = (Delete(find_key(change), change.before or {}) for change in self._select_ready("delete"))
        self._count_outcomes(self.dynamodb.delete_items(self.table, deletes))

    def _select_ready(self, op: str) -> Iterator[Change]:
        """Read the items of the part's changes. Yield the changes of items that are as they were staged.

        A change that is done already is counted, and any other is a conflict. The items are read because a condition
        cannot express that the application added no attribute. They are read a few at a time, just before the writes.
        """
        changes = self.run.folder.read_changes(self.staged.entity, self.part)
        for batch in split_reads((change for change in changes if change.op == op), measure_change, FRESH_KEYS):
            found = self._read_items(batch)
            for change in batch:
                item = found.get(find_key(change))
                if is_same_item(item, change.before):
                    self.ready[find_key(change)] = change
                    yield change
                elif is_same_item(item, change.item):
                    self._count_done()
                else:
                    self._add_change_conflict(change, item, may_be_written=not self.is_first)

    def _read_items(self, changes: list[Change]) -> dict[ItemKey, TypedItem]:
        return self.dynamodb.read_items(self.table, [find_key(change) for change in changes])

    def _count_outcomes(self, outcomes: Iterable[tuple[Update | Delete, bool]]) -> None:
        """Count the writes that succeeded. If a condition failed, the change is done already, or it is a conflict."""
        for write, succeeded in outcomes:
            change = self.ready.pop(write.key)
            if succeeded:
                self.written += 1
                self.progress.add(1)
                continue
            item = self._read_items([change]).get(find_key(change))
            if is_same_item(item, change.item):
                self._count_done()
            else:
                self._add_change_conflict(change, item, may_be_written=True)

    def _count_done(self) -> None:
        self.already += 1
        self.progress.add(1)

    def _add_change_conflict(self, change: Change, item: TypedItem | None, *, may_be_written: bool) -> None:
        """Add a conflict of an item that is neither as it was staged nor as the change makes it.

        If an attempt may have written it before the application did, we assume that it was written if the change is a
        delete, or if the item contains any of our changes. An item that the application deleted and recreated cannot
        be detected.
        """
        assert change.key and change.before is not None
        is_ours = change.item is None or (item is not None and _contains_change(item, change.before, change.item))
        checksum = None if may_be_written and is_ours else checksum_item(change.before).hex()
        self._add_conflict(change.key, change.old_key, checksum, "changed by the application after staging")

    def _add_conflict(self, key: str, old_key: Any, checksum: str | None, reason: str) -> None:
        shown = self.table.mask.show(key)
        logger.warning("%s %s %s: %s, so it is left as it is", self.step, self.table.name, shown, reason)
        self.conflicts.append(WriteConflict(key=key, old_key=old_key, checksum=checksum, reason=reason))

    def finish(self) -> Execution:
        """Write the result of the execution.

        Raises RefusedError if there are conflicts and the policy forbids them, FencedError if another resume or undo
        took the target.
        """
        self.progress.finish()
        execution = Execution(
            entity=self.staged.entity,
            part=self.part.part,
            written=self.written,
            already=self.already,
            conflicts=self.conflicts,
            write_units=self.dynamodb.consumed_write_units - self.write_units_before,
            read_units=self.dynamodb.consumed_read_units - self.read_units_before,
            throttled=self.dynamodb.throttled - self.throttled_before,
            limit=TableLimit(**limit._asdict()) if (limit := self.dynamodb.limit) else None,
            started_at=self.started_at,
            ended_at=self.run.host.timestamp(),
        )
        expect_open(self.run.store, self.run.name, self.attempt.epoch)
        self.run.store.claim(self.run.folder.path_of_execution(self.attempt), execution.dump())
        if self.conflicts and self.run.params.on_conflict == "refuse":
            first = self.table.mask.show(self.conflicts[0].key)
            raise RefusedError(
                f"{len(self.conflicts):,} items of {self.table.name} were changed by the application since they were "
                f"staged; the first is {first}. They were left as they are. Look at them, then run "
                "again, or set on_conflict=keep."
            )
        return execution


def _contains_change(item: TypedItem, before: TypedItem, after: TypedItem) -> bool:
    """Tell whether an item contains any of the changes from `before` to `after`."""
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return any(item.get(name) == after.get(name) for name in changed)
