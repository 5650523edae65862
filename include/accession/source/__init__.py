"""The SQLite source: opened read-only, queried, copied, restored."""

from accession.source.collation import SourceConnection
from accession.source.database import check_key, check_source, explaining, find_affinity, quote, reading
from accession.source.guard import guarding
from accession.source.query import check_queries, describe_query, list_columns, materialise_query
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
    "SourceConnection",
    "SourceDrift",
    "check_key",
    "check_queries",
    "check_source",
    "describe_query",
    "expect_replaceable",
    "explaining",
    "find_affinity",
    "guarding",
    "lacks_wal",
    "list_columns",
    "materialise_query",
    "open_snapshot",
    "peek_file",
    "quote",
    "reading",
    "restore_source",
    "settle_fetched",
    "source_changed",
    "take_snapshot",
]
