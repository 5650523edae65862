"""The manifest of a run: its name, its params, its backup and its head. It is written once, when the run is named."""

from typing import Any
from uuid import UUID

from accession.artifacts.document import Document


class SnapshotRef(Document):
    """The backup that every step of a run reads."""

    sha256: str
    uri: str
    bytes: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]

    @property
    def path(self) -> str:
        """Return the path of the backup in the bucket. The backup is named by its digest."""
        return f"backups/{self.sha256}.db"


class Manifest(Document):
    """`manifest.json`."""

    run: str
    mapping: str
    mapping_sha256: str
    transform_version: int
    environment: str
    airflow_run_id: str
    triggered_by: str
    params: dict[str, Any]
    source: str
    namespace: UUID
    parent: str | None
    unchanged: bool
    snapshot: SnapshotRef
    started_at: str
    ended_at: str
