"""Send metrics through Airflow's own Stats: see docs/deployment.md."""

from typing import TYPE_CHECKING

from airflow.sdk.observability import stats

if TYPE_CHECKING:
    from accession.artifacts import Execution, Manifest, Report


def count_writes(manifest: "Manifest", done: "Execution") -> None:
    """Count what one task wrote."""
    tags = {"mapping": manifest.mapping, "environment": manifest.environment}
    stats.incr("accession.items_written", done.written, tags=tags)
    stats.incr("accession.write_units", round(done.write_units), tags=tags)
    stats.incr("accession.throttles", done.throttled, tags=tags)


def describe_end(report: "Report") -> None:
    """Tell how a run ended, and how long its steps took."""
    tags = {"mapping": report.mapping, "environment": report.environment}
    stats.incr("accession.runs", tags=tags | {"status": report.status})
    stats.gauge("accession.rejected", report.totals["rejected"], tags=tags)
    stats.gauge("accession.conflicts", report.totals["conflicts"], tags=tags)
    for step, seconds in report.seconds.items():
        stats.timing("accession.seconds", 1000 * seconds, tags=tags | {"step": step})  # in milliseconds
