"""The rollback of a run: take the target, undo the run (undo.py), prove it and record the result."""

from typing import Any

from accession.artifacts import Changed, Rollback, Store
from accession.commands import show_rollback
from accession.dynamodb import DynamoDB
from accession.errors import ConflictError, RefusedError
from accession.run.context import RunContext
from accession.run.undo import Undo
from accession.target import (
    LogRecord,
    State,
    append_record,
    expect_open,
    explain_loss,
    find_last_record,
    load_state,
    reopen_head,
    take_over,
)

LISTED = 1000  # conflicts in rollback.json


def find_undone(run: RunContext) -> Rollback | None:
    """Return the finished undo of the run if nothing happened to the run since, else None."""
    state = load_state(run.store)
    if state is None or state.head == run.name or (state.open is not None and state.open.run == run.name):
        return None

    def has_ended(record: LogRecord) -> bool:
        return record.run == run.name and (record.closed or record.head == run.name)

    last = find_last_record(run.store, state, run.manifest.log_sequence, has_ended)
    return run.folder.find_rollback() if last is not None and last.action == "undo" else None


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
    undone then, and the target stays open. Raises FencedError, and changes no record, if another resume or undo took
    the target.
    """
    undo = Undo(run, dynamodb)
    path = run.folder.path("rollback.json")
    earlier = run.store.find(path)
    expect_open(run.store, run.name, epoch)  # after reading `earlier`, so that it is not from a later undo
    started = run.host.timestamp()
    units, read_units = dynamodb.consumed_write_units, dynamodb.consumed_read_units
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
        read_units=dynamodb.consumed_read_units - read_units,
        started_at=started,
        ended_at=run.host.timestamp(),
    )
    try:
        digest = run.store.replace(path, rollback.dump(), earlier)
    except Changed:
        raise explain_loss(run.name, epoch) from None
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
    # This may be the only record of what the run wrote. If it was committed, a resume that this undo overtook may have
    # left attempts and proofs, but never staged files, which are large.
    is_committed = state is not None and state.head == manifest.run
    staged = (run.folder.path("changes/"), run.folder.path("id_map/"))
    paths = (path for path in store.list(run.folder.path()) if not (is_committed and path.startswith(staged)))
    artifacts |= {path: store.hash(path) or "" for path in paths}
    if not is_committed:
        artifacts |= manifest.shared
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
