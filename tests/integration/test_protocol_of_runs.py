"""The model of ownership accepts what real runs do, and refuses the same requests in an order that breaks a rule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from test_history import edit, source

from accession.dynamodb import client_config
from conftest import Library
from driver import Driver
from faults.proxy import Proxy
from protocol.acceptor import Acceptor
from protocol.adapter import WRITES, Request, View, make_trace
from protocol.layout import DELETE, PUT, UPDATE

__all__ = ["source"]


class Recorder:
    """Records the requests of one process after the other, in the place of the S3 client and behind a proxy."""

    def __init__(self, driver: Driver, entity: str) -> None:
        self.requests: list[Request] = []
        self._process = ""
        mapped = driver.mapping.entities[entity]
        self._table, self._key = mapped.table(driver.library.environment), mapped.target.keys[0]
        self._s3, self._prefix = driver.store.client, driver.store.prefix
        driver.store.client = self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    @contextmanager
    def record(self, process: str) -> Iterator[None]:
        """Record what is done in the block as the work of a process."""
        self._process = process
        self.requests.append(Request(process, "start", "", changed=False))
        yield
        self._process = ""

    def put_object(self, **given: Any) -> Any:
        answer = self._s3.put_object(**given)
        path, body = given["Key"].removeprefix(self._prefix), given["Body"]
        is_read = path == "state.json" or path.startswith("log/")
        self.requests.append(Request(self._process, "PutObject", path, orjson.loads(body) if is_read else None))
        return answer

    def add_writes(self, operation: str, body: bytes) -> None:
        if operation in WRITES:
            given = orjson.loads(body)
            if given.get("TableName") == self._table:
                items = [given.get("Item") or given["Key"]]
            else:
                items = [entry["PutRequest"]["Item"] for entry in given.get("RequestItems", {}).get(self._table, ())]
            self.requests += [Request(self._process, operation, item[self._key]["S"]) for item in items]


@pytest.mark.parametrize("step", ["migrate", "remove"])
def test_the_model_accepts_a_run_and_its_undo(library: Library, source: Path, step: str) -> None:
    Driver(library, source).run()
    with Proxy(library.aws.endpoint) as proxy:
        client = library.aws.client("dynamodb", endpoint_url=proxy.endpoint, config=client_config())
        driver = Driver(library, source, client=client)
        recorder = Recorder(driver, "user")
        proxy.applied = recorder.add_writes
        edit(
            source,
            "INSERT INTO user (username, email, password_hash) VALUES ('new', 'new@example.org', 'x')",
            "UPDATE user SET email = 'other@example.org' WHERE id = 1",
            "DELETE FROM user_book WHERE user_id = 2",
            "DELETE FROM user WHERE id = 2",
        )
        driver.stage_all()
        driver.plan()
        with recorder.record("open_run"):
            driver.open()
        with recorder.record("migrate"):
            driver.migrate_all()
        for name in driver.mapping.order:
            driver.verify(name)
        with recorder.record("report"):
            assert driver.end().status == "verified"
        with recorder.record("undo"):
            driver.undo()
    items = {change.key: change.op for change in driver.changes("user") if change.op in ("put", "update", "delete")}
    view = View(
        run=driver.run_name,
        part=f"progress/user/00000.{step}",
        items={key: op for key, op in items.items() if key and (op == "delete") == (step == "remove")},
        kinds={"open_run": "run", "migrate": "retry", "report": "committing-report", "undo": "undo"},
    )
    events = list(make_trace(recorder.requests, view))
    kinds = (DELETE,) if step == "remove" else (PUT, UPDATE)
    assert len([event for event in events if event.action == "write"]) == 2 * len(kinds)
    assert Acceptor(events, kinds).find_refused() is None
    without_result = [event for event in events if event.action != "result"]
    refused = Acceptor(without_result, kinds).find_refused()
    assert refused is not None
    assert (without_result[refused].action, without_result[refused].object) == ("record", "commit")
