"""Verify: prove that the table and the source have equal items, and count every item once.

A strongly consistent parallel scan of the table and the entries of the ID map are read once, in any order, and compared
by their fingerprints (fingerprint.py). If these differ, the fingerprints of buckets of keys are compared. In buckets
that differ, each scanned item is looked up in the map, and an entry that the scan did not find is missing. The keys and
checksums of the scan are kept on disk for that; memory holds only one bit for each entry.
"""

import gc
import gzip
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

import orjson

from accession.artifacts import PROBLEMS, Changed, Problem, Verification, WriteConflict, merge_id_maps, open_id_map
from accession.digest import hash_file
from accession.dynamodb import DynamoDB
from accession.errors import FencedError, TransientError, VerificationError
from accession.items import ItemKey, KeyMask, TypedItem, checksum_items
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
    """Prove the table of an entity and write `verification/<entity>.json`, and those of all entities in the table.

    Read-only on the table. If entities share a table, the first of them proves it, and the others find their results.

    Raises VerificationError if an item that this run wrote is missing or differs, or if the tables of a first run,
    which were empty, have items that are not ours; TransientError if only an index does not find an item yet. The
    message names keys.
    """
    mates = run.mapping.find_table_mates(name)
    proofs = run.folder.find_verifications(mates)
    if name == mates[0] or len(proofs) < len(mates):
        proofs = _prove_table(run, mates)
    reason = next((proof.reason for proof in proofs.values() if proof.reason), None)
    if reason is not None:
        raise (TransientError if any(proof.lagging for proof in proofs.values()) else VerificationError)(reason)
    return proofs[name]


def _prove_table(run: RunContext, names: Sequence[str]) -> dict[str, Verification]:
    """Prove the table of these entities, and write their documents."""
    earlier = {name: run.store.find(run.folder.path_of_verification(name)) for name in names}
    expect_open(run.store, run.name)  # after reading `earlier`, so that no end has been recorded with it
    with tempfile.TemporaryDirectory(prefix="accession-") as folder, run.open_prover(names) as dynamodb:
        proofs = _Verifier(run, names, dynamodb, Path(folder)).verify()
    expect_open(run.store, run.name)  # reading the table took its time
    for name, proof in proofs.items():
        try:
            run.store.replace(run.folder.path_of_verification(name), proof.dump(), earlier[name])
        except Changed:
            raise FencedError(
                f"Another attempt proved {name} of run {run.name} meanwhile: see the log of that one."
            ) from None
    return proofs


