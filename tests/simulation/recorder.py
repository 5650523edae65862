"""What the processes of a simulated world changed on S3 and in DynamoDB, as traces of the model of ownership."""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from protocol.adapter import STATE, Request, View, make_trace
from protocol.layout import DELETE, PUT, UPDATE
from protocol.trace import APPLICATION, Event
from simulation.application import NAME
from simulation.evidence import PREFIX
from simulation.expressions import Item
from simulation.oracle import TABLES
from simulation.scenario import Scenario

MARK = re.compile(r"runs/(?P<run>[^/]+)/(?P<part>progress/(?P<entity>[^/]+)/(?P<number>\d+)\.(?P<step>\w+))\.")
STEPS = {"migrate": {"put": PUT, "update": UPDATE}, "remove": {"delete": DELETE}}


class Recorder:
    """Record one world: `attach` it before it is played."""

    def attach(self, scenario: Scenario) -> None:
        """Begin to record."""
        self.requests: list[Request] = []
        self.processes: dict[str, Any] = {}
        self.evidence = scenario.evidence
        self._tables = {table: entity for entity, table in TABLES.items()}
        self._watch_item, scenario.service.watch = scenario.service.watch, self._see_item
        self._watch_object, scenario.s3.watch = scenario.s3.watch, self._see_object
        scenario.on_start.append(self._see_start)

    def _see_start(self, process: Any) -> None:
        self.processes[process.name] = process
        self.requests.append(Request(process.name, "start", "", changed=False))

    def _see_item(self, table: str, key: str, before: Item | None, after: Item | None, who: Any) -> None:
        operation = "PutItem" if after is not None else "DeleteItem"
        name = APPLICATION if who == NAME else who.name
        self.requests.append(Request(name, operation, f"{table} {key}"))
        self._watch_item(table, key, before, after, who)

    def _see_object(self, key: str, before: bytes | None, after: bytes | None, who: Any) -> None:
        path = key.removeprefix(PREFIX)
        if who is not None and after is not None:
            body = orjson.loads(after) if path == STATE or path.startswith("log/") else None
            self.requests.append(Request(who.name, "PutObject", path, body, changed=before != after))
        self._watch_object(key, before, after, who)

    def find_traces(self) -> Iterator[tuple[str, tuple[int, ...], list[Event]]]:
        """Yield what each part of each run is called, the kinds of its items, and its trace.

        A trace is of one item of each kind. It ends where another run takes the target.
        """
        found = dict.fromkeys(match.group() for one in self.requests if (match := MARK.match(one.key)))
        for name in found:
            match = MARK.match(name)
            assert match is not None
            run, entity, wanted = match["run"], match["entity"], STEPS[match["step"]]
            items: dict[str, str] = {}
            for change in self.evidence.find_part(run, entity, int(match["number"])):
                if change["op"] in wanted:
                    items.setdefault(change["op"], f"{TABLES[entity]} {change['key']}")
            view = View(run, match["part"], {key: op for op, key in items.items()}, self._find_kinds(run, match))
            kinds = tuple(wanted[op] for op in wanted if op in items)
            if kinds:
                yield name, kinds, list(make_trace(self._select(run, entity), view))

    def _select(self, run: str, entity: str) -> Iterator[Request]:
        """Yield the requests from the staging of an entity until another run opens the target."""
        staged = f"runs/{run}/changes/{entity}/index.json"
        is_staged = False
        for request in self.requests:
            is_staged = is_staged or request.key == staged
            if request.key == STATE and (opened := request.body["open"]) and opened["run"] != run and is_staged:
                return
            if is_staged:
                yield request

    def _find_kinds(self, run: str, part: re.Match[str]) -> dict[str, str]:
        """Return what each process of a run is in the model."""
        commits = {
            one.process
            for one in self.requests
            if one.key.startswith("log/")
            and one.body["head"] == run
            and one.body["run"] == run
            and one.body["action"] == "run"
        }
        mine = {one.process for one in self.requests if one.key.startswith(part.group())}
        kinds = {}
        for name, process in self.processes.items():
            if process.dag_run.find_run() != run and process.run != run:
                continue
            dag = "/1" if process.dag_run.conf.get("resume") else ""
            match process.task_id:
                case "open_run":
                    kinds[name] = "resume" if dag else "run"
                case "report":
                    kinds[name] = ("committing-report" if name in commits else "report") + dag
                case "rollback":
                    kinds[name] = "automatic-rollback" + dag
                case "undo":
                    kinds[name] = "undo"
                case _ if name in mine:
                    kinds[name] = "retry" + dag
        return kinds
