"""Migrate: execute the parts of a change set; `remove_items` executes the deletes, children first.

A part that was begun before (a retry, a cleared task, a resumed run) reads the target first and writes only what is not
done yet, so nothing that the application changed in between is overwritten. What fails its condition and is not already
done is a conflict: listed, kept, and under `on_conflict=refuse` an error at the end of the part.
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
    """Consecutive lists of at most `size`."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def migrate_part(run: RunContext, name: str, number: int, dynamodb: DynamoDB) -> Execution:
    """Write the puts and updates of one part. Safe to repeat. Raises RefusedError for conflicts under that policy."""
    index = run.folder.load_staged(name)
    part = index.parts[number]
    execution = _PartExecution(run, index, part, "migrate", dynamodb)
    if part.put:
        execution.put_items()
    if part.update:
        execution.update_items()
    return execution.finish()


def remove_items(run: RunContext, dynamodb: DynamoDB) -> list[Execution]:
    """Delete what the change set deletes, children first. Safe to repeat."""
    executed = []
    for name in reversed(run.mapping.order):
        index = run.folder.load_staged(name)
        for part in index.parts:
            if part.delete:
                execution = _PartExecution(run, index, part, "remove", dynamodb)
                execution.delete_items()
                executed.append(execution.finish())
    return executed


