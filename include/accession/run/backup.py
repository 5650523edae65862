"""Back up the source and name the run."""

import hashlib
import logging
import tempfile
from importlib.resources import files
from pathlib import Path
from sqlite3 import sqlite_version
from zoneinfo import TZPATH

from accession.artifacts import Manifest, RunFolder, SnapshotRef, Store, place_auditor
from accession.conf import restore_params
from accession.errors import StoreError
from accession.items import TRANSFORM_VERSION
from accession.mapping import Mapping
from accession.params import MigrateParams
from accession.run.lineage import expect_entities
from accession.source import take_snapshot
from accession.target import create_state, refuse_if_taken

logger = logging.getLogger(__name__)

POLICIES = ("on_conflict", "existing_items", "deletes", "max_rejects")


def start_run(
    store: Store, mapping: Mapping, params: MigrateParams, source: Path, source_name: str, by: str, airflow_run_id: str
) -> Manifest:
    """Back up the source, put the auditor into the bucket, name the run and write its manifest.

    The backup is stored under its digest. If it is there already, it is used again, and its lifecycle starts again.
    Every later step reads only the backup, and the source is never changed. Raises RefusedError if the target is open
    or sealed (a dry run may read a sealed one), SourceError if the source is damaged.
    """
    started = store.host.now()
    state = create_state(store)
    if not (params.dry_run and state.open is None):
        # The run removes the seal itself, once it is approved.
        refuse_if_taken(store, state.model_copy(update={"sealed": None}) if params.unseal else state)
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
        unknown_collations=snapshot.unknown_collations,
    )
    auditor = place_auditor(store)
    parent = RunFolder(store, state.head).load_manifest() if state.head else None
    if parent is not None:
        expect_entities(RunFolder(store, parent.run), mapping)
    for _ in range(5):
        manifest = Manifest(
            run=f"{started:%Y%m%dT%H%M%SZ}-{store.host.token(4)}",
            mapping=mapping.name,
            mapping_sha256=mapping.sha256,
            transform_version=TRANSFORM_VERSION,
            sqlite_version=sqlite_version,
            timezone_sha256=_hash_timezone(mapping.timezone),
            environment=params.environment,
            airflow_run_id=airflow_run_id,
            triggered_by=by,
            params=params.model_dump(mode="json"),
            source=source_name,
            namespace=state.namespace,
            parent=state.head,
            unchanged=parent is not None and _is_unchanged(store, mapping, params, reference, parent),
            snapshot=reference,
            log_sequence=state.log_tail.sequence,
            auditor_sha256=auditor,
            started_at=started.isoformat(),
            ended_at=store.host.timestamp(),
        )
        if store.claim(RunFolder(store, manifest.run).path("manifest.json"), manifest.dump()):
            logger.info(
                "run %s: backup of %s bytes, SHA-256 %s, on top of %s",
                manifest.run,
                f"{reference.bytes:,}",
                reference.sha256,
                manifest.parent or "an empty target",
            )
            return manifest
    raise StoreError(f"There is no free name for a run in {store.uri('runs/')}: check the clock of this machine.")


def _is_unchanged(store: Store, mapping: Mapping, params: MigrateParams, snapshot: SnapshotRef, head: Manifest) -> bool:
    """Tell whether snapshot, mapping, transforms and policies are those of the head, which kept nothing back.

    A head that does not say with which SQLite and time zone it was made counts as made with others.
    """
    before = restore_params(head.run, head.params)
    same = (
        not params.seal  # a target is proved once more before it is sealed
        and snapshot.sha256 == head.snapshot.sha256
        and mapping.sha256 == head.mapping_sha256
        and head.transform_version == TRANSFORM_VERSION
        and head.sqlite_version == sqlite_version
        and head.timezone_sha256 == _hash_timezone(mapping.timezone)
        and all(getattr(params, name) == getattr(before, name) for name in POLICIES)
    )
    if not same:
        return False
    # The plan counts what was kept back while staging, the report the conflicts that were met while writing.
    folder = RunFolder(store, head.run)
    plan, report = folder.load_plan(), folder.load_report()
    kept_back = any(entity.kept_back for entity in plan.entities.values())
    return not kept_back and not any(entity.conflicts for entity in report.entities.values())


def _hash_timezone(name: str) -> str:
    """Return the SHA-256 of a time zone's data, which `zoneinfo` reads from the system, or else from `tzdata`."""
    places = (Path(folder, name) for folder in TZPATH)
    found = next((place for place in places if place.is_file()), None)
    data = found or files("tzdata.zoneinfo").joinpath(*name.split("/"))
    return hashlib.sha256(data.read_bytes()).hexdigest()
