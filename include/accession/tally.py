"""Whether two tables hold the same, without looking each item up in the other.

A tally is a fingerprint of a multiset of checksums: the product of (secret + checksum) modulo a prime, which does not
depend on the order. Two multisets that differ have the same product for at most n of the 2^255 secrets there are (a
polynomial of degree n has at most n roots; R. Lipton, "Fingerprinting sets", 1989), and the secret is drawn anew for
each comparison: not even somebody who chooses the items can aim at it. There is one product for each bucket of keys, so
that a difference leads to a few thousandths of the items.
"""

from collections.abc import Iterable, Sequence

PRIME = 2**255 - 19
BUCKETS = 4096


class Tally:
    """The fingerprints of items by bucket; `counts` says how many each bucket holds. Not for several threads."""

    def __init__(self, secret: int) -> None:
        self._secret = secret
        self._products = [1] * BUCKETS
        self.counts = [0] * BUCKETS

    def add(self, keys: Iterable[str], checksums: Iterable[bytes]) -> None:
        """Take in items by key and checksum."""
        secret, products, counts, read = self._secret, self._products, self.counts, int.from_bytes
        for key, checksum in zip(keys, checksums, strict=True):
            bucket = hash(key) % BUCKETS
            products[bucket] = products[bucket] * (secret + read(checksum)) % PRIME
            counts[bucket] += 1

    def find_differences(self, others: Sequence["Tally"]) -> set[int]:
        """The buckets in which this does not hold exactly what the others hold together. Same secret, same process."""
        differing = set()
        for bucket in range(BUCKETS):
            product = 1
            for other in others:
                product = product * other._products[bucket] % PRIME
            count = sum(other.counts[bucket] for other in others)
            if product != self._products[bucket] or count != self.counts[bucket]:
                differing.add(bucket)
        return differing


def find_bucket(key: str) -> int:
    """The bucket that a key falls in; the same throughout a process."""
    return hash(key) % BUCKETS
