"""Match a row with what the head recorded for its key: the same thing, another thing, or a new one. Pure."""

from typing import NamedTuple

import msgspec

from accession.artifacts import EntryState
from accession.items import ItemKey, is_same_thing


class Recorded(NamedTuple):
    """What the head says of a key."""

    generation: int
    new_id: ItemKey
    identity: bytes
    checksum: bytes
    row_checksum: bytes | None
    first_seen: str
    state: EntryState


class New(msgspec.Struct, frozen=True):
    """Nothing is in the target for this row. Its id is of `generation`, which is above that of a tombstone."""

    generation: int


class Same(msgspec.Struct, frozen=True):
    """The row is the thing that was recorded for its key."""

    recorded: Recorded

    @property
    def generation(self) -> int:
        """The generation of the recorded id."""
        return self.recorded.generation


class Replaced(msgspec.Struct, frozen=True):
    """SQLite used the row id again: the row is another thing, and the recorded one is gone."""

    recorded: Recorded

    @property
    def generation(self) -> int:
        """The generation of the new id."""
        return self.recorded.generation + 1


Match = New | Same | Replaced
FIRST = New(0)


def match_recorded(recorded: Recorded | None, identity: bytes, *, shares_identity: bool = True) -> Match:
    """Return what a row is, by the digest of its identity.

    If the mapping shares no identity alternative with the head (not `shares_identity`), there is nothing to compare,
    and the row stays what it was.
    """
    if recorded is None:
        return FIRST
    if recorded.state == "tombstone":
        return New(recorded.generation + 1)
    if not shares_identity or is_same_thing(recorded.identity, identity):
        return Same(recorded)
    return Replaced(recorded)
