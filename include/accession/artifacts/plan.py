"""The stored plan of a run: `plan.json`."""

from decimal import Decimal

from accession.artifacts.change_set import Counts
from accession.artifacts.document import Document


class EntityPlan(Document):
    """One entity's share of the plan."""

    table: str
    counts: Counts
    rejects: dict[str, int]
    kept_back: int
    samples: list[str]


class Plan(Document):
    """`plan.json`. `read_units` are those of staging and of the writers, `proof_read_units` those of the proofs."""

    run: str
    entities: dict[str, EntityPlan]
    writes: int
    rejected: int
    conflicts: int
    write_units: int
    read_units: float
    proof_read_units: float = 0.0
    price_usd: Decimal
    seconds: float
    records_changed: bool
    refused: str | None
    started_at: str
    ended_at: str

    @property
    def is_empty(self) -> bool:
        """Tell whether there is nothing to write."""
        return self.writes == 0
