"""A run and what it is made of: its name, its backup, the head it stands on. Written once, when the run is named."""

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from accession.artifacts.document import Document, run_path
from accession.artifacts.store import Store
from accession.errors import SourceError, StoreError

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


def load_manifest(store: Store, run: str) -> Manifest:
    """The manifest of a run. Raises StoreError when there is no such run."""
    found = store.find_document(run_path(run, "manifest.json"), Manifest)
    if found is None:
        raise StoreError(f"there is no run {run} in {store.uri('runs/')}: see make audit for those there are.")
    return found


def fetch_backup(store: Store, manifest: Manifest, folder: Path) -> Path:
    """The backup of a run as a local file, its digest checked. Raises SourceError when it has expired."""
    path = f"backups/{manifest.snapshot.sha256}.db"
    if not store.has(path):
        raise SourceError(
            f"the backup of run {manifest.run} has expired: the bucket's lifecycle removed {store.uri(path)}."
        )
    return store.download(path, folder / "backup.db", manifest.snapshot.sha256)
