"""Verify: prove that the table and the source have equal items, and write the proof of each entity."""

import gzip
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from accession.artifacts import Changed, Problem, Verification, WriteConflict, merge_id_maps, open_id_map
from accession.digest import hash_file
from accession.dynamodb import DynamoDB
from accession.errors import FencedError, TransientError, VerificationError
from accession.items import ItemKey, KeyMask
from accession.run.comparison import Comparison
from accession.run.context import RunContext
from accession.run.fingerprint import PRIME
from accession.run.lookups import ask_indexes
from accession.target import expect_open


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
    """The proof of one table, which holds the entities `names`."""

    def __init__(self, run: RunContext, names: Sequence[str], dynamodb: DynamoDB, folder: Path) -> None:
        self.run, self.store, self.dynamodb, self.folder = run, run.store, dynamodb, folder
        self.staged = {name: run.folder.load_staged(name) for name in names}
        self.first = names[0]
        self.masks = {name: run.find_mask(name) for name in names}
        # An item that is in no ID map may be of any entity.
        self.mask = next((mask for mask in self.masks.values() if mask.secret), self.masks[self.first])
        self.table = replace(run.find_table(self.staged[self.first]), mask=self.mask)
        self.write_conflicts = {name: list(run.folder.find_write_conflicts(name)) for name in names}

    def verify(self) -> dict[str, Verification]:
        """Compare the table with the ID maps, and look up samples through the indexes. Return the proof of each."""
        started = self.run.host.timestamp()
        read_before = self.dynamodb.consumed_read_units
        problems = self.folder / "problems.jsonl.gz"
        with (
            closing(open_id_map(self._fetch_map())) as id_map,
            gzip.GzipFile(problems, "wb", mtime=0) as problem_file,
        ):
            comparison = Comparison(
                self.dynamodb,
                self.table,
                tuple(self.staged),
                id_map,
                conflicts={conflict.key: conflict for found in self.write_conflicts.values() for conflict in found},
                problem_file=problem_file,
                folder=self.folder,
                secret=self.run.host.chance.randrange(PRIME),
            )
            comparison.compare()
        self.counts, listed = comparison.counts, self._name_attributes(comparison)
        self.listed = {
            name: [_cover(one, self.mask if one.old_key is None else self.masks[name]) for one in found]
            for name, found in listed.items()
        }
        self.problems = self.run.folder.path_of_problems(self.first, hash_file(problems))
        self.store.upload(self.problems, problems)
        indexes = self.run.mapping.indexes[self.first]
        look_ups = ask_indexes(self.dynamodb, self.table, indexes, list(comparison.samples.values()), self.run.host)
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

    def _name_attributes(self, comparison: Comparison) -> dict[str, list[Problem]]:
        """Return the listed problems, with the names of the attributes that differ. Their values may be sensitive."""
        if not comparison.mismatched:
            return comparison.listed
        differing: dict[str, str] = {}
        items = self.dynamodb.read_items(self.table, [ItemKey(key) for key in comparison.mismatched])
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

        def describe(problem: Problem) -> Problem:
            names = differing.get(problem.key)
            return problem.model_copy(update={"reason": f"{problem.reason}: {names}"}) if names else problem

        return {name: list(map(describe, problems)) for name, problems in comparison.listed.items()}

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
