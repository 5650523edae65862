"""The page of a report: a non-engineer reads what happened; nothing in it runs, is fetched or is lost."""

import csv
import io
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest

from accession.artifacts import Amount, EntityReport, Report, Rollback, SnapshotRef, Step, Undone
from accession.commands import show_rollback
from accession.run.report_page import SHOWN, describe_verdict, draw_timeline, render_html

RUN = "20260105T120000Z-0123abcd"
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
STATUSES = ("verified", "unchanged", "dry_run", "failed", "rolled_back", "rejected", "refused")


def make_step(name: str, start: float, end: float) -> Step:
    first, last = (START + timedelta(seconds=seconds) for seconds in (start, end))
    return Step(name=name, started_at=first.isoformat(), ended_at=last.isoformat())


def make_report(**changes: Any) -> Report:
    report = Report(
        run=RUN,
        airflow_run_id="manual__2026-01-05",
        mapping="book_library",
        environment="dev",
        status="verified",
        reason=None,
        snapshot=SnapshotRef(
            sha256="ab" * 32,
            uri=f"s3://bucket-1/book_library/dev/backups/{'ab' * 32}.db",
            bytes=123456,
            rows={"user": 120, "book": 200},
            foreign_key_violations={},
        ),
        entities={
            "user": EntityReport(table="BookLibrary-Users-dev", source_rows=120, put=120, verified=120),
            "book": EntityReport(
                table="BookLibrary-Books-dev", source_rows=2200, put=2000, unchanged=200, verified=2200
            ),
        },
        rejects={"user": {"new": 0, "remaining": 0, "resolved": 0}},
        id_maps={"user": f"s3://bucket-1/book_library/dev/runs/{RUN}/id_map/user.db"},
        write_units=Amount(planned=9000, consumed=9120.0),
        price_usd=Amount(planned=0.0056, consumed=0.0061),
        seconds={"backup": 1.0},
        steps=[make_step("backup", 0, 1), make_step("stage.user", 1.5, 3)],
        triggered_by="ann",
        approved_by="bob",
        source_changed_during_run=False,
        source_rows_now=None,
        parent=None,
        is_open=False,
        started_at=START.isoformat(),
        ended_at=(START + timedelta(minutes=5)).isoformat(),
        artifacts={f"runs/{RUN}/plan.json": "cd" * 32},
    )
    return report.model_copy(update=changes)


def write_rejects(number: int, **values: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["entity", "table", "key", "column", "reason", "held"])
    writer.writeheader()
    row = {"entity": "user_book", "table": "T", "column": "book_id", "reason": "refers to no book", "held": "no"}
    writer.writerows({**row, "key": f"row-{n}", **values} for n in range(number))
    return text.getvalue().encode()


def make_rollback(conflicts: int, **values: str) -> Rollback:
    conflict = {
        "entity": "user",
        "table": "BookLibrary-Users-dev",
        "old_key": 1,
        "op": "put",
        "reason": "altered meanwhile",
    }
    return Rollback(
        run=RUN,
        by="bob",
        entities={
            "user": Undone(table="BookLibrary-Users-dev", restored=7, deleted=41, already=3, conflicts=conflicts)
        },
        conflicts=[{**conflict, "key": f"key-{n}", **values} for n in range(conflicts)],
        accepted=False,
        proved=True,
        write_units=3,
        started_at=START.isoformat(),
        ended_at=START.isoformat(),
    )


class Page(HTMLParser):
    """The tags and the text of a page. Raises when a tag is not closed."""

    VOID = ("meta", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.stack: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert self.stack == []
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] != "style":
            self.words.append(data)


def render(report: Report, rejects_csv: bytes = b"", rollback: Rollback | None = None) -> Page:
    return Page(render_html(report, rejects_csv, rollback))


@pytest.mark.parametrize("status", STATUSES)
def test_the_verdict_comes_first_and_is_a_sentence(status: Any) -> None:
    report = make_report(status=status)
    text = render(report).text
    assert text.index(describe_verdict(report)) < text.index("What the columns mean")
    assert describe_verdict(report).endswith(".")


def test_each_status_has_its_own_verdict() -> None:
    verdicts = {describe_verdict(make_report(status=status)) for status in STATUSES}
    verdicts.add(describe_verdict(make_report(status="failed", is_open=True)))
    none = Amount(planned=5, consumed=0)
    verdicts.add(describe_verdict(make_report(status="failed", write_units=none)))
    assert len(verdicts) == len(STATUSES) + 2


def test_a_verified_run_says_how_much_was_proved_and_what_was_left_out() -> None:
    entities = {"user": EntityReport(table="T", verified=2318, rejected=1)}
    assert describe_verdict(make_report(entities=entities)) == (
        "All is well: 2,318 items are in the tables and proved equal to the source. 1 row was left out."
    )


def test_a_dry_run_says_what_it_would_have_done() -> None:
    entities = {"user": EntityReport(table="T", put=3, deleted=1)}
    assert describe_verdict(make_report(status="dry_run", entities=entities)) == (
        "A rehearsal: nothing was written. 3 created, 1 deleted would have been."
    )


