"""The acceptor tells whether the model allows a trace: it follows every way through the model at once.

What a trace does not tell, such as reads, checks and waits, may happen at any time that the rules allow.
"""

from collections.abc import Iterable, Iterator

from protocol.attempts import is_done
from protocol.layout import (
    ADDED,
    AFTER,
    ATTEMPT,
    BEFORE,
    DELETE,
    DELETED,
    EDITED,
    EPOCH,
    HEADER,
    ITEMS,
    KIND,
    LOG,
    LOSSES,
    MARK_EPOCH,
    MY_EPOCH,
    NET,
    NET_ATTEMPT,
    NET_EPOCH,
    OBSOLETE,
    OPEN,
    ORIGIN,
    PC,
    PUT,
    REVERTED,
    UPDATE,
    WIDTH,
    Pc,
    Record,
)
from protocol.rules import Bounds, Rules, Setting
from protocol.steps import step
from protocol.surroundings import begin, deliver
from protocol.trace import APPLICATION, ITEM_NAMES, KIND_NAMES, Event
from protocol.world import bases, start

HIDDEN_STEP = ("", "")


class Acceptor:
    """Follow a trace of one run. `items` are the kinds of items that the trace tells of.

    Resumed DAG runs count as one, so a rollback of an earlier resume is refused after a later one, as it should be.
    """

    def __init__(self, events: Iterable[Event], items: tuple[int, ...], rules: Rules | None = None) -> None:
        self.events = list(events)
        names = dict.fromkeys(event.process for event in self.events if event.process != APPLICATION)
        self._places = {name: HEADER + WIDTH * number for number, name in enumerate(names)}
        bounds = Bounds(processes=len(names), losses=1, edits=0, items=items)
        self._setting = Setting(rules or Rules(), bounds)
        self._states = {start(bounds)}

    def find_refused(self) -> int | None:
        """Return the place of the first event that the rules forbid, or None if they allow the whole trace."""
        last = {event.process: number for number, event in enumerate(self.events)}
        for number, event in enumerate(self.events):
            self._states = set(self._accept(self._close(), event))
            if not self._states:
                return number
            gone = [place for name, place in self._places.items() if last[name] <= number]
            self._states = {_forget(state, gone) for state in self._states}
        return None

    def _close(self) -> set[bytes]:
        """Return the states that can be reached by steps that a trace does not tell."""
        reached, new = set(self._states), list(self._states)
        while new:
            state = new.pop()
            for _, told, after in self._follow(state):
                if told == HIDDEN_STEP and after not in reached:
                    reached.add(after)
                    new.append(after)
        return reached

    def _accept(self, states: set[bytes], event: Event) -> Iterator[bytes]:
        if event.action == "start":
            kind, _, dag = event.object.partition("/")
            for state in states:
                begun = bytearray(state)
                dag_run = int(dag or kind == "resume")
                begin(self._setting, begun, self._places[event.process], KIND_NAMES[kind], dag_run)
                yield bytes(begun)
        elif event.process == APPLICATION:
            for state in states:
                yield from _edit(state, ITEM_NAMES[event.object], is_gone=event.action == "delete")
        else:
            place, told = self._places[event.process], (event.action, event.object)
            for state in states:
                for base, what, after in self._follow(state):
                    if base == place and what in (told, _name_obsolete(told)):
                        yield after

    def _follow(self, state: bytes) -> Iterator[tuple[int, tuple[str, str], bytes]]:
        """Yield each next state, with the place of who acts and what a trace tells of it."""
        if state[NET]:
            owner = self._find_sender(state)
            _, after = deliver(state)
            yield owner, _tell_write(state, after), bytes(after)
        for base in bases(state):
            if not state[base + KIND]:
                continue
            for _, after in step(self._setting, state, base):
                after[LOSSES] = 1
                yield base, _tell(state, after, base), bytes(after)

    def _find_sender(self, state: bytes) -> int:
        """Return who sent the slow write, or 0 if that process has stopped since."""
        sent = (state[NET_EPOCH], state[NET_ATTEMPT])
        alive = [base for base in bases(state) if state[base + KIND]]
        return next((base for base in alive if (state[base + MY_EPOCH], state[base + ATTEMPT]) == sent), 0)


def _forget(state: bytes, places: Iterable[int]) -> bytes:
    """Remove processes that do nothing more, which are as good as crashed. A resume has yet to hand on its epoch."""
    s = bytearray(state)
    for place in places:
        if s[place + PC] != Pc.SETTLE:
            s[place : place + WIDTH] = bytes(WIDTH)
    return bytes(s)


def _name_obsolete(told: tuple[str, str]) -> tuple[str, str]:
    """Return what a trace tells of a mark or a result, as the model has it if a newer epoch has marks already.

    The model does not number such attempts: nothing depends on them any more.
    """
    action, name = told
    return action, f"{name.partition('.')[0]}.{OBSOLETE}"


def _tell(before: bytes, after: bytearray, base: int) -> tuple[str, str]:
    """Return what a trace tells of a step: its action and its object."""
    if after[EPOCH] != before[EPOCH]:
        return "take" if after[ORIGIN] else "open", str(after[OPEN])
    match before[base + PC]:
        case Pc.CLAIM:
            return "mark", f"{before[base + MY_EPOCH]}.{after[base + ATTEMPT]}"
        case Pc.RESULT:
            return "result", f"{before[base + MY_EPOCH]}.{before[base + ATTEMPT]}"
        case Pc.RECORD if after[base + PC] != Pc.RECORD_LOAD:
            return "record", Record(after[LOG]).name.lower()
    return _tell_write(before, after)


def _tell_write(before: bytes, after: bytearray) -> tuple[str, str]:
    for name, item in ITEM_NAMES.items():
        change = before[ITEMS + item], after[ITEMS + item]
        if change[0] != change[1] and not (item == PUT and AFTER not in change and EDITED not in change):
            return "write", name
    return HIDDEN_STEP


def _edit(state: bytes, item: int, *, is_gone: bool) -> Iterator[bytes]:
    """Yield what the application can have made of an item: it deleted it, or wrote something else than the run."""
    if item == PUT and is_gone:
        keeps = is_done(state) and state[MARK_EPOCH] == state[OPEN]
        values = [DELETED if keeps else BEFORE]
    elif item == PUT:
        values = [EDITED]
    elif item == DELETE and is_gone:
        values = [AFTER]
    else:
        values = [EDITED, ADDED] if is_gone else [BEFORE, EDITED, ADDED]
        if item == UPDATE and not is_gone and state[ITEMS + item] == AFTER:
            values.append(AFTER)  # it wrote an attribute that the run did not change, which no condition covers
    for value in values:
        s = bytearray(state)
        s[ITEMS + item] = value
        if item == UPDATE:
            s[REVERTED] = value == BEFORE
        yield bytes(s)
