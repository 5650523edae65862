"""The state of a target and its register: who owns it, which run it holds, and the append-only log of what was done.

A record `log/<sequence>.json` is written first (once), and says what follows from it (head, seal, whether the target
closes); state.json is swapped after it. A process that dies between the two is made good by the next one that loads the
state: it finds the record and rolls it forward. So a record is the moment at which something is done; but one that
names an epoch only counts while the owner is of that epoch: a process that froze before it wrote its record, and wakes
when an undo has taken the target, changes nothing.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID, uuid4

import orjson
from pydantic import BaseModel, ConfigDict

from accession.errors import FencedError, RefusedError, StoreError, TransientError
from accession.params import LOCAL_ENVIRONMENTS
from accession.store import Changed, Store

logger = logging.getLogger(__name__)

PATH = "state.json"
CHECK_SECONDS = 5.0  # how often a writer reads the state; an undo or resume waits at least that long
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
    if store.has(log_path(1)) and not store.has(PATH):
        raise StoreError(f"{store.uri(PATH)} was removed: restore its last version in the bucket. Run make audit.")
    store.claim(PATH, State(namespace=uuid4()).dump())
    state = load_state(store)
    assert state is not None
    return state


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
        record = LogRecord.model_validate_json(ahead.data)
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


def _change(store: Store, change: Callable[[State], State]) -> State:
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


def open_target(store: Store, run: str, parent: str | None) -> State:
    """Take the target for `run`, staged on top of `parent`. Repeatable for the run that owns it.

    Raises RefusedError when another run owns it, the head moved since, or it is sealed.
    """

    def change(state: State) -> State:
        refuse_if_taken(store, state, run)
        if state.head != parent:
            raise RefusedError(
                f"run {run} was staged on {parent or 'an empty target'}, but {state.head or 'an undo'} came since: "
                "nothing was written; trigger a new run."
            )
        if state.open is not None:
            return state
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return _change(store, change)


def refuse_if_taken(store: Store, state: State, run: str | None = None) -> None:
    """Raises RefusedError when the target is sealed or open by another run than `run`; prints what helps."""
    if state.sealed is not None:
        raise RefusedError(
            f"the target {store.mapping}/{store.environment} was sealed by {state.sealed.by} on {state.sealed.at[:10]} "
            f"({state.sealed.reason}): it belongs to the application now. To write again, give unseal a reason."
        )
    if state.open is not None and state.open.run != run:
        raise RefusedError(
            f"the target {store.mapping}/{store.environment} is open by run {state.open.run}, which has not ended. "
            f"If it is still at work, wait. If it died, finish it or undo it:\n"
            f"{show_commands(store.environment, state.open.run)}"
        )


def show_commands(environment: str, run: str) -> str:
    """The two commands that help with a target left open by `run`, as they are to be typed."""
    return f"  make migrate ENVIRONMENT={environment} RESUME={run}\n  {show_rollback(environment, run)}"


def show_rollback(environment: str, run: str, **conf: bool | str) -> str:
    """The command that undoes `run`, as it is to be typed; it asks nobody, as there is no Airflow UI to answer in."""
    if environment not in LOCAL_ENVIRONMENTS:
        conf["approval"] = "never"
    given = f" CONF='{json.dumps(conf)}'" if conf else ""
    return f"make rollback RUN={run} ENVIRONMENT={environment}{given}"


def expect_open(store: Store, run: str) -> None:
    """Raises RefusedError unless `run` has the target open: a task of an ended run was cleared."""
    state = load_state(store)
    if state is None or state.open is None or state.open.run != run:
        raise RefusedError(
            f"run {run} does not have the target {store.mapping}/{store.environment} open, so this task has nothing to "
            "do: to write its change set again clear open_run with its downstream tasks, or trigger a new run."
        )


def take_over(store: Store, run: str) -> State:
    """Raise the epoch of a run that owns the target, so that its earlier writers stop.

    The caller must then wait CHECK_SECONDS plus the longest request before it acts. Raises RefusedError when `run` does
    not own the target.
    """

    def change(state: State) -> State:
        if state.open is None or state.open.run != run:
            owner = f"run {state.open.run} owns it" if state.open else "nobody owns it"
            raise RefusedError(f"run {run} does not have the target {store.mapping}/{store.environment} open: {owner}.")
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return _change(store, change)


def reopen_head(store: Store, run: str) -> State:
    """Take the target for the undo of its last committed run. Repeatable. Raises RefusedError naming what stands on
    it."""

    def change(state: State) -> State:
        if state.open is None and state.head != run and state.sealed is None:
            raise RefusedError(
                f"run {run} cannot be undone: "
                + (f"run {state.head} stands on it; undo that one first." if state.head else "nothing is left to undo.")
            )
        refuse_if_taken(store, state, run)
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return _change(store, change)


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


class Fence:
    """Tells a writer whether it still owns the target: reads the state at its start and every CHECK_SECONDS.

    Call `check` before every request that writes. Raises FencedError once run or epoch are not ours. Threads may share
    it. (A request already in flight from a frozen process cannot be fenced.)
    """

    def __init__(self, store: Store, run: str, epoch: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._run, self._epoch, self._clock = store, run, epoch, clock
        self._next = 0.0
        self._fenced = False

    def check(self) -> None:
        """Raises FencedError when the target is not ours any more."""
        if not self._fenced and self._clock() < self._next:
            return
        state = load_state(self._store)
        if self._fenced or state is None or state.open != Open(run=self._run, epoch=self._epoch):
            self._fenced = True
            raise FencedError(
                f"this writer of run {self._run} (epoch {self._epoch}) stopped: the target is owned by another resume, "
                "undo or run now."
            )
        self._next = self._clock() + CHECK_SECONDS
