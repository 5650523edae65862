"""The register and the state in the bucket: how they are read, and how an action changes both.

A record `log/<sequence>.json` is written first, once. It says what follows from it: the head, the seal, and whether the
target closes. Then state.json is swapped. If a process dies between the two, the next one that loads the state finds
the record and rolls the state forward, so an action takes effect when its record is written. A record that names an
epoch counts only while the target is open in that epoch. So a process that freezes before it writes its record, and
wakes after an undo took the target, changes nothing.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from accession.artifacts import Changed, Store
from accession.errors import FencedError, StoreError, TransientError
from accession.target.state import PATH, Action, LogRecord, State, parse_state, roll_forward


def log_path(sequence: int) -> str:
    """Return the path of the record with that number."""
    return f"log/{sequence:08d}.json"


def create_state(store: Store) -> State:
    """Return the state of a target; its first run creates it. Safe to repeat, and safe if two processes race.

    Raises StoreError if the state is gone but the register is not: a new namespace would give every row a new id.
    """
    expect_state(store)
    store.claim(PATH, State(namespace=UUID(bytes=store.host.chance.randbytes(16), version=4)).dump())
    state = load_state(store)
    assert state is not None
    return state


def expect_state(store: Store) -> None:
    """Raise StoreError if the state is gone but the register is not."""
    if store.has(log_path(1)) and not store.has(PATH):
        raise StoreError(f"{store.uri(PATH)} was removed: restore its last version in the bucket. Run make audit.")


def load_state(store: Store) -> State | None:
    """Return the state of a target, or None before its first run. A record whose writer died is rolled forward."""
    loaded = _load(store)
    return loaded[0] if loaded else None


def _load(store: Store) -> tuple[State, str] | None:
    for _ in range(20):
        found = store.find(PATH)
        if found is None:
            return None
        state = parse_state(store, found.data)
        ahead = store.find(log_path(state.log_tail.sequence + 1))
        if ahead is None:
            return state, found.etag
        try:
            record = LogRecord.model_validate_json(ahead.data)
        except ValueError:
            raise StoreError(
                f"{store.uri(log_path(state.log_tail.sequence + 1))} is damaged: it is not a record. Run make audit."
            ) from None
        if record.previous != state.log_tail.sha256:
            raise StoreError(f"{store.uri(log_path(record.sequence))} does not follow the register. Run make audit.")
        try:
            store.swap(PATH, roll_forward(state, record, ahead.data).dump(), found.etag)
        except Changed:
            continue
    raise TransientError(f"Other processes keep changing {store.uri(PATH)}: try again later.")


def change_state(store: Store, change: Callable[[State], State]) -> State:
    """Swap the state for what `change` makes of it, and return that. Try again if another writer came first."""
    for _ in range(20):
        loaded = _load(store)
        if loaded is None:
            raise StoreError(f"{store.uri(PATH)} is missing: the target has no state. Run make audit.")
        state, etag = loaded
        wanted = change(state)
        if wanted == state:
            return state
        try:
            store.swap(PATH, wanted.dump(), etag)
        except Changed:
            continue
        return wanted
    raise TransientError(f"Other processes keep changing {store.uri(PATH)}: try again later.")


def find_last_record(store: Store, state: State, after: int, matches: Callable[[LogRecord], bool]) -> LogRecord | None:
    """Return the last matching record of the register whose sequence is greater than `after`, or None."""
    for sequence in range(state.log_tail.sequence, after, -1):
        record = store.get_document(log_path(sequence), LogRecord)
        if matches(record):
            return record
    return None


def explain_loss(run: str | None, epoch: int) -> FencedError:
    """Return the error of a process that no longer owns the target."""
    return FencedError(
        f"Run {run} no longer owns the target in epoch {epoch}: another resume or undo took it. See the log of that "
        "one."
    )


def append_record(
    store: Store,
    *,
    action: Action,
    by: str,
    status: str,
    note: str,
    run: str | None = None,
    artifacts: dict[str, str] | None = None,
    epoch: int | None = None,
    change: Callable[[State], dict[str, Any]] = lambda state: {},
) -> LogRecord:
    """Append a record to the register and change the state with it, as one action.

    `change` returns the new values of `head`, `sealed` and `closed` (the target closes for `run`), or raises to refuse.
    With `epoch`, raises FencedError if the target is no longer open in that epoch. The record then does not count, even
    if it was written.
    """
    for _ in range(20):
        state = load_state(store)
        if state is None:
            raise StoreError(f"{store.uri(PATH)} is missing: the target has no state. Run make audit.")
        if epoch is not None and not state.is_open_in(run, epoch):
            raise explain_loss(run, epoch)
        record = LogRecord(
            sequence=state.log_tail.sequence + 1,
            previous=state.log_tail.sha256,
            at=store.host.now().isoformat(timespec="seconds"),
            by=by,
            action=action,
            run=run,
            epoch=epoch,
            status=status,
            note=note,
            artifacts=artifacts or {},
            **{"head": state.head, "sealed": state.sealed, "closed": False, **change(state)},
        )
        if store.claim(log_path(record.sequence), record.dump()):
            after = load_state(store)  # rolls state.json forward
            if epoch is not None and after and after.open and after.open.run == run and after.open.epoch > epoch:
                raise explain_loss(run, epoch)
            return record
    raise TransientError(f"Other processes keep writing to the register of {store.uri('')}: try again later.")
