"""The state of a target and its register: which run it holds, and the append-only log of what was done.

A record `log/<sequence>.json` is written first (once), and says what follows from it (head, seal, whether the target
closes); state.json is swapped after it. A process that dies between the two is made good by the next one that loads the
state: it finds the record and rolls it forward. So a record is the moment at which something is done; but one that
names an epoch only counts while the owner is of that epoch: a process that froze before it wrote its record, and wakes
when an undo has taken the target, changes nothing.
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
        """The one serialisation, so that a changed byte is a changed document."""
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
    """What state.json holds. `check` is the SHA-256 of the rest, so that a changed byte shows."""

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
    """One entry of the register. `head`, `sealed` and `closed` are what state.json takes over from it; with `epoch`,
    only while `run` owns the target in that epoch."""

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
    """Where the record of that number lies."""
    return f"log/{sequence:08d}.json"


def create_state(store: Store) -> State:
    """The state of a target, made on its first run. Safe to repeat and to race.

    Raises StoreError when it is gone and the register is not: a new namespace would give every row a new id.
    """
    expect_state(store)
    store.claim(PATH, State(namespace=uuid4()).dump())
    state = load_state(store)
    assert state is not None
    return state


def expect_state(store: Store) -> None:
    """Raises StoreError when the state is gone and the register is not."""
    if store.has(log_path(1)) and not store.has(PATH):
        raise StoreError(f"{store.uri(PATH)} was removed: restore its last version in the bucket. Run make audit.")


def load_state(store: Store) -> State | None:
    """The state of a target, rolled forward over a record whose writer died; None before the first run."""
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
                f"{store.uri(log_path(state.log_tail.sequence + 1))} is damaged: it is no record. Run make audit."
            ) from None
        if record.previous != state.log_tail.sha256:
            raise StoreError(f"{store.uri(log_path(record.sequence))} does not follow the register. Run make audit.")
        try:
            store.swap(PATH, roll_forward(state, record, ahead.data).dump(), found.etag)
        except Changed:
            continue
    raise TransientError(f"{store.uri(PATH)} is being changed by others all the time: try again later.")


def parse_state(store: Store, data: bytes) -> State:
    """The state in those bytes. Raises StoreError when they are not exactly what `dump` wrote."""
    try:
        state = State.model_validate_json(data)
        if state.dump() == data:
            return state.model_copy(update={"check": ""})
    except ValueError:
        pass
    raise StoreError(f"{store.uri(PATH)} is damaged: it was changed by hand. Run make audit.")


def roll_forward(state: State, record: LogRecord, data: bytes) -> State:
    """The state after a record (`data` are its bytes). Ownership taken meanwhile by another run stays."""
    tail = Tail(sequence=record.sequence, sha256=hashlib.sha256(data).hexdigest())
    if record.epoch is not None and (
        state.open is None or (state.open.run, state.open.epoch) != (record.run, record.epoch)
    ):
        return state.model_copy(update={"log_tail": tail})
    ended = record.closed and state.open is not None and state.open.run == record.run
    return state.model_copy(
        update={
            "head": record.head,
            "sealed": record.sealed,
            "open": None if ended else state.open,
            "log_tail": tail,
        }
    )


def change_state(store: Store, change: Callable[[State], State]) -> State:
    """Swap the state for `change` of it, anew whenever another writer came first."""
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
    raise TransientError(f"{store.uri(PATH)} is being changed by others all the time: try again later.")


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
    """Append to the register and change the state with it, as one act.

    `change` gives the fields that become other, of head, sealed and closed (the target closes for `run`); it may raise
    to refuse. With `epoch`, raises FencedError when the target is no longer open in that epoch; the record, if it was
    written at all, does not count then.
    """
    lost = f"run {run} no longer owns the target in epoch {epoch}: another resume or undo took it."
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
    raise TransientError(f"the register of {store.uri('')} is being written by others all the time: try again later.")
