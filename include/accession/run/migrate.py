"""Migrate: execute the parts of a change set. `remove_items` executes the deletes, children first.

If a part was started before (a retry, a cleared task, a resumed run), its items are read first and only those that are
not done yet are written, so nothing that the application changed in between is overwritten. If a condition fails and
the change is not done already, it is a conflict. Conflicts are listed and left as they are; under `on_conflict=refuse`
they raise an error at the end of the part.
"""

import logging
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, TypeVar

import orjson

from accession.artifacts import Change, Execution, Part, StagedEntity, WriteConflict, split_put
from accession.dynamodb import Delete, DynamoDB, Update
from accession.errors import RefusedError
from accession.items import ItemKey, TypedItem, checksum_item
from accession.progress import Progress
from accession.run.context import RunContext
from accession.target import expect_open

logger = logging.getLogger(__name__)

T = TypeVar("T")

READ_KEYS = 1000  # keys read from the target at once, ten BatchGetItem requests


def split_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield consecutive lists of at most `size` items."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def find_key(change: Change) -> ItemKey:
    """Return the key of a change that has an item."""
    assert change.key
    return ItemKey(change.key)


def is_same_item(one: TypedItem | None, other: TypedItem | None) -> bool:
    """Tell whether two items are equal, or both are absent."""
    if one is None or other is None:
        return one is other
    return one == other or checksum_item(one) == checksum_item(other)


def migrate_part(run: RunContext, name: str, number: int, dynamodb: DynamoDB) -> Execution:
    """Write the puts and updates of one part. Safe to repeat. Raises RefusedError if a policy forbids its conflicts."""
    staged = run.folder.load_staged(name)
    part = staged.parts[number]
    execution = _PartExecution(run, staged, part, "migrate", dynamodb)
    if part.put:
        execution.put_items()
    if part.update:
        execution.update_items()
    return execution.finish()


def remove_items(run: RunContext, dynamodb: DynamoDB) -> list[Execution]:
    """Delete the items that the change set deletes, children first. Safe to repeat."""
    executions = []
    for name in reversed(run.mapping.order):
        staged = run.folder.load_staged(name)
        for part in staged.parts:
            if part.delete:
                execution = _PartExecution(run, staged, part, "remove", dynamodb)
                execution.delete_items()
                executions.append(execution.finish())
    return executions


class _PartExecution:
    """One execution of a part by one step: `migrate` or `remove`."""

    def __init__(self, run: RunContext, staged: StagedEntity, part: Part, step: str, dynamodb: DynamoDB) -> None:
        expect_open(run.store, run.name)
        self.run, self.staged, self.part, self.step = run, staged, part, step
        self.dynamodb, self.table = dynamodb, run.find_table(staged)
        self.conflicts: list[WriteConflict] = []
        self.written = self.already = 0
        self.write_units_before, self.read_units_before = dynamodb.consumed_write_units, dynamodb.consumed_read_units
        self.throttled_before = dynamodb.throttled
        self.started_at = datetime.now(UTC).isoformat()
        # The mark is written before the first item: whoever finds it cannot know how far the earlier execution came.
        mark = run.folder.path_of_mark(staged.entity, part.part, step)
        self.is_first = run.store.claim(mark, self.started_at.encode())
        total = part.delete if step == "remove" else part.put + part.update
        self.progress = Progress(f"{step} {staged.entity} part {part.part}", total, "items", self._show_throttled)

    def _show_throttled(self) -> str:
        throttled = self.dynamodb.throttled - self.throttled_before
        return f", {throttled:,} throttled" if throttled else ""

    def put_items(self) -> None:
        """Put the new items. Their keys are hashes, so a part in row order is spread over the partitions already."""
        puts = self._read_puts()
        if not self.is_first:
            puts = self._select_absent(puts)
        self.written += self.dynamodb.put_items(self.table.name, puts, written=self.progress.add)

    def _read_puts(self) -> Iterator[tuple[str, bytes]]:
        for line in self.run.folder.read_lines(self.staged.entity, self.part):
            put = split_put(line)
            if put is not None:
                yield put

    def _select_absent(self, puts: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        """Yield the puts whose item is not in the target. One that is there and differs is a conflict."""
        for batch in split_batches(puts, READ_KEYS):
            found = self.dynamodb.read_items(self.table, [ItemKey(key) for key, _ in batch])
            for key, data in batch:
                item = found.get(ItemKey(key))
                if item is None:
                    yield key, data
                elif is_same_item(item, orjson.loads(data)):
                    self._count_done()
                else:
                    self._add_conflict(key, None, None, "changed by the application after we wrote it")

    def update_items(self) -> None:
        """Update the items that are still as they were staged. The conditions cover the attributes that change."""
        for changes in self._select_ready("update"):
            updates = (Update(find_key(change), change.before or {}, change.item or {}) for change in changes)
            self._count_outcomes(changes, self.dynamodb.update_items(self.table, updates))

    def delete_items(self) -> None:
        """Delete the items that are still as they were staged."""
        for changes in self._select_ready("delete"):
            deletes = (Delete(find_key(change), change.before or {}) for change in changes)
            self._count_outcomes(changes, self.dynamodb.delete_items(self.table, deletes))

    def _select_ready(self, op: str) -> Iterator[list[Change]]:
        """Read the items of the part's changes. Yield the changes of items that are as they were staged, in batches.

        A change that is done already is counted, and any other is a conflict. The items are read because a condition
        cannot express that the application added no attribute.
        """
        changes = self.run.folder.read_changes(self.staged.entity, self.part)
        for batch in split_batches((change for change in changes if change.op == op), READ_KEYS):
            found = self._read_items(batch)
            ready = []
            for change in batch:
                item = found.get(find_key(change))
                if is_same_item(item, change.before):
                    ready.append(change)
                elif is_same_item(item, change.item):
                    self._count_done()
                else:
                    self._add_change_conflict(change, item, may_be_written=not self.is_first)
            yield ready

    def _read_items(self, changes: list[Change]) -> dict[ItemKey, TypedItem]:
        return self.dynamodb.read_items(self.table, [find_key(change) for change in changes])

    def _count_outcomes(self, changes: list[Change], outcomes: Iterable[tuple[Update | Delete, bool]]) -> None:
        """Count the writes that succeeded. If a condition failed, the change is done already, or it is a conflict."""
        by_key = {find_key(change): change for change in changes}
        for write, succeeded in outcomes:
            change = by_key[write.key]
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
        logger.warning("%s %s %s: %s, so it is left as it is", self.step, self.table.name, key, reason)
        self.conflicts.append(WriteConflict(key=key, old_key=old_key, checksum=checksum, reason=reason))

    def finish(self) -> Execution:
        """Write the result of the execution. Raises RefusedError if there are conflicts and the policy forbids them."""
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
            started_at=self.started_at,
            ended_at=datetime.now(UTC).isoformat(),
        )
        path = self.run.folder.path_of_execution(self.staged.entity, self.part.part, self.step)
        self.run.store.put(path, execution.dump())
        if self.conflicts and self.run.params.on_conflict == "refuse":
            raise RefusedError(
                f"{len(self.conflicts):,} items of {self.table.name} were changed by the application since they were "
                f"staged; the first is {self.conflicts[0].key}. They were left as they are. Look at them, then run "
                "again, or set on_conflict=keep."
            )
        return execution


def _contains_change(item: TypedItem, before: TypedItem, after: TypedItem) -> bool:
    """Tell whether an item contains any of the changes from `before` to `after`."""
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return any(item.get(name) == after.get(name) for name in changed)