class _PartExecution:
    def __init__(self, run: RunContext, index: StagedEntity, part: Part, step: str, dynamodb: DynamoDB) -> None:
        expect_open(run.store, run.name)
        self.run, self.index, self.part, self.step = run, index, part, step
        self.dynamodb, self.table = dynamodb, run.find_table(index)
        self.conflicts: list[WriteConflict] = []
        self.written = self.already = 0
        self.units_before, self.throttled_before = dynamodb.consumed_write_units, dynamodb.throttled
        self.read_before = dynamodb.consumed_read_units
        self.started_at = datetime.now(UTC).isoformat()
        # The mark is made before the first write: whoever finds it cannot know how far the other came.
        mark = run.folder.path_of_mark(index.entity, part.part, step)
        self.is_first = run.store.claim(mark, self.started_at.encode())
        total = part.delete if step == "remove" else part.put + part.update
        self.progress = Progress(f"{step} {index.entity} part {part.part}", total, "items", self._note)

    def _note(self) -> str:
        throttled = self.dynamodb.throttled - self.throttled_before
        return f", {throttled:,} throttled" if throttled else ""

    def put_items(self) -> None:
        """New items. Their keys are hashes, so a part in row order is spread over the partitions already."""
        puts = self._puts()
        if not self.is_first:
            puts = self._absent_puts(puts)
        self.written += self.dynamodb.put_items(self.table.name, puts, written=self.progress.add)

    def _puts(self) -> Iterator[tuple[str, bytes]]:
        for line in self.run.folder.read_lines(self.index.entity, self.part):
            put = split_put(line)
            if put is not None:
                yield put

    def _absent_puts(self, puts: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
        for batch in split_batches(puts, READ_KEYS):
            found = self.dynamodb.read_items(self.table, [ItemKey(key) for key, _ in batch])
            for key, data in batch:
                item = found.get(ItemKey(key))
                if item is None:
                    yield key, data
                elif checksum_item(item) == checksum_item(orjson.loads(data)):
                    self._done(1)
                else:
                    self._conflict(key, None, None, "changed by the application after we wrote it")

    def update_items(self) -> None:
        """Updates, each if the item read just before is what it was when staged, and on the attributes that change.

        A condition cannot say that nothing was added, hence the reading."""
        for batch in split_batches(self._changes("update"), READ_KEYS):
            found = self._read(batch)
            present = []
            for change in batch:
                item = found.get(_find_key(change))
                held = checksum_item(item) if item is not None else None
                if held == checksum_item(change.before or {}):
                    present.append(change)
                elif held == checksum_item(change.item or {}):
                    self._done(1)
                else:
                    self._conflict_of(change, item, tried=not self.is_first)
            updates = (Update(_find_key(change), change.before or {}, change.item or {}) for change in present)
            self._count_all(present, self.dynamodb.update_items(self.table, updates))

    def delete_items(self) -> None:
        """Deletes, each if the item read just before is what it was when staged."""
        for batch in split_batches(self._changes("delete"), READ_KEYS):
            found = self._read(batch)
            present = []
            for change in batch:
                item = found.get(_find_key(change))
                if item is None:
                    self._done(1)
                elif checksum_item(item) != checksum_item(change.before or {}):
                    self._conflict_of(change, item, tried=not self.is_first)
                else:
                    present.append(change)
            deletes = (Delete(_find_key(change), change.before or {}) for change in present)
            self._count_all(present, self.dynamodb.delete_items(self.table, deletes))

    def _read(self, changes: list[Change]) -> dict[ItemKey, TypedItem]:
        return self.dynamodb.read_items(self.table, [_find_key(change) for change in changes])

    def _changes(self, op: str) -> Iterator[Change]:
        changes = self.run.folder.read_changes(self.index.entity, self.part)
        return (change for change in changes if change.op == op)

    def _count_all(self, changes: list[Change], outcomes: Iterable[tuple[Update | Delete, bool]]) -> None:
        by_key = {_find_key(change): change for change in changes}
        for write, succeeded in outcomes:
            self._count(by_key[write.key], succeeded)

    def _count(self, change: Change, succeeded: bool) -> None:
        """A condition that failed is done already where the target holds what we want; else it is a conflict."""
        if succeeded:
            self.written += 1
            self.progress.add(1)
            return
        found = self._read([change]).get(_find_key(change))
        wanted = change.item if self.step == "migrate" else None
        if (found is None) == (wanted is None) and (not found or checksum_item(found) == checksum_item(wanted or {})):
            self._done(1)
        else:
            self._conflict_of(change, found, tried=True)

    def _done(self, number: int) -> None:
        self.already += number
        self.progress.add(number)

    def _conflict_of(self, change: Change, found: TypedItem | None, *, tried: bool) -> None:
        """What the application holds is neither before nor after. `tried`: an earlier attempt may have written it, and
        has where something of ours is in it; that a deleted item was made anew by the application does not show."""
        assert change.key and change.before is not None
        is_ours = change.item is None or (found is not None and _contains_change(found, change.before, change.item))
        written = None if tried and is_ours else checksum_item(change.before).hex()
        self._conflict(change.key, change.old_key, written, "changed by the application after staging")

    def _conflict(self, key: str, old_key: Any, checksum: str | None, reason: str) -> None:
        logger.warning("%s %s %s: %s; left as it is", self.step, self.table.name, key, reason)
        self.conflicts.append(WriteConflict(key=key, old_key=old_key, checksum=checksum, reason=reason))

    def finish(self) -> Execution:
        self.progress.finish()
        executed = Execution(
            entity=self.index.entity,
            part=self.part.part,
            written=self.written,
            already=self.already,
            conflicts=self.conflicts,
            write_units=self.dynamodb.consumed_write_units - self.units_before,
            read_units=self.dynamodb.consumed_read_units - self.read_before,
            throttled=self.dynamodb.throttled - self.throttled_before,
            started_at=self.started_at,
            ended_at=datetime.now(UTC).isoformat(),
        )
        path = self.run.folder.path_of_execution(self.index.entity, self.part.part, self.step)
        self.run.store.put(path, executed.dump())
        if self.conflicts and self.run.params.on_conflict == "refuse":
            first = self.conflicts[0]
            raise RefusedError(
                f"{len(self.conflicts):,} items of {self.table.name} were changed by the application since they were "
                f"staged, the first is {first.key}: they were left as they are. Look at them, then run again, or set "
                "on_conflict=keep."
            )
        return executed


def _find_key(change: Change) -> ItemKey:
    assert change.key
    return ItemKey(change.key)


def _contains_change(found: TypedItem, before: TypedItem, after: TypedItem) -> bool:
    """Whether an item holds anything that a change from `before` to `after` puts there or takes away."""
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    return any(found.get(name) == after.get(name) for name in changed)
