"""Audit: prove the whole register and every object that it knows, from the bucket alone. Read-only.

The chain is followed backwards from state.json: each record must hash to what the one after it says, so the one that
was altered is named, not its neighbour. Then every object under the target's prefix is met once. What a record mentions
must have the hash of the latest record that does: a resumed run ends twice, an undo writes into the run it undoes. The
folder of a run that has ended holds nothing else.

Not in the register, and no damage: a run that has a manifest and no record (at work, or dead before its end; nobody can
vouch for it), what the run that has the target open wrote since its last record (but not its staged files, which are
written once), a backup under its own digest whose run died before it was named, the object of a probe that died.

What it cannot find: somebody who may write to the bucket and makes every later record anew. For that, note the hash of
the last record elsewhere; it is printed.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Literal, NamedTuple

from accession.errors import StoreError
from accession.manifest import Document, run_path
from accession.report import Report
from accession.state import NO_HASH, PATH, LogRecord, State, log_path, parse_state, roll_forward
from accession.store import Store
from accession.threads import run_all

BACKUP_DAYS = 30  # as the lifecycle rule of include/cloudformation/artifacts.yaml says
IN_FLIGHT = 8
LISTED = 100
TRIES = 3  # a target at work changes under the audit; it is looked at again
STAGED = ("manifest.json", "id_map/", "changes/", "plan.json", "rejects.csv")
BACKUP = re.compile(r"backups/([0-9a-f]{64})\.db")


class Damage(Document):
    """An object that is not as the register says."""

    kind: Literal["altered", "missing", "added"]
    path: str
    reason: str


class Unregistered(Document):
    """What lies in the bucket without a record, and rightly so."""

    path: str
    reason: str


class RunLine(Document):
    """One record of the register. Numbers are those of report.json, at the last end of a run only."""

    sequence: int
    at: str
    action: str
    run: str | None
    status: str
    by: str
    note: str
    approved_by: str | None = None
    counts: dict[str, int] | None = None
    write_units: float | None = None
    price_usd: float | None = None
    undone_by: str | None = None
    backup_expired: bool = False


class Audit(Document):
    """What the audit found. `problems` holds the first hundred, in the order of register, backups, runs."""

    target: str
    ok: bool
    first_problem: str | None
    problems: list[Damage]
    damaged: int
    records: int
    objects: int
    head: str | None
    open: str | None
    sealed: str | None
    tail_sha256: str
    runs: list[RunLine]
    unregistered: list[Unregistered]


class _Read(NamedTuple):
    """A record as it lies there; `record` without its artifacts, None when it cannot be read as one."""

    sha256: str
    is_canonical: bool
    record: LogRecord | None
    data: bytes
    backup: str | None


class _Object(NamedTuple):
    """An object to be hashed. `may_change`: its run has the target open and may have written it again."""

    path: str
    sha256: str
    may_change: bool = False
    run: str | None = None


def audit_target(store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Audit:
    """Verify everything under the target's prefix. Read-only; memory does not grow with the objects' sizes or number.

    Raises StoreError when nothing at all lies there.
    """
    for _ in range(TRIES - 1):
        before = store.find(PATH)
        audit = _Auditing(store, now()).audit()
        after = store.find(PATH)
        if audit.ok or (before and before.data) == (after and after.data):
            return audit
    return _Auditing(store, now()).audit()


class _Auditing:
    def __init__(self, store: Store, now: datetime) -> None:
        self.store, self.now = store, now
        self.problems: list[Damage] = []
        self.damaged = 0
        self.unregistered: list[Unregistered] = []
        self.objects = 0
        self.lines: dict[int, RunLine] = {}
        self.mentions: defaultdict[str, list[int]] = defaultdict(list)
        self.backups: dict[str, str] = {}  # path → the last run that made it anew
        self.backup_of: dict[int, str] = {}  # record → path
        self.is_blind = False  # a record cannot be read, so that nothing can be called unknown
        self.rewritten: Counter[str] = Counter()

    def audit(self) -> Audit:
        state = self._check_register()
        self.open = state.open.run if state and state.open else None
        for wanted, (found, report) in run_all(self._find_objects(), self._hash, IN_FLIGHT):
            self.objects += 1
            if found is None:
                self._add("missing", wanted.path, f"the register knows it as {wanted.sha256}")
            elif found != wanted.sha256 and wanted.may_change and wanted.run:
                self.rewritten[wanted.run] += 1
            elif found != wanted.sha256:
                self._add("altered", wanted.path, f"its SHA-256 is {found}, the register says {wanted.sha256}")
            elif report is not None:
                self._take_numbers(report)
        for run, number in self.rewritten.items():
            self._note(run_path(run), f"the run has the target open: {number:,} objects written since its last record")
        self.problems.sort(key=_rank)
        first = self.problems[0] if self.problems else None
        return Audit(
            target=self.store.uri(""),
            ok=first is None,
            first_problem=f"{first.path} is {first.kind}: {first.reason}." if first else None,
            problems=self.problems[:LISTED],
            damaged=self.damaged,
            records=len(self.lines),
            objects=self.objects,
            head=state.head if state else None,
            open=self.open,
            sealed=state.sealed.reason if state and state.sealed else None,
            tail_sha256=state.log_tail.sha256 if state else NO_HASH,
            runs=[line for _, line in sorted(self.lines.items())],
            unregistered=sorted(self.unregistered, key=lambda note: note.path),
        )

    def _add(self, kind: Literal["altered", "missing", "added"], path: str, reason: str) -> None:
        self.damaged += 1
        if len(self.problems) < 10 * LISTED:
            self.problems.append(Damage(kind=kind, path=path, reason=reason))

    def _note(self, path: str, reason: str) -> None:
        self.unregistered.append(Unregistered(path=path, reason=reason))

    # The register: state.json and log/

    def _check_register(self) -> State | None:
        state = self._read_state()
        listed = set(self.store.list("log/"))
        last = state.log_tail.sequence if state else max(map(_number, listed), default=0)
        read = dict(run_all(range(1, last + 2), self._read_record, IN_FLIGHT))
        ahead = read.pop(last + 1)
        if state and ahead and ahead.record and ahead.is_canonical and ahead.record.previous == state.log_tail.sha256:
            # Its writer died, or is just about to change state.json: the next one who loads the state makes it good.
            last += 1
            read[last] = ahead
            state = roll_forward(state, ahead.record, ahead.data)
        self._check_chain(read, state)
        self.objects += len(read) + (state is not None)
        for path in sorted(listed - {log_path(number) for number in read}):
            self._add("added", path, "the register ends before it" if _number(path) > last else "it is no record")
        if state and not self.problems:
            self._compare_state(state, [found.record for _, found in sorted(read.items()) if found and found.record])
        return state

    def _read_state(self) -> State | None:
        found = self.store.find(PATH)
        if found is None:
            if next(self.store.list(), None) is None:
                raise StoreError(
                    f"there is nothing in {self.store.uri('')}: no run was here yet, or the bucket is another."
                )
            self._add("missing", PATH, "it says who owns the target and where the register ends")
            return None
        try:
            return parse_state(self.store, found.data)
        except StoreError:
            self._add("altered", PATH, "it does not match its own checksum")
            return None

    def _read_record(self, number: int) -> _Read | None:
        found = self.store.find(log_path(number))
        if found is None:
            return None
        digest = hashlib.sha256(found.data).hexdigest()
        try:
            record = LogRecord.model_validate_json(found.data)
        except ValueError:
            return _Read(digest, False, None, b"", None)
        backup = next((path for path in record.artifacts if path.startswith("backups/")), None)
        is_canonical = record.dump() == found.data
        return _Read(digest, is_canonical, record.model_copy(update={"artifacts": {}}), found.data, backup)

    def _check_chain(self, read: dict[int, _Read | None], state: State | None) -> None:
        expected = state.log_tail.sha256 if state else None
        for number in sorted(read, reverse=True):
            found, path = read[number], log_path(number)
            if found is None:
                self._add("missing", path, "the register has later records")
                self.is_blind, expected = True, None
                continue
            if expected is not None and found.sha256 != expected:
                self._add("altered", path, f"its SHA-256 is {found.sha256}, the register says {expected}")
                is_sound = False
            else:
                is_sound = found.is_canonical and found.record is not None and found.record.sequence == number
                if not is_sound:
                    self._add("altered", path, f"it is not what was written as record {number}")
            expected = found.record.previous if is_sound and found.record else None
            if found.record is None:
                self.is_blind = True
            else:
                self._take_record(number, found.record, found.backup)
        if expected not in (None, NO_HASH):
            self._add("altered", log_path(1), "it follows a record that is not there")

    def _take_record(self, number: int, record: LogRecord, backup: str | None) -> None:
        """Called from the last record to the first."""
        undone_by = None
        if record.run is not None:
            later = [self.lines[other] for other in self.mentions[record.run] if other in self.lines]
            undo = [line for line in later if line.action == "undo" and line.status == "undone"]
            ends_later = any(line.action == "run" for line in later)
            if record.action == "run" and undo and not ends_later:
                undone_by = f"{undo[0].by}, {undo[0].at}"
            self.mentions[record.run].append(number)
            if backup is not None:
                self.backup_of[number] = backup
                self.backups[backup] = max(self.backups.get(backup, ""), record.run)
        same = record.model_dump(include={"at", "action", "run", "status", "by", "note"})
        self.lines[number] = RunLine(sequence=number, undone_by=undone_by, **same)

    def _compare_state(self, state: State, records: list[LogRecord]) -> None:
        """Head and seal are those of the last record; one of an epoch that had passed did not count for the head."""
        heads: list[str | None] = []
        for record in reversed(records):
            heads.append(record.head)
            if record.epoch is None or record.epoch >= state.epoch:
                break
        else:
            heads.append(None)
        if state.head not in heads:
            self._add("altered", PATH, f"its head is {state.head}, the last record's {heads[0]}")
        if state.sealed != (records[-1].sealed if records else None):
            self._add("altered", PATH, "its seal is not the last record's")

    # Everything else

    def _find_objects(self) -> Iterator[_Object]:
        """Objects to be hashed, in the order of the listing; what is wrong without that is noted on the way."""
        met: set[str] = set()
        for folder, paths in groupby(self.store.list(), _find_folder):
            if folder == "backups":
                present = set(paths)
                met |= present
                yield from self._check_backups(present)
            elif folder.startswith("runs/"):
                met.add(folder)
                yield from self._check_run(folder.removeprefix("runs/"), set(paths))
            elif folder == "probe":
                for path in paths:
                    self._note(path, "left by a preflight that died while it probed the bucket")
            elif folder not in ("log", PATH):
                for path in paths:
                    self._add("added", path, "no record knows it")
        for path, run in self.backups.items():
            if path not in met:
                self._miss_backup(path, run)
        for run in [*self.mentions, *([self.open] if self.open else [])]:
            if f"runs/{run}" not in met:
                met.add(f"runs/{run}")
                yield from self._check_run(run, set())

    def _check_backups(self, present: set[str]) -> Iterator[_Object]:
        for path in sorted(present):
            named = BACKUP.fullmatch(path)
            if named and path not in self.backups:
                self._note(path, "the backup of a run that has no record")
            if named:
                yield _Object(path, named[1])
            elif not self.is_blind:
                self._add("added", path, "no record knows it")

    def _miss_backup(self, path: str, run: str) -> None:
        expires = datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(days=BACKUP_DAYS)
        if self.now < expires:
            self._add("missing", path, f"run {run} backed up to it, and its {BACKUP_DAYS} days end {expires:%Y-%m-%d}")
            return
        for number, line in self.lines.items():
            if self.backup_of.get(number) == path:
                self.lines[number] = line.model_copy(update={"backup_expired": True})

    def _check_run(self, run: str, present: set[str]) -> Iterator[_Object]:
        records, is_open = self.mentions.get(run, []), run == self.open
        if not records:
            if run_path(run, "manifest.json") in present:
                state = "it has the target open" if is_open else "it is at work, or died before its end"
                self._note(run_path(run), f"a run without a record: {state}")
            elif is_open:
                self._add("missing", run_path(run, "manifest.json"), "its run has the target open")
            elif not self.is_blind:
                for path in sorted(present):
                    self._add("added", path, "no record knows it")
            return
        known: dict[str, str] = {}
        for number in sorted(records):
            artifacts = LogRecord.model_validate_json(self.store.get(log_path(number))).artifacts
            known |= {path: digest for path, digest in artifacts.items() if path.startswith(run_path(run))}
        for path in sorted(present - known.keys()):
            if is_open and not _is_staged(run, path):
                self.rewritten[run] += 1
            elif not self.is_blind:
                self._add("added", path, "no record of its run knows it (or a task was cleared after the run's end)")
        for path, digest in sorted(known.items()):
            if path in present:
                yield _Object(path, digest, is_open and not _is_staged(run, path), run)
            else:
                self._add("missing", path, f"the register knows it as {digest}")

    def _hash(self, wanted: _Object) -> tuple[str | None, Report | None]:
        if wanted.run is None or wanted.path != run_path(wanted.run, "report.json"):
            return self.store.hash(wanted.path), None
        found = self.store.find(wanted.path)
        if found is None:
            return None, None
        digest = hashlib.sha256(found.data).hexdigest()
        return digest, Report.model_validate_json(found.data) if digest == wanted.sha256 else None

    def _take_numbers(self, report: Report) -> None:
        """Into the line of the run's last end."""
        ends = [n for n in self.mentions[report.run] if self.lines[n].action == "run"]
        numbers = {
            "approved_by": report.approved_by,
            "counts": {name: number for name, number in report.totals.items() if number},
            "write_units": report.write_units.consumed,
            "price_usd": report.price_usd.consumed,
        }
        if ends:
            self.lines[max(ends)] = self.lines[max(ends)].model_copy(update=numbers)


