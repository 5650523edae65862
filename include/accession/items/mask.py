"""What people may see: sensitive values as •••, and the keys of a secret entity as ••• with a digest. Pure."""

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from accession.column_types import SqliteValue

MASK = "•••"
DIGEST_BYTES = 5  # enough to find a row again


@dataclass(frozen=True)
class KeyMask:
    """Covers the keys of one entity. `secret` is the namespace of the target if the entity is secret, else None."""

    secret: UUID | None = None

    def cover(self, key: Any) -> Any:
        """Return the key of a row or an item as people may see it.

        It is the key itself unless the entity is secret. Then it is ••• and a digest, the same in all runs of a target.
        The digest is keyed with the namespace, which is in the bucket alone, so that nobody else can try keys.
        """
        if self.secret is None or key is None:
            return key
        text = show_row_key(key).encode(errors="surrogatepass")
        return MASK + hashlib.blake2b(text, digest_size=DIGEST_BYTES, key=self.secret.bytes).hexdigest()

    def show(self, key: SqliteValue) -> str:
        """Return the key as a text that people may see."""
        return show_row_key(self.cover(key))


def show_row_key(key: SqliteValue) -> str:
    """Return a row's key as people read it; bytes in hexadecimal, and nothing for NULL."""
    return key.hex() if isinstance(key, bytes) else "" if key is None else str(key)
