"""The page report.html. It is self-contained, and people who are not engineers can read it. Pure."""

import csv
import io
import math
from collections.abc import Iterable, Iterator
from datetime import datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from accession.artifacts import EntityReport, Report, Rollback, Step
from accession.commands import show_rollback
from accession.progress import show_seconds

TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 200  # rejects and conflicts on the page; the full lists are beside it
LEAST_WAIT_SECONDS = 1.0  # shorter pauses between two steps are not shown

# Field, heading and meaning. The first group is always shown, the second only if a number is not zero.
ALWAYS = (
    ("source_rows", "in the source", "rows of the table in the SQLite file"),
    ("put", "new", "items that the run created"),
    ("updated", "changed", "items that the run brought up to date"),
    ("unchanged", "same", "items that were right already and were not touched"),
    ("deleted", "deleted", "items that have no row in the source any more"),
    ("rejected", "left out", "rows that cannot be migrated, each with its reason"),
    ("verified", "proved equal", "items read back and found equal to the source"),
)
IF_ANY = (
    ("missing", "missing", "items that the run wrote and that are not there"),
    ("mismatched", "different", "items that the run wrote and that are not equal to the source"),
    ("conflicts", "conflicts", "items that the application changed since we wrote them"),
    ("outdated", "outdated", "rows left out whose item from an earlier run is still in the table, as it was then"),
    ("drifted", "changed by others", "items that somebody else changed or deleted; this run did not touch them"),
    ("held", "held back", "items kept as they were: conflicts, deletes, and rows that are rejected now"),
    ("unexpected", "not ours", "items that no run of ours wrote"),
    ("adjusted", "adjusted", "empty index keys that were left out, because DynamoDB refuses them"),
)
PARTS = ("put", "updated", "unchanged", "deleted", "rejected", "conflicts")  # the segments of an entity's bar


class Segment(NamedTuple):
    """A segment of a bar. Its width is in percent of the bar."""

    name: str
    label: str
    number: int
    width: float


class Row(NamedTuple):
    """An entity in the table. `size` is the length of its bar in percent of the longest bar."""

    name: str
    entity: EntityReport
    size: float
    parts: list[Segment]


class Bar(NamedTuple):
    """A bar of the timeline, in percent of its width."""

    left: float
    width: float


class Line(NamedTuple):
    """A line of the timeline."""

    name: str
    seconds: str
    at: str
    bars: list[Bar]
    is_wait: bool = False


def render_html(report: Report, rejects_csv: bytes, rollback: Rollback | None) -> str:
    """Return the page of a report. `rejects_csv` is rejects.csv or its beginning; empty if there is no such file."""
    text = io.StringIO(rejects_csv.decode(), newline="")
    rejects = [row for row in csv.DictReader(text) if None not in row.values()]  # the last row may be cut off
    total = max(len(rejects), sum(sum(counts.values()) for counts in report.rejects.values()))
    conflicts = rollback.conflicts if rollback else []
    folder = report.snapshot.uri.partition("backups/")[0]
    return (
        make_environment(TEMPLATES)
        .get_template("report.html")
        .render(
            describe_report(report),
            rejects=rejects[:SHOWN],
            more_rejects=total - len(rejects[:SHOWN]),
            rejects_since={name: counts for name, counts in report.rejects.items() if any(counts.values())},
            rollback=rollback,
            conflicts=conflicts[:SHOWN],
            more_conflicts=len(conflicts) - len(conflicts[:SHOWN]),
            folder=f"{folder}runs/{report.run}/",
            bucket=folder.removeprefix("s3://").partition("/")[0],
            rows_now=report.source_rows_now or {},
        )
    )


def describe_report(report: Report) -> dict[str, Any]:
    """Return the variables of the templates, in the order of the page: verdict, entities, timeline, undo."""
    totals = report.totals
    return {
        "report": report,
        "verdict": describe_verdict(report),
        "tone": find_tone(report.status),
        "reason": split_reason(report.reason),
        "columns": [*ALWAYS, *(column for column in IF_ANY if totals[column[0]])],
        "totals": totals,
        "rows": list(_draw_rows(report)),
        "timeline": draw_timeline(report.steps),
        "took": _show_took(report),
        "undo": show_rollback(report.environment, report.run, report.mapping),
    }


