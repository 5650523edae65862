"""Compare a table with the ID maps of its entities, and count every item once.

A strongly consistent parallel scan of the table and the entries of the ID map are read once, in any order, and compared
by their fingerprints (fingerprint.py). If these differ, the fingerprints of buckets of keys are compared. In buckets
that differ, each scanned item is looked up in the map, and an entry that the scan did not find is missing. The keys and
checksums of the scan are kept on disk for that; memory holds only one bit for each entry.
"""

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from gzip import GzipFile
from pathlib import Path
from sqlite3 import Connection

import orjson

from accession.artifacts import PROBLEMS, Problem, WriteConflict
from accession.dynamodb import DynamoDB
from accession.items import Table, TypedItem, checksum_items
from accession.progress import Progress
from accession.run.batches import split_batches
from accession.run.fingerprint import BUCKETS, Fingerprint, ItemFile, find_bucket, fingerprint_buckets
from accession.run.lookups import LOOK_UPS

SEGMENTS = 4  # scans at once: one is compared while the others wait for the network
QUERY_KEYS = 500  # keys in a query of the ID map
MAP_ROWS = 1000  # entries of the ID map read at once
LISTED = 100  # problems that are kept in memory


class Comparison:
    """The comparison of a table with the ID map of the entities `names`. Items that are in no map count as of the first
    entity.

    `counts` and `listed` have the items of each entity; all problems go to `problem_file`, a line each. `samples` are
    items that are as they should be, by their keys. `conflicts` are those that the writers met, by key. `secret` is
    that of the fingerprints.
    """

    def __init__(
        self,
        dynamodb: DynamoDB,
        table: Table,
        names: Sequence[str],
        id_map: Connection,
        *,
        conflicts: Mapping[str, WriteConflict],
        problem_file: GzipFile,
        folder: Path,
        secret: int,
    ) -> None:
        self.dynamodb, self.table, self.id_map, self.folder = dynamodb, table, id_map, folder
        self.conflicts, self.problem_file, self.secret = conflicts, problem_file, secret
        self.first = names[0]
        self.entity = "entity" if len(names) > 1 else f"'{self.first}'"  # of an entry, as queries of the map have it
        self.counts = {name: dict.fromkeys(("verified", *PROBLEMS), 0) for name in names}
        self.listed: dict[str, list[Problem]] = {name: [] for name in names}
        self.samples: dict[str, TypedItem] = {}
        self.mismatched: list[str] = []

    def compare(self) -> None:
        """Compare the fingerprints of table and map, and find the problems if they differ."""
        entries: int = self.id_map.execute("SELECT coalesce(max(entry), 0) FROM id_map").fetchone()[0]
        self.found = bytearray(entries // 8 + 1)
        self.progress = Progress(f"verify {', '.join(self.counts)}", entries, "items")
        with _collecting_rarely():
            with closing(ItemFile(self.folder / "scanned", self.secret)) as self.scanned:
                self._scan()
            recorded = Fingerprint(self.secret)
            checksums = self.id_map.execute("SELECT checksum FROM id_map WHERE state = 'live'")
            for batch in split_batches(checksums, MAP_ROWS):
                recorded.add([checksum for (checksum,) in batch])
            if self.scanned.fingerprint != recorded:
                self._find_problems()
            else:
                if len(self.counts) == 1:
                    self.counts[self.first]["verified"] = recorded.count
                else:
                    self._count_verified(set())
                self._find_missing(set())
        self.progress.finish()

    def _count_verified(self, differing: set[int]) -> None:
        """Count the live entries of buckets that do not differ: their items were all found as they should be."""
        query = f"SELECT {self.entity}, count(*) FROM id_map WHERE state = 'live' GROUP BY 1"
        if differing:
            self.id_map.create_function("is_equal", 1, lambda key: find_bucket(key) not in differing)
            query = query.replace("GROUP", "AND is_equal(new_id) GROUP")
        for name, count in self.id_map.execute(query):
            self.counts[name]["verified"] = count

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

    def _find_problems(self) -> None:
        """Find the buckets that differ, and compare their items one by one."""
        recorded = fingerprint_buckets(
            self.secret, self.id_map.execute("SELECT new_id, checksum FROM id_map WHERE state = 'live'")
        )
        scanned = fingerprint_buckets(self.secret, self.scanned)
        differing = {bucket for bucket in range(BUCKETS) if scanned[bucket] != recorded[bucket]}
        self._count_verified(differing)
        suspects = (entry for entry in self.scanned if find_bucket(entry[0]) in differing)
        for batch in split_batches(suspects, QUERY_KEYS):
            self._compare(dict(batch))
        self._find_missing(differing)

    def _compare(self, checksums: dict[str, bytes]) -> None:
        """Look up scanned items in the map, one by one."""
        marks = ",".join("?" * len(checksums))
        fields = f"new_id, {self.entity}, entry, old_key, checksum, state, written"
        query = f"SELECT {fields} FROM id_map WHERE new_id IN ({marks})"
        known = {row[0]: row[1:] for row in self.id_map.execute(query, list(checksums))}
        for key, scanned in checksums.items():
            if key not in known:
                self._add_problem(self.first, Problem(kind="unexpected", key=key, old_key=None, reason="not ours"))
                continue
            name, entry, old_key, checksum, state, written = known[key]
            self.found[entry >> 3] |= 1 << (entry & 7)
            if state == "live" and scanned == checksum:
                self.counts[name]["verified"] += 1
            else:
                kind, reason = self._classify(key, state, written)
                if kind == "mismatched" and len(self.mismatched) < LISTED:
                    self.mismatched.append(key)
                self._add_problem(name, Problem(kind=kind, key=key, old_key=old_key, reason=reason))

    def _classify(self, key: str, state: str, written: int) -> tuple[str, str]:
        """Return kind and reason of an item that is in the map and in the table, and differs from the map."""
        if key in self.conflicts:
            return "held", self.conflicts[key].reason
        if state == "tombstone":
            return (
                ("mismatched", "deleted by this run, and still there") if written else ("unexpected", "deleted earlier")
            )
        if state != "live":
            return "held", state
        if written:
            return "mismatched", "differs from what this run wrote"
        return "drifted", "changed by somebody else"

    def _find_missing(self, differing: set[int]) -> None:
        """Add the entries of the map that the scan did not find. Live entries of equal buckets were found."""
        where = "state != 'tombstone'" if differing else "state NOT IN ('tombstone', 'live')"
        fields = f"{self.entity}, entry, new_id, old_key, state, written"
        for name, entry, key, old_key, state, written in self.id_map.execute(
            f"SELECT {fields} FROM id_map WHERE {where}"
        ):
            if self.found[entry >> 3] >> (entry & 7) & 1 or (state == "live" and find_bucket(key) not in differing):
                continue
            if key in self.conflicts or state != "live":
                kind, reason = "held", "gone from the target"
            elif written:
                kind, reason = "missing", "written by this run, and not there"
            else:
                kind, reason = "lost", "deleted by somebody else"
            self._add_problem(name, Problem(kind=kind, key=key, old_key=old_key, reason=reason))

    def _add_problem(self, name: str, problem: Problem) -> None:
        self.counts[name][problem.kind] += 1
        self.samples.pop(problem.key, None)
        if len(self.listed[name]) < LISTED:
            self.listed[name].append(problem)
        self.problem_file.write(orjson.dumps(problem.model_dump(), option=orjson.OPT_APPEND_NEWLINE))


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let the garbage collector run rarely: items have no cycles, but collecting doubles the cost of parsing them."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
