"""The DAGs as they are: the real files, parsed once by Airflow, and what their tasks ask of Airflow while they run.

The simulation runs the functions of the DAG files in the order of their wiring. Only what reaches outside is replaced:
the clients of AWS, the mapping file of an installation, the context of the task.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import greenlet  # type: ignore[import-untyped]

from accession.mapping import Mapping, load_mapping
from accession.params import MigrateParams
from simulation.source import ADDRESS

REPO = Path(__file__).parents[2]
MAPPINGS = Path(__file__).parent / "mappings"
DEPLOYMENT = {
    "ACCESSION_SOURCE": ADDRESS,
    "ACCESSION_BUCKET": "bucket",
    "ACCESSION_ENVIRONMENTS_WITHOUT_APPROVAL": "sim",
}


@dataclass
class Wiring:
    """A DAG: its tasks in topological order, by their ids, and what decides whether each begins."""

    dag_id: str
    tasks: dict[str, Any]
    upstream: dict[str, list[str]] = field(init=False)
    rules: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.upstream = {
            name: [one for one in self.tasks if one in task.upstream_task_ids] for name, task in self.tasks.items()
        }
        self.rules = {name: str(task.trigger_rule.value) for name, task in self.tasks.items()}

    def find_downstream(self, task_id: str) -> list[str]:
        """Return the ids of all tasks below one."""
        found = {task_id}
        for name, task in self.tasks.items():
            if task.upstream_task_ids & found:
                found.add(name)
        return [name for name in self.tasks if name in found and name != task_id]


@dataclass
class Surroundings:
    """What a task attempt finds around it: the clients, the mapping of its installation, its context."""

    open_store: Callable[[str, Mapping, str], Any]
    open_dynamodb: Callable[[], Any]
    mapping: Mapping
    context: dict[str, Any] = field(default_factory=dict)


_surroundings: dict[Any, Surroundings] = {}  # by process


def enter(process: Any, surroundings: Surroundings) -> None:
    """Give a process its surroundings, until it ends."""
    _surroundings[process] = surroundings
    process.on_end.append(lambda: _surroundings.pop(process, None))


def _here() -> Surroundings:
    strand: Any = greenlet.getcurrent()
    return _surroundings[strand.process]


@cache
def load_mappings() -> tuple[Mapping, Mapping]:
    """Return the mapping, and the mapping as it is after an edit."""
    return load_mapping(MAPPINGS / "shelf.yaml"), load_mapping(MAPPINGS / "shelf_edited.yaml")


@cache
def load_dags() -> tuple[Wiring, Wiring]:
    """Return the migrate DAG and the rollback DAG of the simulation's mapping. Takes Airflow a few seconds, once."""
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="accession-airflow-"))
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    os.environ.update(DEPLOYMENT)
    if str(REPO / "plugins") not in sys.path:
        sys.path.append(str(REPO / "plugins"))
    # A part holds at least 100 rows. Here it shall hold two, so that small tables have several parts.
    MigrateParams.model_fields["rows_per_part"].metadata.clear()
    MigrateParams.model_rebuild(force=True)

    import airflow.sdk

    import accession_airflow.approval
    import accession_airflow.aws
    import accession_airflow.job
    import accession_airflow.settings
    from accession_airflow.migrate_dag import make_migration
    from accession_airflow.rollback_dag import make_undo

    for module, name, replacement in (
        (accession_airflow.aws, "open_store", lambda *target: _here().open_store(*target)),
        (accession_airflow.aws, "open_dynamodb", lambda: _here().open_dynamodb()),
        (accession_airflow.job, "load_mapping", lambda _: _here().mapping),
        (accession_airflow.approval, "load_mapping", lambda _: _here().mapping),
        (accession_airflow.job, "read_deployment", cache(accession_airflow.settings.read_deployment)),
        (airflow.sdk, "get_current_context", lambda: _here().context),
    ):
        setattr(module, name, replacement)

    dags = [make(load_mappings()[0], MAPPINGS / "shelf.yaml") for make in (make_migration, make_undo)]
    found = [Wiring(dag.dag_id, {task.task_id: task for task in _sort(dag)}) for dag in dags]
    return found[0], found[1]


def _sort(dag: Any) -> list[Any]:
    """Return the tasks of a DAG, each after those above it; else in the order of the file."""
    tasks: dict[str, Any] = dict(dag.task_dict)
    done: dict[str, Any] = {}
    while tasks:
        ready = next(name for name, task in tasks.items() if task.upstream_task_ids <= done.keys())
        done[ready] = tasks.pop(ready)
    return list(done.values())


def is_mapped(task: Any) -> bool:
    """Tell whether there is one instance of a task for each element of a list."""
    return hasattr(task, "op_kwargs_expand_input")


def find_mapped(task: Any) -> dict[str, Any]:
    """Return the argument over which a task is mapped, and where its list comes from."""
    return dict(task.op_kwargs_expand_input.value)


def bind(task: Any, pull: Callable[[Any], Any], mapped: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task by their names; `pull` resolves those that are results of other tasks."""
    if not is_ours(task):
        return {}
    given = task.partial_kwargs if is_mapped(task) else {"op_args": task.op_args, "op_kwargs": task.op_kwargs}
    names = find_parameters(task.python_callable)
    bound = {name: resolve(value, pull) for name, value in zip(names, given["op_args"], strict=False)}
    return bound | {name: resolve(value, pull) for name, value in given["op_kwargs"].items()} | mapped


@cache
def find_parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of a function's parameters."""
    return list(signature(function).parameters)


def call(task: Any, arguments: dict[str, Any], context: dict[str, Any]) -> Any:
    """Call the function of a task."""
    if not is_ours(task):
        return type(task).execute.__wrapped__(task, context)  # the task runner calls it past the same guard
    return task.python_callable(**arguments, **context)


def is_ours(task: Any) -> bool:
    """Tell whether a task is a function of the DAG file, and not an operator of its own."""
    return hasattr(task, "python_callable")


def resolve(value: Any, pull: Callable[[Any], Any]) -> Any:
    """Return a value in which the results of other tasks stand in their places."""
    if isinstance(value, dict):
        return {name: resolve(one, pull) for name, one in value.items()}
    if hasattr(value, "operator") and hasattr(value, "key"):
        return pull(value)
    return value


def make_dag(wiring: Wiring) -> Any:
    """Return what tasks see of their DAG."""
    return SimpleNamespace(dag_id=wiring.dag_id, task_ids=list(wiring.tasks))
