"""Tell Airflow which tables a run changed: an asset event for each, and none if nothing was committed or undone.

An asset is a table in one environment, such as `book_library/prod/BookLibrary-Users-prod`. A DAG that follows one table
is scheduled on `Asset(name)`, one that follows all tables of a mapping on `AssetAlias(mapping)`. The event's extra has
run, action, counts and the location of the report.
"""

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from accession.artifacts import Manifest, Report, Rollback


def make_outlet(mapping: str) -> AssetAlias:
    """Return the outlet of a task that may change the tables of a mapping."""
    return AssetAlias(mapping)


def announce_run(context: Any, report: "Report", location: str) -> None:
    """Add an event for each table that a committed run changed."""
    if report.status != "verified":
        return
    for entity in report.entities.values():
        counts = {"put": entity.put, "updated": entity.updated, "deleted": entity.deleted}
        extra = {"run": report.run, "action": "migrated", "counts": counts, "report": location}
        _announce(context, report.mapping, report.environment, entity.table, extra)


def announce_undo(context: Any, manifest: "Manifest", undone: "Rollback", location: str) -> None:
    """Add an event for each table in which an undo changed items."""
    for entity in undone.entities.values():
        counts = {"restored": entity.restored, "deleted": entity.deleted}
        extra = {"run": manifest.run, "action": "undone", "counts": counts, "report": location}
        _announce(context, manifest.mapping, manifest.environment, entity.table, extra)


def _announce(context: Any, mapping: str, environment: str, table: str, extra: dict[str, Any]) -> None:
    if any(extra["counts"].values()):
        context["outlet_events"][make_outlet(mapping)].add(Asset(f"{mapping}/{environment}/{table}"), extra=extra)
