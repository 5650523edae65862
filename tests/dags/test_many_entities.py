"""The DAG of a mapping with many entities: it reads well, and costs little each time that Airflow parses it."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from test_dag_files import PARSE, run_python

PLAIN = """
from airflow.sdk import DAG, task

with DAG("plain"):
    for number in range(189):
        task(task_id=f"task_{number}", retries=3)(lambda: None)()
"""
MAKE = """
from pathlib import Path
from accession.mapping import load_mapping
from accession_airflow.migrate_dag import make_migration

file = Path(__file__).with_name("many.yaml")
dag = make_migration(load_mapping(file), file)
"""
SHOW = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("parsed", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
groups = {id: group.label for id, group in module.dag.task_group.get_task_group_dict().items() if id}
edges = {id: sorted(task.upstream_task_ids) for id, task in module.dag.task_dict.items()}
print("RESULT", json.dumps({"groups": groups, "edges": edges}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mapping of sixty entities, one of them called as a task is, each of which refers to two earlier ones."""
    folder, chance = tmp_path_factory.mktemp("many"), random.Random(1)
    names = ["application", *(f"thing_{number}" for number in range(1, 60))]
    entities = {
        name: {
            "source": {"table": name, "key": "id"},
            "target": {"table": f"Many-{name}-{{environment}}", "key": {"id": "keep"}},
            "attributes": {
                parent: {"column": parent, "references": parent, "optional": True}
                for parent in chance.sample(names[:number], min(number, 2))
            },
        }
        for number, name in enumerate(names)
    }
    (folder / "many.yaml").write_text(json.dumps({"name": "many", "entities": entities}))  # JSON is YAML
    (folder / "many.py").write_text(MAKE)
    (folder / "plain.py").write_text(PLAIN)
    return folder


@pytest.fixture(scope="module")
def dag(airflow_home: Path, folder: Path) -> Any:
    return run_python(SHOW, str(folder / "many.py"))


def test_entities_are_shown_in_groups_by_level(dag: Any) -> None:
    levels = [label for id, label in dag["groups"].items() if id.startswith("stage.")]
    assert len(levels) > 3
    assert levels == [f"level-{number}" for number in range(len(levels))]
    assert [id for id in dag["edges"] if id.endswith(".application")] == [
        "stage.level-0.application", "migrate.level-0.application", "verify.level-0.application",
    ]  # fmt: skip
    assert "verify.ask_application" in dag["edges"]


def test_each_entity_waits_for_its_parents_in_earlier_levels(dag: Any) -> None:
    for step in ("stage", "migrate"):
        tasks = {id: upstream for id, upstream in dag["edges"].items() if id.startswith(f"{step}.")}
        assert len(tasks) == 60
        for id, upstream in tasks.items():
            parents = [other for other in upstream if other in tasks]
            assert all(level_of(other) < level_of(id) for other in parents)
            assert bool(parents) == (level_of(id) > 0)


def level_of(id: str) -> int:
    return int(id.split(".")[1].removeprefix("level-"))


def test_parsing_many_entities_costs_less_than_three_plain_dags(airflow_home: Path, folder: Path) -> None:
    """Of processor time, beside a DAG of as many empty tasks. The mapping is loaded each time."""
    seconds = run_python(PARSE, str(folder / "plain.py"), str(folder / "many.py"))["seconds"]
    assert seconds[str(folder / "many.py")] < 3 * seconds[str(folder / "plain.py")]
