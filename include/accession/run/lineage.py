"""Check the earlier run that a run continues: the head that it is staged on, or the run that it resumes."""

from accession.artifacts import Manifest, RunFolder
from accession.commands import show_rollback
from accession.errors import RefusedError
from accession.mapping import Mapping
from accession.target import load_state, refuse_if_taken


def expect_entities(folder: RunFolder, mapping: Mapping) -> list[str]:
    """Return the entities of an earlier run, parents first.

    Raises RefusedError unless the mapping still has each of them, in the same table: else their items would be left
    behind.
    """
    entities = folder.load_plan().entities
    gone = sorted(entities.keys() - set(mapping.order))
    if gone:
        raise RefusedError(
            f"Run {folder.run} wrote {', '.join(gone)}, which the mapping {mapping.name} no longer has: put it back "
            "into the mapping file, so that no item is left behind unnoticed."
        )
    for name, entity in entities.items():
        table = mapping.entities[name].table(folder.store.environment)
        if entity.table != table:
            raise RefusedError(
                f"Run {folder.run} wrote {name} to {entity.table}, and the mapping says {table} now: put the old table "
                "back, or undo that run before you move the entity."
            )
    return [name for name in mapping.order if name in entities]


def check_resumable(folder: RunFolder, mapping: Mapping) -> Manifest:
    """Return the manifest of a run that can be resumed.

    Raises RefusedError unless the run has the target open and was staged by the mapping as the file holds it now.
    """
    store, run = folder.store, folder.run
    state = load_state(store)
    if state is None or state.open is None:
        raise RefusedError(f"Run {run} cannot be resumed: no run has the target open. Trigger a new run.")
    if state.open.run != run:
        refuse_if_taken(store, state, run)
    manifest = folder.load_manifest()
    if manifest.mapping_sha256 != mapping.sha256:
        raise RefusedError(
            f"Run {run} was staged by another version of the mapping {mapping.name} (SHA-256 "
            f"{manifest.mapping_sha256[:12]}…): put that version back to resume the run, or undo it:\n"
            f"  {show_rollback(store.environment, run, mapping.name)}"
        )
    return manifest
