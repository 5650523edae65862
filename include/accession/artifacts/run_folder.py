"""The folder of a run: where each of its artifacts is, and how it is read back."""

import gzip
import hashlib
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from accession.artifacts.change_set import Change, Part, StagedEntity, decode_change
from accession.artifacts.document import run_path
from accession.artifacts.execution import Execution, WriteConflict
from accession.artifacts.manifest import Manifest
from accession.artifacts.plan import Plan
from accession.artifacts.report import Report
from accession.artifacts.rollback import Rollback
from accession.artifacts.store import Store
from accession.artifacts.verification import Verification
from accession.errors import SourceError, StoreError


class RunFolder:
    """The artifacts of one run: `runs/<run>/` below the prefix of its target.

    A `path_of_…` method names an object relative to the target, as the register does. A `find_…` method returns None
    for a document that is not there, a `load_…` method raises StoreError. Both raise StoreError for a damaged one.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run

    def path(self, name: str = "") -> str:
        """Return the path of an artifact; without a name, of the folder."""
        return run_path(self.run, name)

    def uri(self, name: str = "") -> str:
        """Return the s3:// address of an artifact; without a name, of the folder."""
        return self.store.uri(self.path(name))

    # Written by backup

    def find_manifest(self) -> Manifest | None:
        """Return what the run was made of, or None if there is no such run."""
        return self.store.find_document(self.path("manifest.json"), Manifest)

    def load_manifest(self) -> Manifest:
        """Return what the run was made of."""
        found = self.find_manifest()
        if found is None:
            raise StoreError(
                f"There is no run {self.run} in {self.store.uri('runs/')}: see make audit for those there are."
            )
        return found

    def fetch_backup(self, manifest: Manifest, folder: Path) -> Path:
        """Download the backup of the run and check its digest. Raises SourceError when it has expired."""
        path = manifest.snapshot.path
        if not self.store.has(path):
            raise SourceError(
                f"The backup of run {self.run} has expired: the bucket's lifecycle removed {self.store.uri(path)}."
            )
        return self.store.download(path, folder / "backup.db", manifest.snapshot.sha256)

    # Written by stage and plan

    def path_of_staged(self, entity: str) -> str:
        """Return the path of what staging found in an entity. It is written last: a part without it does not count."""
        return self.path(f"changes/{entity}/index.json")

    def path_of_part(self, entity: str, part: int) -> str:
        """Return the path of a part of the change set."""
        return self.path(f"changes/{entity}/{part:05d}.jsonl.gz")

    def path_of_id_map(self, entity: str) -> str:
        """Return the path of the ID map that the run makes of an entity."""
        return self.path(f"id_map/{entity}.db")

    def find_staged(self, entity: str) -> StagedEntity | None:
        """Return what staging found in an entity, or None if it has not come so far."""
        return self.store.find_document(self.path_of_staged(entity), StagedEntity)

    def load_staged(self, entity: str) -> StagedEntity:
        """Return what staging found in an entity."""
        return self.store.get_document(self.path_of_staged(entity), StagedEntity)

    def read_lines(self, entity: str, part: Part) -> Iterator[bytes]:
        """Return the lines of a part, its digest checked first. Raises StoreError when it is damaged."""
        path = self.path_of_part(entity, part.part)
        data = self.store.get(path)
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise StoreError(f"{self.store.uri(path)} is damaged: its SHA-256 is not {part.sha256}. Run make audit.")
        with gzip.open(io.BytesIO(data)) as stream:
            yield from stream

    def read_changes(self, entity: str, part: Part) -> Iterator[Change]:
        """Return the lines of a part, parsed. Raises StoreError when it is damaged."""
        return (decode_change(line) for line in self.read_lines(entity, part))

    def find_plan(self) -> Plan | None:
        """Return the plan, or None if the run has not come so far."""
        return self.store.find_document(self.path("plan.json"), Plan)

    def load_plan(self) -> Plan:
        """Return the plan."""
        return self.store.get_document(self.path("plan.json"), Plan)

    # Written by migrate and remove

    def path_of_mark(self, entity: str, part: int, step: str = "migrate") -> str:
        """Return the path of the mark that a part was begun."""
        return self.path(f"progress/{entity}/{part:05d}.{step}.started")

    def path_of_execution(self, entity: str, part: int, step: str = "migrate") -> str:
        """Return the path of what the last execution of a part did."""
        return self.path(f"progress/{entity}/{part:05d}.{step}.json")

    def was_begun(self, entity: str, part: int, step: str = "migrate") -> bool:
        """Tell whether a part was begun, so that something of it may be in the target."""
        return self.store.has(self.path_of_mark(entity, part, step))

    def find_write_conflicts(self, entity: str) -> list[WriteConflict]:
        """Return the conflicts that the writers met in one entity."""
        conflicts: list[WriteConflict] = []
        for path in self.store.list(self.path(f"progress/{entity}/")):
            if path.endswith(".json"):
                conflicts += self.store.get_document(path, Execution).conflicts
        return conflicts

    # Written by verify, rollback and report

    def path_of_verification(self, entity: str) -> str:
        """Return the path of the proof of an entity."""
        return self.path(f"verification/{entity}.json")

    def path_of_problems(self, entity: str) -> str:
        """Return the path of the list of all items of an entity that are not as the source makes them."""
        return self.path(f"verification/{entity}.jsonl.gz")

    def find_verifications(self, entities: Iterable[str]) -> dict[str, Verification]:
        """Return the proofs that there are of these entities."""
        found = {name: self.find_verification(name) for name in entities}
        return {name: verification for name, verification in found.items() if verification is not None}

    def find_verification(self, entity: str) -> Verification | None:
        """Return the proof of an entity, or None if the run has not come so far."""
        return self.store.find_document(self.path_of_verification(entity), Verification)

    def find_rollback(self) -> Rollback | None:
        """Return the last undo of the run, or None if there was none."""
        return self.store.find_document(self.path("rollback.json"), Rollback)

    def find_report(self) -> Report | None:
        """Return the report of the run's last end, or None before its first."""
        return self.store.find_document(self.path("report.json"), Report)

    def load_report(self) -> Report:
        """Return the report of the run's last end."""
        return self.store.get_document(self.path("report.json"), Report)
