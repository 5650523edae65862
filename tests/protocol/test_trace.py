"""The model accepts traces that obey the rules of ownership, and refuses others at the event that breaks one."""

import pytest

from protocol.acceptor import Acceptor
from protocol.adapter import Request, View, make_trace
from protocol.layout import DELETE, PUT, UPDATE
from protocol.rules import Rules
from protocol.trace import Event, parse_trace

OPENED = ["open_run start run", "open_run open 1", "migrate start retry"]
ATTEMPT = ["migrate mark 1.1", "migrate write put", "migrate write update", "migrate result 1.1"]
UNDO = ["undo start undo", "undo take 2", "undo write update", "undo write put", "undo record undo"]

ALLOWED = {
    "a run that commits": [*OPENED, *ATTEMPT, "report start committing-report", "report record commit"],
    "a run that is undone": [*OPENED, *ATTEMPT, *UNDO],
    "a run that is opened again after its undo": [
        *OPENED,
        *ATTEMPT,
        *UNDO,
        "again start run",
        "again open 3",
        "again mark 3.1",
        "again write put",
        "again write update",
        "again result 3.1",
        "again record commit",
    ],
    "a write of an older epoch before the next one has settled": [
        *OPENED,
        "migrate mark 1.1",
        "resume start resume",
        "resume take 2",
        "migrate write put",
        "resume mark 2.1",
    ],
    "a task of a resumed run": [
        *OPENED,
        *ATTEMPT[:2],
        "resume start resume",
        "resume take 2",
        "again start retry/1",
        "again mark 2.1",
        "again write update",
    ],
    "a report that releases": [
        *OPENED[:2],
        "report start report",
        "report take 2",
        "report record release",
    ],
    "a late attempt that keeps the result": [*OPENED, "late start retry", *ATTEMPT, "late mark 1.2", "late result 1.2"],
    "an item that the application changed": [*OPENED, *ATTEMPT[:3], "application edit put", "migrate result 1.1"],
}

# The last event breaks a rule.
FORBIDDEN = {
    "a write of an older epoch after the next one has settled": [
        *OPENED,
        "migrate mark 1.1",
        "resume start resume",
        "resume take 2",
        "resume mark 2.1",
        "migrate write put",
    ],
    "a write of an older attempt after a newer one has settled": [
        *OPENED,
        "migrate mark 1.1",
        "late start retry",
        "late mark 1.2",
        "late write put",
        "migrate write update",
    ],
    "a write without a mark": [*OPENED, "migrate write put"],
    "a second attempt at a part that is done": [*OPENED, *ATTEMPT, "late start retry", "late mark 1.2"],
    "a commit without a result": [
        *OPENED,
        *ATTEMPT[:3],
        "report start committing-report",
        "report record commit",
    ],
    "a release after a mark": [
        *OPENED,
        "migrate mark 1.1",
        "report start report",
        "report take 2",
        "report record release",
    ],
    "an open_run that goes on after an undo took over": [
        *OPENED,
        "again start run",
        "undo start undo",
        "undo take 2",
        "again mark 2.1",
    ],
    "a rollback of what a resume took over": [
        *OPENED,
        "resume start resume",
        "resume take 2",
        "rollback start automatic-rollback",
        "rollback take 3",
    ],
    "an item of the application that is overwritten": [
        *OPENED,
        *ATTEMPT[:2],
        "application edit put",
        "migrate write put",
    ],
    "an item that the application deleted after its part was done and that is put again": [
        *OPENED,
        "late start retry",
        *ATTEMPT,
        "application delete put",
        "late mark 1.2",
        "late write put",
    ],
    "an undo that leaves an item": [*OPENED, *ATTEMPT, *UNDO[:3], "undo record undo"],
}


def find_refused(lines: list[str], rules: Rules | None = None) -> int | None:
    return Acceptor(parse_trace(lines), (PUT, UPDATE), rules).find_refused()


@pytest.mark.parametrize("lines", ALLOWED.values(), ids=ALLOWED)
def test_the_model_accepts_a_trace_that_obeys_the_rules(lines: list[str]) -> None:
    assert find_refused(lines) is None


