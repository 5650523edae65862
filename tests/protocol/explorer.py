"""The explorer visits every state that the rules allow within bounds, breadth first: a trace is a shortest one."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from protocol.layout import (
    ATTEMPT,
    FAULT,
    HEADER,
    HIDDEN,
    KIND,
    LOSSES,
    MY_EPOCH,
    NET,
    OBSOLETE,
    OPEN,
    PASS,
    PC,
    STARTS,
    TITLES,
    WIDTH,
    Fault,
    Kind,
    Pc,
)
from protocol.rules import Bounds, Rules, Setting
from protocol.steps import step
from protocol.surroundings import deliver, edit, start_any
from protocol.world import bases, pack, start, start_process

# A process that has lost the target can do nothing but stop at these places, and at those before them.
_UNDOING = {Pc.SETTLE, Pc.FIND_RESULTS, Pc.FIND_MARKS, Pc.READ, Pc.WAIT, Pc.CHECK, Pc.PROVE, Pc.RECORD_LOAD}
_WRITING = {Pc.WAIT, Pc.CHECK, Pc.PROVE, Pc.FIND_ATTEMPTS, Pc.RECORD_LOAD}
_DOOMED = [_WRITING if kind in (Kind.OPEN, Kind.RESUME, Kind.RETRY, Kind.COMMIT) else _UNDOING for kind in Kind]
_NEEDED_TO_PRUNE = {"check_state", "epoch_on_commit", "epoch_on_release", "epoch_on_undo"}


class Line(NamedTuple):
    """One step of a history. `is_new`: it cannot be told whether an earlier line is about the same process."""

    who: str
    text: str
    is_new: bool


@dataclass
class Exploration:
    """What an exploration found: the number of states, and the shortest way to a fault, if there is one."""

    states: int = 0
    fault: Fault = Fault.NONE
    trace: list[Line] = field(default_factory=list)


class Explorer:
    """Explore the protocol under rules, within bounds. `prunes`: leave out what a process that must stop does first."""

    def __init__(self, rules: Rules, bounds: Bounds, *, prunes: bool = True) -> None:
        self.bounds, self.setting = bounds, Setting(rules, bounds)
        self.parents: dict[bytes, bytes] = {}  # every state that was visited, and the one that led to it first
        self._ways_out: dict[bytes, bool] = {}
        self._prunes = prunes and not rules.without & _NEEDED_TO_PRUNE

    def follow(self, state: bytes) -> Iterator[tuple[int, str, bytes]]:
        """Yield each next state, with who acts and what it does.

        Who acts is the place of a process, or 0 for the application and the network; then the text names them.
        """
        setting, pack_state = self.setting, self._pack
        if state[NET]:
            text, after = deliver(state)
            yield 0, f"DynamoDB: {text}", pack_state(after)
        for _, text, after in edit(setting, state):
            yield 0, f"application: {text}", pack_state(after)
        if state[STARTS]:
            for kind, text, after in start_any(setting, state):
                yield 0, f"{TITLES[kind]}: {text}", pack_state(after)
        seen = b""
        for base in bases(state):
            process = state[base : base + WIDTH]
            if not process[KIND] or process == seen:
                continue
            seen = process
            for text, after in step(setting, state, base):
                yield base, text, pack_state(after)
            # A process that never acts again is as good as crashed, unless somebody waits for it.
            if process[PASS] == 2 and process[PC] != Pc.PUT_BACK:
                after = bytearray(state)
                after[base : base + WIDTH] = bytes(WIDTH)
                yield base, "crashes", pack_state(after)

    def _pack(self, state: bytearray) -> bytes:
        """Return the state in its only form. A process that can do nothing but stop has stopped."""
        if self._prunes:
            owner = state[OPEN]
            for base in range(HEADER, len(state), WIDTH):
                is_over = state[base + MY_EPOCH] not in (0, owner) and not state[base + PASS]
                if is_over and state[base + PC] in _DOOMED[state[base + KIND]]:
                    state[base : base + WIDTH] = bytes(WIDTH)
        return pack(state)

    def explore(self) -> Exploration:
        """Visit every state, or stop at the first fault."""
        first = start(self.bounds)
        parents = self.parents = {first: b""}
        level = [first]
        found = Exploration()
        while level and not found.fault:
            following: list[bytes] = []
            for state in level:
                for _, _, after in self.follow(state):
                    if after in parents:
                        continue
                    parents[after] = state
                    following.append(after)
                    if after[FAULT] or not self._has_way_out(after):
                        found.fault = Fault(after[FAULT] or Fault.NO_WAY_OUT)
                        found.trace = self._tell(after)
                        break
                if found.fault:
                    break
            level = following
        found.states = len(parents)
        return found

    def _has_way_out(self, state: bytes) -> bool:
        """Tell whether an undo can close the target if everybody else stops now."""
        core = state[:HIDDEN]
        if not state[OPEN]:
            return True
        if core not in self._ways_out:
            self._ways_out[core] = self._undo_alone(state)
        return self._ways_out[core]

    def _undo_alone(self, state: bytes) -> bool:
        alone = bytearray(state[:HEADER]) + bytearray(WIDTH)
        alone[NET] = alone[LOSSES] = 0
        start_process(alone, HEADER, Kind.UNDO)
        while alone[HEADER + KIND]:
            steps = step(self.setting, alone, HEADER)
            if not steps:
                return False
            _, alone = steps[0]
        return not alone[OPEN]

    def _tell(self, state: bytes) -> list[Line]:
        """Return the steps that lead to a state."""
        lines: list[Line] = []
        while parent := self.parents[state]:
            base, text = next((base, text) for base, text, after in self.follow(parent) if after == state)
            if base:
                name = _name_process(parent, base)
                named = [
                    other for other in bases(parent) if parent[other + KIND] and _name_process(parent, other) == name
                ]
                lines.append(Line(name, text, len(named) > 1))
            else:
                name, _, text = text.partition(": ")
                lines.append(Line(name, text, True))
            state = parent
        return lines[::-1]


def _name_process(state: bytes, base: int) -> str:
    title, epoch, attempt = TITLES.get(Kind(state[base + KIND]), ""), state[base + MY_EPOCH], state[base + ATTEMPT]
    if not epoch:
        return title
    return f"{title} {epoch}.{attempt}" if attempt and attempt != OBSOLETE else f"{title} {epoch}"
