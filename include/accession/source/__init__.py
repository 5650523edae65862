"""The SQLite source: opened read-only, copied, restored."""

from accession.source.database import check_source, explaining, find_affinity, quote
from accession.source.restore import expect_replaceable, peek_file, restore_source
from accession.source.snapshot import (
    SourceDrift,
    lacks_wal,
    open_snapshot,
    settle_fetched,
    source_changed,
    take_snapshot,
)

__all__ = [
    "SourceDrift",
    "check_source",
    "expect_replaceable",
    "explaining",
    "find_affinity",
    "lacks_wal",
    "open_snapshot",
    "peek_file",
    "quote",
    "restore_source",
    "settle_fetched",
    "source_changed",
    "take_snapshot",
]
