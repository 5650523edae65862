"""What happens to a state, whoever does it: records take effect, writes are applied, processes start and end."""

from protocol.layout import (
    AFTER,
    ATTEMPT_SETTLED,
    BEFORE,
    DAG,
    DELETE,
    DELETED,
    EDITED,
    EDITS,
    EPOCH,
    ETAG,
    FAULT,
    HEAD,
    HEADER,
    ITEMS,
    KIND,
    LOG,
    LOG_EPOCH,
    LOG_SEAL,
    LOSSES,
    MARK_EPOCH,
    MY_DAG,
    MY_EPOCH,
    NET,
    NET_OLD,
    NEWEST,
    OPEN,
    ORIGIN,
    PASS,
    PC,
    PUT,
    REVERTED,
    SEALED,
    SETTLED,
    STARTS,
    TAIL,
    UNKNOWN_DAG,
    UPDATE,
    WIDTH,
    Fault,
    Kind,
    Pc,
    Record,
)
from protocol.rules import Bounds

Steps = list[tuple[str, bytearray]]


def start(bounds: Bounds) -> bytes:
    """Return the state before the run's first process: a closed target, and every item as it was found.

    An item that is not in the change set has a value that nobody looks for.
    """
    state = bytearray(HEADER + WIDTH * bounds.processes)
    state[LOSSES], state[EDITS], state[STARTS] = bounds.losses, bounds.edits, bounds.processes
    for item in {PUT, UPDATE, DELETE}.difference(bounds.items):
        state[ITEMS + item] = EDITED
    return bytes(state)


def start_process(s: bytearray, b: int, kind: Kind, dag: int = 0) -> None:
    """Start a process at a free place. A task of a DAG run has the epoch that its open_run returned."""
    s[b : b + WIDTH] = bytes(WIDTH)
    s[b + KIND], s[b + MY_DAG] = kind, dag
    first = {Kind.OPEN: Pc.OPEN_LOAD, Kind.RETRY: Pc.FIND_DONE, Kind.COMMIT: Pc.PROVE}
    s[b + PC] = first.get(kind, Pc.TAKE_LOAD)
    if kind in (Kind.RETRY, Kind.COMMIT):
        s[b + MY_EPOCH] = s[DAG + dag]


def end(s: bytearray, b: int, text: str) -> Steps:
    """End a process."""
    s[b : b + WIDTH] = bytes(WIDTH)
    return [(text, s)]


def undoes(s: bytes | bytearray, b: int) -> bool:
    """Tell whether a process undoes the run."""
    return s[b + KIND] in (Kind.ROLLBACK, Kind.UNDO)


def bases(state: bytes | bytearray) -> range:
    """Return where each process begins."""
    return range(HEADER, len(state), WIDTH)


def pack(state: bytearray) -> bytes:
    """Return the state with its processes sorted."""
    whole = bytes(state)
    processes = [whole[base : base + WIDTH] for base in range(HEADER, len(whole), WIDTH)]
    processes.sort()
    return whole[:HEADER] + b"".join(processes)


# state.json and the register


def load(s: bytearray, b: int, noted: int) -> None:
    """Roll forward a record that is ahead of state.json, load it, and note its ETAG, or the TAIL of the register."""
    roll_forward(s)
    s[b + noted] = 1


def raise_epoch(s: bytearray, b: int, origin: int | None) -> None:
    """Swap state.json: the run is open in a new epoch. `origin` None is the new epoch itself."""
    s[EPOCH] += 1
    s[OPEN] = s[b + MY_EPOCH] = s[EPOCH]
    s[ORIGIN], s[SETTLED] = s[EPOCH] if origin is None else origin, 0
    if s[ITEMS + PUT] == DELETED:  # the promise about it ends with the epoch in which its part was done
        s[ITEMS + PUT] = BEFORE
    forget_etags(s)
    age_passes(s, b)


