"""What the call in a DAG file makes of a folder of mappings, and what the audit pages see of it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from accession.errors import MappingError
from accession.mapping import MAPPINGS
from conftest import REPO

SOUND = (MAPPINGS / "book_library.yaml").read_text()


def write_mapping(folder: Path, name: str, text: str = SOUND) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(text.replace("name: book_library", f"name: {name}"))
    return path


@pytest.fixture
def dags(tmp_path: Path) -> Path:
    """A folder with the DAG files of a user, and mappings beside them: one sound, one broken."""
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "accession_dags.py").write_text("from accession_airflow import make_dags\n\nmake_dags(globals())\n")
    check = '"""Airflow shows what is wrong with a mapping that has no DAG."""\n'
    check += "from accession_airflow import check_mappings\n\ncheck_mappings(globals())\n"
    (folder / "check.py").write_text(check)
    write_mapping(folder / "mappings", "shop")
    write_mapping(folder / "mappings", "broken", "name: broken\nentities: [")
    return folder


def parse(folder: Path, airflow_home: Path) -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(str(folder))


def name_dags(*mappings: str) -> list[str]:
    return sorted(f"{kind}_{name}" for name in mappings for kind in ("migrate", "rollback"))


def test_a_broken_mapping_is_an_import_error_of_the_check_alone(dags: Path, airflow_home: Path) -> None:
    bag = parse(dags, airflow_home)
    assert sorted(bag.dags) == name_dags("book_library", "shop")
    ((file, error),) = bag.import_errors.items()
    assert file == str(dags / "check.py")
    assert f"{dags}/mappings/broken.yaml, line 2: this is not valid YAML" in error


def test_all_broken_mappings_are_named_at_once(dags: Path, airflow_home: Path) -> None:
    write_mapping(dags / "mappings", "odd", "[]")
    write_mapping(dags / "mappings", "book_library")
    (error,) = parse(dags, airflow_home).import_errors.values()
    for name in ("broken.yaml", "odd.yaml", "book_library.yaml has the same name"):
        assert name in error


def test_the_setting_names_another_folder(
    dags: Path, airflow_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mapping(tmp_path / "elsewhere", "other")
    monkeypatch.setenv("AIRFLOW__ACCESSION__MAPPINGS", str(tmp_path / "elsewhere"))
    bag = parse(dags, airflow_home)
    assert bag.import_errors == {}
    assert sorted(bag.dags) == name_dags("book_library", "other")


def test_a_relative_setting_is_taken_from_the_dag_file(
    dags: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mapping(dags / "more", "other")
    monkeypatch.setenv("AIRFLOW__ACCESSION__MAPPINGS", "more")
    assert sorted(parse(dags, airflow_home).dags) == name_dags("book_library", "other")


def test_tasks_load_the_mapping_from_its_folder(
    dags: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accession_airflow import job

    loaded: list[Path] = []
    monkeypatch.setattr(job, "_open_job", lambda file, context: loaded.append(file))
    bag = parse(dags, airflow_home)
    with pytest.raises(AttributeError):  # there is no job
        bag.dags["migrate_shop"].task_dict["preflight"].python_callable()
    assert loaded == [dags / "mappings/shop.yaml"]


def test_without_a_sound_mapping_the_dag_file_has_the_error(
    dags: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("accession.mapping.load.MAPPINGS", tmp_path / "none")
    (dags / "mappings/shop.yaml").unlink()
    assert "broken.yaml" in parse(dags, airflow_home).import_errors[str(dags / "accession_dags.py")]
    (dags / "mappings/broken.yaml").unlink()
    error = parse(dags, airflow_home).import_errors[str(dags / "accession_dags.py")]
    assert f"{dags}: there is no mapping: put one into the folder mappings beside this file" in error


@pytest.fixture
def pages(dags: Path, airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The DAGs folder of a process that parses no DAG file, such as the API server."""
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(dags))
    return dags


def test_the_audit_pages_see_the_mappings_as_they_are_now(pages: Path, caplog: pytest.LogCaptureFixture) -> None:
    from accession_airflow.mappings import index_mappings

    assert sorted(index_mappings()) == ["migrate_book_library", "migrate_shop"]
    assert "A mapping is left out of the audit pages" in caplog.text
    assert "broken.yaml" in caplog.text
    first = index_mappings()["migrate_shop"]
    assert index_mappings()["migrate_shop"] is first
    new = write_mapping(pages / "mappings", "new")
    write_mapping(pages / "mappings", "shop", SOUND + "\n# edited\n")
    assert sorted(index_mappings()) == ["migrate_book_library", "migrate_new", "migrate_shop"]
    assert index_mappings()["migrate_shop"].sha256 != first.sha256
    new.unlink()
    assert sorted(index_mappings()) == ["migrate_book_library", "migrate_shop"]


def test_a_folder_that_does_not_exist_is_a_sentence(pages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from accession_airflow.mappings import index_mappings

    monkeypatch.setenv("AIRFLOW__ACCESSION__MAPPINGS", str(pages / "typo"))
    with pytest.raises(MappingError, match="typo: this folder of mappings does not exist"):
        index_mappings()


def test_the_queue_is_airflows_default_unless_it_is_set(airflow_home: Path) -> None:
    code = (
        "import json, sys; from airflow.dag_processing.dagbag import DagBag\n"
        "dags = DagBag(sys.argv[1]).dags.values()\n"
        "print('RESULT', json.dumps(sorted({task.queue for dag in dags for task in dag.tasks})))"
    )
    environ = {**os.environ, "AIRFLOW__OPERATORS__DEFAULT_QUEUE": "fast"}
    command = [sys.executable, "-W", "ignore", "-c", code, str(REPO / "dags")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.rpartition("RESULT")[2]) == ["fast"]


# The plugin


API_SERVER = """
import json
from airflow.api_fastapi.app import create_app
from fastapi.testclient import TestClient

app = create_app(apps="core")
with TestClient(app) as client:
    version = client.get("/api/v2/version").status_code
    found = [client.get("/accession/").status_code for route in app.routes if route.path == "/accession"]
print("RESULT", json.dumps([version, found]))
"""


@pytest.mark.parametrize(("paths", "pages"), [(["include", "plugins"], [401]), (["plugins"], [])])
def test_the_api_server_starts_with_and_without_the_library(
    paths: list[str], pages: list[int], airflow_home: Path
) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(str(REPO / path) for path in paths)}
    command = [sys.executable, "-W", "ignore", "-c", API_SERVER]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.rpartition("RESULT")[2]) == [200, pages]
    lines = [line for line in (done.stdout + done.stderr).splitlines() if "There are no audit pages" in line]
    assert len(lines) == (0 if pages else 1)