def test_an_open_target_shows_the_two_commands_to_copy() -> None:
    resume, undo = f"make migrate ENVIRONMENT=dev RESUME={RUN}", f"make rollback RUN={RUN} ENVIRONMENT=dev"
    reason = f"x failed. The target stays open; finish it or undo it:\n  {resume}\n  {undo}"
    page = render_html(make_report(status="failed", is_open=True, reason=reason), b"", None)
    assert "the target stays open" in Page(page).text
    for command in (resume, undo):
        assert f'<code class="command">{command}</code>' in page


def test_all_numbers_of_an_entity_are_there_and_rare_ones_only_when_there_are_any() -> None:
    rare = {
        "missing": 11,
        "mismatched": 12,
        "conflicts": 13,
        "drifted": 14,
        "held": 15,
        "unexpected": 16,
        "adjusted": 17,
    }
    entity = EntityReport(
        table="T", source_rows=1, put=2, updated=3, unchanged=4, deleted=5, rejected=6, verified=7, **rare
    )
    text = render(make_report(entities={"user": entity})).text
    for word in ("missing", "different", "conflicts", "changed by others", "held back", "not ours", "adjusted"):
        assert word in text
    for number in rare.values():
        assert f" {number} " in text
    assert "not ours" not in render(make_report()).text


def test_bars_are_in_proportion() -> None:
    page = render(make_report())
    bars = [attrs for tag, attrs in page.tags if attrs.get("class") == "bar"]
    assert [bar["style"] for bar in bars] == ["width: 5.45%", "width: 100.00%"]
    pieces = [attrs for tag, attrs in page.tags if tag == "span" and "title" in attrs]
    assert [(piece["title"], piece["style"]) for piece in pieces] == [
        ("120 new", "width: 100.000%"),
        ("2,000 new", "width: 90.909%"),
        ("200 same", "width: 9.091%"),
    ]


def test_the_timeline_keeps_order_and_overlap_and_shows_the_shortest_beside_the_longest() -> None:
    steps = [
        make_step("plan", 3.0, 3.01),
        make_step("stage.user", 0, 1),
        make_step("stage.book", 0.5, 3),
        make_step("migrate.book", 3.01, 10803.01),
    ]
    user, book, plan, migrate = draw_timeline(steps)
    assert [line.name for line in (user, book, plan, migrate)] == ["stage.user", "stage.book", "plan", "migrate.book"]
    assert [line.seconds for line in (user, book, plan, migrate)] == ["1.0 s", "2.5 s", "10 ms", "3 h 00 min"]
    assert user.bars[0].left == 0
    assert user.bars[0].left < book.bars[0].left < user.bars[0].left + user.bars[0].width
    assert book.bars[0].left + book.bars[0].width == pytest.approx(plan.bars[0].left, abs=0.01)
    assert 3 < plan.bars[0].width < migrate.bars[0].width
    assert migrate.bars[0].left + migrate.bars[0].width == pytest.approx(100, abs=0.01)


def test_the_timeline_shows_a_wait_for_a_person() -> None:
    lines = draw_timeline([make_step("plan", 0, 1), make_step("migrate.user", 7201, 7202)])
    assert (lines[-1].name, lines[-1].seconds, lines[-1].is_wait) == ("waiting", "2 h 00 min", True)
    assert draw_timeline([make_step("plan", 0, 1), make_step("migrate.user", 1.2, 2)])[-1].name == "migrate.user"


@pytest.mark.parametrize("steps", [[], [("plan", 0.0, 0.0)], [("plan", 5.0, 5.0), ("verify", 5.0, 5.0)]])
def test_a_timeline_of_nothing_is_drawn_too(steps: list[tuple[str, float, float]]) -> None:
    lines = draw_timeline([make_step(*step) for step in steps])
    assert [(bar.left, bar.width) for line in lines for bar in line.bars] == [(0, 0)] * len(steps)
    render(make_report(steps=[make_step(*step) for step in steps]))


@pytest.mark.parametrize(
    ("number", "more"), [(0, ""), (1, ""), (SHOWN, ""), (SHOWN + 1, "And 1 more."), (5000, "And 4,800 more.")]
)
def test_rejects_are_shown_up_to_a_bound_and_the_full_list_is_named(number: int, more: str) -> None:
    text = render(make_report(), write_rejects(number)).text
    assert text.count("refers to no book") == min(number, SHOWN)
    assert (f"s3://bucket-1/book_library/dev/runs/{RUN}/rejects.csv" in text) == (number > 0)
    assert ("And" in text) == bool(more)
    assert more in text


def test_of_a_list_that_is_cut_the_rest_is_counted_by_the_report() -> None:
    report = make_report(rejects={"user_book": {"new": 700, "remaining": 50, "resolved": 0}})
    cut = write_rejects(SHOWN)[:-30]
    text = render(report, cut).text
    assert text.count("refers to no book") == SHOWN - 1
    assert "And 551 more." in text


def test_a_held_reject_and_what_became_of_earlier_ones_are_told() -> None:
    since = {"user_book": {"new": 1, "remaining": 2, "resolved": 3}}
    text = render(make_report(rejects=since), write_rejects(1, held="yes")).text
    assert "its item stays as it was" in text
    assert "user_book: 1 new, 2 remaining, 3 resolved (compared with the previous run)" in text


