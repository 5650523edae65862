"""Verify: prove that the table and the source have equal items, and count every item once.

A strongly consistent parallel scan of the table and the entries of the ID map are read once, in any order, and compared
by their fingerprints (fingerprint.py). If these differ, the fingerprints of buckets of keys are compared. In buckets
that differ, each scanned item is looked up in the map, and an entry that the scan did not find is missing. The keys and
checksums of the scan are kept on disk for that; memory holds only one bit for each entry.
"""

import gc
import gzip
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from sqlite3 import Connection

import orjson

from accession.artifacts import PROBLEMS, Changed, Problem, Verification, open_id_map
from accession.digest import hash_file
from accession.dynamodb import DynamoDB
from accession.errors import FencedError, TransientError, VerificationError
from accession.items import ItemKey, TypedItem, checksum_items
from accession.progress import Progress
from accession.run.batches import split_batches
from accession.run.context import RunContext
from accession.run.fingerprint import BUCKETS, PRIME, Fingerprint, ItemFile, find_bucket, fingerprint_buckets
from accession.run.lookups import LOOK_UPS, ask_indexes
from accession.target import expect_open

SEGMENTS = 4  # scans at once: one is compared while the others wait for the network
QUERY_KEYS = 500  # keys in a query of the ID map
MAP_ROWS = 1000  # entries of the ID map read at once
LISTED = 100  # problems in the JSON document; the .jsonl.gz beside it has all of them


def verify_entity(run: RunContext, name: str) -> Verification:
    """Prove one table and write `verification/<entity>.json`. Read-only on the table.

    Raises VerificationError if an item that this run wrote is missing or differs, or if the tables of a first run,
    which were empty, have items that are not ours; TransientError if only an index does not find an item yet. The
    message names keys.
    """
    path = run.folder.path_of_verification(name)
    earlier = run.store.find(path)
    expect_open(run.store, run.name)  # after reading `earlier`, so that no end has been recorded with it
    with tempfile.TemporaryDirectory(prefix="accession-") as folder, run.open_prover(name) as dynamodb:
        result = _Verifier(run, name, dynamodb, Path(folder)).verify()
    expect_open(run.store, run.name)  # reading the table took its time
    try:
        run.store.replace(path, result.dump(), earlier)
    except Changed:
        raise FencedError(
            f"Another attempt proved {name} of run {run.name} meanwhile: see the log of that one."
        ) from None
    if result.lagging:
        raise TransientError(result.reason)
    if not result.ok:
        raise VerificationError(result.reason)
    return result