def _number(path: str) -> int:
    found = re.fullmatch(r"log/(\d{8})\.json", path)
    return int(found[1]) if found else 0


def _find_folder(path: str) -> str:
    """The run's folder, or the first one."""
    return "/".join(path.split("/")[: 2 if path.startswith("runs/") else 1])


def _is_staged(run: str, path: str) -> bool:
    return path.removeprefix(run_path(run)).startswith(STAGED)


def _rank(damage: Damage) -> tuple[int, str]:
    folder = damage.path.split("/")[0]
    return {PATH: 0, "log": 1, "backups": 2}.get(folder, 3), damage.path


def show_audit(audit: Audit) -> str:
    """The register as a table, and the verdict."""
    rows = [["when", "run", "what", "by", "note", "units", "price", "undone by"]]
    rows += [
        [
            line.at[:16].replace("T", " "),
            line.run or "",
            line.status.replace("_", " "),
            line.by,
            line.note + (" (backup expired)" if line.backup_expired else ""),
            "" if line.write_units is None else f"{line.write_units:,.0f}",
            "" if line.price_usd is None else f"${line.price_usd:,.4f}",
            line.undone_by or "",
        ]
        for line in audit.runs
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    lines.append("")
    lines += [f"not in the register: {note.path} ({note.reason})" for note in audit.unregistered]
    if audit.open:
        lines.append(f"the target is open: run {audit.open} has it")
    if audit.sealed:
        lines.append(f"the target is sealed: {audit.sealed}")
    if audit.ok:
        lines.append(
            f"{audit.target} is sound: {audit.records:,} records, {audit.objects:,} objects; the last record is "
            f"{audit.tail_sha256}"
        )
        return "\n".join(lines)
    lines += [f"{damage.kind.upper()}: {damage.path}: {damage.reason}" for damage in audit.problems]
    if audit.damaged > len(audit.problems):
        lines.append(f"and {audit.damaged - len(audit.problems):,} more")
    lines.append(f"{audit.target} is DAMAGED. The first: {audit.first_problem}")
    return "\n".join(lines)
