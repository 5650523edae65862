"""Match a row with the head's record for its key: it is new, the same thing, or another thing. Pure."""

from typing import NamedTuple

import msgspec

from accession.artifacts import EntryState
from accession.items import ItemKey, is_same_thing


class Recorded(NamedTuple):
    """The head's record for a key."""

    generation: int
    new_id: ItemKey
    identity: bytes
    checksum: bytes
    row_checksum: bytes | None
    first_seen: str
    state: EntryState


class New(msgspec.Struct, frozen=True):
    """The target has no item for this row. Its id gets a `generation` above that of any tombstone."""

    generation: int


class Same(msgspec.Struct, frozen=True):
    """The row is the same thing that was recorded for its key."""

    recorded: Recorded

    @property
    def generation(self) -> int:
        """Return the generation of the recorded id."""
        return self.recorded.generation


class Replaced(msgspec.Struct, frozen=True):
    """SQLite used the row id again: the row is another thing, and the recorded one is gone."""

    recorded: Recorded

    @property
    def generation(self) -> int:
        """Return the generation of the new id."""
        return self.recorded.generation + 1


Match = New | Same | Replaced
FIRST = New(0)


def match_kept(recorded: Recorded | None, key: ItemKey) -> Match:
    """Return how a row matches whose key is made of its own values: the key is its identity.

    A row has another key than recorded only if the mapping makes keys in another way by now.
    """
    if recorded is None:
        return FIRST
    if recorded.state == "tombstone":
        return New(recorded.generation)
    return Same(recorded) if recorded.new_id == key else Replaced(recorded)


def match_recorded(recorded: Recorded | None, identity: bytes, *, shares_identity: bool = True) -> Match:
    """Return how a row matches, by the digest of its identity.

    If the mapping shares no identity alternative with the head (`shares_identity` is False), nothing can be compared,
    and the row counts as the same thing.
    """
    if recorded is None:
        return FIRST
    if recorded.state == "tombstone":
        return New(recorded.generation + 1)
    if not shares_identity or is_same_thing(recorded.identity, identity):
        return Same(recorded)
    return Replaced(recorded)
