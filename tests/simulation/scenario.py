"""One world from its seed: what people, schedulers, the application and the network do, and how it must end."""

import gc
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from accession.artifacts import Store
from accession.audit import audit_target
from simulation.airflow_stand_in import Airflow, DagRun
from simulation.application import Application
from simulation.dynamodb import DynamoDBService, Table
from simulation.evidence import Evidence
from simulation.faults import CALM, Climate, draw_climate
from simulation.oracle import TABLES, Oracle
from simulation.s3 import S3, S3Client
from simulation.source import ADDRESS, Source
from simulation.transport import open_dynamodb
from simulation.wiring import Surroundings, load_dags, load_mappings
from simulation.world import EndlessError, Process, World

SHM = Path("/dev/shm")
LONGEST_TRIES = 8
LONGEST_LAG = 300.0  # seconds by which an index follows its table


@dataclass
class Result:
    """What came of a seed."""

    seed: int
    violations: list[str]
    trace: list[str]
    counts: dict[str, int]
    climate: Climate
    seconds: float = 0.0


GROUNDS = 4  # worlds with a committed run, from which most seeds begin


class Scenario:
    """A world with two installations of Airflow, an application, a source, and a person who decides what comes next."""

    def __init__(self, seed: int, climate: Climate | None = None) -> None:
        self.world = World(seed)
        self.chance = self.world.random
        self.climate = climate or draw_climate(self.chance)
        self.s3 = S3()
        self.service = DynamoDBService(lambda: self.world.now, self.draw_lag)
        for entity, key in (("author", "author_id"), ("book", "book_id")):
            indexes: dict[str, tuple[str, ...]] = {"author-index": ("author_id",)} if entity == "book" else {}
            types = dict.fromkeys(("author_id", key), "S")
            self.service.tables[TABLES[entity]] = Table(TABLES[entity], (key,), indexes, types)
        self.application = Application(self.world, self.service)
        self.source = Source(self.s3, self.chance)
        self.oracle = Oracle(self.world, self.s3, self.service, self.source)
        self.evidence = Evidence(self.s3)
        self.migrate, self.rollback = load_dags()
        self.mapping = {name: load_mappings()[0] for name in "AB"}
        self.airflows = {name: self.make_airflow(name) for name in "AB"}
        self.dag_runs: list[DagRun] = []
        self.on_start: list[Callable[[Process], None]] = []  # called with each process of a task
        self.budget = self.chance.randint(1, 3)
        self.tries = 0
        self.is_calm = self.is_done = False

    def make_airflow(self, name: str) -> Airflow:
        def surround(process: Process, dag_run: DagRun) -> Surroundings:
            climate = CALM if self.is_calm else self.climate
            process.doom(climate.crash, climate.freeze)
            process.on_freeze = partial(self.notice, dag_run)
            for see in self.on_start:
                see(process)
            client = S3Client(self.s3, process, climate)
            meddle = self.application.meddle
            return Surroundings(
                open_store=lambda bucket, mapping, environment: Store(
                    client, bucket, mapping.name, environment, process.host
                ),
                open_dynamodb=lambda: open_dynamodb(process, self.service, climate, meddle),
                mapping=self.mapping[name],
            )

        return Airflow(
            self.world,
            name,
            {"environment": "sim", "bucket": "bucket", "approval": "never"},
            surround,
            self.oracle.see_error,
            self.draw_skew,
        )

    def draw_lag(self) -> float:
        return self.world.spread(1.0, LONGEST_LAG) if self.world.chance(self.climate.lag) and not self.is_calm else 0.01

    def draw_skew(self) -> float:
        return self.world.spread(0.01, 4000.0) - 1000.0 if self.world.chance(self.climate.skew) else 0.0

    # The course of things

    def play(self) -> None:
        """Let everything happen. Most worlds begin with a committed run."""
        if self.world.chance(0.8):
            self.build_on(lay_ground(self.chance.randrange(GROUNDS)))
        self.edit(self.chance.randint(1, 6))
        self.start_migration("A")
        self.world.run()

    def lay_ground(self) -> None:
        """Migrate a first source in calm."""
        while min(len(rows) for rows in self.source.rows.values()) < 3:
            self.edit(1)
        conf = {"source": ADDRESS, "rows_per_part": 2}
        self.dag_runs.append(self.airflows["A"].trigger(self.migrate, conf, lambda _: None))
        self.world.run()

    def build_on(self, ground: "Scenario") -> None:
        """Begin where another world ended."""
        self.world.now = ground.world.now
        self.s3.objects = dict(ground.s3.objects)
        for name, table in self.service.tables.items():
            known = ground.service.tables[name]
            table.items, table.pending = dict(known.items), list(known.pending)
            table.followers = {index: dict(items) for index, items in known.followers.items()}
        self.source.copy(ground.source)
        self.oracle.build_on(ground.oracle)

    def edit(self, times: int) -> None:
        self.source.edit(times)
        self.oracle.versions.append((self.world.now, {e: dict(rows) for e, rows in self.source.rows.items()}))
        self.world.note("source", f"is edited {times} times")

    def draw_conf(self) -> dict[str, Any]:
        """Draw the params of a run."""
        choice = self.chance.choice
        conf: dict[str, Any] = {"source": ADDRESS, "rows_per_part": choice((2, 3, 100))}
        conf["on_conflict"] = choice(("refuse", "keep", "overwrite"))
        conf["on_failure"] = choice(("rollback", "rollback", "rollback", "keep"))
        if self.world.chance(self.climate.keep):
            conf["on_failure"] = "keep"
        conf["deletes"] = choice(("delete", "delete", "delete", "keep"))
        conf["existing_items"] = choice(("refuse", "keep"))
        if self.world.chance(0.15):
            conf["write_units_per_second"] = choice((1, 5, 50))
        if self.evidence.state["head"] and self.world.chance(0.2):
            conf["seal"] = "cutover"
        if self.evidence.state["sealed"]:
            conf["unseal"] = "more to do"
        return conf

    def start_migration(self, where: str, **conf: Any) -> None:
        conf = conf or self.draw_conf()
        self.begin(where, self.migrate, conf)

    def start_undo(self, where: str, run: str, **conf: Any) -> None:
        self.begin(where, self.rollback, {"run": run, **conf})

    def begin(self, where: str, wiring: Any, conf: dict[str, Any]) -> None:
        airflow = self.airflows[where]
        live = [one for one in airflow.runs if not one.is_over and one.wiring is wiring]
        if live:  # max_active_runs=1
            return
        dag_run = airflow.trigger(wiring, conf, self.ended)
        self.dag_runs.append(dag_run)
        if self.is_calm:
            return
        climate, world = self.climate, self.world
        for rate, act in (
            (climate.clear, partial(self.disturb, dag_run)),
            (climate.interference, self.interfere),
            (climate.edits, lambda: self.edit(1)),
            (climate.remap, partial(self.remap, where)),
            (climate.application, self.application.act_anywhere),
        ):
            if world.chance(rate):
                world.after(world.spread(1.0, 400.0), act)

    def notice(self, dag_run: DagRun, seconds: float) -> None:
        """Somebody sees that a task stands still, and does not wait for it."""
        for rate, act in (
            (self.climate.clear, partial(self.disturb, dag_run)),
            (self.climate.interference, self.interfere),
        ):
            if self.world.chance(rate):
                self.world.after(self.world.spread(0.1, max(seconds, 1.0)), act)

    def remap(self, where: str) -> None:
        """Deploy the other version of the mapping file."""
        if not self.is_calm:
            first, second = load_mappings()
            self.mapping[where] = second if self.mapping[where] is first else first
            self.world.note(where, "another version of the mapping is deployed")

    def disturb(self, dag_run: DagRun) -> None:
        """Clear something of a DAG run, or mark it as failed."""
        if self.is_calm or dag_run.is_over:
            return
        if self.world.chance(0.4):
            dag_run.mark_failed()
            return
        begun = dict.fromkeys(one.task_id for one in dag_run.instances if one.state is not None)
        dag_run.clear(self.chance.choice(list(begun)))

    def interfere(self) -> None:
        """Another installation resumes, undoes or migrates."""
        if self.is_calm:
            return
        run = self.evidence.open_run
        act = self.chance.choice(("resume", "resume", "undo", "migrate"))
        if run and act == "resume":
            self.resume("B", run)
        elif run and act == "undo":
            self.start_undo("B", run, accept_conflicts=self.world.chance(0.5))
        elif act == "migrate":
            self.start_migration("B")

    def resume(self, where: str, run: str) -> None:
        conf = {"resume": run}
        if self.world.chance(0.5) or self.is_calm:
            conf["on_conflict"] = "keep"
        self.begin(where, self.migrate, conf)

    def ended(self, dag_run: DagRun) -> None:
        """A DAG run is over: somebody decides what comes next."""
        if not dag_run.is_over:
            return
        self.oracle.see_end(dag_run)
        if any(not one.is_over for one in self.dag_runs) or self.is_done:
            return
        self.budget -= 1
        if self.budget < 0 and not self.is_calm:
            self.is_calm, self.application.is_active = True, False
            self.world.note("person", "everything is calm from now on")
        self.world.after(self.world.spread(1.0, 100.0), self.tidy if self.is_calm else partial(self.decide, dag_run))

    def decide(self, dag_run: DagRun) -> None:
        """Take one of the ways out, or go on."""
        if any(not one.is_over for one in self.dag_runs):
            return
        run, where = self.evidence.open_run, self.chance.choice("AAB")
        if self.world.chance(self.climate.regret):
            self.application.take_back()
        if run:
            match self.chance.choice(("resume", "resume", "undo", "clear")):
                case "resume":
                    return self.resume(where, run)
                case "undo":
                    return self.start_undo(where, run, accept_conflicts=self.world.chance(0.5))
        elif self.world.chance(0.5):
            self.edit(self.chance.randint(1, 3))
            return self.start_migration(where)
        elif (head := self.evidence.state["head"]) and self.world.chance(0.4):
            return self.start_undo(where, head, accept_conflicts=self.world.chance(0.5))
        name = "open_run" if dag_run.wiring is self.migrate else "undo"
        return dag_run.clear(self.chance.choice((name, name, *dag_run.wiring.tasks)))

    def tidy(self) -> None:
        """Close the target in one of the ways that are promised to be there, then migrate once more."""
        self.tries += 1
        if any(not one.is_over for one in self.dag_runs):
            return
        run = self.evidence.open_run
        if run and self.tries > LONGEST_TRIES:
            self.oracle.violate("There is always a way out", f"run {run} is open after {self.tries - 1} tries")
        elif run and (self.tries % 3 == 1 or self.chance.random() < 0.3):
            self.resume("A", run)
        elif run:
            self.start_undo("A", run, accept_conflicts=True)
        elif not self.is_done:
            self.is_done = True
            self.world.after(LONGEST_LAG, self.migrate_once_more)

    def migrate_once_more(self) -> None:
        """Migrate in calm, when the indexes have caught up."""
        self.oracle.check_rest()
        conf = self.draw_conf() | {"on_conflict": "keep", "existing_items": "keep"}
        conf.pop("seal", None)
        self.dag_runs.append(self.airflows["A"].trigger(self.migrate, conf, self.finish))

    def finish(self, dag_run: DagRun) -> None:
        """The last run is over."""
        self.oracle.see_end(dag_run)
        (report,) = dag_run.of("report")
        if self.evidence.open_run and dag_run.find_run() is None and self.tries <= LONGEST_TRIES:
            # An attempt to open a run that stood still for minutes came after its end. Its target is closed once more.
            self.world.counts["known limits: a gate opens after the end"] += 1
            self.is_done = False
            self.world.after(1.0, self.tidy)
            return
        if report.state != "success":
            error = report.error
            self.oracle.violate("A calm run succeeds", f"{dag_run.name}: {error}")
        self.oracle.check_rest()
        audit = audit_target(Store(S3Client(self.s3), "bucket", "shelf", "sim"))
        self.oracle.check_register(audit.problems)


