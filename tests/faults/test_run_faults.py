"""A whole run, its undo and a later run while DynamoDB throttles, hands items back, fails and drops connections."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.cli.sample import write_sample
from accession.dynamodb import client_config
from conftest import Library
from driver import Driver
from faults.proxy import Faults, Proxy

FAULTS = Faults(
    throttle=0.3, unprocessed=0.3, error_before=0.03, error_after=0.03, cut_before=0.03, cut_after=0.03
)  # fmt: skip


def read_tables(driver: Driver) -> dict[str, list[dict[str, Any]]]:
    """Every table by its wire form, read without the faults."""
    return {name: sorted(driver.scan(name), key=str) for name in driver.mapping.order}


@pytest.mark.timeout(280)
def test_a_run_a_delta_and_their_undo_lose_nothing(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db", users=150, books=150, user_books=300, orphans=0, odd=0)
    with Proxy(library.aws.endpoint, FAULTS) as proxy:
        client = library.aws.client("dynamodb", endpoint_url=proxy.endpoint, config=client_config())
        first = Driver(library, source, client=client)
        assert first.run().status == "verified"
        expected = {name: {c.key: c.item for c in first.changes(name)} for name in first.mapping.order}
        clear = Driver(library, source)
        keys = {name: entity.target.key for name, entity in clear.mapping.entities.items()}
        before = read_tables(clear)
        assert {n: {i[keys[n]]["S"]: i for i in items} for n, items in before.items()} == expected

        with closing(sqlite3.connect(source)) as db, db:
            edited = db.execute("UPDATE book SET description = 'edited' WHERE id % 3 = 0").rowcount
            deleted = db.execute("DELETE FROM user_book WHERE id % 4 = 0").rowcount
        second = Driver(library, source, client=client)
        report = second.run()
        assert (report.totals["updated"], report.totals["deleted"]) == (edited, deleted)
        assert not second.undo().conflicts
        assert read_tables(clear) == before
        assert not first.undo().conflicts
        assert not any(read_tables(clear).values())
        counts = dict(proxy.counts)
    assert counts["throttled"] > 0 and counts["unprocessed_items"] > 0, counts
    assert counts["cut_before"] + counts["cut_after"] > 0, counts
