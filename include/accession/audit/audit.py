"""Audit a target: check the whole register and every object that it lists, from the bucket alone. Read-only.

First the hash chain of the records is checked (hash_chain.py). Then each object under the target's prefix is read once.
An object must have the hash in the latest record that lists it: a resumed run ends twice, and an undo writes into the
folder of the run that it undoes. The folder of an ended run must hold no other objects.

Some objects are in no record and still not damage. They are listed as unregistered:
- a run with a manifest and without a record, which is at work or died before its end;
- what the run that has the target open wrote since its last record, except its staged files, which are written once;
- a backup under its own digest whose run died before it wrote its manifest;
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

from accession.artifacts import Document, Report, Store, run_path
from accession.audit.hash_chain import IN_FLIGHT, Damage, Damages, RecordLine, follow_chain
from accession.target import NO_HASH, PATH, LogRecord, log_path
from accession.threads import run_all

BACKUP_DAYS = 30  # the lifecycle rule in include/cloudformation/artifacts.yaml
LISTED_PROBLEMS = 100
TRIES = 3  # the audit starts again if a run changed the target meanwhile
STAGED = ("manifest.json", "id_map/", "changes/", "plan.json", "rejects.csv")
BACKUP = re.compile(r"backups/([0-9a-f]{64})\.db")


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
            elif report is not None:
                self._copy_numbers(report)
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
        """Yield the objects to be hashed, in the order of the listing. Note damages that need no hash on the way."""
        seen: set[str] = set()
        for folder, paths in groupby(self.store.list(), _find_folder):
            if folder == "backups":
                present = set(paths)
                seen |= present
                yield from self._check_backups(present)
            elif folder.startswith("runs/"):
                seen.add(folder)
                yield from self._check_run(folder.removeprefix("runs/"), set(paths))
            elif folder == "probe":
                for path in paths:
                    self._note(path, "left by a preflight that died while it probed the bucket")
            elif folder not in ("log", PATH):
                for path in paths:
                    self.damages.add("added", path, "no record lists it")
        for path, run in self.chain.backups.items():
            if path not in seen:
                self._report_missing_backup(path, run)
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
        expires = datetime.strptime(run[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC) + timedelta(days=BACKUP_DAYS)
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
            if run_path(run, "manifest.json") in present:
                state = "it has the target open" if is_open else "it is at work, or died before its end"
                self._note(run_path(run), f"a run without a record: {state}")
            elif is_open:
                self.damages.add("missing", run_path(run, "manifest.json"), "its run has the target open")
            elif not self.chain.is_blind:
                for path in sorted(present):
                    self.damages.add("added", path, "no record lists it")
            return
        known: dict[str, str] = {}
        for number in sorted(records):
            artifacts = LogRecord.model_validate_json(self.store.get(log_path(number))).artifacts
            known |= {path: digest for path, digest in artifacts.items() if path.startswith(run_path(run))}
        for path in sorted(present - known.keys()):
            if is_open and not _is_staged(run, path):
                self.rewritten[run] += 1
            elif not self.chain.is_blind:
                self.damages.add(
                    "added", path, "no record of its run lists it (or a task was cleared after the run's end)"
                )
        for path, digest in sorted(known.items()):
            if path in present:
                yield _KnownObject(path, digest, is_open and not _is_staged(run, path), run)
            else:
                self.damages.add("missing", path, f"the register lists it as {digest}")

    def _hash(self, wanted: _KnownObject) -> tuple[str | None, Report | None]:
        if wanted.run is None or wanted.path != run_path(wanted.run, "report.json"):
            return self.store.hash(wanted.path), None
        found = self.store.find(wanted.path)
        if found is None:
            return None, None
        digest = hashlib.sha256(found.data).hexdigest()
        return digest, Report.model_validate_json(found.data) if digest == wanted.sha256 else None

    def _copy_numbers(self, report: Report) -> None:
        """Copy the numbers of a report to the line of the run's last end."""
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