class _Verifier:
    """The proof of one table, which holds the entities `names`. Items that are in no ID map count as of the first.

    `found` has a bit for each entry of the ID map: 1 if the scan found its item.
    """

    def __init__(self, run: RunContext, names: Sequence[str], dynamodb: DynamoDB, folder: Path) -> None:
        self.run, self.store, self.dynamodb, self.folder = run, run.store, dynamodb, folder
        self.staged = {name: run.folder.load_staged(name) for name in names}
        self.first = names[0]
        self.entity = "entity" if len(names) > 1 else f"'{self.first}'"  # of an entry, as queries of the map have it
        self.masks = {name: run.find_mask(name) for name in names}
        # An item that is in no ID map may be of any entity.
        self.mask = next((mask for mask in self.masks.values() if mask.secret), self.masks[self.first])
        self.table = replace(run.find_table(self.staged[self.first]), mask=self.mask)
        self.write_conflicts = {name: list(run.folder.find_write_conflicts(name)) for name in names}
        self.conflicts = {conflict.key: conflict for found in self.write_conflicts.values() for conflict in found}
        self.counts = {name: dict.fromkeys(("verified", *PROBLEMS), 0) for name in names}
        self.listed: dict[str, list[Problem]] = {name: [] for name in names}
        self.samples: dict[str, TypedItem] = {}
        self.mismatched: list[str] = []
        self.secret = run.host.chance.randrange(PRIME)

    def verify(self) -> dict[str, Verification]:
        """Compare the table with the ID maps, and look up samples through the indexes. Return the proof of each."""
        started = self.run.host.timestamp()
        read_before = self.dynamodb.consumed_read_units
        problems = self.folder / "problems.jsonl.gz"
        with (
            closing(open_id_map(self._fetch_map())) as id_map,
            gzip.GzipFile(problems, "wb", mtime=0) as self.problem_file,
            _collecting_rarely(),
        ):
            self._compare_table(id_map)
        self._name_attributes()
        for name, found in self.listed.items():
            found[:] = [_cover(one, self.mask if one.old_key is None else self.masks[name]) for one in found]
        self.progress.finish()
        self.problems = self.run.folder.path_of_problems(self.first, hash_file(problems))
        self.store.upload(self.problems, problems)
        indexes = self.run.mapping.indexes[self.first]
        look_ups = ask_indexes(self.dynamodb, self.table, indexes, list(self.samples.values()), self.run.host)
        reason = self._judge()
        lagging = reason is None and bool(look_ups.missing)
        if lagging:
            reason = (
                f"Table {self.table.name} is proved, but its indexes lag: {', '.join(look_ups.missing[:5])}. Wait "
                "until they have caught up, then clear this task."
            )
        return {
            name: Verification(
                entity=name,
                table=self.table.name,
                problems=self.problems,
                **self.counts[name],
                listed=self.listed[name],
                look_ups=look_ups.asked if name == self.first else {},
                look_ups_not_known=look_ups.not_known if name == self.first else {},
                conflicts=[_cover(conflict, self.masks[name]).model_dump() for conflict in self.write_conflicts[name]],
                read_units=self.dynamodb.consumed_read_units - read_before if name == self.first else 0.0,
                ok=reason is None,
                lagging=lagging,
                reason=reason,
                started_at=started,
                ended_at=self.run.host.timestamp(),
            )
            for name in self.staged
        }

    def _fetch_map(self) -> Path:
        """Return the ID map of the table: that of its entity, or one that holds those of all its entities."""
        files = {
            name: self.store.download(self.store.path(staged.id_map), self.folder / f"{name}.db", staged.id_map_sha256)
            for name, staged in self.staged.items()
        }
        return files[self.first] if len(files) == 1 else merge_id_maps(self.folder / "merged.db", files)

    def _compare_table(self, id_map: Connection) -> None:
        """Compare the fingerprints of table and map, and find the problems if they differ."""
        entries: int = id_map.execute("SELECT coalesce(max(entry), 0) FROM id_map").fetchone()[0]
        self.found = bytearray(entries // 8 + 1)
        self.progress = Progress(f"verify {', '.join(self.staged)}", entries, "items")
        with closing(ItemFile(self.folder / "scanned", self.secret)) as self.scanned:
            self._scan()
        recorded = Fingerprint(self.secret)
        for batch in split_batches(id_map.execute("SELECT checksum FROM id_map WHERE state = 'live'"), MAP_ROWS):
            recorded.add([checksum for (checksum,) in batch])
        if self.scanned.fingerprint == recorded:
            self._count_verified(id_map, set())
            self._find_missing(id_map, set())
        else:
            self._find_problems(id_map)

    def _count_verified(self, id_map: Connection, differing: set[int]) -> None:
        """Count the live entries of buckets that do not differ: their items were all found as they should be."""
        query = f"SELECT {self.entity}, count(*) FROM id_map WHERE state = 'live' GROUP BY 1"
        if differing:
            id_map.create_function("is_equal", 1, lambda key: find_bucket(key) not in differing)
            query = query.replace("GROUP", "AND is_equal(new_id) GROUP")
        for name, count in id_map.execute(query):
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

    def _find_problems(self, id_map: Connection) -> None:
        """Find the buckets that differ, and compare their items one by one."""
        recorded = fingerprint_buckets(
            self.secret, id_map.execute("SELECT new_id, checksum FROM id_map WHERE state = 'live'")
        )
        scanned = fingerprint_buckets(self.secret, self.scanned)
        differing = {bucket for bucket in range(BUCKETS) if scanned[bucket] != recorded[bucket]}
        self._count_verified(id_map, differing)
        suspects = (entry for entry in self.scanned if find_bucket(entry[0]) in differing)
        for batch in split_batches(suspects, QUERY_KEYS):
            self._compare(id_map, dict(batch))
        self._find_missing(id_map, differing)

    def _compare(self, id_map: Connection, checksums: dict[str, bytes]) -> None:
        """Look up scanned items in the map, one by one."""
        marks = ",".join("?" * len(checksums))
        fields = f"new_id, {self.entity}, entry, old_key, checksum, state, written"
        query = f"SELECT {fields} FROM id_map WHERE new_id IN ({marks})"
        known = {row[0]: row[1:] for row in id_map.execute(query, list(checksums))}
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

    def _find_missing(self, id_map: Connection, differing: set[int]) -> None:
        """Add the entries of the map that the scan did not find. Live entries of equal buckets were found."""
        where = "state != 'tombstone'" if differing else "state NOT IN ('tombstone', 'live')"
        fields = f"{self.entity}, entry, new_id, old_key, state, written"
        for name, entry, key, old_key, state, written in id_map.execute(f"SELECT {fields} FROM id_map WHERE {where}"):
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

    def _name_attributes(self) -> None:
        """Add the names of the differing attributes to the listed mismatches. Their values may be sensitive."""
        if not self.mismatched:
            return
        differing: dict[str, str] = {}
        items = self.dynamodb.read_items(self.table, [ItemKey(key) for key in self.mismatched])
        changes = (
            change
            for name, staged in self.staged.items()
            for part in staged.parts
            for change in self.run.folder.read_changes(name, part)
        )
        for change in changes:
            item = items.get(ItemKey(change.key or ""))
            if item is not None and change.item is not None and change.key:
                names = sorted(n for n in item.keys() | change.item if item.get(n) != change.item.get(n))
                differing[change.key] = ", ".join(names)
        for problems in self.listed.values():
            for number, problem in enumerate(problems):
                if attributes := differing.get(problem.key):
                    problems[number] = problem.model_copy(update={"reason": f"{problem.reason}: {attributes}"})

    def _judge(self) -> str | None:
        """Return the reason why the proof fails, or None if it holds."""
        refuses_others = self.run.head is None and self.run.params.existing_items == "refuse"
        fatal = {"missing", "mismatched"} | ({"unexpected"} if refuses_others else set())
        found = {kind: sum(counts[kind] for counts in self.counts.values()) for kind in sorted(fatal)}
        if not any(found.values()):
            return None
        numbers = ", ".join(f"{count:,} {kind}" for kind, count in found.items() if count)
        listed = (problem for problems in self.listed.values() for problem in problems if problem.kind in fatal)
        keys = [f"{problem.key} ({problem.reason})" for problem in islice(listed, 5)]
        return (
            f"Table {self.table.name} differs from the source: {numbers}: {', '.join(keys)}. "
            f"All problems are in {self.store.uri(self.problems)}."
        )


Keyed = TypeVar("Keyed", Problem, WriteConflict)


def _cover(found: Keyed, mask: KeyMask) -> Keyed:
    """Return a problem or conflict as people may see it."""
    return found.model_copy(update={"key": mask.cover(found.key), "old_key": mask.cover(found.old_key)})


@contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let the garbage collector run rarely: items have no cycles, but collecting doubles the cost of parsing them."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
