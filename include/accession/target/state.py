"""The state of a target and the records of its register, as values; and the state that follows from a record.

`register.py` reads and writes them.
"""

import hashlib
from typing import Any, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from accession.artifacts import Store
from accession.errors import StoreError

PATH = "state.json"
NO_HASH = "0" * 64

Action = Literal["run", "undo", "seal", "unseal"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> bytes:
        """Return the only serialisation of the record, so that a changed byte means a changed document."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)


class Open(_Record):
    """The run that owns the target, and the epoch of its present owner.

    `origin` is set by whoever took the run over: its own epoch, or that of the DAG run which an automatic rollback
    belongs to.
    """

    run: str
    epoch: int
    origin: int | None = None

    @model_serializer(mode="wrap")
    def _leave_out_origin(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Version 0.1.0 had no origin, and its state must keep its bytes."""
        found: dict[str, Any] = serialize(self)
        return found if self.origin is not None else {name: found[name] for name in ("run", "epoch")}


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

    def is_open_in(self, run: str | None, epoch: int | None) -> bool:
        """Tell whether a run owns the target in that epoch."""
        return self.open is not None and (self.open.run, self.open.epoch) == (run, epoch)

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
    if record.epoch is not None and not state.is_open_in(record.run, record.epoch):
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