@cache
def lay_ground(number: int) -> Scenario:
    """Return a world with a committed run."""
    scenario = Scenario(-1 - number, CALM)
    scenario.lay_ground()
    assert scenario.evidence.state["head"] and not scenario.oracle.violations
    return scenario


def simulate(seed: int, climate: Climate | None = None, attach: Callable[[Scenario], None] = lambda _: None) -> Result:
    """Play the world of a seed to its end, and return what was seen. `attach` is called with it before."""
    load_dags()
    was_enabled = gc.isenabled()
    gc.disable()
    with ExitStack() as stack:
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="simulation-", dir=SHM if SHM.is_dir() else None)
        )
        before, tempfile.tempdir = tempfile.tempdir, folder
        try:
            scenario = Scenario(seed, climate)
            attach(scenario)
            try:
                scenario.play()
                if not scenario.is_done and not scenario.oracle.violations:
                    scenario.oracle.violate("Everything ends", "nothing happens any more, and nobody is done")
            except EndlessError as error:
                scenario.oracle.violate("Everything ends", str(error))
        finally:
            tempfile.tempdir = before
            if was_enabled:
                gc.enable()
    world = scenario.world
    return Result(seed, scenario.oracle.violations, world.trace, dict(world.counts), scenario.climate, world.now)
