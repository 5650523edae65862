"""Fingerprints of many items: they compare two tables without looking up each item of one in the other.

A fingerprint of a multiset of checksums is the product of (secret + checksum) modulo a prime, which does not depend on
their order. Two different multisets have the same product for at most n of the 2^255 possible secrets, because a
polynomial of degree n has at most n roots (R. Lipton, "Fingerprinting sets", 1989). A new secret is drawn for each
comparison, so nobody who chooses the items can aim at it. If two fingerprints differ, those of buckets of keys narrow
the search to a few thousandths of the items.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

PRIME = 2**255 - 19
BUCKETS = 4096
CHECKSUM_BYTES = 32


@dataclass(slots=True)
class Fingerprint:
    """The fingerprint of `count` items. Two with the same secret are equal if they have the same items."""

    secret: int
    product: int = 1
    count: int = 0

    def add(self, checksums: list[bytes]) -> None:
        """Add items by their checksums, in any order."""
        secret, product, read = self.secret, self.product, int.from_bytes
        for checksum in checksums:
            product = product * (secret + read(checksum)) % PRIME
        self.product = product
        self.count += len(checksums)


class ItemFile:
    """The keys and checksums of many items on disk, and their fingerprint. Add items, close it, then read them."""

    def __init__(self, path: Path, secret: int) -> None:
        self.fingerprint = Fingerprint(secret)
        self._path, self._file = path, path.open("wb")

    def add(self, keys: Sequence[str], checksums: list[bytes]) -> None:
        """Add items by their keys and checksums."""
        self.fingerprint.add(checksums)
        self._file.write(orjson.dumps(keys, option=orjson.OPT_APPEND_NEWLINE))
        self._file.write(b"".join(checksums))

    def close(self) -> None:
        """End writing. Safe to repeat."""
        self._file.close()

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Yield key and checksum of each item."""
        with self._path.open("rb") as file:
            while line := file.readline():
                keys = orjson.loads(line)
                checksums = file.read(CHECKSUM_BYTES * len(keys))
                for number, key in enumerate(keys):
                    yield key, checksums[CHECKSUM_BYTES * number : CHECKSUM_BYTES * (number + 1)]


def fingerprint_buckets(secret: int, items: Iterable[tuple[str, bytes]]) -> list[Fingerprint]:
    """Return the fingerprint of each bucket of the items, which are pairs of key and checksum."""
    fingerprints = [Fingerprint(secret) for _ in range(BUCKETS)]
    for key, checksum in items:
        fingerprints[find_bucket(key)].add([checksum])
    return fingerprints


def find_bucket(key: str) -> int:
    """Return the bucket of a key. It is the same throughout a process."""
    return hash(key) % BUCKETS
