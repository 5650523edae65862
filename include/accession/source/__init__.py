"""The SQLite source: opened read-only, copied, restored."""

from accession.source.database import check_source, explaining, find_affinity, quote
from accession.source.restore import restore_source
from accession.source.snapshot import SourceDrift, open_snapshot, source_changed, take_snapshot

__all__ = [
    "SourceDrift",
    "check_source",
    "explaining",
    "find_affinity",
    "open_snapshot",
    "quote",
    "restore_source",
    "source_changed",
    "take_snapshot",
]
