"""The stored report of a run: `report.json`. Its format is stable, because others build on it."""

from typing import Literal

from pydantic import Field

from accession.artifacts.document import Document
from accession.artifacts.manifest import SnapshotRef

Status = Literal["verified", "unchanged", "dry_run", "failed", "rolled_back", "rejected", "refused"]
SourceAtEnd = Literal["unchanged", "changed", "unknown"]
GOOD: tuple[Status, ...] = ("verified", "unchanged", "dry_run")


class EntityReport(Document):
    """The results of one entity, as numbers of rows or items."""

    table: str
    source_rows: int = 0
    put: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    outdated: int = 0
    conflicts: int = 0
    adjusted: int = 0
    verified: int = 0
    missing: int = 0
    mismatched: int = 0
    lost: int = 0
    drifted: int = 0
    held: int = 0
    unexpected: int = 0


class TableReport(Document):
    """A table: its entities, and the number of items that no run of ours wrote."""

    entities: tuple[str, ...]
    unexpected: int


class Amount(Document):
    """An amount as planned, and as DynamoDB charged it. It leaves out killed attempts, whose consumption is unknown."""

    planned: float
    consumed: float


class Step(Document):
    """The time at which a step was at work: ISO 8601 in UTC."""

    name: str
    started_at: str
    ended_at: str


class Report(Document):
    """`report.json`. `source_at_end` compares the source with the backup; 0.1.0 did not tell unchanged from unknown."""

    run: str
    airflow_run_id: str
    mapping: str
    environment: str
    status: Status
    reason: str | None
    snapshot: SnapshotRef
    entities: dict[str, EntityReport]
    tables: dict[str, TableReport] = Field(default_factory=dict)  # 0.1.0 had a table for each entity
    rejects: dict[str, dict[str, int]]
    id_maps: dict[str, str]
    write_units: Amount
    price_usd: Amount
    seconds: dict[str, float]
    steps: list[Step]
    triggered_by: str
    approved_by: str | None
    source_changed_during_run: bool
    source_at_end: SourceAtEnd = "unknown"
    source_rows_now: dict[str, int] | None
    parent: str | None
    is_open: bool
    started_at: str
    ended_at: str
    artifacts: dict[str, str]

    @property
    def is_good(self) -> bool:
        """Tell whether the run did all that was asked of it. A reason says what it did not do."""
        return self.status in GOOD and self.reason is None

    @property
    def totals(self) -> dict[str, int]:
        """Return the numbers of all entities, added up."""
        names = [name for name in EntityReport.model_fields if name != "table"]
        return {name: sum(getattr(entity, name) for entity in self.entities.values()) for name in names}

    @property
    def note(self) -> str:
        """Return what the run did, in one line: "3 put, 1 deleted, 25,996 unchanged, verified"."""
        names = ("put", "updated", "deleted", "unchanged", "rejected", "conflicts", "missing", "mismatched", "lost",
                 "drifted")  # fmt: skip
        totals = self.totals
        parts = [f"{totals[name]:,} {name}" for name in names if totals[name]]
        if totals["outdated"]:
            parts.append(f"{totals['outdated']:,} rejected but with an outdated item in the target")
        return ", ".join([*parts, self.status.replace("_", " ")])
