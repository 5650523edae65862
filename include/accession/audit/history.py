"""Read the history of a target for the audit pages: its register, and what each run left on S3.

Read-only. The register is read from its end, a page at a time, and memory does not grow with the size of a run.
"""

import csv
import io
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache, partial
from itertools import islice
from typing import NamedTuple

from accession.artifacts import Manifest, Plan, Report, Rollback, RunFolder, Store, Verification, run_path
from accession.audit.hash_chain import IN_FLIGHT
from accession.audit.id_map_cache import ListedRow
from accession.errors import StoreError
from accession.mapping import Mapping
from accession.target import PATH, LogRecord, State, log_path, parse_state
from accession.threads import run_all

RECENT = timedelta(days=7)  # an older run without a report has died; `make audit` lists it
PEEKED_BYTES = 64 * 1024


class RegisterEntry(NamedTuple):
    """A line of the list of runs: a record of the register, and the report of the run that ended with it."""

    sequence: int
    record: LogRecord | None  # None if it cannot be read
    report: Report | None
    rollback: Rollback | None

    @property
    def is_undone(self) -> bool:
        """Return whether the run was undone after it ended with this record."""
        return self.report is not None and was_undone(self.report, self.rollback)


class RunDocuments(NamedTuple):
    """The small documents that a run has left so far, and the state of its target."""

    manifest: Manifest
    report: Report | None
    plan: Plan | None
    rollback: Rollback | None
    verifications: list[Verification]
    state: State | None

    @property
    def is_open(self) -> bool:
        """Return whether this run has the target open."""
        return self.state is not None and self.state.open is not None and self.state.open.run == self.manifest.run


def find_state(store: Store) -> State | None:
    """Return the state as it is stored. Unlike `load_state` this never rolls it forward, so it writes nothing."""
    found = store.find(PATH)
    return parse_state(store, found.data) if found else None


def count_records(store: Store, state: State | None) -> int:
    """Count the records of the register, including one that state.json does not name yet."""
    last = state.log_tail.sequence if state else 0
    return last + 1 if state and store.has(log_path(last + 1)) else last


def list_entries(store: Store, newest: int, size: int) -> list[RegisterEntry]:
    """Return at most `size` records, from `newest` backwards."""
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
    except (StoreError, ValueError):  # removed or altered: the record is still shown, and the audit names the damage
        return RegisterEntry(number, record, None, None)
    return RegisterEntry(number, record, report, RunFolder(store, record.run).find_rollback() if report else None)


@lru_cache(maxsize=4096)
def _load_record(store: Store, number: int) -> LogRecord:
    """Return a record, which never changes. Of its artifacts, which may be many, it keeps the report alone."""
    record = LogRecord.model_validate_json(store.get(log_path(number)))
    report = run_path(record.run or "", "report.json")
    return record.model_copy(update={"artifacts": {k: v for k, v in record.artifacts.items() if k == report}})


@lru_cache(maxsize=1024)
def _load_report(store: Store, run: str, sha256: str) -> Report | None:
    """Return the report with that digest, less its artifacts; None if a later end of the run replaced it."""
    path = run_path(run, "report.json")
    if store.hash(path) != sha256:
        return None
    return Report.model_validate_json(store.get(path)).model_copy(update={"artifacts": {}})


def was_undone(report: Report, rollback: Rollback | None) -> bool:
    """Return whether an undo of the run was completed after the run had ended."""
    if rollback is None or (rollback.conflicts and not rollback.accepted):
        return False
    return datetime.fromisoformat(rollback.ended_at) > datetime.fromisoformat(report.ended_at)


def list_unended(store: Store, now: datetime | None = None) -> list[Manifest]:
    """Return the runs of the last days without a report, newest first. They are at work or died before their end.

    A folder whose manifest is gone or damaged is left out: only the audit can say what it is.
    """
    after = f"{(now or datetime.now(UTC)) - RECENT:%Y%m%dT%H%M%SZ}"
    runs = sorted(store.list_folders("runs/", after), reverse=True)
    found = dict(run_all(runs, partial(_find_unended, store), IN_FLIGHT))
    return [manifest for run in runs if (manifest := found[run])]


def _find_unended(store: Store, run: str) -> Manifest | None:
    if store.has(run_path(run, "report.json")):
        return None
    try:
        return RunFolder(store, run).load_manifest()
    except StoreError:
        return None


def load_run_documents(store: Store, mapping: Mapping, run: str) -> RunDocuments:
    """Load what a run has left so far.

    Raises NotFoundError if there is no such run, StoreError if a document is damaged.
    """
    manifest = RunFolder(store, run).load_manifest()
    found = run_all(mapping.order, lambda name: RunFolder(store, run).find_verification(name), IN_FLIGHT)
    verified = {name: verification for name, verification in found if verification}
    return RunDocuments(
        manifest=manifest,
        report=RunFolder(store, run).find_report(),
        plan=RunFolder(store, run).find_plan(),
        rollback=RunFolder(store, run).find_rollback(),
        verifications=[verified[name] for name in mapping.order if name in verified],
        state=find_state(store),
    )


def find_record(store: Store, documents: RunDocuments) -> LogRecord | None:
    """Return the record with which a run ended, or None. Records are in order of time, so few are read."""
    report = documents.report
    if report is None:
        return None
    ended = datetime.fromisoformat(report.ended_at).replace(microsecond=0)
    numbers = range(1, count_records(store, documents.state) + 1)
    try:
        first = bisect_left(numbers, ended, key=lambda number: datetime.fromisoformat(_load_record(store, number).at))
        for number in islice(numbers, first, first + 20):
            record = _load_record(store, number)
            if record.run == report.run and record.action == "run":
                return LogRecord.model_validate_json(store.get(log_path(number)))
    except (StoreError, ValueError):
        return None
    return None


def peek_rejects(store: Store, run: str, limit: int) -> Iterator[tuple[str, ListedRow]]:
    """Yield the first rejects of a run with their entities. Reads the beginning of `rejects.csv` only."""
    data = store.peek(run_path(run, "rejects.csv"), PEEKED_BYTES)
    text = data[: data.rfind(b"\n") + 1].decode(errors="replace")
    for row in islice(csv.DictReader(io.StringIO(text, newline="")), limit):
        if row.get("since"):  # the last row may end within a quoted text
            yield row["entity"], ListedRow(row["key"], row["column"], row["reason"])
