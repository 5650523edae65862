"""Rollback: follow the parts backwards until the tables are what they were before the run, and prove it.

First what was deleted or updated is restored (parents first), then what was created is deleted (children first), each
under the mirrored condition: an item that the application changed since is a conflict, listed and kept.
"""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from accession.artifacts import Change, Part, Rollback, StagedEntity, Store, Undone
from accession.commands import show_rollback
from accession.dynamodb import Delete, DynamoDB, PutAbsent, Update
from accession.errors import ConflictError, RefusedError
from accession.items import ItemKey, TypedItem, checksum_item
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.lineage import expect_entities
from accession.run.migrate import READ_KEYS, split_batches
from accession.target import LogRecord, State, append_record, load_state, reopen_head, take_over

logger = logging.getLogger(__name__)

LISTED = 1000


def take_for_undo(store: Store, run: str) -> State:
    """Take the target to undo `run`: the one that has it open, or the last committed one.

    The caller waits (`settle`) before it writes. Raises RefusedError naming the run that must be undone first, or the
    seal.
    """
    state = load_state(store)
    if state is None:
        raise RefusedError(f"run {run} cannot be undone: no run ever wrote to {store.uri('')}.")
    if state.open is not None and state.open.run == run:
        return take_over(store, run)
    return reopen_head(store, run)


def undo_run(run: RunContext, dynamodb: DynamoDB, *, epoch: int, by: str, accept_conflicts: bool = False) -> Rollback:
    """Undo what the run wrote, prove it, write `rollback.json`, close the target and record it. Safe to repeat.

    Raises ConflictError when the application changed items since and that is not accepted: everything else is undone,
    the target stays open.
    """
    undoing = _Undoing(run, dynamodb)
    started = datetime.now(UTC).isoformat()
    units = dynamodb.consumed_write_units
    undoing.undo()
    undoing.prove()
    rollback = Rollback(
        run=run.name,
        by=by,
        entities=undoing.results(),
        conflicts=list(undoing.conflicts.values())[:LISTED],
        accepted=accept_conflicts,
        proved=True,
        write_units=dynamodb.consumed_write_units - units,
        started_at=started,
        ended_at=datetime.now(UTC).isoformat(),
    )
    digest = run.store.put(run.folder.path("rollback.json"), rollback.dump())
    is_undone = not undoing.conflicts or accept_conflicts
    _record(run, epoch, by, len(undoing.conflicts), digest, is_undone)
    if not is_undone:
        raise ConflictError(_explain_conflicts(run, list(undoing.conflicts.values())))
    return rollback


