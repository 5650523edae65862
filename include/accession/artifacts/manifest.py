"""The manifest of a run: its name, its params, its backup and its head. It is written once, when the run is named."""

from typing import Any
from uuid import UUID

from accession.artifacts.auditor import auditor_path
from accession.artifacts.document import Document


class SnapshotRef(Document):
    """The backup that every step of a run reads. `unknown_collations` are those that only the application has."""

    sha256: str
    uri: str
    bytes: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]
    unknown_collations: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Return the path of the backup in the bucket. The backup is named by its digest."""
        return f"backups/{self.sha256}.db"


class Manifest(Document):
    """`manifest.json`. `log_sequence` is the last record of the register when the run was named.

    Version 0.1.0 stored neither that nor `auditor_sha256`, since it put no auditor into the bucket, nor on
    what else its items depend: the version of SQLite, and the data of the mapping's time zone.
    """

    run: str
    mapping: str
    mapping_sha256: str
    transform_version: int
    sqlite_version: str | None = None
    timezone_sha256: str | None = None
    environment: str
    airflow_run_id: str
    triggered_by: str
    params: dict[str, Any]
    source: str
    namespace: UUID
    parent: str | None
    unchanged: bool
    snapshot: SnapshotRef
    log_sequence: int = 0
    auditor_sha256: str | None = None
    started_at: str
    ended_at: str

    @property
    def shared(self) -> dict[str, str]:
        """Return path and SHA-256 of the objects outside the run's folder that it stands on: backup and auditor."""
        auditor = {auditor_path(self.auditor_sha256): self.auditor_sha256} if self.auditor_sha256 else {}
        return {self.snapshot.path: self.snapshot.sha256, **auditor}
