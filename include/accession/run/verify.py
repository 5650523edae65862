"""Verify: prove each item equal to the source, both ways, and count every item once.

A strongly consistent parallel scan meets the ID map: both are taken in once, in whatever order they come, and compared
by one fingerprint each (tally.py). Only where these differ, buckets of keys are compared, and in those that differ each
item is looked up in the map: what the map holds and the scan did not meet is missing. Key and checksum of what was
scanned wait on disk for that; one bit an entry is all that is held in memory.
"""

import gc
import gzip
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection

import orjson

from accession.artifacts import PROBLEMS, Problem, Verification, open_id_map
from accession.errors import VerificationError
from accession.items import ItemKey, TypedItem, checksum_items
from accession.progress import Progress
from accession.run.context import RunContext
from accession.run.fingerprint import BUCKETS, PRIME, Fingerprint, find_bucket, fingerprint_buckets
from accession.run.lookups import LOOK_UPS, ask_indexes
from accession.run.migrate import split_batches
from accession.target import expect_open

SEGMENTS = 4  # scans at once: their waiting overlaps with the comparing of one
QUERY_KEYS = 500  # keys a query against the ID map
MAP_ROWS = 1000  # entries of the ID map taken in at once
CHECKSUM_BYTES = 32
LISTED = 100  # problems in the JSON; all of them are in the .jsonl.gz beside it


def verify_entity(run: RunContext, name: str) -> Verification:
    """Prove one table and write `verification/<entity>.json`. Read-only on the table.

    Raises VerificationError naming keys when an item that this run wrote is missing or other than it should be, when a
    first run into empty tables meets items that are not ours, or when an index does not find an item.
    """
    expect_open(run.store, run.name)
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        result = _Verifying(run, name, Path(folder)).verify()
    run.store.put(run.folder.path_of_verification(name), result.dump())
    if not result.ok:
        raise VerificationError(result.reason)
    return result