def _explain_conflicts(run: RunContext, conflicts: list[dict[str, Any]]) -> str:
    first, manifest = conflicts[0], run.manifest
    return (
        f"run {manifest.run} is undone but for {len(conflicts):,} items that the application changed since; they are "
        f"kept. The first is {first['key']} in {first['table']}, all are in {run.folder.uri('rollback.json')}. "
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
        # It was never committed, so this may be the only record of it, or of what it wrote since the last one.
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


class _Undoing:
    def __init__(self, run: RunContext, dynamodb: DynamoDB) -> None:
        self.run, self.dynamodb = run, dynamodb
        state = load_state(run.store)
        self.is_committed = state is not None and state.head == run.name  # then every part was executed
        self.order = expect_entities(run.store, run.mapping, run.name)  # the mapping may have got more since
        self.indexes = {name: run.folder.load_staged(name) for name in self.order}
        self.counts = {name: dict.fromkeys(("restored", "deleted", "already"), 0) for name in self.order}
        self.conflicts: dict[tuple[str, str], dict[str, Any]] = {}
        # What the writers left alone, as the application had changed the item: there is nothing to undo there.
        self.left = {
            (name, kept.key)
            for name in self.order
            for kept in run.folder.find_write_conflicts(name)
            if kept.checksum is not None
        }

    def undo(self) -> None:
        for name in self.order:
            for part in self._executed_parts(name, "remove", "delete"):
                self._undo_part(name, part, "delete")
            for part in self._executed_parts(name, "migrate", "update"):
                self._undo_part(name, part, "update")
        for name in reversed(self.order):
            for part in self._executed_parts(name, "migrate", "put"):
                self._undo_part(name, part, "put")

    def _executed_parts(self, name: str, step: str, op: str) -> Iterator[Part]:
        for part in reversed(self.indexes[name].parts):
            if getattr(part, op) and (self.is_committed or self.run.folder.was_begun(name, part.part, step)):
                yield part

    def _undo_part(self, name: str, part: Part, op: str) -> None:
        index = self.indexes[name]
        progress = Progress(f"undo {op}s of {name} part {part.part}", getattr(part, op), "items")
        for batch in self._batches(index, part, op):
            found = self._read(index, batch)
            todo = []
            for change in batch:
                held = found.get(_find_key(change))
                if _is_equal(held, change.before) or (name, change.key) in self.left:
                    self.counts[name]["already"] += 1
                elif not _is_equal(held, change.item):
                    self._conflict(index, change, held)
                else:
                    todo.append(change)
            by_key = {_find_key(change): change for change in todo}
            for write, undone in self._undo_all(index, op, todo):
                change = by_key[write.key]
                if undone or _is_equal(self._read(index, [change]).get(_find_key(change)), change.before):
                    self.counts[name]["deleted" if op == "put" else "restored"] += 1
                else:
                    self._conflict(index, change, self._read(index, [change]).get(_find_key(change)))
            progress.add(len(batch))
        progress.finish()

    def _undo_all(
        self, index: StagedEntity, op: str, changes: list[Change]
    ) -> Iterator[tuple[Update | Delete | PutAbsent, bool]]:
        """The mirrored writes, each with whether its condition held."""
        table = self.run.find_table(index)
        match op:
            case "put":
                deletes = (Delete(_find_key(change), change.item or {}) for change in changes)
                yield from self.dynamodb.delete_items(table, deletes)
            case "update":
                updates = (Update(_find_key(change), change.item or {}, change.before or {}) for change in changes)
                yield from self.dynamodb.update_items(table, updates)
            case _:
                puts = (PutAbsent(_find_key(change), change.before or {}) for change in changes)
                yield from self.dynamodb.put_absent_items(table, puts)

    def _batches(self, index: StagedEntity, part: Part, op: str) -> Iterator[list[Change]]:
        changes = self.run.folder.read_changes(index.entity, part)
        return split_batches((change for change in changes if change.op == op), READ_KEYS)

    def _read(self, index: StagedEntity, changes: list[Change]) -> dict[ItemKey, TypedItem]:
        return self.dynamodb.read_items(self.run.find_table(index), [_find_key(change) for change in changes])

    def _conflict(self, index: StagedEntity, change: Change, held: TypedItem | None) -> None:
        reason = "deleted by the application since" if held is None else "changed by the application since"
        logger.warning("undo %s %s: %s; left as it is", index.table, change.key, reason)
        self.conflicts[index.entity, change.key or ""] = {
            "entity": index.entity,
            "table": index.table,
            "key": change.key,
            "old_key": change.old_key,
            "op": change.op,
            "reason": reason,
        }

    def prove(self) -> None:
        """Read everything again: each item is what it was before the run, or a conflict."""
        for name, index in self.indexes.items():
            for op, step in (("put", "migrate"), ("update", "migrate"), ("delete", "remove")):
                for part in self._executed_parts(name, step, op):
                    for batch in self._batches(index, part, op):
                        found = self._read(index, batch)
                        for change in batch:
                            held = found.get(_find_key(change))
                            known = (name, change.key) in self.left or (name, change.key) in self.conflicts
                            if not known and not _is_equal(held, change.before):
                                self._conflict(index, change, held)

    def results(self) -> dict[str, Undone]:
        kept = [entity for entity, _ in self.conflicts]
        return {
            name: Undone(table=self.indexes[name].table, conflicts=kept.count(name), **counts)
            for name, counts in self.counts.items()
        }


def _find_key(change: Change) -> ItemKey:
    assert change.key
    return ItemKey(change.key)


def _is_equal(one: TypedItem | None, other: TypedItem | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or checksum_item(one) == checksum_item(other)
