"""A run and what it is made of: its name, its backup, the head it stands on. Written once, when the run is named."""

import logging
import secrets
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict

from accession.errors import RefusedError, SourceError, StoreError
from accession.items import TRANSFORM_VERSION
from accession.mapping import Mapping
from accession.ownership import refuse_if_taken, show_rollback
from accession.params import MigrateParams
from accession.snapshot import take_snapshot
from accession.state import create_state, load_state
from accession.store import Store

logger = logging.getLogger(__name__)

POLICIES = ("on_conflict", "existing_items", "deletes", "max_rejects")


class Document(BaseModel):
    """A JSON artifact: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> bytes:
        """Its bytes on S3."""
        return orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_INDENT_2)


class SnapshotRef(Document):
    """The backup that every step of a run reads."""

    sha256: str
    uri: str
    bytes: int
    rows: dict[str, int]
    foreign_key_violations: dict[str, int]


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

    def policy(self, name: str) -> Any:
        """A param of the run."""
        return self.params[name]


class _EntityEnd(BaseModel):
    """What is read of an entity in the documents of later steps, plan and report."""

    table: str
    kept_back: int = 0
    conflicts: int = 0


class _Ended(BaseModel):
    entities: dict[str, _EntityEnd]


def run_path(run: str, path: str = "") -> str:
    """A path in the folder of a run."""
    return f"runs/{run}/{path}"


def load_manifest(store: Store, run: str) -> Manifest:
    """The manifest of a run. Raises StoreError when there is no such run."""
    found = store.find_document(run_path(run, "manifest.json"), Manifest)
    if found is None:
        raise StoreError(f"there is no run {run} in {store.uri('runs/')}: see make audit for those there are.")
    return found


def start_run(
    store: Store, mapping: Mapping, params: MigrateParams, source: Path, source_name: str, by: str, airflow_run_id: str
) -> Manifest:
    """Back up the source, name the run and write its manifest.

    The backup is stored under its digest: one that is there already is used again, and its lifecycle starts anew. Every
    later step reads the backup only. Raises RefusedError when the target is open or sealed (a dry run may look at a
    sealed one), SourceError when the source is damaged. Never changes the source.
    """
    started = datetime.now(UTC)
    state = create_state(store)
    if not (params.dry_run and state.open is None):
        refuse_if_taken(store, state)
    with tempfile.TemporaryDirectory(prefix="accession-") as folder:
        copy = Path(folder) / "backup.db"
        snapshot = take_snapshot(source, copy)
        path = f"backups/{snapshot.sha256}.db"
        if store.has(path):
            store.refresh(path)
        else:
            store.upload(path, copy, backup=True)
    reference = SnapshotRef(
        sha256=snapshot.sha256,
        uri=store.uri(path),
        bytes=snapshot.bytes,
        rows=snapshot.rows,
        foreign_key_violations=snapshot.foreign_key_violations,
    )
    parent = load_manifest(store, state.head) if state.head else None
    if parent is not None:
        expect_entities(store, mapping, parent.run)
    for _ in range(5):
        manifest = Manifest(
            run=f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}",
            mapping=mapping.name,
            mapping_sha256=mapping.sha256,
            transform_version=TRANSFORM_VERSION,
            environment=params.environment,
            airflow_run_id=airflow_run_id,
            triggered_by=by,
            params=params.model_dump(mode="json"),
            source=source_name,
            namespace=state.namespace,
            parent=state.head,
            unchanged=parent is not None and _is_unchanged(store, mapping, params, reference, parent),
            snapshot=reference,
            started_at=started.isoformat(),
            ended_at=datetime.now(UTC).isoformat(),
        )
        if store.claim(run_path(manifest.run, "manifest.json"), manifest.dump()):
            logger.info(
                "run %s: backup of %s bytes, SHA-256 %s, on top of %s",
                manifest.run,
                f"{reference.bytes:,}",
                reference.sha256,
                manifest.parent or "an empty target",
            )
            return manifest
    raise StoreError(f"no free name for a run in {store.uri('runs/')}: check the clock of this machine.")


def _is_unchanged(store: Store, mapping: Mapping, params: MigrateParams, snapshot: SnapshotRef, head: Manifest) -> bool:
    """Same snapshot, mapping, transforms and policies as the head, and the head kept nothing back."""
    same = (
        not params.seal  # what is to be sealed is proved once more
        and snapshot.sha256 == head.snapshot.sha256
        and mapping.sha256 == head.mapping_sha256
        and head.transform_version == TRANSFORM_VERSION
        and all(getattr(params, name) == head.params[name] for name in POLICIES)
    )
    if not same:
        return False
    # The plan says what was kept back while staging, the report what was met while writing.
    plan, report = _load_ended(store, head.run, "plan.json"), _load_ended(store, head.run, "report.json")
    return not any(entity.kept_back or entity.conflicts for entity in (*plan.values(), *report.values()))


def _load_ended(store: Store, run: str, name: str) -> dict[str, _EntityEnd]:
    return store.get_document(run_path(run, name), _Ended).entities


def list_entities(store: Store, run: str) -> list[str]:
    """The entities that a run was made of."""
    return list(_load_ended(store, run, "plan.json"))


def expect_entities(store: Store, mapping: Mapping, run: str) -> list[str]:
    """The entities that a run was made of, parents first.

    Raises RefusedError unless the mapping still has each of them, in its table: else their items would be left behind.
    """
    entities = _load_ended(store, run, "plan.json")
    gone = sorted(entities.keys() - set(mapping.order))
    if gone:
        raise RefusedError(
            f"run {run} wrote {', '.join(gone)}, which the mapping {mapping.name} no longer has: put back what was "
            "taken out of the mapping file, so that no item is left behind unseen."
        )
    for name, entity in entities.items():
        table = mapping.entities[name].table(store.environment)
        if entity.table != table:
            raise RefusedError(
                f"run {run} wrote {name} to {entity.table}, and the mapping says {table} now: put the old table back, "
                "or undo that run before it moves."
            )
    return [name for name in mapping.order if name in entities]


def fetch_backup(store: Store, manifest: Manifest, folder: Path) -> Path:
    """The backup of a run as a local file, its digest checked. Raises SourceError when it has expired."""
    path = f"backups/{manifest.snapshot.sha256}.db"
    if not store.has(path):
        raise SourceError(
            f"the backup of run {manifest.run} has expired: the bucket's lifecycle removed {store.uri(path)}."
        )
    return store.download(path, folder / "backup.db", manifest.snapshot.sha256)


def check_resumable(store: Store, mapping: Mapping, run: str) -> Manifest:
    """The manifest of the run that has the target open. Raises RefusedError when it is not `run`, or was staged by
    another mapping than the file holds now."""
    state = load_state(store)
    if state is None or state.open is None:
        raise RefusedError(f"run {run} cannot be resumed: no run has the target open. Trigger a new run.")
    if state.open.run != run:
        refuse_if_taken(store, state, run)
    manifest = load_manifest(store, run)
    if manifest.mapping_sha256 != mapping.sha256:
        raise RefusedError(
            f"run {run} was staged by another version of the mapping {mapping.name} (SHA-256 "
            f"{manifest.mapping_sha256[:12]}…): put that one back to resume it, or undo it:\n"
            f"  {show_rollback(store.environment, run, mapping.name)}"
        )
    return manifest
