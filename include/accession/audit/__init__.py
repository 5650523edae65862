"""Prove and show what runs have left, from the bucket alone. Read-only."""

from accession.audit.audit import audit_target, show_audit

__all__ = ["audit_target", "show_audit"]
