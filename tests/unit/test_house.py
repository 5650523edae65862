"""The rules of the house: who may import whom, who speaks to what, and how small a DAG file is."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
ROOT = REPO / "include/accession"
LIBRARY = sorted(ROOT.rglob("*.py"))
PLUGINS = sorted((REPO / "plugins").rglob("*.py"))

# Package → the packages that it may import. The modules beside the packages (errors, params, …) import none of them,
# and any package may import those.
FLOOR_PLAN: dict[str, set[str]] = {
    "column_types": set(),
    "mapping": {"column_types"},
    "source": set(),
    "items": {"column_types", "mapping"},
    "dynamodb": {"column_types", "items"},
    "artifacts": {"items", "mapping"},
    "target": {"artifacts"},
    "draft": {"column_types", "items", "mapping", "source"},
    "run": {"target", "artifacts", "dynamodb", "items", "mapping", "source"},
    "audit": {"target", "artifacts", "items", "mapping"},
    "cli": {"run", "audit", "draft", "target", "artifacts", "dynamodb", "items", "mapping", "source"},
}

S3_DOOR = {"artifacts/store.py", "artifacts/s3.py"}
S3_CALLS = {"get_object", "put_object", "head_object", "upload_file", "download_file", "delete_object"}
DYNAMODB_CALLS = {"batch_write_item", "batch_get_item", "transact_write_items", "get_item"}


def find_imports(file: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def find_calls(file: Path) -> set[str]:
    """Return the names of the methods and functions that a file calls."""
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    return {call.attr if isinstance(call, ast.Attribute) else getattr(call, "id", "") for call in calls}


def find_package(module: str) -> str:
    """Return the package of a module of the library; empty for a module beside the packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "accession" and len(parts) > 1 and (ROOT / parts[1]).is_dir() else ""


def name_file(file: Path) -> str:
    return str(file.relative_to(REPO / "include" if file.is_relative_to(ROOT) else REPO))


def test_the_floor_plan_has_every_package_and_no_circle() -> None:
    assert {folder.parent.name for folder in ROOT.glob("*/__init__.py")} == FLOOR_PLAN.keys()
    TopologicalSorter(FLOOR_PLAN).prepare()


@pytest.mark.parametrize("file", LIBRARY, ids=name_file)
def test_imports_point_one_way_between_packages(file: Path) -> None:
    own = file.parent.name if file.parent != ROOT else ""
    used = {find_package(module) for module in find_imports(file)} - {"", own}
    assert used <= FLOOR_PLAN.get(own, set())


@pytest.mark.parametrize("file", [*LIBRARY, *PLUGINS, *sorted((REPO / "dags").glob("*.py"))], ids=name_file)
def test_a_package_is_entered_by_its_front(file: Path) -> None:
    """Other packages and the plugin take what `__init__` re-exports, and never reach for a module inside."""
    own = file.parent.name if file.is_relative_to(ROOT) and file.parent != ROOT else ""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and find_package(node.module) not in ("", own):
            assert node.module.count(".") == 1, f"{node.module} is inside a package"


@pytest.mark.parametrize(
    ("package", "foreign"),
    [
        ("artifacts", ["dynamodb", "target", "source", "run"]),
        ("target", ["dynamodb", "source", "run"]),
        ("audit", ["dynamodb", "source", "run"]),
        ("dynamodb", ["artifacts", "target", "source", "run"]),
        ("items", ["artifacts", "dynamodb", "source"]),
    ],
)
def test_no_package_is_reached_by_a_way_round(package: str, foreign: list[str]) -> None:
    """What a package loads, itself and through others, in an interpreter of its own."""
    code = f"import sys, accession.{package}; print(*[m for m in sys.modules if m.startswith('accession.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {find_package(module) for module in done.stdout.split()}
    assert package in loaded
    assert loaded.isdisjoint(foreign)


@pytest.mark.parametrize("file", LIBRARY, ids=name_file)
def test_the_library_knows_nothing_of_airflow(file: Path) -> None:
    assert [name for name in find_imports(file) if name.split(".")[0] in ("airflow", "accession_airflow")] == []


@pytest.mark.parametrize("file", LIBRARY, ids=name_file)
def test_each_service_has_one_door(file: Path) -> None:
    """S3 has one door, the two modules of S3_DOOR; DynamoDB has its package; SQLite is opened in the modules named."""
    imports, calls, name = find_imports(file), find_calls(file), str(file.relative_to(ROOT))
    is_cli, is_dynamodb = name.startswith("cli/"), name.startswith("dynamodb/")
    aws = {module for module in imports if module.split(".")[0] in ("boto3", "botocore")}
    if name not in {*S3_DOOR, "aws.py"} and not is_cli and not is_dynamodb:
        assert aws == set()
    if name not in S3_DOOR and not is_cli:
        assert calls & S3_CALLS == set()
    assert calls & DYNAMODB_CALLS == set()  # operations are sent by name
    source = {"source/database.py", "source/snapshot.py", "source/restore.py", "cli/sample.py"}
    if name not in source | {"artifacts/id_map.py", "artifacts/map_union.py", "run/survey.py"}:
        assert "sqlite3.connect" not in file.read_text()


@pytest.mark.parametrize("file", sorted((REPO / "dags").glob("*.py")), ids=lambda file: file.name)
def test_a_dag_file_is_one_call_and_airflow_takes_it_for_one(file: Path) -> None:
    """By default Airflow parses only files that hold the words dag and airflow."""
    statements = ast.parse(file.read_text()).body
    assert [type(statement) for statement in statements] == [ast.Expr, ast.ImportFrom, ast.Expr]
    assert all(word in file.read_text().lower() for word in ("dag", "airflow"))


@pytest.mark.parametrize("file", sorted((REPO / "plugins").rglob("*_dag.py")), ids=lambda file: file.name)
def test_a_task_of_a_dag_is_one_call(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and any("task" in ast.unparse(d) for d in node.decorator_list):
            assert [type(statement) for statement in node.body] == [ast.Return], node.name


def test_the_package_for_airflow_knows_nothing_of_rows() -> None:
    for file in (REPO / "plugins/accession_airflow").glob("*.py"):
        calls = find_calls(file)
        assert calls & (S3_CALLS | DYNAMODB_CALLS) == set(), file.name
