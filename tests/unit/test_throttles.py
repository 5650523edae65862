"""Which throttles slow everybody down, and which only the items of a hot key range."""

import pytest

from accession.dynamodb.answers import ThrottledError
from accession.dynamodb.rate import Rate
from accession.dynamodb.throttles import HOT_SECONDS, Throttles

LIMIT = {"TableWriteMaxOnDemandThroughputExceeded"}
HOT = {"TableWriteKeyRangeThroughputExceeded"}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rate(clock: Clock) -> Rate:
    rate = Rate(clock=clock)
    rate.accepted(1000, 1000)
    clock.now += 1
    return rate


@pytest.mark.parametrize("reasons", [LIMIT, set(), LIMIT | HOT])
def test_a_limit_slows_everybody_down(clock: Clock, rate: Rate, reasons: set[str]) -> None:
    throttles = Throttles(rate, clock)
    assert throttles.add(ThrottledError(reasons))
    assert rate.per_second() is not None
    assert not throttles.add(ThrottledError(reasons)), "the same throttle, met by another request"
    assert throttles.count == 2


def test_a_hot_key_range_slows_nobody_down(clock: Clock, rate: Rate) -> None:
    throttles = Throttles(rate, clock)
    assert not throttles.add(ThrottledError(HOT))
    assert not throttles.add(ThrottledError(set())), "what is left over now is of that range"
    assert rate.per_second() is None
    clock.now += HOT_SECONDS
    assert throttles.add(ThrottledError(set())), "it is not hot any more"


def test_a_slowing_is_taken_back_if_it_was_a_hot_key_range_after_all(clock: Clock, rate: Rate) -> None:
    throttles = Throttles(rate, clock)
    assert throttles.add(ThrottledError(set()))
    throttles.add(ThrottledError(HOT))
    assert rate.per_second() is None


def test_a_named_limit_is_not_taken_back(clock: Clock, rate: Rate) -> None:
    throttles = Throttles(rate, clock)
    throttles.add(ThrottledError(LIMIT))
    throttles.add(ThrottledError(HOT))
    assert rate.per_second() is not None
