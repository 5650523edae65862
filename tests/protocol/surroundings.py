"""What happens around the processes: the application writes, the network delivers, processes start."""

from collections.abc import Iterator

from protocol.attempts import go_to_proof, is_done
from protocol.ending import begin_release
from protocol.layout import (
    ADDED,
    AFTER,
    BEFORE,
    DAG,
    DELETE,
    DELETED,
    EDITED,
    EDITS,
    ITEMS,
    KIND,
    MARK_EPOCH,
    NET,
    NET_ATTEMPT,
    NET_EPOCH,
    NET_ITEM,
    NET_OLD,
    OPEN,
    PC,
    PUT,
    REVERTED,
    STARTS,
    UNKNOWN_DAG,
    UPDATE,
    Kind,
    Net,
)
from protocol.rules import Setting
from protocol.steps import step
from protocol.world import bases, start_process, write
from protocol.writing import NAMES

# What the application can do to each item. The updated item can also be set back to what it was before the run.
EDITS_OF = {
    (PUT, AFTER): ((EDITED, "edits the put item"), (DELETED, "deletes the put item, whose part is done")),
    (UPDATE, BEFORE): ((ADDED, "edits the updated item"),),
    (UPDATE, AFTER): ((EDITED, "sets one attribute of the updated item back"), (ADDED, "edits the updated item")),
    (UPDATE, ADDED): ((BEFORE, "sets the updated item back to what it was before the run"),),
    (DELETE, BEFORE): ((EDITED, "edits the deleted item"), (ADDED, "adds an attribute to the deleted item")),
}


def deliver(state: bytes) -> tuple[str, bytearray]:
    """Apply the slow write, if its condition holds.

    A slow delete of an item to which the application added an attribute is a limit of the protocol, since its answer
    is lost. The model does not apply it.
    """
    s = bytearray(state)
    item, value = s[NET_ITEM], s[ITEMS + s[NET_ITEM]]
    wanted, found = (BEFORE, AFTER) if s[NET] == Net.UNDO else (AFTER, BEFORE)
    is_free = item == PUT and s[NET] != Net.UNDO and value == DELETED
    if value != wanted and (value == found or is_free or s[NET] == Net.BLIND):
        write(s, item, wanted, s[NET_EPOCH], s[NET_ATTEMPT])
    s[NET] = s[NET_ITEM] = s[NET_EPOCH] = s[NET_ATTEMPT] = s[NET_OLD] = 0
    return f"applies the slow write to {NAMES[item]}", s


def edit(setting: Setting, state: bytes) -> Iterator[tuple[int, str, bytearray]]:
    """Yield each write of the application: the item, what it does, and the state after it."""
    for item in setting.bounds.items:
        for value, text in EDITS_OF.get((item, state[ITEMS + item]), ()):
            is_taken_back = item == UPDATE and value == BEFORE
            if not state[EDITS] and not is_taken_back:
                continue
            if item == PUT and value == DELETED and not (is_done(state) and state[MARK_EPOCH] == state[OPEN]):
                continue
            s = bytearray(state)
            s[EDITS] -= not is_taken_back
            s[ITEMS + item] = value
            if item == UPDATE:
                s[REVERTED] = is_taken_back
            yield item, text, s


def list_starts(state: bytes) -> Iterator[tuple[Kind, int]]:
    """List the processes that can start, and the DAG run of each: 0 is the first run, 1 the resumed one."""
    yield from ((Kind.OPEN, 0), (Kind.RESUME, 1), (Kind.UNDO, 0))
    for dag in (0, 1):
        if state[DAG + dag]:
            yield from ((kind, dag) for kind in (Kind.RETRY, Kind.RELEASE, Kind.ROLLBACK, Kind.COMMIT))
    if state[OPEN]:
        yield Kind.RELEASE, UNKNOWN_DAG


def begin(setting: Setting, s: bytearray, b: int, kind: Kind, dag: int) -> None:
    """Start a process at a free place."""
    start_process(s, b, kind, dag)
    if kind == Kind.RELEASE:
        begin_release(setting, s, b)
    elif kind == Kind.COMMIT:
        s[b + PC] = go_to_proof(setting)


def start_any(setting: Setting, state: bytes) -> Iterator[tuple[Kind, str, bytearray]]:
    """Start a process. Starting has no effect, so its first request is part of it."""
    base = next(base for base in bases(state) if not state[base + KIND])
    kinds = setting.bounds.kinds
    wanted = kinds[len(kinds) - state[STARTS]] if kinds else None
    for kind, dag in list_starts(state):
        if wanted not in (None, kind):
            continue
        begun = bytearray(state)
        begun[STARTS] -= 1
        begin(setting, begun, base, kind, dag)
        for text, after in step(setting, begun, base):
            if after[base + KIND]:  # one that stops at once changed nothing
                yield kind, text, after
