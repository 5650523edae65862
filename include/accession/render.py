"""report.html: one self-contained page that a non-engineer can read."""

from accession.report import Report
from accession.rollback import Rollback


def render_html(report: Report, rejects_csv: bytes, rollback: Rollback | None) -> str:
    """The page of a report. Pure."""
    return f"<!doctype html><title>{report.run}</title>{report.status}"
