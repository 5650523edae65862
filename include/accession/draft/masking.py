"""Secret keys: the entities whose keys must be masked, since a key looks like a secret or is made of one."""

from collections.abc import Iterable
from dataclasses import replace

from accession.draft.entity import DECIDE, EntityDraft
from accession.draft.references import Reference

NOTE = f"{DECIDE}its key looks like a secret or is made of one, so secret: true masks it in logs and reports."


def mask_keys(entities: Iterable[EntityDraft]) -> tuple[EntityDraft, ...]:
    """Mark the entities whose keys must be masked, and those whose keys are made of such keys, and so on."""
    found = {entity.name: entity for entity in entities}
    while True:
        secret = [one for one in found.values() if not one.is_secret and _has_secret_key(one, found)]
        if not secret:
            return tuple(found.values())
        for entity in secret:
            found[entity.name] = replace(entity, is_secret=True, notes=(NOTE, *entity.notes))


def _has_secret_key(entity: EntityDraft, entities: dict[str, EntityDraft]) -> bool:
    hidden = set(entity.secret_columns)
    for reference in entity.references:
        if _is_hidden(reference, entities[reference.parent]):
            hidden.update(reference.columns)
    return not hidden.isdisjoint(entity.key_columns)


def _is_hidden(reference: Reference, parent: EntityDraft) -> bool:
    """Tell whether a reference holds the secret key of its parent, or another column of it that is masked."""
    return parent.is_secret or reference.by in parent.secret_columns
