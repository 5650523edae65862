"""The auditor: one file that verifies a downloaded target without Accession. Each run puts it beside the register."""

import hashlib

from accession.artifacts.store import Store
from accession.errors import StoreError
from accession.place import ROOT

AUDITOR = ROOT / "verify_register.py"


def auditor_path(sha256: str) -> str:
    """Return the path of the auditor in the bucket. It is named by its digest, so each version stays."""
    return f"verify_register-{sha256}.py"


def place_auditor(store: Store) -> str:
    """Put the auditor into the bucket unless it is there, and return its SHA-256. Safe to repeat.

    Raises StoreError if another object has its name.
    """
    data = AUDITOR.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    path = auditor_path(digest)
    if not store.claim(path, data):
        raise StoreError(f"{store.uri(path)} is damaged: remove it, and the next run puts it back. Run make audit.")
    return digest
