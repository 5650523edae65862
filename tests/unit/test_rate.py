"""The shared rate against a table that enforces its limit, in simulated time: sixteen writers, 10 ms a request."""

import heapq
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from accession.dynamodb.rate import Limit, Rate

UNITS = 25.0  # a batch
LATENCY = 0.01
WRITERS = 16


@dataclass
class Table:
    """Takes `limit` units a second, out of a bucket that holds what was unused, up to `burst_seconds` of it."""

    limit: Callable[[float], float]
    burst_seconds: float = 1.0
    level: float = 0.0
    at: float = 0.0

    def take(self, now: float, units: float) -> bool:
        self.level += (now - self.at) * self.limit(now)
        self.level, self.at = min(self.level, self.burst_seconds * self.limit(now)), now
        if self.level < units:
            return False
        self.level -= units
        return True


@dataclass
class Outcome:
    taken: list[float] = field(default_factory=list)  # times of requests that were accepted
    refused: list[float] = field(default_factory=list)

    def units(self, start: float, end: float) -> float:
        """Units accepted a second."""
        return sum(UNITS for time in self.taken if start <= time < end) / (end - start)

    def share_refused(self, start: float, end: float) -> float:
        refused = sum(start <= time < end for time in self.refused)
        return refused / (refused + sum(start <= time < end for time in self.taken))


def run(acquiring: Coroutine[Any, Any, None]) -> None:
    """Run it to its end: nothing that it waits for takes time here."""
    with pytest.raises(StopIteration):
        acquiring.send(None)


def simulate(
    table: Table, *, seconds: float, cap: float | None = None, charge: float = 1.0, limit: Limit | None = None
) -> Outcome:
    """Writers that do nothing but write; `charge` is what a request costs, as a multiple of what was expected."""
    now, slept = 0.0, 0.0
    jitter = random.Random(1)

    async def sleep(length: float) -> None:
        nonlocal slept
        slept = length

    rate, outcome = Rate(cap, limit=limit, clock=lambda: now, sleep=sleep), Outcome()
    events: list[tuple[float, int, str, int]] = [(0.0, writer, "begin", 0) for writer in range(WRITERS)]
    while events:
        now, writer, step, attempt = heapq.heappop(events)
        if now > seconds:
            break
        if step == "begin":
            slept = 0.0
            run(rate.acquire(UNITS / charge))
            heapq.heappush(events, (now + slept + LATENCY, writer, "end", attempt))
        elif table.take(now, UNITS):
            outcome.taken.append(now)
            rate.accepted(UNITS, UNITS / charge)
            heapq.heappush(events, (now, writer, "begin", 0))
        else:
            outcome.refused.append(now)
            rate.throttled()
            wait = jitter.random() * min(2.0, 0.05 * 2**attempt)
            heapq.heappush(events, (now + wait, writer, "begin", attempt + 1))
    return outcome


@pytest.mark.parametrize("charge", [1.0, 3.0], ids=["as expected", "with two indexes"])
@pytest.mark.parametrize("cap", [100.0, 1_000.0, 10_000.0])
def test_a_cap_holds_within_five_per_cent_over_a_minute(cap: float, charge: float) -> None:
    outcome = simulate(Table(lambda _: 1e9), seconds=60, cap=cap, charge=charge)
    assert outcome.units(0, 60) == pytest.approx(cap, rel=0.05)
    assert outcome.units(30, 31) <= cap * 1.1 + UNITS


@pytest.mark.parametrize("burst", [0.1, 1.0, 300.0])
@pytest.mark.parametrize("limit", [1_000.0, 4_000.0, 20_000.0])
def test_the_limit_of_a_table_is_found_and_kept(limit: float, burst: float) -> None:
    outcome = simulate(Table(lambda _: limit, burst), seconds=90)
    assert outcome.units(10, 90) >= 0.92 * limit
    assert outcome.share_refused(10, 90) < 0.05


@pytest.mark.parametrize("burst", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_new_limit_is_found_within_ten_seconds(factor: float, burst: float) -> None:
    outcome = simulate(Table(lambda now: 4_000.0 if now < 40 else 4_000.0 * factor, burst), seconds=70)
    assert outcome.units(50, 60) >= 0.92 * 4_000 * factor
    assert outcome.share_refused(50, 60) < 0.05


def test_a_cap_below_the_tables_limit_is_never_passed_after_a_throttle() -> None:
    outcome = simulate(Table(lambda now: 500.0 if 10 < now < 12 else 1e6, 0.1), seconds=60, cap=2_000)
    assert outcome.refused
    assert outcome.units(40, 60) == pytest.approx(2_000, rel=0.05)


def test_a_throttle_that_was_not_the_tables_is_undone_and_a_later_one_stays() -> None:
    now = 0.0
    rate = Rate(clock=lambda: now)
    now = 1.0
    rate.accepted(1_000, 1_000)
    first = rate.throttled()
    assert first and rate.per_second()
    rate.take_back(first)
    assert rate.per_second() is None

    now = 2.0
    rate.accepted(1_000, 1_000)
    assert rate.throttled()
    slowed = rate.per_second()
    rate.take_back(first)
    assert rate.per_second() == slowed


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        Rate(0)


@pytest.mark.parametrize("seconds", [0.5, 3.0, 6.0], ids=["just now", "on the plateau", "growing"])
def test_a_writer_that_knows_the_limit_begins_there(seconds: float) -> None:
    """As the next part of a run does: without it, each part would find the limit anew."""
    unknowing = simulate(Table(lambda _: 10_000.0), seconds=3)
    knowing = simulate(Table(lambda _: 10_000.0), seconds=3, limit=Limit(10_000.0, seconds))
    assert knowing.share_refused(0, 1) < 0.02 < unknowing.share_refused(0, 1)
    assert knowing.units(0, 3) > 0.9 * 10_000
