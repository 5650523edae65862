"""Draft a mapping from a database, and compare an edited one with it."""

from accession.draft.difference import compare_schema
from accession.draft.draft import Draft, draft_mapping

__all__ = ["Draft", "compare_schema", "draft_mapping"]
