"""The summary of a run: a table for the task log."""

from accession.artifacts import Report
from accession.progress import show_seconds

COLUMNS = {
    "rows": "source_rows",
    "put": "put",
    "updated": "updated",
    "unchanged": "unchanged",
    "deleted": "deleted",
    "rejected": "rejected",
    "conflicts": "conflicts",
    "verified": "verified",
    "missing": "missing",
    "mismatched": "mismatched",
}


def show_summary(report: Report) -> str:
    """Return the summary table for the task log."""
    rows: list[list[str]] = [["table", *COLUMNS]]
    rows += [
        [entity.table, *(f"{getattr(entity, field):,}" for field in COLUMNS.values())]
        for entity in report.entities.values()
    ]
    rows.append(["total", *(f"{report.totals[field]:,}" for field in COLUMNS.values())])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "─" * len(lines[0])
    took = show_seconds(sum(report.seconds.values()))
    head = f"Run {report.run}: {report.status.replace('_', ' ').upper()}"
    if outdated := report.totals["outdated"]:
        items = "1 item in the target is" if outdated == 1 else f"{outdated:,} items in the target are"
        whose = "its row is" if outdated == 1 else "their rows are"
        head += f", but {items} outdated, since {whose} rejected: see rejects.csv"
    return "\n".join(
        [
            head,
            *([report.reason] if report.reason else []),
            rule,
            lines[0],
            rule,
            *lines[1:-1],
            rule,
            lines[-1],
            f"{report.write_units.consumed:,.0f} write units consumed, {report.write_units.planned:,.0f} planned, "
            f"${report.price_usd.consumed:,.4f}; {took} of work",
        ]
    )