class _Verifier:
    """The proof of one table. `found` has a bit for each entry of the ID map: 1 if the scan found its item."""

    def __init__(self, run: RunContext, name: str, dynamodb: DynamoDB, folder: Path) -> None:
        self.run, self.store, self.dynamodb, self.folder = run, run.store, dynamodb, folder
        self.entity = run.mapping.entities[name]
        self.staged = run.folder.load_staged(name)
        self.table = run.find_table(self.staged)
        self.write_conflicts = {conflict.key: conflict for conflict in run.folder.find_write_conflicts(name)}
        self.counts = dict.fromkeys(("verified", *PROBLEMS), 0)
        self.listed: list[Problem] = []
        self.samples: dict[str, TypedItem] = {}
        self.mismatched: list[str] = []
        self.secret = run.host.chance.randrange(PRIME)

    def verify(self) -> Verification:
        """Compare the table with the ID map, and look up samples through the indexes."""
        started = self.run.host.timestamp()
        read_before = self.dynamodb.consumed_read_units
        id_map_path = self.store.path(self.staged.id_map)
        file = self.store.download(id_map_path, self.folder / "id_map.db", self.staged.id_map_sha256)
        problems = self.folder / "problems.jsonl.gz"
        with (
            closing(open_id_map(file)) as id_map,
            gzip.GzipFile(problems, "wb", mtime=0) as self.problem_file,
            _collecting_rarely(),
        ):
            self._compare_table(id_map)
        self._name_attributes()
        self.progress.finish()
        self.problems = self.run.folder.path_of_problems(self.entity.name, hash_file(problems))
        self.store.upload(self.problems, problems)
        look_ups = ask_indexes(
            self.dynamodb, self.table, self.entity.indexes, list(self.samples.values()), self.run.host
        )
        reason = self._judge()
        lagging = reason is None and bool(look_ups.missing)
        if lagging:
            reason = (
                f"Table {self.staged.table} is proved, but its indexes lag: {', '.join(look_ups.missing[:5])}. Wait "
                "until they have caught up, then clear this task."
            )
        return Verification(
            entity=self.entity.name,
            table=self.staged.table,
            problems=self.problems,
            **self.counts,
            listed=self.listed,
            look_ups=look_ups.asked,
            look_ups_not_known=look_ups.not_known,
            conflicts=[conflict.model_dump() for conflict in self.write_conflicts.values()],
            read_units=self.dynamodb.consumed_read_units - read_before,
            ok=reason is None,
            lagging=lagging,
            reason=reason,
            started_at=started,
            ended_at=self.run.host.timestamp(),
        )

    def _compare_table(self, id_map: Connection) -> None:
        """Compare the fingerprints of table and map, and find the problems if they differ."""
        entries: int = id_map.execute("SELECT coalesce(max(entry), 0) FROM id_map").fetchone()[0]
        self.found = bytearray(entries // 8 + 1)
        self.progress = Progress(f"verify {self.entity.name}", entries, "items")
        with closing(ItemFile(self.folder / "scanned", self.secret)) as self.scanned:
            self._scan()
        recorded = Fingerprint(self.secret)
        for batch in split_batches(id_map.execute("SELECT checksum FROM id_map WHERE state = 'live'"), MAP_ROWS):
            recorded.add([checksum for (checksum,) in batch])
        if self.scanned.fingerprint == recorded:
            self.counts["verified"] = recorded.count
            self._find_missing(id_map, set())
        else:
            self._find_problems(id_map)

    def _scan(self) -> None:
        """Read the table, and store the key and checksum of each item."""
        sampled: set[int] = set()
        for segment, page in self.dynamodb.scan_pages(self.table.name, SEGMENTS):
            for items in page:
                keys = self.table.key.read_all(items)
                checksums = checksum_items(items)
                self.scanned.add(keys, checksums)
                self.progress.add(len(items))
                if segment not in sampled:
                    sampled.add(segment)
                    self.samples |= dict(zip(keys[:LOOK_UPS], items, strict=False))

    def _find_problems(self, id_map: Connection) -> None:
        """Find the buckets that differ, and compare their items one by one."""
        recorded = fingerprint_buckets(
            self.secret, id_map.execute("SELECT new_id, checksum FROM id_map WHERE state = 'live'")
        )
        scanned = fingerprint_buckets(self.secret, self.scanned)
        differing = {bucket for bucket in range(BUCKETS) if scanned[bucket] != recorded[bucket]}
        self.counts["verified"] = sum(recorded[bucket].count for bucket in range(BUCKETS) if bucket not in differing)
        suspects = (entry for entry in self.scanned if find_bucket(entry[0]) in differing)
        for batch in split_batches(suspects, QUERY_KEYS):
            self._compare(id_map, dict(batch))
        self._find_missing(id_map, differing)

    def _compare(self, id_map: Connection, checksums: dict[str, bytes]) -> None:
        """Look up scanned items in the map, one by one."""
        marks = ",".join("?" * len(checksums))
        query = f"SELECT new_id, entry, old_key, checksum, state, written FROM id_map WHERE new_id IN ({marks})"
        known = {row[0]: row[1:] for row in id_map.execute(query, list(checksums))}
        problems: list[Problem] = []
        for key, scanned in checksums.items():
            if key not in known:
                problems.append(Problem(kind="unexpected", key=key, old_key=None, reason="not ours"))
                continue
            entry, old_key, checksum, state, written = known[key]
            self.found[entry >> 3] |= 1 << (entry & 7)
            if state == "live" and scanned == checksum:
                self.counts["verified"] += 1
            else:
                kind, reason = self._classify(key, state, written)
                if kind == "mismatched" and len(self.mismatched) < LISTED:
                    self.mismatched.append(key)
                problems.append(Problem(kind=kind, key=key, old_key=old_key, reason=reason))
        self._add_problems(problems)

    def _classify(self, key: str, state: str, written: int) -> tuple[str, str]:
        """Return kind and reason of an item that is in the map and in the table, and differs from the map."""
        if key in self.write_conflicts:
            return "held", self.write_conflicts[key].reason
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
        """Add the entries of the map that the scan did not find. Live entries of equal buckets were found."""
        where = "state != 'tombstone'" if differing else "state NOT IN ('tombstone', 'live')"
        rows = id_map.execute(f"SELECT entry, new_id, old_key, state, written FROM id_map WHERE {where}")
        for entry, key, old_key, state, written in rows:
            if self.found[entry >> 3] >> (entry & 7) & 1 or (state == "live" and find_bucket(key) not in differing):
                continue
            if key in self.write_conflicts or state != "live":
                kind, reason = "held", "gone from the target"
            elif written:
                kind, reason = "missing", "written by this run, and not there"
            else:
                kind, reason = "lost", "deleted by somebody else"
            self._add_problems([Problem(kind=kind, key=key, old_key=old_key, reason=reason)])

    def _add_problems(self, problems: list[Problem]) -> None:
        for problem in problems:
            self.counts[problem.kind] += 1
            self.samples.pop(problem.key, None)
            if len(self.listed) < LISTED:
                self.listed.append(problem)
            self.problem_file.write(orjson.dumps(problem.model_dump(), option=orjson.OPT_APPEND_NEWLINE))

    def _name_attributes(self) -> None:
        """Add the names of the differing attributes to the listed mismatches. Their values may be sensitive."""
        if not self.mismatched:
            return
        differing: dict[str, str] = {}
        items = self.dynamodb.read_items(self.table, [ItemKey(key) for key in self.mismatched])
        for part in self.staged.parts:
            for change in self.run.folder.read_changes(self.entity.name, part):
                item = items.get(ItemKey(change.key or ""))
                if item is not None and change.item is not None and change.key:
                    names = sorted(n for n in item.keys() | change.item if item.get(n) != change.item.get(n))
                    differing[change.key] = ", ".join(names)
        self.listed = [
            problem.model_copy(update={"reason": f"{problem.reason}: {differing[problem.key]}"})
            if differing.get(problem.key)
            else problem
            for problem in self.listed
        ]

    def _judge(self) -> str | None:
        """Return the reason why the proof fails, or None if it holds."""
        refuses_others = self.run.head is None and self.run.params.existing_items == "refuse"
        fatal = {"missing", "mismatched"} | ({"unexpected"} if refuses_others else set())
        if not any(self.counts[kind] for kind in fatal):
            return None
        numbers = ", ".join(f"{self.counts[kind]:,} {kind}" for kind in sorted(fatal) if self.counts[kind])
        keys = [f"{p.key} ({p.reason})" for p in self.listed if p.kind in fatal][:5]
        return (
            f"Table {self.staged.table} differs from the source: {numbers}: {', '.join(keys)}. "
            f"All problems are in {self.store.uri(self.problems)}."
        )


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let the garbage collector run rarely: items have no cycles, but collecting doubles the cost of parsing them."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
