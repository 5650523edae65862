"""Prove and show what runs have left, from the bucket alone. Read-only."""

from accession.audit.audit import Audit, audit_target
from accession.audit.history import (
    RunDocuments,
    count_records,
    find_record,
    find_state,
    list_entries,
    list_unended,
    load_run_documents,
    peek_rejects,
    was_undone,
)
from accession.audit.id_map_cache import (
    FoundEntry,
    ListPage,
    open_cached_map,
    search_conflicts,
    search_ids,
    search_rejects,
)
from accession.audit.run_progress import RunProgress, watch_run
from accession.audit.summary import show_audit

__all__ = [
    "Audit",
    "FoundEntry",
    "ListPage",
    "RunDocuments",
    "RunProgress",
    "audit_target",
    "count_records",
    "find_record",
    "find_state",
    "list_entries",
    "list_unended",
    "load_run_documents",
    "open_cached_map",
    "peek_rejects",
    "search_conflicts",
    "search_ids",
    "search_rejects",
    "show_audit",
    "was_undone",
    "watch_run",
]
