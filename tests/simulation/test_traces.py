"""The model of ownership accepts what simulated runs do, and refuses the same requests if a rule is broken in them."""

import logging
from collections.abc import Iterator

import pytest

from protocol.acceptor import Acceptor
from protocol.trace import Event
from simulation.faults import Climate
from simulation.recorder import Recorder
from simulation.scenario import simulate

CLIMATES = {
    "any": None,
    "crash": Climate(crash=0.4, lost_answer=0.1, dropped=0.1, application=0.2),
    "frozen": Climate(freeze=0.6, slow=0.1, clear=0.5, application=0.3),
    "meddled": Climate(interference=1.0, freeze=0.4, crash=0.2, clear=0.3),
}
SEEDS = 10
LONGEST = 12  # processes in one trace: more take the acceptor too long

Trace = tuple[str, tuple[int, ...], list[Event]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The product logs every event."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def record(seed: int, climate: Climate | None) -> list[Trace]:
    """Play a seed, and return its traces."""
    recorder = Recorder()
    simulate(seed, climate, recorder.attach)
    return [trace for trace in recorder.find_traces() if len({event.process for event in trace[2]}) <= LONGEST]


@pytest.mark.parametrize("name", CLIMATES)
def test_the_model_accepts_what_simulated_runs_do(name: str) -> None:
    actions = set()
    for seed in range(SEEDS):
        for part, kinds, events in record(seed, CLIMATES[name]):
            refused = Acceptor(events, kinds).find_refused()
            shown = "\n".join(map(str, events[: (refused or 0) + 1]))
            assert refused is None, f"seed {seed}, {name}, {part}:\n{shown}"
            actions |= {(event.action, event.object) for event in events}
    assert {("write", "put"), ("record", "commit"), ("record", "undo")} <= actions


def find_trace(*wanted: tuple[str, str]) -> tuple[tuple[int, ...], list[Event]]:
    """Return the first trace of the meddled worlds in which all this happens."""
    for seed in range(100):
        for _, kinds, events in record(seed, CLIMATES["meddled"]):
            if {(event.action, event.object) for event in events} >= set(wanted):
                return kinds, events
    raise AssertionError(f"No world has {wanted}.")


def test_the_model_refuses_a_write_after_the_loss_of_the_target() -> None:
    """The writer of a real trace stands still after its mark, and writes when its run is undone."""
    kinds, events = find_trace(("write", "put"), ("result", "1.1"), ("record", "undo"))
    write = next(event for event in events if (event.action, event.object) == ("write", "put"))
    still = [
        event
        for event in events
        if event.action in ("start", "open", "take", "mark") or (event.action, event.object) == ("record", "undo")
    ]
    undone = next(number for number, event in enumerate(still) if event.action == "record")
    late = [*still[: undone + 1], write]
    assert Acceptor(late[:-1], kinds).find_refused() is None
    assert Acceptor(late, kinds).find_refused() == undone + 1
