"""The identity of a row: digests of what tells it from another row that has its key. Pure."""

import hashlib
from collections.abc import Sequence

import orjson

from accession.column_types import NULL
from accession.items.typed_json import TypedItem

NO_DIGEST = b"\0" * 8


class IdentityDigest:
    """Digests the identity of rows: eight bytes for each of the `alternatives`, which are lists of attributes.

    `secret` keys the digests. The names are digested too, so that alternatives may be added, removed or reordered.
    """

    def __init__(self, alternatives: Sequence[tuple[str, ...]], secret: bytes) -> None:
        # Hashes that have taken in what all rows begin with, to be copied: half the cost of new ones.
        self._begun = [
            (names, hashlib.blake2b(orjson.dumps(names), digest_size=8, key=secret)) for names in alternatives
        ]

    def digest(self, item: TypedItem) -> bytes:
        """Return the digests of an item; zeros for an alternative that holds a NULL. Raises orjson.JSONEncodeError if a
        text is not valid Unicode."""
        digests = []
        for names, begun in self._begun:
            values = list(map(item.get, names))
            if None in values or NULL in values:
                digests.append(NO_DIGEST)
            else:
                digest = begun.copy()
                digest.update(orjson.dumps(values, option=orjson.OPT_SORT_KEYS))
                digests.append(digest.digest())
        return b"".join(digests)


def is_same_thing(recorded: bytes, found: bytes) -> bool:
    """Tell whether two identity digests are of the same thing: they share an alternative, or one has nothing to
    compare."""
    if recorded == found or not recorded.strip(b"\0") or not found.strip(b"\0"):
        return True
    return any(one.strip(b"\0") for one in _split(recorded) & _split(found))


def _split(digests: bytes) -> set[bytes]:
    return {digests[i : i + 8] for i in range(0, len(digests), 8)}
