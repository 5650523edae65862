"""The archive: what the audit pages show of a target, from its artifacts alone. Read-only; memory does not grow with a
run's size.

The register is read from its end, a page at a time. A run that has not ended is shown by what it has left on S3 so far.
"""

import csv
import io
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from accession.artifacts import (
    Manifest,
    Plan,
    Report,
    Rollback,
    StagedEntity,
    Store,
    Verification,
    execution_path,
    find_plan,
    find_rollback,
    load_manifest,
    run_path,
    staged_entity_path,
    started_path,
    verification_path,
)
from accession.audit.id_map_cache import ListedRow
from accession.errors import StoreError
from accession.mapping import Mapping
from accession.target import PATH, LogRecord, State, log_path, parse_state
from accession.threads import run_all

IN_FLIGHT = 8
RECENT = timedelta(days=7)  # a run without a record that is older has died, and is found by make audit
PEEKED_BYTES = 64 * 1024


class RegisterEntry(NamedTuple):
    """A line of the list of runs: a record of the register, and the numbers of the run that ended with it."""

    sequence: int
    record: LogRecord | None  # None: it cannot be read
    report: Report | None
    rollback: Rollback | None

    @property
    def is_undone(self) -> bool:
        """Whether the run was undone after this end of it."""
        return self.report is not None and was_undone(self.report, self.rollback)


class StepProgress(NamedTuple):
    """A step of a run that has not ended: done, at work or waiting; of how many, and what it did."""

    name: str
    state: str
    done: int
    total: int
    note: str


class Live(NamedTuple):
    """How far a run has come: its steps; items written of all, the rate a second and the seconds left."""

    steps: list[StepProgress]
    written: int
    total: int
    per_second: float
    seconds_left: float | None
    is_open: bool


class Dossier(NamedTuple):
    """Everything small that a run has left."""

    manifest: Manifest
    report: Report | None
    plan: Plan | None
    rollback: Rollback | None
    verifications: list[Verification]
    state: State | None


def find_state(store: Store) -> State | None:
    """The state as it lies there. Unlike `load_state` it never rolls forward, so it writes nothing."""
    found = store.find(PATH)
    return parse_state(store, found.data) if found else None


def count_records(store: Store, state: State | None) -> int:
    """Records of the register, with the one that state.json does not know yet."""
    last = state.log_tail.sequence if state else 0
    return last + 1 if state and store.has(log_path(last + 1)) else last


def list_entries(store: Store, newest: int, size: int) -> list[RegisterEntry]:
    """The records from `newest` backwards, at most `size`."""
    numbers = range(newest, max(newest - size, 0), -1)
    found = dict(run_all(numbers, lambda number: _read_entry(store, number), IN_FLIGHT))
    return [found[number] for number in numbers]


def _read_entry(store: Store, number: int) -> RegisterEntry:
    try:
        record = _load_record(store, number)
    except (StoreError, ValueError):
        return RegisterEntry(number, None, None, None)
    if record.run is None or record.action != "run":
        return RegisterEntry(number, record, None, None)
    try:
        report = _load_report(store, record.run, record.artifacts.get(run_path(record.run, "report.json"), ""))
    except (StoreError, ValueError):  # it was removed or altered: the record stands, the audit says what is wrong
        return RegisterEntry(number, record, None, None)
    return RegisterEntry(number, record, report, find_rollback(store, record.run) if report else None)


@lru_cache(maxsize=4096)
def _load_record(store: Store, number: int) -> LogRecord:
    """A record, which never changes; of its artifacts only the report's digest, as the list may be long."""
    record = LogRecord.model_validate_json(store.get(log_path(number)))
    report = run_path(record.run or "", "report.json")
    return record.model_copy(update={"artifacts": {k: v for k, v in record.artifacts.items() if k == report}})


@lru_cache(maxsize=1024)
def _load_report(store: Store, run: str, sha256: str) -> Report | None:
    """The report of that digest without its artifacts; None when a later end of the run has written another."""
    path = run_path(run, "report.json")
    if store.hash(path) != sha256:
        return None
    return Report.model_validate_json(store.get(path)).model_copy(update={"artifacts": {}})


def was_undone(report: Report, rollback: Rollback | None) -> bool:
    """Whether an undo has come to its end after the run had."""
    if rollback is None or (rollback.conflicts and not rollback.accepted):
        return False
    return datetime.fromisoformat(rollback.ended_at) > datetime.fromisoformat(report.ended_at)


def list_unended(store: Store, now: datetime | None = None) -> list[Manifest]:
    """Runs of the last days without a report, newest first: at work, or dead before their end."""
    after = f"{(now or datetime.now(UTC)) - RECENT:%Y%m%dT%H%M%SZ}"
    runs = sorted(store.list_folders("runs/", after), reverse=True)
    found = run_all(runs, lambda run: None if store.has(run_path(run, "report.json")) else run, IN_FLIGHT)
    return [load_manifest(store, run) for run in sorted((run for _, run in found if run), reverse=True)]


def open_dossier(store: Store, mapping: Mapping, run: str) -> Dossier:
    """What a run has left. Raises StoreError when there is no such run, or what it left is damaged."""
    manifest = load_manifest(store, run)
    proofs = run_all(
        mapping.order, lambda name: store.find_document(verification_path(run, name), Verification), IN_FLIGHT
    )
    proved = {name: found for name, found in proofs if found}
    return Dossier(
        manifest=manifest,
        report=store.find_document(run_path(run, "report.json"), Report),
        plan=find_plan(store, run),
        rollback=find_rollback(store, run),
        verifications=[proved[name] for name in mapping.order if name in proved],
        state=find_state(store),
    )


