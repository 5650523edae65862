"""The folder of a run: the path of each of its artifacts, and how each is read back."""

import gzip
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from accession.artifacts.attempts import Attempt, PartStep, parse_attempts
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

# A change holds an item and its before image of at most 400 KB each, and JSON takes at most 6 bytes for one (\u0001).
LONGEST_LINE = 16 * 1024 * 1024


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
        if (found.run, found.mapping, found.environment) != (self.run, self.store.mapping, self.store.environment):
            raise StoreError(f"{self.uri('manifest.json')} is of another run or target. Run make audit.")
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

    def path_of_part(self, entity: str, part: Part) -> str:
        """Return the path of a part of the change set. It contains the digest, so no attempt overwrites another's."""
        return self.path(f"changes/{entity}/{part.name or f'{part.part:05d}.jsonl.gz'}")

    def path_of_id_map(self, entity: str, sha256: str) -> str:
        """Return the path of the ID map with that digest that the run makes for an entity."""
        return self.path(f"id_map/{entity}-{sha256[:16]}.db")

    def find_staged(self, entity: str) -> StagedEntity | None:
        """Return the result of staging an entity, or None if it is not staged yet."""
        return self.store.find_document(self.path_of_staged(entity), StagedEntity)

    def load_staged(self, entity: str) -> StagedEntity:
        """Return the result of staging an entity."""
        return self.store.get_document(self.path_of_staged(entity), StagedEntity)

    def read_lines(self, entity: str, part: Part) -> Iterator[bytes]:
        """Yield the lines of a part in constant memory, after checking its digest.

        The part is on disk until all lines are read. Raises StoreError if it is damaged.
        """
        with TemporaryDirectory(prefix="accession-") as folder:
            file = self.store.download(self.path_of_part(entity, part), Path(folder) / "part.jsonl.gz", part.sha256)
            with gzip.open(file) as stream:
                while line := stream.readline(LONGEST_LINE):
                    if len(line) == LONGEST_LINE:
                        raise StoreError(
                            f"{self.store.uri(self.path_of_part(entity, part))} is damaged: a line has more than "
                            f"{LONGEST_LINE:,} bytes, which no change has. Run make audit."
                        )
                    yield line

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

    def path_of_mark(self, attempt: Attempt) -> str:
        """Return the path of the mark that an attempt at a part writes before its first item."""
        return self.path(f"{attempt.name}.started")

    def path_of_execution(self, attempt: Attempt) -> str:
        """Return the path of the result that an attempt at a part writes after its last item."""
        return self.path(f"{attempt.name}.json")

    def list_attempts(self, at: PartStep | str | None = None) -> dict[PartStep, list[Attempt]]:
        """Return the attempts at every part, at the parts of an entity, or at one part, oldest first.

        Parts without an attempt are left out.
        """
        name = "progress/"
        if at is not None:
            name += f"{at.entity}/{at.part:05d}.{at.step}." if isinstance(at, PartStep) else f"{at}/"
        return parse_attempts(self.store.list(self.path(name)))

    def load_execution(self, attempt: Attempt) -> Execution:
        """Return the result of an attempt that has ended."""
        return self.store.get_document(self.path_of_execution(attempt), Execution)

    def find_write_conflicts(self, entity: str) -> list[WriteConflict]:
        """Return the conflicts that the newest attempt at each part of an entity met.

        The conflicts of an attempt that has not ended are not known; what an older attempt met no longer counts.
        """
        conflicts: list[WriteConflict] = []
        for at, attempts in self.list_attempts().items():
            if at.entity == entity and attempts[-1].has_ended:
                conflicts += self.load_execution(attempts[-1]).conflicts
        return conflicts

    # Written by verify, rollback and report

    def path_of_verification(self, entity: str) -> str:
        """Return the path of the proof of an entity."""
        return self.path(f"verification/{entity}.json")

    def path_of_problems(self, entity: str, sha256: str) -> str:
        """Return the path of a list of all items of an entity that differ from the source. Each proof has its own."""
        return self.path(f"verification/{entity}-{sha256[:16]}.jsonl.gz")

    def find_verifications(self, entities: Iterable[str]) -> dict[str, Verification]:
        """Return the proofs of these entities. An entity without a proof is left out."""
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
