"""The reads that prove the tables: the plan prices them, and a cap holds over all of them together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB
from accession.items import measure_item
from accession.run.plan import price_units
from conftest import Library
from driver import BY, Driver

CAP = 100_000


class Recording(DynamoDB):
    """Keeps the caps of the connections that were opened."""

    caps: ClassVar[list[float]] = []

    def __init__(self, *args: Any, read_units_per_second: float | None = None, **options: Any) -> None:
        super().__init__(*args, read_units_per_second=read_units_per_second, **options)
        if read_units_per_second is not None:
            self.caps.append(read_units_per_second)


class RecordingDriver(Driver):
    def connect(self, epoch: int | None = None) -> DynamoDB:
        return Recording(self.client) if epoch is None else super().connect(epoch)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_sample(tmp_path / "site.db", users=40, books=100, user_books=900, orphans=0, odd=0)


def find_caps() -> Sequence[float]:
    caps = list(Recording.caps)
    Recording.caps.clear()
    return caps


def test_the_proofs_of_all_entities_share_the_cap_by_the_size_of_their_tables(library: Library, source: Path) -> None:
    Recording.caps.clear()
    driver = RecordingDriver(library, source, read_units_per_second=CAP)
    assert driver.run().status == "verified"
    shares = dict(zip(driver.mapping.order, find_caps(), strict=True))
    assert sum(shares.values()) == pytest.approx(CAP)
    sizes = {name: sum(map(measure_item, driver.scan(name))) for name in driver.mapping.order}
    for name, share in shares.items():
        assert share == pytest.approx(CAP * sizes[name] / sum(sizes.values()), rel=0.1)
    driver.steps.undo(BY, read_units_per_second=CAP)
    assert find_caps() == [CAP]


def test_an_automatic_rollback_keeps_to_the_cap_of_its_run(library: Library, source: Path) -> None:
    driver = RecordingDriver(library, source, read_units_per_second=CAP)
    driver.stage_all()
    driver.plan()
    epoch = driver.open()
    driver.migrate_all()
    Recording.caps.clear()
    undone = driver.steps.rollback(BY, epoch)
    assert find_caps() == [CAP]
    assert undone.proved


def test_without_a_cap_nobody_waits(library: Library, source: Path) -> None:
    Recording.caps.clear()
    assert RecordingDriver(library, source).run().status == "verified"
    assert not find_caps()


def test_the_price_of_a_run_includes_its_proof(library: Library, source: Path) -> None:
    """A unit for each 4 KB of all items, those of an earlier run included, and the look-ups through the indexes."""
    for edit in ("nothing", "one row"):
        if edit == "one row":
            source.unlink()
            write_sample(source, users=40, books=101, user_books=900, orphans=0, odd=0)
        driver = Driver(library, source)
        assert driver.run().status == "verified"
        plan = driver.steps.folder.load_plan()
        sizes = [sum(map(measure_item, driver.scan(name))) for name in driver.mapping.order]
        indexes = sum(len(entity.indexes) for entity in driver.mapping.entities.values())
        assert plan.proof_read_units == pytest.approx(sum(sizes) / 4096 + 10 * indexes / 2, rel=0.1)
        assert plan.price_usd == price_units(plan.write_units, plan.read_units + plan.proof_read_units)
    unchanged = Driver(library, source)
    assert unchanged.run().status == "unchanged"
    assert unchanged.steps.folder.load_plan().price_usd == 0
    sealing = Driver(library, source, seal="cutover")
    assert sealing.run().status == "verified"
    assert sealing.steps.folder.load_plan().proof_read_units == plan.proof_read_units


def test_what_an_undo_reads_is_charged(library: Library, source: Path) -> None:
    class Charged(DynamoDB):
        """MiniStack charges nothing for single items."""

        @property
        def consumed_read_units(self) -> float:
            return super().consumed_read_units + self.extra

        extra = 0.0

        def read_items(self, table: Any, keys: Any) -> Any:
            self.extra += len(keys)
            return super().read_items(table, keys)

    class ChargedDriver(Driver):
        def connect(self, epoch: int | None = None) -> DynamoDB:
            return Charged(self.client) if epoch is None else super().connect(epoch)

    driver = ChargedDriver(library, source)
    driver.run()
    assert driver.undo().read_units == 2 * (40 + 100 + 900), "just before, and as proof"
