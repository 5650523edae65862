"""The guards of the ownership protocol by name, and the bounds within which it is explored."""

from dataclasses import dataclass
from typing import NamedTuple

from protocol.layout import DELETE, PUT, UPDATE, Kind

# Each guard can be taken away. The text says what the guard does; docs/ownership.md shows what happens without it.
GUARDS = {
    "check_state": "Before each write, a writer checks that the target is still open in its epoch.",
    "check_newer_attempt": "Before each write, an attempt checks that no newer attempt of its epoch has left a mark.",
    "check_last": "Nothing slow comes between the fence's answer and the request, so the settle time covers both.",
    "settle_after_take_over": "Whoever takes over waits for the settle time before anything else.",
    "settle_after_newer_attempt": "An attempt waits for the settle time if an earlier one of its epoch has not ended.",
    "read_before_write": "An attempt that is not the first reads each item before it writes it.",
    "look_before_resend": "After a lost answer to a put, the item is read, and only an absent item is put again.",
    "wait_before_look": "After a lost answer to a put, the writer looks when the request must have ended.",
    "wait_before_resend": "After a lost answer to a conditional write, it is sent again when the first request must "
    "have ended.",
    "hold_whole_update": "An update holds if all its attributes are as before, or all as after.",
    "compare_deleted": "A delete returns the old item. Attributes that were added since the read are put back.",
    "withdraw_result": "Only the newest attempt's result counts, so a newer mark withdraws the earlier result.",
    "keep_result": "An attempt that finds, after it left its mark, a result without conflicts of an earlier attempt of "
    "its epoch stores that result as its own and writes nothing.",
    "look_for_newer_attempt": "After its proof, a run lists the attempts, and commits only if the newest has ended.",
    "epoch_on_commit": "A record that commits carries the epoch, and counts only while the target is open in it.",
    "epoch_on_release": "A record that releases a target carries the epoch, and counts only while it is open in it.",
    "epoch_on_undo": "A record that closes an undo carries the epoch, and counts only while it is open in it.",
    "take_over_to_release": "A report takes the target over and settles before it releases it.",
    "list_after_settle": "A report that took over lists the marks again, and releases only if there is none.",
    "origin_of_rollback": "An automatic rollback or release takes over only what its own DAG run opened.",
    "refuse_after_take_over": "A repeated open_run goes on in the epoch of its run only if nobody took over since.",
    "seal_in_commit": "The record that commits a run also seals the target.",
}

# Guards that no history within the bounds needs, and why they stay.
SPARE = {
    "list_after_proof": "A run lists the attempts after it read the proof, not before. An attempt that begins in "
    "between keeps the result, or writes only what the application set back: see the limits. The later look makes "
    "that time shorter.",
    "absent_after_look": "After the wait and the look, a put is conditional on absence. It costs nothing, and protects "
    "an item that the application makes under the same key, which the model leaves out.",
    "find_done": "Before it leaves a mark, an attempt looks for a result without conflicts in its epoch. It saves a "
    "mark and a result; `keep_result` holds without it.",
}


class Bounds(NamedTuple):
    """How much may happen in one history.

    `processes` start in all. Each may freeze or crash at any point. A loss is a write that is lost, or whose answer is
    lost, or that is applied late. An edit is a write of the application to an item, which it may take back.
    `seals`: a run that commits also seals the target. `items` are those of the change set. `kinds` are the processes
    in the order in which they start; without it, any may start.
    """

    processes: int = 3
    losses: int = 1
    edits: int = 1
    seals: bool = False
    items: tuple[int, ...] = (PUT, UPDATE, DELETE)
    kinds: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class Rules:
    """The protocol to explore.

    `without` names the guards that are taken away: a name that is not a guard is a ValueError. `is_bounded` is the
    assumption about a request in flight: it ends within the settle time after the fence was asked.
    """

    without: frozenset[str] = frozenset()
    is_bounded: bool = True

    def __post_init__(self) -> None:
        unknown = self.without - GUARDS.keys() - SPARE.keys()
        if unknown:
            raise ValueError(f"There is no guard {', '.join(sorted(unknown))}. See GUARDS and SPARE in rules.py.")

    def holds(self, guard: str) -> bool:
        """Tell whether a guard is in place."""
        return guard not in self.without


class Setting(NamedTuple):
    """The rules and the bounds of an exploration."""

    rules: Rules
    bounds: Bounds

    def holds(self, guard: str) -> bool:
        """Tell whether a guard is in place."""
        return guard not in self.rules.without
