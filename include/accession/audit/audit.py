"""Audit a target: check the whole register and every object that it lists, from the bucket alone. Read-only.

First the hash chain of the records is checked (hash_chain.py). Then each object under the target's prefix is read once.
An object must have the hash in the latest record that lists it: a resumed run ends twice, and an undo writes into the
folder of the run that it undoes. The folder of an ended run must hold no other objects.

Some objects are in no record but are not damage. They are listed as unregistered:
- a run with a manifest and without a record, which is at work or died before its end;
- what the run that has the target open wrote since its last record, except its staged files, which are written once;
- files with a digest in their name, marks and results of an attempt that another one overtook: no document refers to
  them;
- a backup or an auditor under its own digest whose run died before it wrote its manifest;
- the object of a preflight that died while it probed the bucket.

The audit cannot detect that somebody with write access to the bucket replaced all later records as well. Keep the hash
of the last record elsewhere to detect that. `make audit` prints it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import NamedTuple

from accession.artifacts import Document, Report, Store, parse_attempts, run_path
from accession.audit.hash_chain import IN_FLIGHT, Damage, Damages, RecordLine, follow_chain
from accession.target import NO_HASH, PATH, LogRecord, log_path
from accession.threads import run_all

BACKUP_DAYS = 30  # the lifecycle rule in include/cloudformation/artifacts.yaml
LISTED_PROBLEMS = 100
TRIES = 3  # the audit starts again if a run changed the target meanwhile
STAGED = ("manifest.json", "id_map/", "changes/", "plan.json", "rejects.csv")
BACKUP = re.compile(r"backups/([0-9a-f]{64})\.db")
OVERTAKEN = re.compile(
    r"runs/[^/]+/(changes/[^/]+/\d{5,}|id_map/[^/]+|verification/[^/]+)-[0-9a-f]{16}\.(jsonl\.gz|db)"
)
AUDITOR = re.compile(r"verify_register-([0-9a-f]{64})\.py")


class Unregistered(Document):
    """An object or a folder that is in no record, for a good reason."""

    path: str
    reason: str


class Audit(Document):
    """What the audit found. `problems` are the first hundred, ordered by register, backups and runs."""

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
    runs: list[RecordLine]
    unregistered: list[Unregistered]


class _KnownObject(NamedTuple):
    """An object and the hash it must have. `may_change`: its run has the target open and may have rewritten it."""

    path: str
    sha256: str
    may_change: bool = False
    run: str | None = None


def audit_target(store: Store, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Audit:
    """Check everything under the target's prefix. Read-only; memory does not grow with the size of objects.

    Raises NotFoundError if there is no object under the prefix.
    """
    for _ in range(TRIES - 1):
        before = store.find(PATH)
        audit = _Auditor(store, now()).audit()
        after = store.find(PATH)
        if audit.ok or (before and before.data) == (after and after.data):
            return audit
    return _Auditor(store, now()).audit()


class _Auditor:
    """One pass over the target."""

    def __init__(self, store: Store, now: datetime) -> None:
        self.store, self.now = store, now
        self.damages = Damages()
        self.chain = follow_chain(store, self.damages)
        state = self.chain.state
        self.is_sound_chain = state is not None and not self.damages.count  # so the runs can be compared with it
        self.open = state.open.run if state and state.open else None
        self.lines = dict(self.chain.lines)
        self.objects = self.chain.objects
        self.unregistered: list[Unregistered] = []
        self.rewritten: Counter[str] = Counter()

    def audit(self) -> Audit:
        for wanted, (found, report) in run_all(self._find_objects(), self._hash, IN_FLIGHT):
            self.objects += 1
            if found is None:
                self.damages.add("missing", wanted.path, f"the register lists it as {wanted.sha256}")
            elif found != wanted.sha256 and wanted.may_change and wanted.run:
                self.rewritten[wanted.run] += 1
            elif found != wanted.sha256:
                self.damages.add("altered", wanted.path, f"its SHA-256 is {found}, the register says {wanted.sha256}")
            elif report:
                self._copy_numbers(wanted.path, report)
        for run, count in self.rewritten.items():
            self._note(run_path(run), f"the run has the target open: {count:,} objects written since its last record")
        problems, state = sorted(self.damages.listed, key=_rank), self.chain.state
        first = problems[0] if problems else None
        return Audit(
            target=self.store.uri(""),
            ok=first is None,
            first_problem=f"{first.path} is {first.kind}: {first.reason}." if first else None,
            problems=problems[:LISTED_PROBLEMS],
            damaged=self.damages.count,
            records=len(self.lines),
            objects=self.objects,
            head=state.head if state else None,
            open=self.open,
            sealed=state.sealed.reason if state and state.sealed else None,
            tail_sha256=state.log_tail.sha256 if state else NO_HASH,
            runs=[line for _, line in sorted(self.lines.items())],
            unregistered=sorted(self.unregistered, key=lambda note: note.path),
        )

    def _note(self, path: str, reason: str) -> None:
        self.unregistered.append(Unregistered(path=path, reason=reason))

    def _find_objects(self) -> Iterator[_KnownObject]:
        """Yield the objects to be hashed, in the order of the listing. Report damage that shows without a hash."""
        seen: set[str] = set()
        for folder, paths in groupby(self.store.list(), _find_folder):
            if folder == "backups":
                present = set(paths)
                seen |= present
                yield from self._check_backups(present)
            elif folder.startswith("runs/"):
                seen.add(folder)
                yield from self._check_run(folder.removeprefix("runs/"), set(paths))
            elif named := AUDITOR.fullmatch(folder):
                seen.add(folder)
                if folder not in self.chain.auditors:
                    self._note(folder, "the auditor of a run that has no record")
                yield _KnownObject(folder, named[1])
            elif folder == "probe":
                for path in paths:
                    self._note(path, "left by a preflight that died while it probed the bucket")
            elif folder not in ("log", PATH):
                for path in paths:
                    self.damages.add("added", path, "no record lists it")
        for path, run in self.chain.backups.items():
            if path not in seen:
                self._report_missing_backup(path, run)
        for path in sorted(self.chain.auditors - seen):
            self.damages.add("missing", path, "the register lists it")
        for run in [*self.chain.mentions, *([self.open] if self.open else [])]:
            if f"runs/{run}" not in seen:
                seen.add(f"runs/{run}")
                yield from self._check_run(run, set())

    def _check_backups(self, present: set[str]) -> Iterator[_KnownObject]:
        for path in sorted(present):
            named = BACKUP.fullmatch(path)
            if named and path not in self.chain.backups:
                self._note(path, "the backup of a run that has no record")
            if named:
                yield _KnownObject(path, named[1])
            elif not self.chain.is_blind:
                self.damages.add("added", path, "no record lists it")

    def _report_missing_backup(self, path: str, run: str) -> None:
        try:
            started = datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError:
            self.damages.add("missing", path, f"a record lists it for the run {run!r}, which is not the name of a run")
            return
        expires = started + timedelta(days=BACKUP_DAYS)
        if self.now < expires:
            self.damages.add(
                "missing", path, f"run {run} backed up to it, and its {BACKUP_DAYS} days end {expires:%Y-%m-%d}"
            )
            return
        for number, line in self.lines.items():
            if self.chain.backup_of.get(number) == path:
                self.lines[number] = line.model_copy(update={"backup_expired": True})

    def _check_run(self, run: str, present: set[str]) -> Iterator[_KnownObject]:
        records, is_open = self.chain.mentions.get(run, []), run == self.open
        if not records:
            if self.is_sound_chain and not is_open and any(path.endswith(".started") for path in present):
                self.damages.add("altered", PATH, f"run {run} wrote, and has neither the target open nor a record")
            if run_path(run, "manifest.json") in present:
                why = "it has the target open" if is_open else "it is at work, or died before its end"
                self._note(run_path(run), f"a run without a record: {why}")
            elif is_open:
                self.damages.add("missing", run_path(run, "manifest.json"), "its run has the target open")
            elif not self.chain.is_blind:
                for path in sorted(present):
                    self.damages.add("added", path, "no record lists it")
            return
        known: dict[str, str] = {}
        for number in sorted(records):
            # follow_chain has read it already, so it was damaged just now: the next audit will name it.
            artifacts = self.store.get_document(log_path(number), LogRecord).artifacts
            known |= {path: digest for path, digest in artifacts.items() if path.startswith(run_path(run))}
        stale = {attempt.name for attempts in parse_attempts(present).values() for attempt in attempts[:-1]}
        for path in sorted(present - known.keys()):
            if is_open and not _is_staged(run, path):
                self.rewritten[run] += 1
            elif OVERTAKEN.fullmatch(path) or path.removeprefix(run_path(run)).rpartition(".")[0] in stale:
                self._note(path, "left by an attempt that another one overtook")
            elif not self.chain.is_blind:
                self.damages.add(
                    "added", path, "no record of its run lists it (or a task was cleared after the run's end)"
                )
        for path, digest in sorted(known.items()):
            if path in present:
                yield _KnownObject(path, digest, is_open and not _is_staged(run, path), run)
            else:
                self.damages.add("missing", path, f"the register lists it as {digest}")

    def _hash(self, wanted: _KnownObject) -> tuple[str | None, bytes]:
        """Return the hash of an object, None if it is gone, and its bytes if it is a report."""
        if wanted.run is None or wanted.path != run_path(wanted.run, "report.json"):
            return self.store.hash(wanted.path), b""
        found = self.store.find(wanted.path)
        return (hashlib.sha256(found.data).hexdigest(), found.data) if found else (None, b"")

    def _copy_numbers(self, path: str, data: bytes) -> None:
        """Copy the numbers of a report to the line of the run's last end. Note if the state forgot that it is open."""
        try:
            report = Report.model_validate_json(data)
        except ValueError:
            self.damages.add("altered", path, "the register lists it as it is, but it is not a report")
            return
        is_undone = self.lines[max(self.chain.mentions[report.run])].status == "undone"
        if report.is_open and self.is_sound_chain and report.run != self.open and not is_undone:
            self.damages.add("altered", PATH, f"run {report.run} was left open, and the target is not open for it")
        ends = [n for n in self.chain.mentions.get(report.run, []) if self.lines[n].action == "run"]
        numbers = {
            "approved_by": report.approved_by,
            "counts": {name: number for name, number in report.totals.items() if number},
            "write_units": report.write_units.consumed,
            "price_usd": report.price_usd.consumed,
        }
        if ends:
            self.lines[max(ends)] = self.lines[max(ends)].model_copy(update=numbers)


def _find_folder(path: str) -> str:
    """Return the folder that is checked as a whole: that of a run, or the first one of the path."""
    return "/".join(path.split("/")[: 2 if path.startswith("runs/") else 1])


def _is_staged(run: str, path: str) -> bool:
    return path.removeprefix(run_path(run)).startswith(STAGED)


def _rank(damage: Damage) -> tuple[int, str]:
    folder = damage.path.split("/")[0]
    return {PATH: 0, "log": 1, "backups": 2}.get(folder, 3), damage.path
