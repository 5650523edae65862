"""What the rows of an entity are made from: local files, and what was fixed when the run was named."""

from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from accession.artifacts import mark_conflicts
from accession.mapping import Mapping
from accession.run.context import RunContext


@dataclass(frozen=True)
class Head:
    """An entity in the run before: its ID map, and the identity and the attributes that it was staged with."""

    id_map: Path
    identity: tuple[tuple[str, ...], ...]
    attributes: tuple[str, ...]


@dataclass(frozen=True)
class Inputs:
    """The inputs of one entity. `table` is the DynamoDB table, and `maps` has the ID map of each parent that is staged
    already."""

    mapping: Mapping
    backup: Path
    table: str
    namespace: UUID
    started_at: str
    maps: AnyMapping[str, Path] = field(default_factory=dict)
    head: Head | None = None


def fetch_inputs(run: RunContext, name: str, folder: Path, id_maps: AnyMapping[str, str]) -> Inputs:
    """Download the inputs of an entity to `folder`, except what is there already.

    `id_maps` has the S3 address of the ID map of each parent that is staged already.
    """
    backup, maps = folder / "backup.db", {}
    if not backup.exists():
        run.folder.fetch_backup(run.manifest, folder)
    for parent in id_maps.keys() & set(run.mapping.entities[name].references.values()):
        file = maps[parent] = folder / f"parent_{parent}.db"
        if not file.exists():
            sha256 = run.folder.load_staged(parent).id_map_sha256
            run.store.download(run.store.path(id_maps[parent]), file, sha256)
    manifest, table = run.manifest, run.name_table(name)
    head = _fetch_head(run, name, folder)
    return Inputs(run.mapping, backup, table, manifest.namespace, manifest.started_at, maps, head)


def _fetch_head(run: RunContext, name: str, folder: Path) -> Head | None:
    """Download the head's ID map, and mark the conflicts that its writers met."""
    head, store = run.head, run.store
    if head is None or name not in head.load_plan().entities:
        return None
    staged = head.load_staged(name)
    file = store.download(store.path(staged.id_map), folder / f"head_{name}.db", staged.id_map_sha256)
    conflicts = head.find_write_conflicts(name)
    mark_conflicts(file, ((one.key, bytes.fromhex(one.checksum) if one.checksum else None) for one in conflicts))
    return Head(file, staged.identity, staged.attributes)
