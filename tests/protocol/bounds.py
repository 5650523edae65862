"""The bounds within which the protocol is explored as a whole, and those within which the lack of a guard shows."""

from typing import NamedTuple

from protocol.layout import DELETE, PUT, UPDATE, Fault, Kind
from protocol.rules import Bounds


class Whole(NamedTuple):
    """An exploration of all histories within bounds. `states` is the number of states that it visits."""

    bounds: Bounds
    states: int


SMALL = Bounds(processes=2, losses=1, edits=1)

# In `make test`
QUICK = {
    "two processes, one loss, one edit": Whole(SMALL, 52_762),
    "two processes, one loss, one edit, one item, a run that seals": Whole(
        SMALL._replace(seals=True, items=(PUT,)), 5_277
    ),
    "three processes": Whole(Bounds(3, 0, 0), 92_740),
}
# In `make explore`
LONG = {
    "two processes, one loss, one edit, a run that seals": Whole(SMALL._replace(seals=True), 51_650),
    "two processes, two losses, two edits": Whole(Bounds(2, 2, 2), 358_913),
    "three processes, one loss, one edit, one item": Whole(Bounds(3, 1, 1, items=(PUT,)), 283_161),
    "three processes, one loss": Whole(Bounds(3, 1, 0), 260_055),
    "three processes, one edit": Whole(Bounds(3, 0, 1), 1_246_979),
    "three processes, one loss, one edit": Whole(Bounds(3, 1, 1), 3_613_434),
}

_ONE = Bounds(1, 1, 1, items=(PUT,))
_TWO = Bounds(2, 0, 0, items=(PUT,))
_THREE = Bounds(3, 0, 0, items=(PUT,))

# Small bounds make short counterexamples: what breaks without each guard.
NEEDED = {
    "check_state": (_TWO, Fault.AFTER_TAKE_OVER),
    "check_newer_attempt": (_TWO, Fault.AFTER_NEWER_ATTEMPT),
    "check_last": (_TWO, Fault.AFTER_TAKE_OVER),
    "settle_after_take_over": (_TWO, Fault.AFTER_TAKE_OVER),
    "settle_after_newer_attempt": (_TWO, Fault.AFTER_NEWER_ATTEMPT),
    "read_before_write": (_TWO._replace(edits=1), Fault.OVERWRITTEN),
    "look_before_resend": (_ONE, Fault.OVERWRITTEN),
    "wait_before_look": (_ONE, Fault.OVERWRITTEN),
    "wait_before_resend": (
        _THREE._replace(losses=1, kinds=(Kind.OPEN, Kind.UNDO, Kind.OPEN)),
        Fault.AFTER_TAKE_OVER,
    ),
    "hold_whole_update": (_ONE._replace(items=(UPDATE,)), Fault.OVERWRITTEN),
    "compare_deleted": (_ONE._replace(losses=0, items=(DELETE,)), Fault.OVERWRITTEN),
    "withdraw_result": (
        _THREE._replace(edits=1, items=(UPDATE,), kinds=(Kind.OPEN, Kind.UNDO, Kind.RETRY)),
        Fault.LEFTOVER,
    ),
    "keep_result": (_TWO._replace(edits=1), Fault.PUT_AGAIN),
    "look_for_newer_attempt": (_TWO._replace(edits=1, items=(PUT, DELETE)), Fault.WHILE_CLOSED),
    "epoch_on_commit": (_TWO, Fault.WHILE_CLOSED),
    "epoch_on_release": (_THREE, Fault.LEFTOVER),
    "epoch_on_undo": (_THREE, Fault.LEFTOVER),
    "take_over_to_release": (_TWO, Fault.LEFTOVER),
    "list_after_settle": (_TWO, Fault.LEFTOVER),
    "origin_of_rollback": (_THREE, Fault.FOREIGN_TAKE_OVER),
    "refuse_after_take_over": (_THREE, Fault.LEFTOVER),
    "seal_in_commit": (_TWO._replace(seals=True), Fault.SEALED_WITHOUT_HEAD),
}
# Without the assumption about a request in flight
UNBOUNDED = (_TWO, Fault.AFTER_TAKE_OVER)
