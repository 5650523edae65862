"""The ownership protocol holds in every history within bounds, and each guard is needed.

`make test` explores small bounds in a few seconds, `make explore` the larger ones.
"""

import pytest

from protocol.bounds import LONG, NEEDED, QUICK, SMALL, UNBOUNDED, Whole
from protocol.explorer import Explorer
from protocol.layout import HEADER, PUT
from protocol.rules import GUARDS, SPARE, Bounds, Rules

PRUNED = {
    "one item": Bounds(2, 1, 1, items=(PUT,)),
    "three items": Bounds(2, 0, 0),
}


def explore_whole(whole: Whole) -> None:
    found = Explorer(Rules(), whole.bounds).explore()
    assert not found.fault, found.trace
    assert found.states == whole.states


@pytest.mark.parametrize("whole", QUICK.values(), ids=QUICK)
def test_the_protocol_holds_in_every_history(whole: Whole) -> None:
    explore_whole(whole)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("whole", LONG.values(), ids=LONG)
def test_the_protocol_holds_in_every_history_within_larger_bounds(whole: Whole) -> None:
    explore_whole(whole)


def test_every_guard_has_bounds_within_which_its_lack_shows() -> None:
    assert NEEDED.keys() == GUARDS.keys()


@pytest.mark.parametrize("guard", NEEDED)
def test_each_guard_is_needed(guard: str) -> None:
    bounds, fault = NEEDED[guard]
    assert Explorer(Rules(without=frozenset({guard})), bounds).explore().fault == fault


def test_with_all_guards_nothing_breaks_within_any_of_these_bounds() -> None:
    for bounds in {bounds for bounds, _ in NEEDED.values()}:
        assert not Explorer(Rules(), bounds).explore().fault


@pytest.mark.parametrize("guard", SPARE)
def test_a_spare_guard_is_not_needed_beside_the_others(guard: str) -> None:
    bounds = SMALL._replace(items=(PUT,))
    assert not Explorer(Rules(without=frozenset({guard})), bounds).explore().fault


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("guard", SPARE)
def test_a_spare_guard_is_not_needed_within_larger_bounds(guard: str) -> None:
    for bounds in (SMALL, Bounds(3, 1, 1, items=(PUT,))):
        assert not Explorer(Rules(without=frozenset({guard})), bounds).explore().fault


def test_the_protocol_needs_the_bound_on_a_request_in_flight() -> None:
    bounds, fault = UNBOUNDED
    assert Explorer(Rules(is_bounded=False), bounds).explore().fault == fault


def test_a_guard_that_does_not_exist_cannot_be_taken_away() -> None:
    with pytest.raises(ValueError, match="no guard check_stat"):
        Rules(without=frozenset({"check_stat"}))


@pytest.mark.parametrize("bounds", PRUNED.values(), ids=PRUNED)
def test_pruning_leaves_out_no_state_of_the_target(bounds: Bounds) -> None:
    pruned, whole = Explorer(Rules(), bounds), Explorer(Rules(), bounds, prunes=False)
    assert not pruned.explore().fault
    assert not whole.explore().fault
    assert len(pruned.parents) < len(whole.parents)
    assert {state[:HEADER] for state in pruned.parents} == {state[:HEADER] for state in whole.parents}


@pytest.mark.parametrize("guard", ["settle_after_take_over", "keep_result", "take_over_to_release"])
def test_pruning_hides_no_fault(guard: str) -> None:
    bounds, fault = NEEDED[guard]
    assert Explorer(Rules(without=frozenset({guard})), bounds, prunes=False).explore().fault == fault
