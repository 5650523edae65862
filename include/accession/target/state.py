"""The state of a target and its register: the committed run, the owner, and the append-only log of what was done.

A record `log/<sequence>.json` is written first, once. It says what follows from it: the head, the seal, and whether the
target closes. Then state.json is swapped. If a process dies between the two, the next one that loads the state finds
the record and rolls the state forward, so an action takes effect when its record is written. A record that names an
epoch counts only while the target is open in that epoch. So a process that freezes before it writes its record, and
wakes after an undo took the target, changes nothing.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
from pydantic import BaseModel, ConfigDict

from accession.artifacts import Changed, Store
from accession.errors import FencedError, StoreError, TransientError

PATH = "state.json"
NO_HASH = "0" * 64

Action = Literal["run", "undo", "seal", "unseal"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> bytes:
        """Return the only serialisation of the record, so that a changed byte means a changed document."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


class Open(_Record):
    """The run that owns the target, and the epoch of its present owner."""

    run: str
    epoch: int


class Tail(_Record):
    """The last record of the register."""

    sequence: int = 0
    sha256: str = NO_HASH


class Seal(_Record):
    """The target was handed over to the application."""

    reason: str
    by: str
    at: str


class State(_Record):
    """The content of state.json. `check` is the SHA-256 of the rest, so that a changed byte is detected."""

    namespace: UUID
    head: str | None = None
    open: Open | None = None
    epoch: int = 0
    log_tail: Tail = Tail()
    sealed: Seal | None = None
    check: str = ""

    def dump(self) -> bytes:
        bare = self.model_copy(update={"check": ""})
        return _Record.dump(bare.model_copy(update={"check": hashlib.sha256(_Record.dump(bare)).hexdigest()}))


class LogRecord(_Record):
    """One entry of the register.

    state.json takes over its `head`, `sealed` and `closed`. If it has an `epoch`, that holds only while `run` owns the
    target in that epoch.
    """

    sequence: int
    previous: str
    at: str
    by: str
    action: Action
    run: str | None
    epoch: int | None
    status: str
    note: str
    artifacts: dict[str, str]
    head: str | None
    sealed: Seal | None
    closed: bool


def log_path(sequence: int) -> str:
    """Return the path of the record with that number."""
    return f"log/{sequence:08d}.json"


def create_state(store: Store) -> State:
    """Return the state of a target; its first run creates it. Safe to repeat, and safe if two processes race.

    Raises StoreError if the state is gone but the register is not: a new namespace would give every row a new id.
    """
    expect_state(store)
    store.claim(PATH, State(namespace=uuid4()).dump())
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


def parse_state(store: Store, data: bytes) -> State:
    """Return the state in those bytes. Raises StoreError unless they are exactly what `dump` wrote."""
    try:
        state = State.model_validate_json(data)
        if state.dump() == data:
            return state.model_copy(update={"check": ""})
    except ValueError:
        pass
    raise StoreError(f"{store.uri(PATH)} is damaged: it was changed by hand. Run make audit.")


def roll_forward(state: State, record: LogRecord, data: bytes) -> State:
    """Return the state after a record; `data` is its bytes. Another run that took the target meanwhile keeps it."""
    tail = Tail(sequence=record.sequence, sha256=hashlib.sha256(data).hexdigest())
    if record.epoch is not None and (
        state.open is None or (state.open.run, state.open.epoch) != (record.run, record.epoch)
    ):
        return state.model_copy(update={"log_tail": tail})
    is_closed = record.closed and state.open is not None and state.open.run == record.run
    return state.model_copy(
        update={
            "head": record.head,
            "sealed": record.sealed,
            "open": None if is_closed else state.open,
            "log_tail": tail,
        }
    )


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
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> LogRecord:
    """Append a record to the register and change the state with it, as one action.

    `change` returns the new values of `head`, `sealed` and `closed` (the target closes for `run`), or raises to refuse.
    With `epoch`, raises FencedError if the target is no longer open in that epoch. The record then does not count, even
    if it was written.
    """
    lost = (
        f"Run {run} no longer owns the target in epoch {epoch}: another resume or undo took it. "
        "See the log of that one."
    )
    for _ in range(20):
        state = load_state(store)
        if state is None:
            raise StoreError(f"{store.uri(PATH)} is missing: the target has no state. Run make audit.")
        if epoch is not None and (run is None or state.open != Open(run=run, epoch=epoch)):
            raise FencedError(lost)
        record = LogRecord(
            sequence=state.log_tail.sequence + 1,
            previous=state.log_tail.sha256,
            at=now().isoformat(timespec="seconds"),
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
                raise FencedError(lost)
            return record
    raise TransientError(f"Other processes keep writing to the register of {store.uri('')}: try again later.")
