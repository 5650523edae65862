"""Staging and everything after it, on the sample library."""

from pathlib import Path

from accession.sample import write_sample
from conftest import Library
from driver import Driver


def test_a_home_library_is_moved_and_proved(library: Library, tmp_path: Path) -> None:
    driver = Driver(library, write_sample(tmp_path / "site.db"), max_rejects=2)
    report = driver.run()
    assert report.status == "verified"
    assert {name: entity.verified for name, entity in report.entities.items()} == {
        "user": 120,
        "book": 200,
        "user_book": 398,
    }
    assert len(driver.rejects("user_book")) == 2
    driver.undo()
    assert not any(driver.scan(name) for name in driver.mapping.order)