def describe_verdict(report: Report) -> str:
    """Return one or two sentences on what happened."""
    totals = report.totals
    is_well = "Not all is well" if totals["outdated"] else "All is well"
    left_out = f" {_count(totals['rejected'], 'row was', 'rows were')} left out." if totals["rejected"] else ""
    if totals["outdated"]:
        left_out += (
            f" {_count(totals['outdated'], 'item', 'items')} in the tables came from such rows and are outdated."
        )
    match report.status:
        case "verified":
            proved = _count(totals["verified"], "item is", "items are")
            return f"{is_well}: {proved} in the tables and proved equal to the source.{left_out}"
        case "unchanged":
            match_ = "the tables already match the source" if not totals["rejected"] else "nothing else has changed"
            return f"{is_well}: there was nothing to write, because {match_}.{left_out}"
        case "dry_run":
            planned = ", ".join(
                f"{totals[name]:,} {verb}"
                for name, verb in (("put", "created"), ("updated", "changed"), ("deleted", "deleted"))
                if totals[name]
            )
            return f"A rehearsal: nothing was written. {planned or 'Nothing'} would have been."
        case "rejected":
            return "A person said no to the plan: nothing was written."
        case "refused":
            return "The run was refused before its first write: the tables are as they were."
        case "rolled_back":
            return "The run failed, and all that it wrote was undone: the tables are as they were before it."
        case "failed" if report.is_open:
            return "The run failed, and the target stays open: some of its items may be in the tables."
        case "failed" if report.write_units.consumed:
            return "The run failed after its first write, and it no longer owns the target."
        case _:
            return "The run failed before its first write: the tables are as they were."


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def find_tone(status: str) -> str:
    """Return the tone of a status: good, calm or bad."""
    if status in ("failed", "refused"):
        return "bad"
    return "good" if status in ("verified", "unchanged") else "calm"


def split_reason(reason: str | None) -> list[tuple[bool, str]]:
    """Return the lines of a reason, each with whether it is a command. Commands are indented."""
    return [(line.startswith("  "), line.strip()) for line in (reason or "").splitlines() if line.strip()]


def _draw_rows(report: Report) -> Iterator[Row]:
    labels = {field: label for field, label, _ in (*ALWAYS, *IF_ANY)}
    sizes = {name: sum(getattr(entity, part) for part in PARTS) for name, entity in report.entities.items()}
    longest = max(sizes.values(), default=0)
    for name, entity in report.entities.items():
        numbers = [(part, getattr(entity, part)) for part in PARTS if getattr(entity, part)]
        parts = [Segment(part, labels[part], number, 100 * number / sizes[name]) for part, number in numbers]
        yield Row(name, entity, max(100 * sizes[name] / longest, 4) if sizes[name] else 0, parts)


def draw_timeline(steps: Iterable[Step]) -> list[Line]:
    """Return the steps as bars on one axis.

    The distance between two moments at which a step begins or ends grows with the logarithm of the time between them.
    This keeps order and overlap, and a hundredth of a second is visible beside three hours.
    """
    spans = [(step, datetime.fromisoformat(step.started_at), datetime.fromisoformat(step.ended_at)) for step in steps]
    moments = sorted({moment for _, start, end in spans for moment in (start, end)})
    places, total = dict.fromkeys(moments[:1], 0.0), 0.0
    for before, moment in pairwise(moments):
        total += 0.35 + math.log10(1 + 10 * (moment - before).total_seconds())
        places[moment] = total
    scale = 100 / total if total else 0.0

    def bar(start: datetime, end: datetime) -> Bar:
        return Bar(round(places[start] * scale, 3), round((places[end] - places[start]) * scale, 3))

    lines = [
        Line(step.name, show_span(_measure(step.started_at, step.ended_at)), f"{start:%H:%M:%S}", [bar(start, end)])
        for step, start, end in sorted(spans, key=lambda span: span[1:])
    ]
    waits = [
        (one, other)
        for one, other in pairwise(moments)
        if not any(start <= one and other <= end for _, start, end in spans)
    ]
    waited = sum((other - one).total_seconds() for one, other in waits)
    if waited >= LEAST_WAIT_SECONDS:
        lines.append(Line("waiting", show_span(waited), "", [bar(one, other) for one, other in waits], True))
    return lines


def _measure(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def show_span(seconds: float) -> str:
    """Return a duration as people write it; a short one in milliseconds."""
    return show_seconds(seconds) if seconds >= 0.1 else f"{1000 * seconds:.0f} ms"


def _show_took(report: Report) -> str:
    return show_span(_measure(report.started_at, report.ended_at))


def _show_time(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S} UTC"


@cache
def make_environment(*folders: Path) -> Environment:
    """Return a Jinja environment for the templates in `folders`. It escapes every value and refuses undefined ones."""
    environment = Environment(
        loader=FileSystemLoader(folders),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {"number": lambda number: f"{number:,}", "time": _show_time, "span": _show_took}
    environment.filters |= filters
    return environment
