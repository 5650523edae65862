"""Rollback: undo the change set backwards until the tables are what they were before the run, and prove it.

First, deleted and updated items are restored, parents first. Then created items are deleted, children first. Each write
has the inverse condition. An item that the application changed since is a conflict: it is listed and kept.
"""

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from accession.artifacts import Change, Part, Rollback, Store, Undone
from accession.commands import show_rollback
from accession.dynamodb import Delete, DynamoDB, PutAbsent, Update
from accession.errors import ConflictError, RefusedError
from accession.items import ItemKey, TypedItem
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.lineage import expect_entities
from accession.run.migrate import READ_KEYS, find_key, is_same_item, split_batches
from accession.target import LogRecord, State, append_record, load_state, reopen_head, take_over

logger = logging.getLogger(__name__)

LISTED = 1000  # conflicts in rollback.json
STEPS = {"put": "migrate", "update": "migrate", "delete": "remove"}  # the step that executes each kind of change


def take_for_undo(store: Store, run: str) -> State:
    """Take the target to undo `run`, which has it open or was committed last.

    The caller must wait (`settle`) before it writes. Raises RefusedError if the target is sealed, or if another run
    must be undone first.
    """
    state = load_state(store)
    if state is None:
        raise RefusedError(f"Run {run} cannot be undone: no run has written to {store.uri('')}. Check the environment.")
    if state.open is not None and state.open.run == run:
        return take_over(store, run)
    return reopen_head(store, run)


def undo_run(run: RunContext, dynamodb: DynamoDB, *, epoch: int, by: str, accept_conflicts: bool = False) -> Rollback:
    """Undo the writes of the run, prove it, write `rollback.json`, close the target and record it. Safe to repeat.

    Raises ConflictError if the application changed items since and `accept_conflicts` is not set. Everything else is
    undone then, and the target stays open.
    """
    undo = _Undo(run, dynamodb)
    started = datetime.now(UTC).isoformat()
    units = dynamodb.consumed_write_units
    undo.undo_all()
    undo.prove()
    rollback = Rollback(
        run=run.name,
        by=by,
        entities=undo.count_results(),
        conflicts=list(undo.conflicts.values())[:LISTED],
        accepted=accept_conflicts,
        proved=True,
        write_units=dynamodb.consumed_write_units - units,
        started_at=started,
        ended_at=datetime.now(UTC).isoformat(),
    )
    digest = run.store.put(run.folder.path("rollback.json"), rollback.dump())
    is_undone = not undo.conflicts or accept_conflicts
    _record(run, epoch, by, len(undo.conflicts), digest, is_undone)
    if not is_undone:
        raise ConflictError(_explain_conflicts(run, list(undo.conflicts.values())))
    return rollback


def _explain_conflicts(run: RunContext, conflicts: list[dict[str, Any]]) -> str:
    first, manifest = conflicts[0], run.manifest
    return (
        f"Run {manifest.run} is undone except for {len(conflicts):,} items that the application changed since. They "
        f"are kept. The first is {first['key']} in {first['table']}; all are in {run.folder.uri('rollback.json')}. "
        "The target stays open. To close it and leave them as they are:\n"
        f"  {show_rollback(manifest.environment, manifest.run, manifest.mapping, accept_conflicts=True)}"
    )


def _record(run: RunContext, epoch: int, by: str, conflicts: int, digest: str, is_undone: bool) -> LogRecord:
    store, manifest = run.store, run.manifest

    def change(state: State) -> dict[str, Any]:
        if not is_undone:
            return {}
        return {"closed": True, "head": manifest.parent if state.head == manifest.run else state.head}

    note = f"{conflicts:,} conflicts {'accepted' if is_undone else 'left'}" if conflicts else "proved"
    artifacts = {run.folder.path("rollback.json"): digest}
    state = load_state(store)
    if state is not None and state.head != manifest.run:
        # The run was never committed, so this may be the only record of the artifacts that it wrote.
        artifacts |= {path: store.hash(path) or "" for path in store.list(run.folder.path())}
        artifacts[manifest.snapshot.path] = manifest.snapshot.sha256
    return append_record(
        store,
        action="undo",
        by=by,
        run=manifest.run,
        status="undone" if is_undone else "conflicts",
        note=note,
        artifacts=artifacts,
        epoch=epoch,
        change=change,
    )


class _Undo:
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
            for batch in self._read_batches(name, part, op):
                self._undo_batch(name, op, batch)
                progress.add(len(batch))
            progress.finish()

    def _list_parts(self, name: str, op: str) -> Iterator[Part]:
        """List the parts of an entity that have changes of this kind and were executed, the last one first."""
        for part in reversed(self.staged[name].parts):
            if getattr(part, op) and (self.is_committed or self.run.folder.was_started(name, part.part, STEPS[op])):
                yield part

    def _read_batches(self, name: str, part: Part, op: str) -> Iterator[list[Change]]:
        changes = self.run.folder.read_changes(name, part)
        return split_batches((change for change in changes if change.op == op), READ_KEYS)

    def _undo_batch(self, name: str, op: str, batch: list[Change]) -> None:
        """Undo the changes of items that are as the run left them. Items that changed since are conflicts."""
        found = self._read_items(name, batch)
        ready = []
        for change in batch:
            item = found.get(find_key(change))
            if is_same_item(item, change.before) or (name, change.key) in self.not_written:
                self.counts[name]["already"] += 1
            elif is_same_item(item, change.item):
                ready.append(change)
            else:
                self._add_conflict(name, change, item)
        by_key = {find_key(change): change for change in ready}
        for write, succeeded in self._write_inverse(name, op, ready):
            change = by_key[write.key]
            if succeeded or is_same_item(self._read_item(name, change), change.before):
                self.counts[name]["deleted" if op == "put" else "restored"] += 1
            else:
                self._add_conflict(name, change, self._read_item(name, change))

    def _write_inverse(
        self, name: str, op: str, changes: list[Change]
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
        table = self.staged[name].table
        reason = "deleted by the application since" if item is None else "changed by the application since"
        logger.warning("undo %s %s: %s, so it is left as it is", table, change.key, reason)
        self.conflicts[name, change.key or ""] = {
            "entity": name,
            "table": table,
            "key": change.key,
            "old_key": change.old_key,
            "op": change.op,
            "reason": reason,
        }

    def prove(self) -> None:
        """Read all items again. Each must be what it was before the run, or it is a conflict."""
        for name in self.order:
            for op in STEPS:
                for part in self._list_parts(name, op):
                    for batch in self._read_batches(name, part, op):
                        self._prove_batch(name, batch)

    def _prove_batch(self, name: str, batch: list[Change]) -> None:
        found = self._read_items(name, batch)
        for change in batch:
            item = found.get(find_key(change))
            is_known = (name, change.key) in self.not_written or (name, change.key) in self.conflicts
            if not is_known and not is_same_item(item, change.before):
                self._add_conflict(name, change, item)

    def count_results(self) -> dict[str, Undone]:
        """Return the numbers of each entity."""
        conflicts = Counter(entity for entity, _ in self.conflicts)
        return {
            name: Undone(table=self.staged[name].table, conflicts=conflicts[name], **counts)
            for name, counts in self.counts.items()
        }
