"""The oracle: it sees every write as it is done, and says what may never happen.

It knows nothing of how the library works. It knows who wrote which value last, what each change set promised, and what
the register says.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from accession.errors import AccessionError
from accession.target.ownership import SETTLE_SECONDS
from simulation.application import NAME
from simulation.dynamodb import DynamoDBService
from simulation.evidence import PREFIX, STATE, Evidence
from simulation.expressions import Item
from simulation.s3 import S3
from simulation.source import Row, Source, make_item, read_rows
from simulation.wiring import load_mappings
from simulation.world import World

Place = tuple[str, str]  # table and key
TABLES = {"author": "Shelf-Authors-sim", "book": "Shelf-Books-sim"}
UNDOERS = ("rollback", "undo")
STAGED = ("/index.json", "/plan.json", "/rejects.csv")
SUDDEN = 8  # requests between the last look at the state and the write of a mark, a result or a proof


@dataclass
class Event:
    """A write to an item: when, by whom, and what it changed."""

    at: float
    who: str
    run: str | None
    is_undo: bool
    before: Item | None
    after: Item | None
    process: Any = None


class Loss(NamedTuple):
    """A value of the application that is gone, with no before image. `is_hidden`: the writer could not know of it."""

    what: str
    who: Any
    is_hidden: bool


@dataclass
class Past:
    """What is known of one item."""

    events: list[Event] = field(default_factory=list)
    foreign: dict[str, Any] = field(default_factory=dict)  # values that the application wrote last
    is_deleted_by_application: bool = False


class Oracle:
    """Collects violations. `check_end` says whether the world as it rests is a good one."""

    def __init__(self, world: World, s3: S3, service: DynamoDBService, source: Source) -> None:
        self.world, self.service, self.source = world, service, source
        self.evidence = Evidence(s3)
        self.violations: list[str] = []
        self.past: dict[Place, Past] = {}
        self.losses: dict[tuple[str, str, str], Loss] = {}
        self.written: dict[str, dict[Place, Item | None]] = {}  # run → what was there before its first write
        self.written_at: dict[str, dict[Place, float]] = {}
        self.takers: dict[int, Any] = {}  # epoch → the DAG run that took the target in it
        self.taken_at: dict[int, float] = {}  # epoch → when it began
        self.recorders: dict[int, Any] = {}  # sequence → the process that wrote the record
        self.provers: dict[tuple[str, str], float] = {}  # run, entity → when the last proof began
        self.undone_by: dict[str, str] = {}  # run → the DAG run whose undo counted last
        self.ended_at: dict[str, float] = {}  # run → when its last record was written
        self.staged_by: dict[str, Any] = {}
        self.late: set[str] = set()  # artifacts that a process wrote after the end of its run, without knowing of it
        self.accepted: set[Place] = set()  # items that an undo left as they were, and listed
        self.versions: list[tuple[float, dict[str, dict[int, Row]]]] = []
        service.watch, s3.watch = self.see_item, self.see_object

    def build_on(self, ground: "Oracle") -> None:
        """Know what was known of another world."""
        self.past = {
            place: Past(list(past.events), dict(past.foreign), past.is_deleted_by_application)
            for place, past in ground.past.items()
        }
        self.written = {run: dict(images) for run, images in ground.written.items()}
        self.written_at = {run: dict(times) for run, times in ground.written_at.items()}
        self.takers, self.recorders = dict(ground.takers), dict(ground.recorders)
        self.provers, self.versions = dict(ground.provers), list(ground.versions)

    def violate(self, rule: str, what: str) -> None:
        """Note that something happened that never may."""
        self.violations.append(f"{rule}: {what}")
        self.world.note("ORACLE", f"{rule}: {what}")

    # Items

    def see_item(self, table: str, key: str, before: Item | None, after: Item | None, who: Any) -> None:
        """A write was done."""
        past = self.past.setdefault((table, key), Past())
        if who == NAME:
            past.events.append(Event(self.world.now, NAME, None, False, before, after))
            self._see_application(past, before, after)
            return
        run = who.run
        is_undo = who.task_id in UNDOERS
        last = past.events[-1] if past.events else None
        if last and (last.who, last.before, last.after) == (who.name, after, before):
            past.events.pop()  # a writer put back what it had removed a moment ago: it wrote nothing
        else:
            self._check_epoch(table, key, who, is_undo)
            past.events.append(Event(self.world.now, who.name, run, is_undo, before, after, who))
        if not is_undo and run is not None:
            self.written.setdefault(run, {}).setdefault((table, key), before)
            self.written_at.setdefault(run, {}).setdefault((table, key), self.world.now)
        self._see_ours(past, (table, key), before, after, who)

    def _check_epoch(self, table: str, key: str, who: Any, is_undo: bool) -> None:
        """Check that a writer wrote while it owned the target, or before the next owner had settled."""
        if is_undo or who.epoch is None:
            return
        settled = [at + SETTLE_SECONDS for epoch, at in self.taken_at.items() if epoch > who.epoch]
        if settled and min(settled) < self.world.now:
            self.violate("No writer of an older epoch writes after the settling", f"{who.name} wrote {table} {key}")

    def _see_application(self, past: Past, before: Item | None, after: Item | None) -> None:
        past.is_deleted_by_application = after is None
        if after is None:
            past.foreign.clear()
            return
        for name, value in after.items():
            if (before or {}).get(name) != value:
                past.foreign[name] = value
        past.foreign = {name: value for name, value in past.foreign.items() if name in after}

    def _see_ours(self, past: Past, place: Place, before: Item | None, after: Item | None, who: Any) -> None:
        (table, key), run, is_undo = place, who.run, who.task_id in UNDOERS
        for name, value in list(past.foreign.items()):
            if after is not None and after.get(name) == value:
                continue
            if not self._has_image(run, key, name, value, is_undo):
                what = f"{who.name} removed {name} of {table} {key}"
                self.losses[table, key, name] = Loss(
                    what, who, after is None and self._is_hidden(past, place, name, who)
                )
            del past.foreign[name]
        for name, value in (after or {}).items():
            if self.losses.pop((table, key, name), None):  # it was put back
                past.foreign[name] = value
        if before is None and after is not None and past.is_deleted_by_application and not is_undo:
            self._see_recreation(past, place, who)
        past.is_deleted_by_application = False

    def _is_hidden(self, past: Past, place: Place, name: str, who: Any) -> bool:
        """Tell whether the application added an attribute after the writer had read the item and before its request."""
        added = [one for one in past.events if one.who == NAME and one.after and name in one.after]
        return bool(added) and added[-1].at >= who.known_at.get(place, 0.0)

    def _see_recreation(self, past: Past, place: Place, who: Any) -> None:
        """An item that the application deleted was put."""
        self.world.counts["deletes of the application met"] += 1
        earlier = [event for event in past.events[:-1] if event.run == who.run and event.process is not None]
        if not earlier:
            if not any(change["op"] == "put" for change in self.evidence.find_changes(who.run, place[1])):
                self.violate("A delete of the application is kept", f"{who.name} recreated {place[0]} {place[1]}")
            return
        last = earlier[-1]
        if last.is_undo or place in last.process.unanswered:
            self.world.counts["known limits: a delete before the look"] += 1
        elif last.process.epoch != who.epoch:
            self.world.counts["known limits: a resume puts what was deleted"] += 1
        elif last.process is who or last.process.has_succeeded:
            self.violate("What is put is not put again", f"{who.name} recreated {place[0]} {place[1]} of {last.who}")

    def _has_image(self, run: str | None, key: str, name: str, value: Any, is_undo: bool) -> bool:
        """Tell whether the change set holds a value of the application, so that it was replaced knowingly."""
        for change in self.evidence.find_changes(run, key) if run else ():
            images = [change["before"], change["item"]] if is_undo else [change["before"]]
            if any(image is not None and image.get(name) == value for image in images):
                return True
        return False

    # Objects

    def see_object(self, key: str, before: bytes | None, after: bytes | None, who: Any) -> None:
        """An object was written or removed."""
        path = key.removeprefix(PREFIX)
        if who is None or after is None:
            return
        if path == STATE:
            self._see_state(orjson.loads(before) if before else None, orjson.loads(after), who)
        elif path.startswith("log/"):
            self._see_record(orjson.loads(after), who)
        elif path.startswith("runs/"):
            self._see_artifact(path, who)
        if path.startswith("runs/") and "/verification/" in path and path.endswith(".json"):
            _, run, _, name = path.split("/")
            self.provers[run, name.removesuffix(".json")] = who.started_at

    def _see_artifact(self, path: str, who: Any) -> None:
        """An artifact of a run was written, perhaps after the run's end."""
        run = path.split("/")[1]
        if path.endswith("/manifest.json"):
            self._check_backup(self.evidence.manifest(run), who)
        if path.endswith(STAGED):
            self.staged_by[path] = who
            return
        has_ended = run in self.ended_at and self.evidence.open_run != run
        ends = any(report.state == "running" for report in who.dag_run.of("report"))
        if (has_ended and who.since_look <= SUDDEN) or (ends and who.task_id != "report"):
            self.late.add(path)

    def _check_backup(self, manifest: Any, who: Any) -> None:
        """A run has a name: its backup must be the source as it was at a moment of the attempt."""
        rows = read_rows(self.evidence.get(f"backups/{manifest['snapshot']['sha256']}.db") or b"")
        first = max((n for n, (at, _) in enumerate(self.versions) if at <= who.started_at), default=0)
        if all(rows != found for _, found in self.versions[first:]):
            self.violate("A backup is the source as of one moment", f"run {manifest['run']}")

    def _see_state(self, before: Any, after: Any, who: Any) -> None:
        old, new = (before or {}).get("open"), after["open"]
        if new and new != old:
            taker = self.takers.get(old["epoch"]) if old else None
            if old and who.task_id == "rollback" and taker is not None and taker is not who.dag_run:
                self.violate(
                    "An automatic rollback takes over only from its own DAG run",
                    f"{who.name} took run {new['run']} from {taker.name}",
                )
            self.takers[new["epoch"]] = who.dag_run
            self.taken_at[new["epoch"]] = self.world.now
        if old and not new:
            recorder = self.recorders.get(after["log_tail"]["sequence"])
            taker = self.takers.get(old["epoch"])
            if recorder is not None and taker is not None and recorder.dag_run is not taker:
                self.violate(
                    "A target is closed only by those who have it",
                    f"{recorder.name} closed run {old['run']}, which {taker.name} has in epoch {old['epoch']}",
                )

    def _see_record(self, record: Any, who: Any) -> None:
        self.recorders[record["sequence"]] = who
        self.ended_at[record["run"]] = self.world.now
        opened = self.evidence.state["open"]
        owner = (opened["run"], opened["epoch"]) if opened else None
        if record["epoch"] is not None and owner != (record["run"], record["epoch"]):
            return  # it does not count
        if record["action"] == "undo" and record["status"] == "undone":
            self._check_undo(record["run"], who)
            self.undone_by[record["run"]] = who.dag_run.name
        elif record["action"] == "run":
            self.undone_by.pop(record["run"], None)
            if record["status"] == "verified":
                self._check_verdict(record["run"], who)
                if record["sealed"] and not self.evidence.state["sealed"]:
                    self._check_seal(record["run"], who)

    def _check_undo(self, run: str, who: Any) -> None:
        rollback = self.evidence.load(f"runs/{run}/rollback.json")
        listed = {conflict["key"] for conflict in rollback["conflicts"]}
        self.accepted |= {(conflict["table"], conflict["key"]) for conflict in rollback["conflicts"]}
        for (table, key), image in self.written.pop(run, {}).items():
            since = self.written_at[run].pop((table, key))
            now = self.service.tables[table].items.get(key)
            by_application = [event for event in self.past[table, key].events if event.who == NAME]
            changes = [change for change in self.evidence.find_changes(run, key) if change["op"] != "conflict"]
            staged = changes[0]["before"] if changes else image
            expected = replay(staged, list_since(self.past[table, key].events, staged))
            changed_at = by_application[-1].at if by_application else -1.0
            is_newer = changed_at >= max(since, who.read_at.get((table, key), 0.0))
            is_conflict = changed_at >= since and key in listed
            if now != expected and not is_newer and not is_conflict:
                what = f"run {run} left {table} {key}: it is {show(now)} and must be {show(expected)}"
                self.violate("An undo that is proved is exact", what)

    def _check_verdict(self, run: str, who: Any) -> None:
        params, report = self.evidence.manifest(run)["params"], self.evidence.load(f"runs/{run}/report.json")
        accepts_lost = "keep" in (params["on_conflict"], who.dag_run.conf.get("on_conflict"))
        for entity, key, item, expected in self._compare(run):
            proof = self.evidence.load(f"runs/{run}/verification/{entity}.json")
            is_held = proof is not None and key in {conflict["key"] for conflict in proof["conflicts"]}
            if item is None and expected and report["reason"] is None and not (accepts_lost or is_held):
                last = self.past[TABLES[entity], key].events[-1]
                if last.at < self.provers.get((run, entity), 0.0):
                    self.violate("A green run has all items", f"run {run}: {entity} {key} is gone")
            if key in self.evidence.read_problems(run, entity):
                continue
            began = self.provers.get((run, entity), 0.0)
            events = self.past[TABLES[entity], key].events if (TABLES[entity], key) in self.past else []
            if not any(event.at >= began for event in events):
                self.violate(
                    "A verified run has its items, or lists them",
                    f"run {run}: {entity} {key} is {show(item)} and must be {show(expected)}",
                )

    def _check_seal(self, run: str, who: Any) -> None:
        manifest = self.evidence.manifest(run)
        rows = read_rows(self.evidence.get(f"backups/{manifest['snapshot']['sha256']}.db") or b"")
        known = [found for at, found in self.versions if at <= who.started_at][-1:]
        if known and known[0] != rows:
            self.violate("Only an unchanged source is sealed", f"the source is not the backup of run {run} any more")
        for entity, key, item, expected in self._compare(run):
            events = self.past[TABLES[entity], key].events if (TABLES[entity], key) in self.past else []
            began = self.provers.get((run, entity), 0.0)
            if not any(event.at >= began for event in events):
                what = f"{entity} {key} is {show(item)} and must be {show(expected)}"
                self.violate("Only whole tables are sealed", what)

    def _compare(self, run: str) -> Iterator[tuple[str, str, Item | None, Item | None]]:
        """Yield what differs between the source and the tables: entity, key, item, and what it must be."""
        manifest = self.evidence.manifest(run)
        rows = read_rows(self.evidence.get(f"backups/{manifest['snapshot']['sha256']}.db") or b"")
        default = "Unknown" if manifest["mapping_sha256"] == load_mappings()[0].sha256 else "Nowhere"
        keys: dict[str, dict[int, str]] = {}
        for entity in ("author", "book"):
            entries = self.evidence.read_id_map(run, entity)
            latest = {one["old_key"]: one for one in entries if one["latest"]}
            keys[entity] = {number: one["new_id"] for number, one in latest.items()}
            items = self.service.tables[TABLES[entity]].items
            for number, row in rows[entity].items():
                entry = latest.get(number)
                if entry is None:
                    self.violate("Every row is in the ID map", f"run {run}: {entity} {number}")
                    continue
                key = entry["new_id"]
                expected = make_item(entity, key, row, keys.get("author", {}), default)
                item = items.get(key)
                if entry["state"] == "live" and (item is None or any(item.get(n) != v for n, v in expected.items())):
                    yield entity, key, item, expected
            for entry in entries:
                if entry["state"] == "tombstone" and entry["written"] and entry["new_id"] in items:
                    yield entity, entry["new_id"], items[entry["new_id"]], None

    # Tasks

    def see_error(self, dag_run: Any, instance: Any, error: BaseException | None) -> None:
        """A task attempt failed."""
        if error is not None and not isinstance(error, AccessionError):
            what = f"{dag_run.name} {instance.name}: {type(error).__name__}: {error}"
            self.violate("A task fails with a sentence", what)

    def see_end(self, dag_run: Any) -> None:
        """A DAG run is over."""
        run = dag_run.find_run()
        if run is None or self.undone_by.get(run) != dag_run.name or self.evidence.open_run == run:
            return
        if dag_run.wiring.dag_id.startswith("rollback"):
            (state,) = [one.state for one in dag_run.of("undo")]
            if state != "success":
                self.violate("An undo that is done succeeds", f"{dag_run.name} undo is {state}")
        elif (report := self.evidence.load(f"runs/{run}/report.json")) and report["status"] != "rolled_back":
            self.violate("A run that was rolled back says so", f"{dag_run.name} reports {report['status']}")

    # The end

    def check_rest(self) -> None:
        """Check a world in which nothing happens any more and the target is closed."""
        self._check_losses()
        lineage = set(self.evidence.find_lineage())
        for (table, key), past in self.past.items():
            last = past.events[-1]
            if last.who != NAME and not last.is_undo and last.run not in lineage and (table, key) not in self.accepted:
                self.violate("Every item is of a committed run", f"{table} {key} was last written by {last.who}")

    def check_register(self, problems: list[Any]) -> None:
        """Check what the audit found.

        A known limit: a process stands still between its last look at the state and its write of a proof or a result,
        or stages a run that has failed meanwhile, or it wakes while the report is at work.
        """
        for problem in problems:
            who = self.staged_by.get(problem.path)
            if problem.path in self.late or (who is not None and problem.kind == "added"):
                self.world.counts["known limits: an artifact after the end of its run"] += 1
            else:
                self.violate("The register is sound", f"{problem.path} is {problem.kind}: {problem.reason}")

    def _check_losses(self) -> None:
        """Check that nothing of the application is lost.

        A known limit: the application adds an attribute between the read and the delete of an item, and the answer to
        the delete is lost, or the process ends before it has put the item back.
        """
        for (table, key, _), loss in self.losses.items():
            if loss.is_hidden and ((table, key) in loss.who.unanswered or loss.who.was_killed):
                self.world.counts["known limits: an attribute added beside a delete"] += 1
            else:
                self.violate("No write of the application is lost", loss.what)
        self.losses.clear()


def replay(item: Item | None, events: list[Event]) -> Item | None:
    """Return what becomes of an item by what the application changed, and nothing else. What it took back is nothing.

    `item` is what was there before these events.
    """
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for event in events:
        before, after = event.before or {}, event.after or {}
        for name in before.keys() | after.keys():
            if before.get(name) != after.get(name):
                first.setdefault(name, before.get(name))
                last[name] = after.get(name)
    if events and events[-1].after is None:
        return None
    changed = {name: value for name, value in last.items() if value != first[name]}
    result = {name: value for name, value in ((item or {}) | changed).items() if value is not None}
    return result or None


def list_since(events: list[Event], image: Item | None) -> list[Event]:
    """Return what the application did since an item was last as `image`."""
    begin = 0
    for number, event in enumerate(events):
        if event.after == image:
            begin = number + 1
    return [event for event in events[begin:] if event.who == NAME]


def show(item: Item | None) -> str:
    """Return an item in a few words."""
    if item is None:
        return "absent"
    return "{" + ", ".join(f"{name}={next(iter(value.values()))}" for name, value in sorted(item.items())) + "}"