def test_an_undo_shows_its_numbers_and_its_conflicts_up_to_a_bound() -> None:
    text = render(make_report(status="rolled_back"), b"", make_rollback(0)).text
    assert "Every item was read again and is as it was before the run." in text
    for number in (7, 41, 3):
        assert f" {number} " in text
    text = render(make_report(status="failed", is_open=True), b"", make_rollback(SHOWN + 5)).text
    assert text.count("altered meanwhile") == SHOWN
    assert "And 5 more." in text
    assert f"runs/{RUN}/rollback.json" in text


def test_drift_of_the_source_is_shown_with_the_rows_then_and_now() -> None:
    assert "The source changed" not in render(make_report()).text
    changed = make_report(source_changed_during_run=True, source_rows_now={"user": 121, "book": 200})
    assert "user 120 121" in render(changed).text
    assert "The source changed" in render(make_report(source_changed_during_run=True)).text


def test_people_cost_snapshot_and_artifacts_are_on_the_page() -> None:
    text = render(make_report()).text
    for words in (
        "ann",
        "approved by bob",
        "9,000",
        "9,120",
        "$0.0056",
        "$0.0061",
        "ab" * 32,
        "123,456 bytes",
        "cd" * 32,
    ):
        assert words in text
    assert "nobody was asked" in render(make_report(approved_by=None)).text


@pytest.mark.parametrize("status", STATUSES)
def test_the_page_says_how_to_undo_exactly_what_can_be_undone(status: Any) -> None:
    command = f"make rollback RUN={RUN} ENVIRONMENT=dev"
    page = render(make_report(status=status))
    assert (command in page.text) == (status == "verified")
    if status == "verified":
        assert f'{{"run": "{RUN}", "environment": "dev", "bucket": "bucket-1"}}' in page.text
    assert command in render(make_report(status="failed", is_open=True)).text


@pytest.mark.parametrize(("environment", "conf"), [("dev", ""), ("prod", """ CONF='{"approval": "never"}'""")])
def test_the_undo_command_is_the_one_that_works_in_the_environment(environment: str, conf: str) -> None:
    page = unescape(render_html(make_report(environment=environment), b"", None))
    command = f"make rollback RUN={RUN} ENVIRONMENT={environment}{conf}"
    assert f'<code class="command">{command}</code>' in page
    assert command == show_rollback(environment, RUN)


def test_nothing_runs_and_nothing_is_fetched() -> None:
    page = render_html(make_report(status="failed", is_open=True), write_rejects(3), make_rollback(3))
    allowed = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "main",
        "header",
        "section",
        "div",
        "span",
        "p",
        "h1",
        "h2",
    }
    allowed |= {"code", "small", "b", "i", "br", "dl", "dt", "dd", "details", "summary"}
    allowed |= {"table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert {tag for tag, _ in Page(page).tags} <= allowed
    assert not {
        name for _, attrs in Page(page).tags for name in attrs if name.startswith("on") or name in ("src", "href")
    }
    assert "url(" not in page
    assert "http://" not in page
    assert "https://" not in page


EVIL = "</title><script>alert('x')</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}&"


def test_every_text_is_escaped() -> None:
    report = make_report(
        run=EVIL,
        airflow_run_id=EVIL,
        mapping=EVIL,
        environment=EVIL,
        status="failed",
        reason=f"{EVIL}\n  {EVIL}",
        snapshot=SnapshotRef(sha256=EVIL, uri=EVIL, bytes=1, rows={EVIL: 1}, foreign_key_violations={EVIL: 1}),
        entities={EVIL: EntityReport(table=EVIL, put=1), "user": EntityReport(table=EVIL, put=1)},
        rejects={EVIL: {EVIL: 1}},
        id_maps={EVIL: EVIL},
        steps=[make_step(EVIL, 0, 1)],
        seconds={EVIL: 1.0},
        triggered_by=EVIL,
        approved_by=EVIL,
        source_changed_during_run=True,
        source_rows_now={EVIL: 1},
        parent=EVIL,
        is_open=True,
        artifacts={EVIL: EVIL},
    )
    rejects = write_rejects(1, entity=EVIL, table=EVIL, key=EVIL, column=EVIL, reason=EVIL)
    undone = make_rollback(1, key=EVIL, table=EVIL, reason=EVIL)
    undone = undone.model_copy(update={"entities": {EVIL: undone.entities["user"].model_copy(update={"table": EVIL})}})
    page = render_html(report, rejects, undone)
    assert "<script" not in page
    assert "<img" not in page
    assert "49" not in re.findall(r"{{.*?}}|\b49\b", page)
    shown = re.sub(r"\s+", " ", EVIL)
    assert Page(page).text.count(shown) > 25
    plain = make_report(status="failed", is_open=True, source_changed_during_run=True, source_rows_now={"user": 1})
    same = render(plain, write_rejects(1), make_rollback(1))
    assert {tag for tag, _ in Page(page).tags} == {tag for tag, _ in same.tags}
