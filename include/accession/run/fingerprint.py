"""Whether two tables hold the same, without looking each item up in the other.

A tally is a fingerprint of a multiset of checksums: the product of (secret + checksum) modulo a prime, which does not
depend on the order. Two multisets that differ have the same product for at most n of the 2^255 secrets there are (a
polynomial of degree n has at most n roots; R. Lipton, "Fingerprinting sets", 1989), and the secret is drawn anew for
each comparison: not even somebody who chooses the items can aim at it. If two fingerprints differ, those of buckets of
keys lead to a few thousandths of the items.
"""

from collections.abc import Iterable
from dataclasses import dataclass

PRIME = 2**255 - 19
BUCKETS = 4096


@dataclass(slots=True)
class Fingerprint:
    """The fingerprint of `count` items. Those of one secret are equal when they saw the same items."""

    secret: int
    product: int = 1
    count: int = 0

    def add(self, checksums: list[bytes]) -> None:
        """Take in items by their checksums, in any order."""
        secret, product, read = self.secret, self.product, int.from_bytes
        for checksum in checksums:
            product = product * (secret + read(checksum)) % PRIME
        self.product = product
        self.count += len(checksums)


def fingerprint_buckets(secret: int, items: Iterable[tuple[str, bytes]]) -> list[Fingerprint]:
    """A tally for each bucket, of items by key and checksum."""
    fingerprints = [Fingerprint(secret) for _ in range(BUCKETS)]
    for key, checksum in items:
        fingerprints[find_bucket(key)].add([checksum])
    return fingerprints


def find_bucket(key: str) -> int:
    """The bucket that a key falls in; the same throughout a process."""
    return hash(key) % BUCKETS
