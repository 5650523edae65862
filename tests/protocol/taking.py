"""How a process takes the target: it opens it, or takes it over and settles."""

from protocol.layout import (
    DAG,
    EPOCH,
    ETAG,
    FAULT,
    HEAD,
    KIND,
    MY_DAG,
    MY_EPOCH,
    OPEN,
    ORIGIN,
    PC,
    SEALED,
    SETTLED,
    UNKNOWN_DAG,
    Fault,
    Kind,
    Pc,
)
from protocol.rules import Setting
from protocol.world import Steps, end, has_settled, load, owns_dag, raise_epoch

AUTOMATIC = (Kind.ROLLBACK, Kind.RELEASE)


def open_load(setting: Setting, s: bytearray, b: int) -> Steps:
    load(s, b, ETAG)
    if s[SEALED] or s[HEAD]:
        return end(s, b, "finds the target sealed or the run committed, and stops")
    if not s[OPEN]:
        s[b + PC] = Pc.OPEN_SWAP
        return [("loads state.json", s)]
    if s[ORIGIN] and setting.holds("refuse_after_take_over"):
        return end(s, b, "finds that its run was taken over, and stops")
    s[b + MY_EPOCH], s[b + ETAG] = s[OPEN], 0
    return _own(setting, s, b, f"finds its run open, and goes on in epoch {s[OPEN]}")


def open_swap(setting: Setting, s: bytearray, b: int) -> Steps:
    if not s[b + ETAG]:
        s[b + PC] = Pc.OPEN_LOAD
        return [("swaps state.json in vain, since it was changed", s)]
    raise_epoch(s, b, 0)
    s[SETTLED] = 1
    return _own(setting, s, b, f"opens the target in epoch {s[OPEN]}")


def take_load(setting: Setting, s: bytearray, b: int) -> Steps:
    load(s, b, ETAG)
    kind = s[b + KIND]
    if not s[OPEN] and not (kind == Kind.UNDO and s[HEAD] and not s[SEALED]):
        return end(s, b, "loads state.json, does not find the run open, and stops")
    if kind in AUTOMATIC and setting.holds("origin_of_rollback") and not owns_dag(s, b):
        return end(s, b, f"loads state.json, finds epoch {s[OPEN]} of somebody else, and stops")
    s[b + PC] = Pc.TAKE_SWAP
    return [("loads state.json", s)]


def take_swap(setting: Setting, s: bytearray, b: int) -> Steps:
    kind, dag = s[b + KIND], s[b + MY_DAG]
    if not s[b + ETAG]:
        s[b + PC] = Pc.TAKE_LOAD
        return [("swaps state.json in vain, since it was changed", s)]
    origin = None
    if kind in AUTOMATIC:
        other = s[DAG + (0 if dag == 1 else 1)]
        if other and other in (s[OPEN], s[ORIGIN]):
            s[FAULT] = Fault.FOREIGN_TAKE_OVER
        origin = s[OPEN] if dag == UNKNOWN_DAG else s[DAG + dag]
    raise_epoch(s, b, origin)
    s[b + PC] = Pc.SETTLE
    text = f"takes the target over in epoch {s[EPOCH]}"
    return [(text, s)] if setting.holds("settle_after_take_over") else settle(setting, s, b, text)


def settle(setting: Setting, s: bytearray, b: int, text: str = "has settled") -> Steps:
    if setting.rules.is_bounded and setting.holds("settle_after_take_over") and not has_settled(s, b):
        return []
    if s[OPEN] == s[b + MY_EPOCH]:
        s[SETTLED] = 1
    return _own(setting, s, b, text)


def _own(setting: Setting, s: bytearray, b: int, text: str) -> Steps:
    """Go to the work. A run and a resume tell the tasks of their DAG run the epoch."""
    kind = s[b + KIND]
    if kind in (Kind.OPEN, Kind.RESUME):
        s[DAG + s[b + MY_DAG]] = s[b + MY_EPOCH]
        s[b + PC] = Pc.FIND_DONE if setting.holds("find_done") else Pc.CLAIM
    elif kind == Kind.RELEASE:
        s[b + PC] = Pc.FIND_MARKS if setting.holds("list_after_settle") else Pc.RECORD_LOAD
    else:
        s[b + PC] = Pc.FIND_RESULTS
    return [(text, s)]
