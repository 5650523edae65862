"""The client in simulated time: what it sends depends on the seed alone, and never outruns its fence or its bounds."""

from collections.abc import Iterator

import orjson
import pytest

from accession.aws import READ_SECONDS, REQUEST_TIMEOUT_SECONDS
from accession.dynamodb.requests import FENCE_SECONDS
from accession.errors import FencedError
from simulated import SimulatedLoop, SimulatedTransport, open_simulated


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    with_loop = SimulatedLoop()
    yield with_loop
    with_loop.close()


def make_puts(count: int, size: int = 10) -> list[tuple[str, bytes]]:
    return [
        (f"key-{number}", orjson.dumps({"id": {"S": f"key-{number}"}, "text": {"S": "x" * size}}))
        for number in range(count)
    ]


def run(seed: int, count: int = 3000) -> SimulatedTransport:
    loop = SimulatedLoop()
    transport = SimulatedTransport(loop, seed, faults=0.2)
    checks: list[float] = []
    dynamodb = open_simulated(
        transport, loop, seed, check=lambda: checks.append(loop.now), write_units_per_second=lambda: 2_000.0
    )
    assert dynamodb.put_items("Some", make_puts(count)) == count
    loop.close()
    return transport


def test_the_same_seed_sends_the_same_requests_at_the_same_times() -> None:
    first, second, other = run(1), run(1), run(2)
    assert len(first.trace) > 120
    assert first.trace == second.trace
    assert first.trace != other.trace
    assert set(first.items) == set(other.items) == {f"key-{number}" for number in range(3000)}


@pytest.mark.parametrize("seed", range(5))
def test_no_write_goes_out_on_an_answer_of_the_fence_that_is_a_second_old(loop: SimulatedLoop, seed: int) -> None:
    """Connecting takes up to 3 s here, the fence 0.3 s."""
    loop.beside_seconds = 0.3
    transport = SimulatedTransport(loop, seed, faults=0.1, connect_seconds=3.0)
    passed: list[float] = []
    dynamodb = open_simulated(transport, loop, seed, check=lambda: passed.append(loop.now))
    dynamodb.put_items("Some", make_puts(3000))
    for sent, _, _ in transport.trace:
        assert sent - max(answer for answer in passed if answer <= sent) < 1.0
    assert len(passed) < 5 * loop.now, "it is asked twice a second, not for every write"


def test_whoever_waits_for_older_writers_waits_long_enough() -> None:
    """From the fence's answer to the end of the request."""
    assert FENCE_SECONDS + READ_SECONDS <= REQUEST_TIMEOUT_SECONDS


def test_nothing_is_sent_once_the_fence_has_fallen(loop: SimulatedLoop) -> None:
    transport = SimulatedTransport(loop, 1)

    def check() -> None:
        if loop.now > 2.0:
            raise FencedError("another run owns the target now")

    dynamodb = open_simulated(transport, loop, check=check, write_units_per_second=1_000)
    with pytest.raises(FencedError):
        dynamodb.put_items("Some", make_puts(10_000))
    assert 1_800 < len(transport.items) < 3_100
    assert max(sent for sent, _, _ in transport.trace) <= 3.0
    assert transport.active == 0, "those in flight have ended"


@pytest.mark.parametrize("in_flight", [1, 2, 7, 64])
def test_no_more_requests_are_in_flight_than_asked(loop: SimulatedLoop, in_flight: int) -> None:
    transport = SimulatedTransport(loop, 1, connect_seconds=0.0)
    dynamodb = open_simulated(transport, loop, in_flight=in_flight)
    assert dynamodb.put_items("Some", make_puts(5_000)) == 5_000
    assert transport.most_active == in_flight


def test_no_more_bytes_are_in_flight_than_32_mb(loop: SimulatedLoop) -> None:
    """Batches of 25 items of 100 KB are 2.5 MB each: twelve fit."""
    transport = SimulatedTransport(loop, 1, connect_seconds=0.0)
    dynamodb = open_simulated(transport, loop)
    taken = 0

    def puts() -> Iterator[tuple[str, bytes]]:
        nonlocal taken
        for number in range(1_000):
            taken += 1
            assert 100_000 * (taken - len(transport.items)) < 32_000_000 + 8_000_000 + 5_000_000
            yield f"key-{number}", make_puts(1, 100_000)[0][1].replace(b"key-0", f"key-{number}".encode())

    assert dynamodb.put_items("Some", puts()) == 1_000
    assert transport.most_active == 12


def test_a_batch_that_is_larger_than_the_bound_goes_alone(loop: SimulatedLoop) -> None:
    transport = SimulatedTransport(loop, 1)
    assert open_simulated(transport, loop).put_items("Some", make_puts(8, 9_000_000)) == 8
    assert transport.most_active == 3
