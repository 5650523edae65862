"""The world: virtual time, one heap of events, and processes that run blocking code between them.

Every process is made of strands, greenlets of one thread. A strand runs until it waits: for an answer of S3, for its
event loop, for time to pass. Then the scheduler takes the next event of the heap. What happens, and in which order, so
depends on the seed alone.
"""

import asyncio
import heapq
import random
import sys
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import greenlet  # type: ignore[import-untyped]

from accession.host import Host

POINTS = 60  # most task attempts make about thirty requests
BEGINNING = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Killed(greenlet.GreenletExit):  # type: ignore[misc]
    """The process is gone. Its code unwinds, and nothing that it still asks for is done."""


class EndlessError(Exception):
    """The world did not come to rest."""


class World:
    """Virtual time in seconds, chance, the events to come, and a trace of those that were."""

    def __init__(self, seed: int) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.now = 0.0
        self.trace: list[str] = []
        self.counts: Counter[str] = Counter()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._left = 2_000_000  # events that may still happen
        self.hub = greenlet.getcurrent()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Have `action` called `delay` seconds from now. Events of one moment come in the order of their making."""
        self._number += 1
        heapq.heappush(self._events, (self.now + max(delay, 0.0), self._number, action))

    def run(self) -> None:
        """Let events happen until none is left. Raises EndlessError after two million of them."""
        self.hub = greenlet.getcurrent()
        while self._events:
            self._left -= 1
            if self._left <= 0:
                raise EndlessError(f"Too many events, and no end: the last was {self.trace[-1]}")
            self.now, _, action = heapq.heappop(self._events)
            action()

    def leap(self, delay: float) -> bool:
        """Let `delay` seconds pass at once if nothing happens meanwhile, and tell whether they passed.

        A strand that would be the next to go on anyway so spares two switches and an event.
        """
        then = self.now + max(delay, 0.0)
        if self._left <= 1 or (self._events and self._events[0][0] <= then):
            return False
        self._left -= 1
        self.now = then
        return True

    def chance(self, probability: float) -> bool:
        """Tell whether something happens that does with this probability."""
        return probability > 0 and self.random.random() < probability

    def spread(self, low: float, high: float) -> float:
        """Draw a time between two bounds, each magnitude as likely as the next."""
        return low * float((high / low) ** self.random.random())

    def note(self, who: str, what: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:12.4f} {who:28} {what}")


class Strand(greenlet.greenlet):  # type: ignore[misc]
    """One flow of control of a process. It waits in `pause`, and goes on when somebody calls `wake`."""

    def __init__(self, process: "Process", function: Callable[[], None]) -> None:
        super().__init__(function, process.world.hub)
        self.process = process
        self.turn = 0  # counts the waits, so that a late call meant for an earlier one does nothing
        self.is_waiting = True

    def pause(self) -> None:
        """Wait until woken. Raises Killed if the process ended meanwhile."""
        self.turn += 1
        self.is_waiting = True
        loop, hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        asyncio._set_running_loop(None)
        sys.set_asyncgen_hooks(None, None)
        try:
            self.process.world.hub.switch()
        finally:
            asyncio._set_running_loop(loop)
            sys.set_asyncgen_hooks(*hooks)
        if not self.process.is_alive:
            raise Killed

    def wait(self, delay: float) -> None:
        """Wait for `delay` seconds, or until woken. Raises Killed if the process ended meanwhile."""
        process = self.process
        if process.is_alive and process.frozen_until <= process.world.now and process.world.leap(delay):
            self.turn += 1
            return
        self.wake(self.turn + 1, delay)
        self.pause()

    def wake(self, turn: int | None = None, delay: float = 0.0) -> None:
        """Let the strand go on `delay` seconds from now, if it still waits as it does now."""
        turn = self.turn if turn is None else turn
        self.process.world.after(delay, lambda: self._go_on(turn))

    def _go_on(self, turn: int) -> None:
        process = self.process
        if turn != self.turn or not self.is_waiting or self.dead or not process.is_alive:
            return
        if process.frozen_until > process.world.now:
            process.world.after(process.frozen_until - process.world.now, lambda: self._go_on(turn))
            return
        self.is_waiting = False
        self.switch()

    def unwind(self) -> None:
        """Let the strand of an ended process run its `finally` blocks."""
        if self and not self.dead:
            self.throw(Killed)


class Process:
    """A process of some machine: it runs `function` in its first strand, and ends with it, or when it is killed.

    `task_id`, `dag_run`, `run` (ours) and its `epoch` say what it works on, for those who watch.
    """

    task_id = ""
    dag_run: Any = None
    run: str | None = None
    epoch: int | None = None

    def __init__(self, world: World, name: str, clock_skew: float = 0.0) -> None:
        self.world, self.name, self.clock_skew = world, name, clock_skew
        self.is_alive, self.frozen_until, self.started_at = True, 0.0, world.now
        self.points = self.crash_at = self.freeze_at = 0
        self.strands: list[Strand] = []
        self.read_at: dict[tuple[str, str], float] = {}  # items, by table and key
        self.known_at: dict[tuple[str, str], float] = {}  # when the sender of the last write had read them
        self.unanswered: set[tuple[str, str]] = set()  # items of requests that were applied and whose answer was lost
        self.has_succeeded = self.was_killed = False
        self.since_look = 0  # requests to S3 since it read state.json for the last time
        self.on_end: list[Callable[[], None]] = []
        self.on_freeze: Callable[[float], None] = lambda _: None  # called with the seconds
        self.host = Host(
            now=self.now,
            monotonic=self.monotonic,
            sleep=self.sleep,
            chance=random.Random(f"{world.seed} {name}"),
        )

    def now(self) -> datetime:
        """Return the time of day by the clock of the machine."""
        return BEGINNING + timedelta(seconds=self.world.now + self.clock_skew)

    def monotonic(self) -> float:
        """Return the seconds of the machine's steady clock."""
        return self.world.now + 1000.0

    def start(self, function: Callable[[], Any], ended: Callable[[Any, BaseException | None], None]) -> None:
        """Begin. `ended` is called with the result or the error, in the scheduler; not after a kill."""

        def work() -> None:
            result, error = None, None
            try:
                result = function()
            except Killed:
                return
            except BaseException as raised:  # noqa: BLE001 -- handed on
                error = raised
            self.world.after(0, lambda: self._finish(ended, result, error))

        self.spawn(work)

    def _finish(self, ended: Callable[[Any, BaseException | None], None], result: Any, error: Any) -> None:
        if self.is_alive:
            self.has_succeeded = error is None
            self._end()
            ended(result, error)

    def spawn(self, function: Callable[[], None]) -> Strand:
        """Begin another strand of this process."""
        strand = Strand(self, function)
        self.strands.append(strand)
        strand.wake()
        return strand

    def current(self) -> Strand:
        """Return the strand that runs now. Raises Killed if the process has ended."""
        if not self.is_alive:
            raise Killed
        strand = greenlet.getcurrent()
        assert isinstance(strand, Strand) and strand.process is self
        return strand

    def sleep(self, seconds: float) -> None:
        """Let time pass in the strand that calls."""
        self.current().wait(seconds)

    def doom(self, crash: float, freeze: float) -> None:
        """Draw whether and where the process will end, or stand still, with these probabilities.

        Each magnitude is as likely as the next, since most guards act at the beginning of a task.
        """
        chance = self.world.chance

        def draw() -> int:
            return int(self.world.spread(1, POINTS + 1))

        self.crash_at = draw() if chance(crash) else 0
        self.freeze_at = draw() if chance(freeze) else 0

    def meet(self, where: str) -> None:
        """Come to a point, before or after a request, at which the process may end or stand still."""
        self.points += 1
        if self.points == self.freeze_at:
            self.freeze(self.world.spread(1.0, 900.0))
            if isinstance(greenlet.getcurrent(), Strand):
                self.sleep(0.0)
        if self.points == self.crash_at:
            self.kill(where)

    def freeze(self, seconds: float) -> None:
        """Let nothing of this process go on for so long."""
        self.frozen_until = max(self.frozen_until, self.world.now + seconds)
        self.world.counts["freezes"] += 1
        self.world.note(self.name, f"freezes for {seconds:.1f} s")
        self.on_freeze(seconds)

    def kill(self, why: str) -> None:
        """End the process at once, from outside or from within. What it has sent stays sent."""
        if not self.is_alive:
            return
        self.world.counts["crashes"] += 1
        self.world.note(self.name, f"is killed: {why}")
        self.was_killed = True
        self._end()
        if isinstance(here := greenlet.getcurrent(), Strand) and here.process is self:
            raise Killed

    def _end(self) -> None:
        self.is_alive = False
        here = greenlet.getcurrent()
        for strand in self.strands:
            if strand is not here and strand:  # it has begun, and not ended
                self.world.after(0, strand.unwind)
        for action in self.on_end:
            self.world.after(0, action)
