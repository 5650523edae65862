"""A run and what it is made of: its name, its backup, the head it stands on. Written once, when the run is named."""

import logging
from typing import Any
from uuid import UUID

from accession.artifacts.document import Document

logger = logging.getLogger(__name__)


class SnapshotRef(Document):
    """The backup that every step of a run reads."""

    sha256: str
    uri: str
    bytes: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]

    @property
    def path(self) -> str:
        """The path of the backup in the bucket, which is its digest."""
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

    def param(self, name: str) -> Any:
        """A param of the run."""
        return self.params[name]