def append(s: bytearray, kind: Record, epoch: int) -> None:
    """Write the next record of the register. `epoch` 0 counts whenever the target is open."""
    s[LOG], s[LOG_EPOCH] = kind, epoch
    for base in bases(s):
        s[base + TAIL] = 0


def roll_forward(state: bytearray) -> None:
    """Apply the record that is ahead of state.json, if there is one and it counts, and swap state.json."""
    kind, epoch = state[LOG], state[LOG_EPOCH]
    if not kind:
        return
    if not epoch or epoch == state[OPEN]:
        if kind == Record.SEAL:
            state[SEALED] = 1
        else:
            state[OPEN] = state[ORIGIN] = 0
        if kind == Record.COMMIT:
            state[HEAD] = 1
            state[SEALED] = state[SEALED] or state[LOG_SEAL]
        elif kind == Record.UNDO:
            state[HEAD] = 0
        _check_closed(state)
    state[LOG] = state[LOG_EPOCH] = state[LOG_SEAL] = 0
    forget_etags(state)


def forget_etags(state: bytearray) -> None:
    """state.json was swapped, so everybody else's ETag is out of date."""
    for base in bases(state):
        state[base + ETAG] = 0


def _check_closed(state: bytearray) -> None:
    if state[SEALED] and (state[OPEN] or not state[HEAD]):
        state[FAULT] = Fault.SEALED_WITHOUT_HEAD
    if state[OPEN]:
        return
    values = state[ITEMS : ITEMS + 3]
    if state[HEAD]:
        if any(value == BEFORE and not (item == UPDATE and state[REVERTED]) for item, value in enumerate(values)):
            state[FAULT] = Fault.UNPROVED_HEAD
    elif AFTER in values:
        state[FAULT] = Fault.LEFTOVER


# The fence and the settle time


def age_passes(state: bytearray, base: int) -> None:
    """Somebody took over: what was asked and sent before must have ended when that one has settled."""
    for other in bases(state):
        if other != base and state[other + PASS]:
            state[other + PASS] = 2
    if state[NET]:
        state[NET_OLD] = 1


def has_settled(state: bytes | bytearray, base: int) -> bool:
    """Tell whether nothing is under way that was asked for before the last take-over."""
    return not (state[NET] and state[NET_OLD]) and all(
        state[other + PASS] < 2 for other in bases(state) if other != base
    )


# Items


def write(state: bytearray, item: int, value: int, epoch: int, attempt: int) -> None:
    """Write an item, and note a fault if this writer should have stopped. `attempt` is 0 for an undo."""
    found = state[ITEMS + item]
    if item == PUT and found == DELETED and value == AFTER:
        state[FAULT] = Fault.PUT_AGAIN
    elif item == PUT and found == EDITED:
        state[FAULT] = Fault.OVERWRITTEN
    elif found != value:
        if not state[OPEN] and not (item == UPDATE and state[REVERTED]):  # see the limits in docs/ownership.md
            state[FAULT] = Fault.WHILE_CLOSED
        elif state[OPEN] and epoch != state[OPEN] and state[SETTLED]:
            state[FAULT] = Fault.AFTER_TAKE_OVER
        elif attempt and epoch == state[MARK_EPOCH] and attempt < state[NEWEST] and state[ATTEMPT_SETTLED]:
            state[FAULT] = Fault.AFTER_NEWER_ATTEMPT
    state[ITEMS + item] = value
    if item == UPDATE:
        state[REVERTED] = 0


def is_absent(state: bytes | bytearray, item: int) -> bool:
    """Tell whether the put item is not there, or any other item is as the run found it."""
    value = state[ITEMS + item]
    return value == BEFORE or (item == PUT and value == DELETED)


def owns_dag(s: bytes | bytearray, b: int) -> bool:
    """Tell whether the target is open in the epoch that the process's DAG run opened, or was taken over from it."""
    dag = s[b + MY_DAG]
    return not s[ORIGIN] if dag == UNKNOWN_DAG else s[DAG + dag] in (s[OPEN], s[ORIGIN])
