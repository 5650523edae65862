"""Check the hash chain of the register: each record holds the hash of the one before it, state.json that of the last.

The chain is followed backwards from state.json. Each record must have the hash that the next one holds, so the audit
names an altered record, not its neighbour. Read-only.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from accession.artifacts import Document, Store
from accession.errors import NotFoundError, StoreError
from accession.target import NO_HASH, PATH, LogRecord, Seal, State, log_path, parse_state, roll_forward
from accession.threads import run_all

IN_FLIGHT = 8  # requests to S3 at a time, here and in the rest of this package
LISTED_DAMAGES = 1000


class Damage(Document):
    """An object that does not match the register."""

    kind: Literal["altered", "missing", "added"]
    path: str
    reason: str


class Damages:
    """The damaged objects. All are counted, the first thousand are listed."""

    def __init__(self) -> None:
        self.listed: list[Damage] = []
        self.count = 0

    def add(self, kind: Literal["altered", "missing", "added"], path: str, reason: str) -> None:
        """Add the object at `path`."""
        self.count += 1
        if len(self.listed) < LISTED_DAMAGES:
            self.listed.append(Damage(kind=kind, path=path, reason=reason))


class RecordLine(Document):
    """A record of the register. The last end of a run also has the numbers of its report."""

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


@dataclass(frozen=True)
class Chain:
    """The content of the register, as far as it can be read.

    `state` includes a record whose writer died before it changed state.json. `objects` counts the objects of the chain
    itself. `is_blind` means that a record cannot be read, so no object can be called unknown to the register.
    """

    state: State | None
    objects: int
    is_blind: bool
    lines: dict[int, RecordLine]  # record → line
    mentions: dict[str, list[int]]  # run → its records, the last one first
    backup_of: dict[int, str]  # record → path
    backups: dict[str, str]  # path → the last run that wrote it
    auditors: set[str]  # paths


class _StoredRecord(NamedTuple):
    """A record as it is stored; `record` is None if it cannot be parsed.

    A record may list many artifacts. Only those outside the folders of runs are kept.
    """

    sha256: str
    record: LogRecord | None
    is_canonical: bool


def follow_chain(store: Store, damages: Damages) -> Chain:
    """Read state.json and every record, and add those that were changed or are missing to `damages`. Read-only.

    Raises NotFoundError if there is no object under the target's prefix.
    """
    state = _read_state(store, damages)
    listed = set(store.list("log/"))
    last = state.log_tail.sequence if state else max(map(_parse_number, listed), default=0)
    found = dict(run_all(range(1, last + 2), lambda number: _read_record(store, number), IN_FLIGHT))
    ahead = found.pop(last + 1)
    if state and ahead and ahead.record and ahead.is_canonical and ahead.record.previous == state.log_tail.sha256:
        # Its writer died, or is about to change state.json. Whoever loads the state next completes it.
        last += 1
        found[last] = ahead
        state = roll_forward(state, ahead.record, store.get(log_path(last)))
    _check_hashes(found, state.log_tail.sha256 if state else None, damages)
    for path in sorted(listed - {log_path(number) for number in found}):
        damages.add(
            "added", path, "the register ends before it" if _parse_number(path) > last else "it is not a record"
        )
    records = {number: read.record for number, read in sorted(found.items(), reverse=True) if read and read.record}
    if state and not damages.count:
        _compare_state(state, list(records.values()), damages)
    return _make_chain(state, len(found), records)


def _read_state(store: Store, damages: Damages) -> State | None:
    found = store.find(PATH)
    if found is None:
        if next(store.list(), None) is None:
            raise NotFoundError(
                f"There is nothing in {store.uri('')}: no run was here yet, or this is the wrong bucket."
            )
        damages.add("missing", PATH, "it says who owns the target and where the register ends")
        return None
    try:
        return parse_state(store, found.data)
    except StoreError:
        damages.add("altered", PATH, "it does not match its own checksum")
        return None


def _read_record(store: Store, number: int) -> _StoredRecord | None:
    found = store.find(log_path(number))
    if found is None:
        return None
    digest = hashlib.sha256(found.data).hexdigest()
    try:
        record = LogRecord.model_validate_json(found.data)
    except ValueError:
        return _StoredRecord(digest, None, is_canonical=False)
    shared = {path: sha256 for path, sha256 in record.artifacts.items() if not path.startswith("runs/")}
    return _StoredRecord(digest, record.model_copy(update={"artifacts": shared}), record.dump() == found.data)


def _check_hashes(found: dict[int, _StoredRecord | None], expected: str | None, damages: Damages) -> None:
    """Compare each record with the hash in the next one. `expected` is that of the last; None if it is not known."""
    for number, read in sorted(found.items(), reverse=True):
        path = log_path(number)
        if read is None:
            damages.add("missing", path, "the register has later records")
            expected = None
            continue
        if expected is not None and read.sha256 != expected:
            damages.add("altered", path, f"its SHA-256 is {read.sha256}, the register says {expected}")
            is_sound = False
        else:
            is_sound = read.is_canonical and read.record is not None and read.record.sequence == number
            if not is_sound:
                damages.add("altered", path, f"it is not the record {number} that was written")
        expected = read.record.previous if is_sound and read.record else None
    if expected not in (None, NO_HASH):
        damages.add("altered", log_path(1), "it follows a record that does not exist")


def _compare_state(state: State, records: list[LogRecord], damages: Damages) -> None:
    """Compare head, seal and epoch of the state with the records, the last of which comes first.

    A record with an earlier epoch was written by a run that no longer owned the target. It does not count.
    """
    heads: list[str | None] = []
    seals: list[Seal | None] = []
    for record in records:
        heads.append(record.head)
        seals.append(record.sealed)
        if record.epoch is None or record.epoch >= state.epoch:
            break
    else:
        heads.append(None)
        seals.append(None)
    if state.head not in heads:
        damages.add("altered", PATH, f"its head is {state.head}, the last record's {heads[0]}")
    epoch = max((record.epoch or 0 for record in records), default=0)
    if epoch > state.epoch:
        damages.add("altered", PATH, f"its epoch is {state.epoch}, a record's {epoch}: it is an older version")
    if state.sealed not in seals:
        damages.add("altered", PATH, "its seal is not the last record's")


def _make_chain(state: State | None, length: int, records: dict[int, LogRecord]) -> Chain:
    """Sum up the chain. Of its `length` records, `records` holds those that can be read, the last one first."""
    lines: dict[int, RecordLine] = {}
    mentions: dict[str, list[int]] = {}
    backup_of: dict[int, str] = {}
    backups: dict[str, str] = {}
    auditors: set[str] = set()
    for number, record in records.items():
        undone_by = None
        if record.run is not None:
            later = [lines[other] for other in mentions.setdefault(record.run, [])]
            undo = [line for line in later if line.action == "undo" and line.status == "undone"]
            ends_later = any(line.action == "run" for line in later)
            if record.action == "run" and undo and not ends_later:
                undone_by = f"{undo[0].by}, {undo[0].at}"
            mentions[record.run].append(number)
            for path in record.artifacts:
                if not path.startswith("backups/"):
                    auditors.add(path)
                    continue
                backup_of[number] = path
                backups[path] = max(backups.get(path, ""), record.run)
        same = record.model_dump(include={"at", "action", "run", "status", "by", "note"})
        lines[number] = RecordLine(sequence=number, undone_by=undone_by, **same)
    return Chain(
        state=state,
        objects=length + (state is not None),
        is_blind=len(records) < length,
        lines=lines,
        mentions=mentions,
        backup_of=backup_of,
        backups=backups,
        auditors=auditors,
    )


def _parse_number(path: str) -> int:
    found = re.fullmatch(r"log/(\d{8})\.json", path)
    return int(found[1]) if found else 0
