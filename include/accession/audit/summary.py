"""Show an audit as text, for `make audit` and the audit page."""

from accession.audit.audit import Audit


def show_audit(audit: Audit) -> str:
    """Return the register as a table, and below it the verdict."""
    rows = [["when", "run", "what", "by", "note", "units", "price", "undone by"]]
    rows += [
        [
            line.at[:16].replace("T", " "),
            line.run or "",
            line.status.replace("_", " "),
            line.by,
            line.note + (" (backup expired)" if line.backup_expired else ""),
            "" if line.write_units is None else f"{line.write_units:,.0f}",
            "" if line.price_usd is None else f"${line.price_usd:,.4f}",
            line.undone_by or "",
        ]
        for line in audit.runs
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "─" * (sum(widths) + 2 * len(widths) - 2))
    lines.append("")
    lines += [f"Not in the register: {note.path} ({note.reason})." for note in audit.unregistered]
    if audit.open:
        lines.append(f"The target is open: run {audit.open} owns it.")
    if audit.sealed:
        lines.append(f"The target is sealed: {audit.sealed}")
    if audit.ok:
        lines.append(
            f"{audit.target} is sound: {audit.records:,} records, {audit.objects:,} objects. "
            f"SHA-256 of the last record: {audit.tail_sha256}"
        )
        return "\n".join(lines)
    lines += [f"{damage.kind.upper()}: {damage.path}: {damage.reason}" for damage in audit.problems]
    if audit.damaged > len(audit.problems):
        lines.append(f"And {audit.damaged - len(audit.problems):,} more.")
    lines.append(f"{audit.target} is DAMAGED. The first problem: {audit.first_problem}")
    return "\n".join(lines)