def find_record(store: Store, report: Report, records: int) -> LogRecord | None:
    """The record with which the run of `report` ended. Reads a few: records are in the order of time."""
    ended = datetime.fromisoformat(report.ended_at).replace(microsecond=0)
    numbers = range(1, records + 1)
    try:
        first = bisect_left(numbers, ended, key=lambda number: datetime.fromisoformat(_load_record(store, number).at))
        for number in islice(numbers, first, first + 20):
            record = _load_record(store, number)
            if record.run == report.run and record.action == "run":
                return LogRecord.model_validate_json(store.get(log_path(number)))
    except (StoreError, ValueError):
        return None
    return None


def find_staged_entity(store: Store, run: str, entity: str) -> StagedEntity | None:
    """What staging said of an entity, or None when it did not come so far."""
    return store.find_document(staged_entity_path(run, entity), StagedEntity)


def peek_rejects(store: Store, run: str, limit: int) -> Iterator[tuple[str, ListedRow]]:
    """The first rejects of a run with their entities, from the head of `rejects.csv` alone."""
    data = store.peek(run_path(run, "rejects.csv"), PEEKED_BYTES)
    text = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    for row in islice(csv.DictReader(io.StringIO(text, newline="")), limit):
        if row.get("since"):  # the last row may be cut within a quoted text
            yield row["entity"], ListedRow(row["key"], row["column"], row["reason"])


def watch_run(store: Store, mapping: Mapping, dossier: Dossier, now: datetime | None = None) -> Live:
    """How far a run has come, from what it has left so far."""
    run, plan, rows = dossier.manifest.run, dossier.plan, dossier.manifest.snapshot.rows
    is_open = dossier.state is not None and dossier.state.open is not None and dossier.state.open.run == run
    indexes = {name: find_staged_entity(store, run, name) for name in mapping.order}
    staged = {name: index for name, index in indexes.items() if index}
    marks = set(store.list(run_path(run, "progress/")))
    writers = {name: _count_writes(run, name, index, marks) for name, index in staged.items()}
    proved = {proof.entity for proof in dossier.verifications}
    names = mapping.order
    groups: list[list[tuple[str, int, int, str, tuple[str, ...]]]] = [
        [("backup", 1, 1, f"{dossier.manifest.snapshot.bytes:,} bytes", ())],
        [
            (n, int(n in staged), 1, f"{rows.get(mapping.entities[n].source.table, 0):,} rows", mapping.parents[n])
            for n in names
        ],
        [("plan", int(plan is not None), 1, f"{plan.writes:,} items to write" if plan else "", ())],
        [("open_run", int(is_open), 1, "" if is_open else "a person is asked first, when the run wants it", ())],
        [
            (n, w.parts_done, w.parts, w.note, mapping.parents[n])
            for n, w in ((n, writers.get(n, NOT_STAGED)) for n in names)
        ],
        [(n, int(n in proved), 1, "", ()) for n in names],
    ]
    steps: list[StepProgress] = []
    is_ready = True
    for title, group in zip(("", "stage.", "", "", "migrate.", "verify."), groups, strict=True):
        done = {name for name, number, total, _, _ in group if number >= total}
        for name, number, total, note, parents in group:
            can_start = is_ready and done.issuperset(parents)
            state = "done" if name in done else "at work" if can_start else "waiting"
            steps.append(StepProgress(f"{title}{name}", state, number, total, note))
        is_ready = is_ready and len(done) == len(group)
    written, total = sum(w.items_done for w in writers.values()), sum(w.items for w in writers.values())
    seconds = _measure_writing(store, marks, now or datetime.now(UTC))
    rate = written / seconds if seconds else 0.0
    return Live(steps, written, total, rate, (total - written) / rate if rate else None, is_open)


class _Writes(NamedTuple):
    parts: int
    parts_begun: int
    parts_done: int
    items: int
    items_done: int

    @property
    def note(self) -> str:
        if not self.items:
            return ""
        at_work = self.parts_begun - self.parts_done
        return f"{self.items_done:,} of {self.items:,} items" + (f", {at_work:,} parts at work" if at_work > 0 else "")


NOT_STAGED = _Writes(parts=1, parts_begun=0, parts_done=0, items=0, items_done=0)


def _count_writes(run: str, name: str, index: StagedEntity, marks: set[str]) -> _Writes:
    done = [part for part in index.parts if execution_path(run, name, part.part) in marks]
    begun = sum(started_path(run, name, part.part) in marks for part in index.parts)
    items, items_done = (sum(part.put + part.update for part in parts) for parts in (index.parts, done))
    return _Writes(len(index.parts), begun, len(done), items, items_done)


def _measure_writing(store: Store, marks: set[str], now: datetime) -> float | None:
    """Seconds since the first part was begun."""
    begun = sorted(path for path in marks if path.endswith(".migrate.started"))
    times = [found.data.decode() for _, found in run_all(begun[:IN_FLIGHT], store.find, IN_FLIGHT) if found]
    return max((now - datetime.fromisoformat(min(times))).total_seconds(), 1.0) if times else None