@pytest.mark.parametrize("lines", FORBIDDEN.values(), ids=FORBIDDEN)
def test_the_model_refuses_a_trace_at_the_event_that_breaks_a_rule(lines: list[str]) -> None:
    assert find_refused(lines) == len(lines) - 1


def test_a_trace_that_breaks_one_rule_is_accepted_without_that_rule() -> None:
    lines = FORBIDDEN["a write of an older epoch after the next one has settled"]
    assert find_refused(lines, Rules(without=frozenset({"check_state"}))) is None


def test_a_line_that_is_no_event_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an event"):
        parse_trace(["migrate writes"])


def opened(run: str, epoch: int, origin: int | None = None) -> dict[str, object]:
    found: dict[str, object] = {"run": run, "epoch": epoch}
    return {"open": found if origin is None else found | {"origin": origin}}


def record(action: str, head: str | None, *, closed: bool) -> dict[str, object]:
    return {"action": action, "run": "r", "head": head, "closed": closed}


PART = "runs/r/progress/books/00000.migrate"
REQUESTS = [
    Request("open_run", "GetObject", "state.json", changed=False),
    Request("open_run", "PutObject", "state.json", opened("r", 8)),
    Request("migrate", "ListObjectsV2", PART, changed=False),
    Request("migrate", "PutObject", f"{PART}.8.1.started"),
    Request("migrate", "PutObject", "runs/r/progress/authors/00000.migrate.8.1.started"),
    Request("migrate", "BatchWriteItem", "book 1"),
    Request("migrate", "BatchWriteItem", "book 2"),
    Request("migrate", "UpdateItem", "book 3"),
    Request("application", "UpdateItem", "book 2"),
    Request("application", "UpdateItem", "book 1"),
    Request("migrate", "PutObject", f"{PART}.8.1.json"),
    Request("undo", "GetObject", "state.json", changed=False),
    Request("undo", "PutObject", "state.json", opened("r", 9, 9)),
    Request("undo", "UpdateItem", "book 3"),
    Request("undo", "DeleteItem", "book 1", changed=False),
    Request("undo", "PutObject", "log/00000001.json", record("undo", None, closed=True)),
    Request("undo", "PutObject", "state.json", {"open": None}),
]
VIEW = View(
    run="r",
    part="progress/books/00000.migrate",
    items={"book 1": "put", "book 3": "update"},
    kinds={"open_run": "run", "migrate": "retry", "undo": "undo"},
)


def test_recorded_requests_make_a_trace() -> None:
    assert [str(event) for event in make_trace(REQUESTS, VIEW)] == [
        *["open_run start run", "open_run open 1"],
        *["migrate start retry", "migrate mark 1.1", "migrate write put", "migrate write update"],
        *["application edit put", "migrate result 1.1"],
        *["undo start undo", "undo take 2", "undo write update", "undo record undo"],
    ]


def test_recorded_requests_of_a_run_and_its_undo_are_accepted() -> None:
    assert Acceptor(make_trace(REQUESTS, VIEW), (PUT, UPDATE)).find_refused() is None


def test_recorded_requests_of_a_writer_that_did_not_stop_are_refused() -> None:
    late = Request("migrate", "UpdateItem", "book 3")
    events = list(make_trace([*REQUESTS[:-2], late, *REQUESTS[-2:]], VIEW))
    refused = Acceptor(events, (PUT, UPDATE)).find_refused()
    assert refused is not None
    assert events[refused] == Event("migrate", "write", "update")


def test_commit_and_release_are_told_apart() -> None:
    requests = [
        Request("report", "PutObject", "log/00000001.json", record("run", head, closed=closed))
        for head, closed in (("r", True), ("other", True), ("other", False))
    ]
    view = View("r", VIEW.part, {}, {"report": "report"})
    assert [event.object for event in make_trace(requests, view)] == ["report", "commit", "release"]


def test_a_trace_of_deletes_alone_is_accepted() -> None:
    lines = [*OPENED, "migrate mark 1.1", "migrate write delete", "migrate result 1.1", "migrate record commit"]
    assert Acceptor(parse_trace(lines), (DELETE,)).find_refused() is None
