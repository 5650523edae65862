"""An Airflow installation: DAG runs, task attempts as processes, trigger rules, retries, clears, marks as failed.

What a task instance may do next follows Airflow's docs ("Trigger Rules", "Setup and Teardown", "Tasks"). An attempt
whose worker is gone or stands still is given up after a while, and tried again, although it may be alive.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from accession.errors import PermanentError
from simulation.wiring import Wiring, bind, call, enter, find_mapped, is_mapped, make_dag
from simulation.world import Process, World

FINISHED = {"success", "failed", "skipped", "upstream_failed"}
HEARTBEAT_SECONDS = 300.0  # [scheduler] task_instance_heartbeat_timeout
RETRY_SECONDS, LONGEST_RETRY_SECONDS = 5.0, 300.0  # as plugins/accession_airflow/retries.py sets them


@dataclass
class Instance:
    """A task instance.

    Its XComs are common to its attempts: Airflow's API takes an XCom from an attempt that it gave up (airflow 3.3,
    `has_xcom_access` in execution_api/routes/xcoms.py), although it takes no state from it.
    """

    task_id: str
    index: int
    state: str | None = None
    tries: int = 0
    spent: int = 0  # tries before the last clear
    xcoms: dict[str, Any] = field(default_factory=dict)
    process: Process | None = None
    error: BaseException | None = None

    def push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value

    @property
    def name(self) -> str:
        return self.task_id if self.index < 0 else f"{self.task_id}_{self.index}"


class DagRun:
    """One run of a DAG. `ended` is called when all its task instances are finished."""

    def __init__(
        self, airflow: "Airflow", wiring: Wiring, name: str, conf: dict[str, Any], ended: Callable[["DagRun"], None]
    ) -> None:
        self.airflow, self.wiring, self.name, self.conf, self.ended = airflow, wiring, name, conf, ended
        self.world = airflow.world
        self.by_task = {task_id: [Instance(task_id, -1)] for task_id in wiring.tasks}
        self.is_over = False

    # What the tasks see

    def make_context(self, instance: Instance) -> dict[str, Any]:
        """Return the context of a task, as far as ours look at it."""
        run = SimpleNamespace(
            run_id=self.name, conf=self.conf, run_type="manual", triggering_user_name=self.airflow.name
        )
        ti = SimpleNamespace(
            task_id=instance.task_id,
            map_index=instance.index,
            xcom_push=instance.push,
            xcom_pull=self.pull,
            get_task_states=self.get_task_states,
        )
        return {
            "params": dict(self.airflow.defaults),
            "dag_run": run,
            "dag": make_dag(self.wiring),
            "ti": ti,
            "outlet_events": OutletEventAccessors(),
        }

    def pull(self, task_ids: str | list[str], key: str = "return_value", **_: Any) -> Any:
        if isinstance(task_ids, list):
            return [value for task_id in task_ids for value in self._find_values(task_id, key)]
        return next(iter(self._find_values(task_ids, key)), None)

    def _find_values(self, task_id: str, key: str) -> list[Any]:
        return [one.xcoms[key] for one in self.of(task_id) if key in one.xcoms]

    def get_task_states(self, *, dag_id: str, task_ids: list[str], run_ids: list[str]) -> dict[str, dict[str, Any]]:
        return {self.name: {one.name: one.state for task_id in task_ids for one in self.of(task_id)}}

    def of(self, task_id: str) -> list[Instance]:
        """Return the instances of a task."""
        return self.by_task.get(task_id, [])

    @property
    def instances(self) -> list[Instance]:
        """All task instances, in the order of the wiring."""
        return [one for some in self.by_task.values() for one in some]

    def find_run(self) -> str | None:
        """Return the run of ours that this DAG run works on, as far as it is known."""
        if "run" in self.conf:
            return str(self.conf["run"])
        found = self.pull("backup", "run")
        return found if isinstance(found, str) else None

    # Scheduling

    def advance(self) -> None:
        """Begin whatever may begin now."""
        changed = True
        while changed:
            changed = False
            for task_id, task in self.wiring.tasks.items():
                waiting = [one for one in self.by_task[task_id] if one.state is None]
                state = self._decide(task_id) if waiting else None
                if state == "run" and is_mapped(task):
                    waiting = self._expand(task)
                    state = state if waiting else "skipped"
                for instance in waiting or (self.of(task_id) if state == "skipped" else []):
                    if state is not None:
                        changed = True
                        if state == "run":
                            self._begin(task, instance)
                        else:
                            instance.state = state
        if not self.is_over and all(one.state in FINISHED for one in self.instances):
            self.is_over = True
            failed = [one.name for one in self.instances if one.state == "failed"]
            self.world.note(self.airflow.name, f"{self.name} is over: {', '.join(failed) or 'all is well'}")
            self.world.after(self.world.spread(0.5, 5.0), partial(self.ended, self))

    def _decide(self, task_id: str) -> str | None:
        """Return what the trigger rule makes of a task: run, skipped, upstream_failed, or nothing yet."""
        above = [one for name in self.wiring.upstream[task_id] for one in self.by_task[name]]
        states = [one.state for one in above]
        is_done = all(state in FINISHED for state in states)
        has_failed = any(state in ("failed", "upstream_failed") for state in states)
        match rule := self.wiring.rules[task_id]:
            case "all_done":
                return "run" if is_done else None
            case "all_done_setup_success":
                setups = [one.state for one in above if self.wiring.tasks[one.task_id].is_setup]
                if not is_done:
                    return None
                if setups and all(state == "skipped" for state in setups):
                    return "skipped"
                return "run" if not setups or "success" in setups else "upstream_failed"
            case "none_failed":
                return "upstream_failed" if has_failed else "run" if is_done else None
            case "all_success":
                if has_failed:
                    return "upstream_failed"
                if "skipped" in states:
                    return "skipped"
                return "run" if is_done else None
        raise AssertionError(rule)

    def _expand(self, task: Any) -> list[Instance]:
        """Make an instance for each element of the list that a task is mapped over; return those that may begin."""
        (source,) = find_mapped(task).values()
        values = self.pull(source.operator.task_id, source.key) or []
        known = {one.index: one for one in self.of(task.task_id) if one.index >= 0}
        if values:
            self.by_task[task.task_id] = [
                known.get(index) or Instance(task.task_id, index) for index in range(len(values))
            ]
        else:
            self.by_task[task.task_id] = [Instance(task.task_id, -1)]
        return [one for one in self.of(task.task_id) if one.state is None and one.index >= 0]

    def _begin(self, task: Any, instance: Instance) -> None:
        instance.state = "queued"
        self.world.after(self.world.spread(0.2, 3.0), partial(self._start, task, instance, instance.tries))

    def _start(self, task: Any, instance: Instance, tries: int) -> None:
        if instance.state not in ("queued", "up_for_retry") or instance.tries != tries:
            return
        instance.state, instance.tries = "running", instance.tries + 1
        instance.xcoms, instance.error = {}, None
        mark = f"[{instance.index}]" if instance.index >= 0 else ""
        process = self.airflow.make_process(self, f"{self.name} {instance.task_id}{mark}#{instance.tries}")
        instance.process = process
        self.world.counts["task attempts"] += 1
        context = self.make_context(instance)
        surroundings = self.airflow.surround(process, self)
        surroundings.context = context
        enter(process, surroundings)
        mapped = {}
        if is_mapped(task):
            ((name, source),) = find_mapped(task).items()
            values = self.pull(source.operator.task_id, source.key) or []
            if instance.index >= len(values):  # the list became shorter, as its task was cleared
                instance.state = "skipped"
                self.advance()
                return
            mapped[name] = values[instance.index]

        def pull(source: Any) -> Any:
            return self.pull(source.operator.task_id, source.key)

        arguments = bind(task, pull, mapped)
        process.task_id, process.dag_run = instance.task_id, self
        process.run, process.epoch = arguments.get("run") or self.find_run(), arguments.get("epoch")
        process.start(lambda: call(task, arguments, context), partial(self._end, task, instance, process))
        self._watch(task, instance, process, 0.0)

    def _watch(self, task: Any, instance: Instance, process: Process, silent_since: float) -> None:
        """Look for a worker that is gone or stands still."""
        if instance.process is not process or instance.state != "running":
            return
        world = self.world
        if not process.is_alive or process.frozen_until > world.now:
            patience = world.spread(2.0, HEARTBEAT_SECONDS)
            if not process.is_alive or process.frozen_until > world.now + patience:

                def give_up() -> None:
                    if instance.process is process and instance.state == "running":
                        world.note(self.airflow.name, f"gives {process.name} up")
                        if process.is_alive:  # it is told to stop when it speaks to Airflow again
                            gone = process.frozen_until - world.now + world.spread(0.1, 60.0)
                            world.after(gone, lambda: process.kill("Airflow gave it up") if process.is_alive else None)
                        self._fail(task, instance, None)

                world.after(patience, give_up)
                return
        world.after(5.0, partial(self._watch, task, instance, process, silent_since))

    def _end(self, task: Any, instance: Instance, process: Process, result: Any, error: BaseException | None) -> None:
        shown = f"{type(error).__name__}: {error}" if error else "done"
        self.world.note(process.name, f"ends: {shown[:300]}")
        if error is None and result is not None:
            instance.xcoms["return_value"] = result  # even if another attempt took its place: see Instance
        if instance.process is not process or instance.state != "running":
            return  # Airflow does not listen to it any more
        if error is None:
            instance.state = "success"
        elif isinstance(error, AirflowSkipException):
            instance.state = "skipped"
        else:
            self._fail(task, instance, error)
            return
        self.advance()

    def _fail(self, task: Any, instance: Instance, error: BaseException | None) -> None:
        instance.error = error
        self.airflow.saw_error(self, instance, error)
        used = instance.tries - instance.spent
        if isinstance(error, PermanentError) or used > task.retries:
            instance.state = "failed"
            self.advance()
            return
        instance.state = "up_for_retry"
        delay = min(RETRY_SECONDS * 2.0 ** (used - 1), LONGEST_RETRY_SECONDS)
        self.world.after(delay, partial(self._start, task, instance, instance.tries))

    # What a person does in the UI

    def clear(self, task_id: str) -> None:
        """Clear a task with all below it."""
        self.world.note(self.airflow.name, f"a person clears {task_id} and below in {self.name}")
        self.is_over = False
        for name in (task_id, *self.wiring.find_downstream(task_id)):
            for instance in self.of(name):
                self._stop(instance)
                instance.state, instance.process = None, None
                instance.spent = instance.tries
        self.advance()

    def mark_failed(self) -> None:
        """Mark the run as failed: what runs is stopped, what did not begin is skipped, teardowns go on."""
        self.world.note(self.airflow.name, f"a person marks {self.name} as failed")
        for instance in self.instances:
            if self.wiring.tasks[instance.task_id].is_teardown or instance.state in FINISHED:
                continue
            if instance.state in ("running", "up_for_retry", "queued"):
                self._stop(instance)
                instance.state = "failed"
            else:
                instance.state = "skipped"
        self.advance()

    def _stop(self, instance: Instance) -> None:
        process = instance.process
        if process is not None and process.is_alive:
            delay = max(process.frozen_until - self.world.now, 0.0) + self.world.spread(0.1, 30.0)
            self.world.after(delay, lambda: process.kill("a person stopped it") if process.is_alive else None)
        instance.process = None


class Airflow:
    """An installation of Airflow, with a database of its own."""

    def __init__(
        self,
        world: World,
        name: str,
        defaults: dict[str, Any],
        surround: Callable[[Process, DagRun], Any],
        saw_error: Callable[[DagRun, Instance, BaseException | None], None],
        skew: Callable[[], float],
    ) -> None:
        self.world, self.name, self.defaults = world, name, defaults
        self.surround, self.saw_error, self._skew = surround, saw_error, skew
        self.runs: list[DagRun] = []

    def trigger(self, wiring: Wiring, conf: dict[str, Any], ended: Callable[[DagRun], None]) -> DagRun:
        """Begin a run of a DAG."""
        kind = "m" if wiring.dag_id.startswith("migrate") else "u"
        run = DagRun(self, wiring, f"{self.name}.{kind}{len(self.runs) + 1}", conf, ended)
        self.runs.append(run)
        shown = " ".join(f"{key}={value}" for key, value in sorted(conf.items()) if key != "source")
        self.world.note(self.name, f"{run.name} begins: {wiring.dag_id} {shown}")
        run.advance()
        return run

    def make_process(self, run: DagRun, name: str) -> Process:
        """Return a process on one of the workers of this installation."""
        return Process(self.world, name, self._skew())