class _Verifying:
    def __init__(self, run: RunContext, name: str, folder: Path) -> None:
        self.run, self.store, self.dynamodb, self.folder = run, run.store, run.dynamodb, folder
        self.entity = run.mapping.entities[name]
        self.index = run.folder.load_staged(name)
        self.table = run.find_table(self.index)
        self.kept = {kept.key: kept for kept in run.folder.find_write_conflicts(name)}
        self.counts = dict.fromkeys(("verified", *PROBLEMS), 0)
        self.listed: list[Problem] = []
        self.samples: dict[str, TypedItem] = {}
        self.mismatched: list[str] = []
        self.secret = secrets.randbelow(PRIME)
        self.scanned, self.scanned_path = Fingerprint(self.secret), folder / "scanned"

    def verify(self) -> Verification:
        started = datetime.now(UTC).isoformat()
        read_before = self.dynamodb.consumed_read_units
        self.map_file = self.store.download(
            self.store.path(self.index.id_map), self.folder / "id_map.db", self.index.id_map_sha256
        )
        id_map = open_id_map(self.map_file)
        entries: int = id_map.execute("SELECT coalesce(max(entry), 0) FROM id_map").fetchone()[0]
        self.met = bytearray(entries // 8 + 1)
        self.progress = Progress(f"verify {self.entity.name}", entries, "items")
        problems = self.folder / "problems.jsonl.gz"
        with gzip.GzipFile(problems, "wb", mtime=0) as self.list, _collecting_rarely():
            with self.scanned_path.open("wb") as self.scanned_file:
                self._scan()
            recorded = Fingerprint(self.secret)
            for batch in split_batches(id_map.execute("SELECT checksum FROM id_map WHERE state = 'live'"), MAP_ROWS):
                recorded.add([checksum for (checksum,) in batch])
            if self.scanned == recorded:
                self.counts["verified"] = recorded.count
                self._find_missing(id_map, set())
            else:
                self._find_problems(id_map)
        id_map.close()
        self._name_attributes()
        self.progress.finish()
        self.store.upload(self.run.folder.path_of_problems(self.entity.name), problems)
        look_ups, lost = ask_indexes(self.dynamodb, self.table, self.entity.indexes, list(self.samples.values()))
        reason = self._judge(lost)
        return Verification(
            entity=self.entity.name,
            table=self.index.table,
            **self.counts,
            listed=self.listed,
            look_ups=look_ups,
            conflicts=[kept.model_dump() for kept in self.kept.values()],
            read_units=self.dynamodb.consumed_read_units - read_before,
            ok=reason is None,
            reason=reason,
            started_at=started,
            ended_at=datetime.now(UTC).isoformat(),
        )

    def _scan(self) -> None:
        """Take in the table; key and checksum of its items go to disk. The segments wait for the network side by side,
        and are computed on one after the other."""
        sampled: set[int] = set()
        for segment, page in self.dynamodb.scan_pages(self.table.name, SEGMENTS):
            for items in page:
                keys = self.table.key.read_all(items)
                checksums = checksum_items(items)
                self.scanned.add(checksums)
                self.scanned_file.write(orjson.dumps(keys, option=orjson.OPT_APPEND_NEWLINE))
                self.scanned_file.write(b"".join(checksums))
                self.progress.add(len(items))
                if segment not in sampled:
                    sampled.add(segment)
                    self.samples |= dict(zip(keys[:LOOK_UPS], items, strict=False))

    def _find_problems(self, id_map: Connection) -> None:
        """The two sides are not the same: find where, and look there item by item."""
        recorded = fingerprint_buckets(
            self.secret, id_map.execute("SELECT new_id, checksum FROM id_map WHERE state = 'live'")
        )
        scanned = fingerprint_buckets(self.secret, self._read_scanned())
        differing = {bucket for bucket in range(BUCKETS) if scanned[bucket] != recorded[bucket]}
        self.counts["verified"] = sum(tally.count for bucket, tally in enumerate(recorded) if bucket not in differing)
        suspects = (entry for entry in self._read_scanned() if find_bucket(entry[0]) in differing)
        for batch in split_batches(suspects, QUERY_KEYS):
            self._compare(id_map, dict(batch))
        self._find_missing(id_map, differing)

    def _read_scanned(self) -> Iterator[tuple[str, bytes]]:
        """Key and checksum of the items that were scanned."""
        with self.scanned_path.open("rb") as file:
            while line := file.readline():
                keys = orjson.loads(line)
                checksums = file.read(CHECKSUM_BYTES * len(keys))
                for number, key in enumerate(keys):
                    yield key, checksums[CHECKSUM_BYTES * number : CHECKSUM_BYTES * (number + 1)]

    def _compare(self, id_map: Connection, checksums: dict[str, bytes]) -> None:
        """Look scanned items up in the map, one by one."""
        marks = ",".join("?" * len(checksums))
        query = f"SELECT new_id, entry, old_key, checksum, state, written FROM id_map WHERE new_id IN ({marks})"
        known = {row[0]: row[1:] for row in id_map.execute(query, list(checksums))}
        problems: list[Problem] = []
        for key, found in checksums.items():
            if key not in known:
                problems.append(Problem(kind="unexpected", key=key, old_key=None, reason="not ours"))
                continue
            entry, old_key, checksum, state, written = known[key]
            self.met[entry >> 3] |= 1 << (entry & 7)
            if state == "live" and found == checksum:
                self.counts["verified"] += 1
            else:
                kind, reason = self._classify(key, state, written)
                if kind == "mismatched" and len(self.mismatched) < LISTED:
                    self.mismatched.append(key)
                problems.append(Problem(kind=kind, key=key, old_key=old_key, reason=reason))
        self._add_problems(problems)

    def _classify(self, key: str, state: str, written: int) -> tuple[str, str]:
        """Kind and reason of an item that is in the map and in the target, but is not as the map says."""
        if key in self.kept:
            return "held", self.kept[key].reason
        if state == "tombstone":
            return (
                ("mismatched", "deleted by this run, and still there") if written else ("unexpected", "deleted earlier")
            )
        if state != "live":
            return "held", state
        if written:
            return "mismatched", "differs from what this run wrote"
        return "drifted", "changed by somebody else"

    def _find_missing(self, id_map: Connection, differing: set[int]) -> None:
        """What the map holds and the scan did not meet. Live entries of buckets that do not differ were met."""
        where = "state != 'tombstone'" if differing else "state NOT IN ('tombstone', 'live')"
        rows = id_map.execute(f"SELECT entry, new_id, old_key, state, written FROM id_map WHERE {where}")
        for entry, key, old_key, state, written in rows:
            if self.met[entry >> 3] >> (entry & 7) & 1 or (state == "live" and find_bucket(key) not in differing):
                continue
            if key in self.kept or state != "live":
                kind, reason = "held", "gone from the target"
            elif written:
                kind, reason = "missing", "written by this run, and not there"
            else:
                kind, reason = "drifted", "deleted by somebody else"
            self._add_problems([Problem(kind=kind, key=key, old_key=old_key, reason=reason)])

    def _add_problems(self, problems: list[Problem]) -> None:
        for problem in problems:
            self.counts[problem.kind] += 1
            self.samples.pop(problem.key, None)
            if len(self.listed) < LISTED:
                self.listed.append(problem)
            self.list.write(orjson.dumps(problem.model_dump(), option=orjson.OPT_APPEND_NEWLINE))

    def _name_attributes(self) -> None:
        """Say of the listed mismatches which attributes differ. Their values stay out: they may be sensitive."""
        if not self.mismatched:
            return
        differing: dict[str, str] = {}
        items = self.dynamodb.read_items(self.table, [ItemKey(key) for key in self.mismatched])
        for part in self.index.parts:
            for change in self.run.folder.read_changes(self.entity.name, part):
                found = items.get(ItemKey(change.key or ""))
                if found is not None and change.item is not None and change.key:
                    names = sorted(n for n in found.keys() | change.item if found.get(n) != change.item.get(n))
                    differing[change.key] = ", ".join(names)
        self.listed = [
            problem.model_copy(update={"reason": f"{problem.reason}: {differing[problem.key]}"})
            if differing.get(problem.key)
            else problem
            for problem in self.listed
        ]

    def _judge(self, lost: list[str]) -> str | None:
        refuses_others = self.run.head is None and self.run.params.existing_items == "refuse"
        fatal = {"missing", "mismatched"} | ({"unexpected"} if refuses_others else set())
        if not any(self.counts[kind] for kind in fatal) and not lost:
            return None
        numbers = ", ".join(f"{self.counts[kind]:,} {kind}" for kind in sorted(fatal) if self.counts[kind])
        keys = [f"{p.key} ({p.reason})" for p in self.listed if p.kind in fatal][:5] + lost[:5]
        return (
            f"{self.index.table} is not what the source says: {numbers or 'an index lags'}: {', '.join(keys)}. "
            f"All are in {self.store.uri(self.run.folder.path_of_problems(self.entity.name))}."
        )


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Items hold no cycles, but thousands of them wake the garbage collector all the time: half the cost of parsing."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
