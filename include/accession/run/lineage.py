"""Which earlier run a run continues: the head that it was staged on, or the run that it resumes."""

from accession.artifacts import Manifest, RunFolder, Store
from accession.commands import show_rollback
from accession.errors import RefusedError
from accession.mapping import Mapping
from accession.target import load_state, refuse_if_taken


def list_entities(store: Store, run: str) -> list[str]:
    """The entities that a run was made of."""
    return list(RunFolder(store, run).load_plan().entities)


def expect_entities(store: Store, mapping: Mapping, run: str) -> list[str]:
    """The entities that a run was made of, parents first.

    Raises RefusedError unless the mapping still has each of them, in its table: else their items would be left behind.
    """
    entities = RunFolder(store, run).load_plan().entities
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


def check_resumable(store: Store, mapping: Mapping, run: str) -> Manifest:
    """The manifest of the run that has the target open. Raises RefusedError when it is not `run`, or was staged by
    another mapping than the file holds now."""
    state = load_state(store)
    if state is None or state.open is None:
        raise RefusedError(f"run {run} cannot be resumed: no run has the target open. Trigger a new run.")
    if state.open.run != run:
        refuse_if_taken(store, state, run)
    manifest = RunFolder(store, run).load_manifest()
    if manifest.mapping_sha256 != mapping.sha256:
        raise RefusedError(
            f"run {run} was staged by another version of the mapping {mapping.name} (SHA-256 "
            f"{manifest.mapping_sha256[:12]}…): put that one back to resume it, or undo it:\n"
            f"  {show_rollback(store.environment, run, mapping.name)}"
        )
    return manifest
