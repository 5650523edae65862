"""Mutants: the product without one of its guards. The simulation must find each within a bounded number of seeds.

A mutant is a patch of one function or constant, named by the rule of the product that it breaks. Those of the findings
against version 0.1.0 have their names (A2 to A13).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from simulation.faults import Climate

BUSY = Climate(freeze=0.5, application=0.7)
LOSSY = Climate(lost_answer=0.2, dropped=0.2, application=0.5, crash=0.2)
CLEARED = Climate(crash=0.3, clear=1.0, freeze=0.3, application=0.3)
MEDDLED = Climate(interference=1.0, crash=0.2, freeze=0.2, clear=0.5, application=0.3)


@dataclass(frozen=True)
class Mutant:
    """A guard taken out: what is replaced (a dotted name), by what, and which rule of the product that breaks.

    `climate` is where the guard matters; None draws one for each seed.
    """

    name: str
    rule: str
    target: str
    replacement: Any
    climate: Climate | None = None

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Take the guard out for a while."""
        with patch(self.target, self.replacement):
            yield


def _pass(*_: Any, **__: Any) -> None:
    """Replace a check, or a wait."""


async def _pass_later(*_: Any, **__: Any) -> None:
    """Replace a step of the event loop."""


def _make_unconditional(build: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `build` that leaves the condition out, and the names and values that only the condition uses."""

    def build_without(self: Any, schema: Any) -> Any:
        request = dict(build(self, schema))
        request.pop("ConditionExpression")
        words = set(re.findall(r"[#:]\w+", request.get("UpdateExpression", "")))
        for field in ("ExpressionAttributeNames", "ExpressionAttributeValues"):
            used = {name: one for name, one in request.pop(field, {}).items() if name in words}
            if used:
                request[field] = used
        return request

    return build_without


def _without(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Return a function that ignores what its caller gives for these arguments."""

    def call(*arguments: Any, **more: Any) -> Any:
        return function(*arguments, **{**more, **fixed})

    return call


def list_mutants() -> list[Mutant]:
    """Return all mutants."""
    from accession.artifacts import RunFolder, Store, fetch_object
    from accession.dynamodb.conditions import Delete, PutAbsent, Update
    from accession.dynamodb.recovery import Recovery
    from accession.dynamodb.retry import Sender
    from accession.run.context import RunContext
    from accession.run.facts import RunFacts
    from accession.source import SourceDrift
    from accession.target.ownership import take_over
    from accession.target.register import append_record

    async def put_again(self: Recovery, batch: list[bytes], lost: Any) -> list[Any]:
        import orjson

        for item in batch:
            body = orjson.dumps({"TableName": self._table.name, "Item": orjson.loads(item)})
            await self._requests.write("PutItem", self._table.name, body, 1.0)
        return []

    async def check_first(self: Sender, operation: str, table: str, body: bytes, fence: Any) -> Any:
        if fence is not None:
            await fence()
        return await exchange(self, operation, table, body, None)

    exchange = Sender._exchange

    def find_all_write_conflicts(self: RunFolder, entity: str) -> list[Any]:
        ended = [one for at, some in self.list_attempts().items() if at.entity == entity for one in some]
        return [conflict for one in ended if one.has_ended for conflict in self.load_execution(one).conflicts]

    def claim_over(self: Store, path: str, data: bytes) -> bool:
        if path.endswith(("/index.json", "/plan.json")):
            self.put(path, data)
            return True
        return claim(self, path, data)

    claim = Store.claim

    def fetch_alone(client: Any, address: str, folder: Any, **_: Any) -> Any:
        file = fetch_object(client, address, folder / "source.db")
        file.with_name("source.db-wal").unlink(missing_ok=True)
        return file

    def take_without_origin(store: Store, run: str, origin: int | None = None) -> Any:
        return take_over(store, run)

    def load_any_change(self: Any, puts: Any) -> Any:
        return puts

    return [
        Mutant(
            "A1",
            "A source is read with its -wal",
            "accession.run.fetch_source",
            fetch_alone,
        ),
        Mutant(
            "A2",
            "A target is sealed only over an unchanged source",
            "accession.run.run.source_changed",
            lambda *_, **__: SourceDrift(False, {}),
            Climate(edits=1.0),
        ),
        Mutant(
            "A3",
            "Nothing is put again before it was looked at",
            "accession.dynamodb.recovery.Recovery.recover",
            put_again,
            LOSSY,
        ),
        Mutant(
            "A3b",
            "The look comes when the lost request must have ended",
            "accession.dynamodb.retry.REQUEST_TIMEOUT_SECONDS",
            0.0,
            LOSSY,
        ),
        Mutant(
            "A4",
            "An attempt stops when a newer one begins",
            "accession.run.context.RunContext.connect_writer",
            _without(RunContext.connect_writer, newer=None),
            BUSY,
        ),
        Mutant(
            "A4b",
            "A newer attempt waits until the earlier one has stopped",
            "accession.run.attempt.settle",
            _pass,
            BUSY,
        ),
        Mutant(
            "A5",
            "What a delete removes beyond its image is put back",
            "accession.dynamodb.conditional_writer.ConditionalWriter._put_back",
            _pass_later,
            BUSY,
        ),
        Mutant(
            "A6",
            "Only the newest attempt's conflicts count",
            "accession.artifacts.run_folder.RunFolder.find_write_conflicts",
            find_all_write_conflicts,
            Climate(application=0.6, regret=1.0, crash=0.2, interference=0.3, clear=0.3),
        ),
        Mutant(
            "A7",
            "The fence is asked when connection and credentials are ready",
            "accession.dynamodb.retry.Sender._exchange",
            check_first,
            Climate(slow_credentials=0.5, interference=1.0, clear=0.5, crash=0.3, application=0.3),
        ),
        Mutant(
            "A8",
            "Items that are gone stop a seal, and are in the verdict",
            "accession.run.facts.RunFacts.count_problems",
            lambda *_: 0,
            BUSY,
        ),
        Mutant("A9", "A finished undo is repeated as the same undo", "accession.run.run.find_undone", _pass, CLEARED),
        Mutant(
            "A10",
            "An automatic rollback takes over only from its own DAG run",
            "accession.run.run.take_over",
            take_without_origin,
            MEDDLED,
        ),
        Mutant(
            "A11",
            "A record that closes a target names its epoch",
            "accession.run.finish.append_record",
            _without(append_record, epoch=None),
            Climate(interference=1.0, freeze=0.6, slow=0.1, application=0.3),
        ),
        Mutant(
            "A11b",
            "A target is released only when no writer can begin",
            "accession.run.finish._Ending._stop_writers",
            lambda self, epoch: RunFacts(self.run),
            Climate(stall=0.6, clear=1.0, keep=1.0),
        ),
        Mutant("A12", "Artifacts are written once", "accession.artifacts.store.Store.claim", claim_over, CLEARED),
        Mutant(
            "A13",
            "One version of the mapping",
            "accession.run.run.Run._expect_mapping",
            _pass,
            Climate(remap=1.0, crash=0.3),
        ),
        Mutant("settle", "Resume and undo wait for older writers", "accession.run.run.settle", _pass, MEDDLED),
        Mutant("fence", "A writer that lost the target stops", "accession.target.fence.Fence.check", _pass, MEDDLED),
        Mutant(
            "delete",
            "A delete holds what the item was staged with",
            "accession.dynamodb.conditions.Delete.build",
            _make_unconditional(Delete.build),
            LOSSY,
        ),
        Mutant(
            "update",
            "An update holds the value before or after",
            "accession.dynamodb.conditions.Update.build",
            _make_unconditional(Update.build),
            BUSY,
        ),
        Mutant(
            "restore",
            "A put after a look needs a free key",
            "accession.dynamodb.conditions.PutAbsent.build",
            _make_unconditional(PutAbsent.build),
            LOSSY,
        ),
        Mutant(
            "absent",
            "A later attempt puts only what is absent",
            "accession.run.migrate._PartExecution._select_absent",
            load_any_change,
            CLEARED,
        ),
        Mutant(
            "done",
            "A part that is done is not executed again",
            "accession.run.migrate.find_done",
            _pass,
            CLEARED,
        ),
        Mutant(
            "proof",
            "Every report and proof is written over the one that was seen",
            "accession.artifacts.store.Store.replace",
            lambda self, path, data, seen: self.put(path, data),
            MEDDLED,
        ),
        Mutant(
            "verdict",
            "A run commits only if every proof held",
            "accession.run.verify._Verifier._judge",
            _pass,
            BUSY,
        ),
        Mutant(
            "late record",
            "A record is of the artifacts that are there",
            "accession.run.finish.find_last_record",
            _pass,
            Climate(freeze=0.5, remap=1.0, clear=1.0, crash=0.3),
        ),
        Mutant(
            "late proof",
            "A proof looks again before it is written",
            "accession.run.verify.expect_open",
            _pass,
            Climate(freeze=0.5, remap=1.0, clear=1.0, interference=1.0),
        ),
    ]
