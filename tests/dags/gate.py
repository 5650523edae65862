"""The fault proxy as a gate between Airflow's tasks and MiniStack: per table, and at the very request, things happen.

A test hangs a rule into the gate: which operation, about which table or object; what is to happen before the request
goes on (the application changes an item, somebody removes an object), how long it is held, and what breaks.
"""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from faults.proxy import Faults, Proxy, Request

WRITES = {"BatchWriteItem", "PutItem", "UpdateItem", "DeleteItem"}


@dataclass
class Rule:
    """Acts on requests of `operation` (a DynamoDB operation, or S3's HTTP method) that hold all of `about`."""

    operation: str
    about: tuple[str, ...]
    faults: Faults = field(default_factory=Faults)
    first: Callable[[], None] | None = None  # done once, before the first such request goes on
    let_pass: int = 0  # so many such requests go on before the rule acts
    until: threading.Event | None = None  # such requests wait for it, and are dropped then
    met: threading.Event = field(default_factory=threading.Event)  # a request was held or broken
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def matches(self, request: Request) -> bool:
        text = request.target.encode() + b" " + request.body
        return self.operation == (request.operation or request.method) and all(a.encode() in text for a in self.about)


class Gate(Proxy):
    """Forwards everything, but for what its rules say. Counts the writes to each table it is asked about."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.rules: list[Rule] = []
        self._writes: list[bytes] = []

    def count_writes(self, table: str) -> int:
        """How many writing requests named that table."""
        return sum(table.encode() in body for body in self._writes)

    async def _answer(self, request: Request) -> bytes | None:
        if request.operation in WRITES:
            self._writes.append(request.body)
        faults = Faults()
        for rule in [rule for rule in self.rules if rule.matches(request)]:
            if rule.let_pass > 0:
                rule.let_pass -= 1
                continue
            rule.met.set()
            if rule.first is not None:
                async with rule.lock:  # others of the kind wait too
                    if rule.first is not None:
                        await asyncio.to_thread(rule.first)
                        rule.first = None
            if rule.until is not None:
                while not rule.until.is_set():
                    await asyncio.sleep(0.05)
                return None
            faults = rule.faults
        self.faults = faults  # read at once, before any other request can come in between
        return await super()._answer(request)
