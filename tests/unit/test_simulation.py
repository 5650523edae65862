"""The client in simulated time: what it sends depends on the seed alone, and never outruns its fence or its bounds."""

import asyncio
import random
from collections.abc import Iterator

import orjson
import pytest

from accession.aws import READ_SECONDS, REQUEST_TIMEOUT_SECONDS
from accession.dynamodb.connection import Answer
from accession.dynamodb.requests import FENCE_SECONDS
from accession.errors import FencedError
from simulated import SOME, SimulatedLoop, SimulatedTransport, open_simulated


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
    assert dynamodb.put_items(SOME, make_puts(count)) == (count, [])
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
    dynamodb.put_items(SOME, make_puts(3000))
    for sent in (sent for sent, operation, _ in transport.trace if operation != "BatchGetItem"):
        assert sent - max(answer for answer in passed if answer <= sent) < 1.0
    assert len(passed) < 5 * loop.now, "it is asked twice a second, not for every write"


def test_with_no_age_allowed_every_write_has_an_answer_of_the_fence_that_came_last(loop: SimulatedLoop) -> None:
    loop.beside_seconds = 0.3
    transport = SimulatedTransport(loop, 1, faults=0.1, connect_seconds=3.0)
    passed: list[float] = []
    dynamodb = open_simulated(transport, loop, check=lambda: passed.append(loop.now), fence_seconds=0)
    dynamodb.put_items(SOME, make_puts(3000))
    for sent in (sent for sent, operation, _ in transport.trace if operation != "BatchGetItem"):
        assert sent in passed
    assert len(passed) < len(transport.trace), "writes that wait together share an answer"


def test_waiting_for_ones_turn_under_the_cap_is_no_failure(loop: SimulatedLoop) -> None:
    """At one unit a second, sixteen batches of 25 items wait 400 s for their turn. Then one of them is throttled."""
    transport = SimulatedTransport(loop, 1)
    real, writes = transport.post, 0

    def throttle_last(connection: object, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        nonlocal writes
        writes += 1
        if writes != 16:
            return real(connection, operation, body)
        answer: asyncio.Future[Answer] = loop.create_future()
        answer.set_result(Answer(400, b'{"__type":"ThrottlingException"}', True))
        return answer

    transport.post = throttle_last  # type: ignore[method-assign]
    dynamodb = open_simulated(transport, loop, in_flight=16, write_units_per_second=1.0)
    assert dynamodb.put_items(SOME, make_puts(16 * 25)) == (400, [])
    assert loop.now > 370 and dynamodb.throttled == 1


def test_items_that_are_left_over_wait_for_their_turn_without_losing_patience(loop: SimulatedLoop) -> None:
    transport = SimulatedTransport(loop, 1, faults=0.4)
    dynamodb = open_simulated(transport, loop, in_flight=16, write_units_per_second=1.0)
    assert dynamodb.put_items(SOME, make_puts(32 * 25)) == (800, [])
    assert loop.now > 700 and dynamodb.throttled > 1


@pytest.mark.parametrize("units", [3.0, 256.0, 1000.0])
def test_scans_keep_to_the_cap_on_read_units_whatever_a_page_costs(loop: SimulatedLoop, units: float) -> None:
    """Four segments of ten pages. A page is charged when its answer tells what it cost."""
    transport = SimulatedTransport(loop, 1)
    sent: list[float] = []

    def post(connection: object, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        sent.append(loop.now)
        page = int(orjson.loads(body).get("ExclusiveStartKey", {"id": {"S": "0"}})["id"]["S"]) + 1
        last = {"LastEvaluatedKey": {"id": {"S": str(page)}}} if page < 10 else {}
        answer: asyncio.Future[Answer] = loop.create_future()
        content = orjson.dumps({"Items": [], "ConsumedCapacity": {"CapacityUnits": units}} | last)
        loop.call_later(0.01, answer.set_result, Answer(200, content, True))
        return answer

    transport.post = post  # type: ignore[method-assign]
    dynamodb = open_simulated(transport, loop, read_units_per_second=500.0)
    assert list(dynamodb.scan_pages("Some", 4)) == []
    assert len(sent) == 40
    assert dynamodb.consumed_read_units == 40 * units
    for number, moment in enumerate(sent):
        assert number * units <= 500 * moment + 4 * units + 50, "four pages, and a tenth of a second"
    assert loop.now < 40 * units / 500 + 4, "the cap is used"


@pytest.mark.parametrize("seed", range(20))
def test_no_edit_is_overwritten_whichever_answers_are_lost(loop: SimulatedLoop, seed: int) -> None:
    """The application edits a random item after each request, if it is there. At the end, every edit is there."""
    transport = SimulatedTransport(loop, seed, faults=0.6)
    chance, edited = random.Random(seed), set[str]()

    def edit(_: str) -> None:
        key = f"key-{chance.randrange(500)}"
        if key in transport.items:
            transport.items[key] = {"id": {"S": key}, "text": {"S": "edited"}}
            edited.add(key)

    transport.applied = edit
    outcome = open_simulated(transport, loop, seed, in_flight=4).put_items(SOME, make_puts(500))
    assert len(transport.items) == 500 == outcome.written + len(outcome.conflicts)
    assert {key for key, item in transport.items.items() if item["text"]["S"] == "edited"} == edited
    assert set(outcome.conflicts) <= edited and edited


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
        dynamodb.put_items(SOME, make_puts(10_000))
    assert 1_800 < len(transport.items) < 3_100
    assert max(sent for sent, _, _ in transport.trace) <= 3.0
    assert transport.active == 0, "those in flight have ended"


@pytest.mark.parametrize("in_flight", [1, 2, 7, 64])
def test_no_more_requests_are_in_flight_than_asked(loop: SimulatedLoop, in_flight: int) -> None:
    transport = SimulatedTransport(loop, 1, connect_seconds=0.0)
    dynamodb = open_simulated(transport, loop, in_flight=in_flight)
    assert dynamodb.put_items(SOME, make_puts(5_000)) == (5_000, [])
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

    assert dynamodb.put_items(SOME, puts()) == (1_000, [])
    assert transport.most_active == 12


def test_a_batch_that_is_larger_than_the_bound_goes_alone(loop: SimulatedLoop) -> None:
    transport = SimulatedTransport(loop, 1)
    assert open_simulated(transport, loop).put_items(SOME, make_puts(8, 9_000_000)) == (8, [])
    assert transport.most_active == 3
