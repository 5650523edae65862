"""The folder of a run: the path of each of its artifacts, and how each is read back."""

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
from accession.errors import NotFoundError, SourceError, StoreError


class RunFolder:
    """The artifacts of one run: `runs/<run>/` below the prefix of its target.

    A `path_of_…` method returns a path relative to the target, as the register has it. If a document is not there, a
    `find_…` method returns None and a `load_…` method raises StoreError. Both raise StoreError if it is damaged.
    """

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.run = store, run

    def path(self, name: str = "") -> str:
        """Return the path of an artifact, or of the folder if no name is given."""
        return run_path(self.run, name)

    def uri(self, name: str = "") -> str:
        """Return the s3:// address of an artifact, or of the folder if no name is given."""
        return self.store.uri(self.path(name))

    # Written by backup

    def find_manifest(self) -> Manifest | None:
        """Return the manifest of the run, or None if there is no such run."""
        return self.store.find_document(self.path("manifest.json"), Manifest)

    def load_manifest(self) -> Manifest:
        """Return the manifest of the run. Raises NotFoundError if there is no such run."""
        found = self.find_manifest()
        if found is None:
            raise NotFoundError(
                f"There is no run {self.run} in {self.store.uri('runs/')}: run make audit to list them."
            )
        return found

    def fetch_backup(self, manifest: Manifest, folder: Path) -> Path:
        """Download the backup of the run and check its digest. Raises SourceError if it has expired."""
        path = manifest.snapshot.path
        if not self.store.has(path):
            raise SourceError(
                f"The backup of run {self.run} has expired: the bucket's lifecycle removed {self.store.uri(path)}. "
                "Restore an earlier version of that object, or trigger a new run."
            )
        return self.store.download(path, folder / "backup.db", manifest.snapshot.sha256)

    # Written by stage and plan

    def path_of_staged(self, entity: str) -> str:
        """Return the path of the result of staging an entity. It is written last: a part without it does not count."""
        return self.path(f"changes/{entity}/index.json")

    def path_of_part(self, entity: str, part: int) -> str:
        """Return the path of a part of the change set."""
        return self.path(f"changes/{entity}/{part:05d}.jsonl.gz")

    def path_of_id_map(self, entity: str) -> str:
        """Return the path of the ID map that the run made for an entity."""
        return self.path(f"id_map/{entity}.db")

    def find_staged(self, entity: str) -> StagedEntity | None:
        """Return the result of staging an entity, or None if it is not staged yet."""
        return self.store.find_document(self.path_of_staged(entity), StagedEntity)

    def load_staged(self, entity: str) -> StagedEntity:
        """Return the result of staging an entity."""
        return self.store.get_document(self.path_of_staged(entity), StagedEntity)

    def read_lines(self, entity: str, part: Part) -> Iterator[bytes]:
        """Yield the lines of a part, after checking its digest. Raises StoreError if the part is damaged."""
        path = self.path_of_part(entity, part.part)
        data = self.store.get(path)
        if hashlib.sha256(data).hexdigest() != part.sha256:
            raise StoreError(f"{self.store.uri(path)} is damaged: its SHA-256 is not {part.sha256}. Run make audit.")
        with gzip.open(io.BytesIO(data)) as stream:
            yield from stream

    def read_changes(self, entity: str, part: Part) -> Iterator[Change]:
        """Return the changes of a part. Raises StoreError if the part is damaged."""
        return (decode_change(line) for line in self.read_lines(entity, part))

    def find_plan(self) -> Plan | None:
        """Return the plan, or None if there is none yet."""
        return self.store.find_document(self.path("plan.json"), Plan)

    def load_plan(self) -> Plan:
        """Return the plan."""
        return self.store.get_document(self.path("plan.json"), Plan)

    # Written by migrate and remove

    def path_of_mark(self, entity: str, part: int, step: str = "migrate") -> str:
        """Return the path of the mark that is written before a part is executed."""
        return self.path(f"progress/{entity}/{part:05d}.{step}.started")

    def path_of_execution(self, entity: str, part: int, step: str = "migrate") -> str:
        """Return the path of the result of the last execution of a part."""
        return self.path(f"progress/{entity}/{part:05d}.{step}.json")

    def was_started(self, entity: str, part: int, step: str = "migrate") -> bool:
        """Tell whether a part was started, so that some of its changes may be in the target."""
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
        """Return the path of the list of all items of an entity that differ from the source."""
        return self.path(f"verification/{entity}.jsonl.gz")

    def find_verifications(self, entities: Iterable[str]) -> dict[str, Verification]:
        """Return the proofs of those of these entities that have one."""
        found = {name: self.find_verification(name) for name in entities}
        return {name: verification for name, verification in found.items() if verification is not None}

    def find_verification(self, entity: str) -> Verification | None:
        """Return the proof of an entity, or None if there is none yet."""
        return self.store.find_document(self.path_of_verification(entity), Verification)

    def find_rollback(self) -> Rollback | None:
        """Return the last undo of the run, or None if there was none."""
        return self.store.find_document(self.path("rollback.json"), Rollback)

    def find_report(self) -> Report | None:
        """Return the report of the last time that the run ended, or None if it has not ended yet."""
        return self.store.find_document(self.path("report.json"), Report)

    def load_report(self) -> Report:
        """Return the report of the last time that the run ended."""
        return self.store.get_document(self.path("report.json"), Report)
