"""What `make package` builds, in an Airflow of its own that has other DAGs: installed as MWAA does, and run."""

import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from deployment import Deployment, knows, start_airflow, wait_until

from accession.cli.sample import write_sample
from accession.mapping import MAPPINGS
from conftest import REPO, LocalAws

pytestmark = [pytest.mark.packaging, pytest.mark.timeout(600)]

VENV = Path(__file__).parent / ".venv"
PYTHON = VENV / "bin/python"
UV = os.environ.get("UV", str(REPO / ".venv/uv/bin/uv"))
MWAA = "/usr/local/airflow/plugins/"
MAPPING = (MAPPINGS / "book_library.yaml").read_text()

DAGS = '''"""The DAGs of Accession for Airflow."""

from accession_airflow import make_dags

make_dags(globals())
'''
CHECK = '''"""An import error of this file names a broken mapping that has no DAG in Airflow."""

from accession_airflow import check_mappings

check_mappings(globals())
'''
FOREIGN = """
from airflow.sdk import DAG, task

with DAG("foreign", schedule=None):
    task(task_id="work")(lambda: "done")()
"""


def run_uv(*arguments: str) -> str:
    done = subprocess.run([UV, "pip", *arguments, "--python", str(PYTHON)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """The folder that `make package` fills. The environment that the tests run in is not set up again."""
    make = ["make", "--no-print-directory", "--old-file=.venv/.ready", "package"]
    subprocess.run(make, cwd=REPO, check=True, capture_output=True)
    return REPO / "dist"


@pytest.fixture(scope="module")
def before() -> list[str]:
    """An Airflow without Accession, and the versions that it has."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(VENV)], check=True)
    run_uv("sync", "--quiet", "--compile-bytecode", "--require-hashes", str(VENV.parent / "requirements.lock"))
    return run_uv("freeze").splitlines()


@pytest.fixture(scope="module")
def plugins(package: Path, before: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of plugins after MWAA has unpacked plugins.zip and installed the requirements."""
    folder = tmp_path_factory.mktemp("plugins")
    with zipfile.ZipFile(package / "plugins.zip") as archive:
        archive.extractall(folder)
    requirements = tmp_path_factory.mktemp("mwaa") / "requirements.txt"
    requirements.write_text((package / "mwaa-requirements.txt").read_text().replace(MWAA, f"{folder}/"))
    run_uv("install", "--quiet", "-r", str(requirements))
    return folder


def make_environ(home: Path, **environ: str) -> dict[str, str]:
    """The environment of a process of that Airflow: nothing of this repository is on its path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTHON"))}
    return kept | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": ""} | environ


def test_installing_the_wheel_moves_no_version(before: list[str], plugins: Path) -> None:
    after = run_uv("freeze").splitlines()
    added = [line for line in after if line not in before]
    assert [line for line in before if line not in after] == []
    assert [line.partition(" ")[0] for line in added] == ["accession"]
    run_uv("check")


def test_the_plugin_is_found_once_by_its_entry_point(plugins: Path, tmp_path: Path) -> None:
    code = (
        "import json; from airflow.plugins_manager import _get_plugins as get\n"
        "found, errors = get(); print('RESULT', json.dumps([[str(p.source) for p in found], errors]))"
    )
    environ = make_environ(tmp_path, AIRFLOW__CORE__PLUGINS_FOLDER=str(plugins))
    done = subprocess.run([PYTHON, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sources, errors = json.loads(done.stdout.rpartition("RESULT")[2])
    assert errors == {}
    entry = "EntryPoint(name='accession', value='accession_plugin:AccessionPlugin', group='airflow.plugins')"
    assert [source for source in sources if "accession" in source] == [f"accession==0.2.0: {entry}"]


@pytest.fixture(scope="module")
def deployed(aws: LocalAws, plugins: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Tables and bucket, deployed by the wheel's own templates; a DAGs folder with mappings, one of them broken."""
    dags = tmp_path_factory.mktemp("dags")
    (dags / "accession_dags.py").write_text(DAGS)
    (dags / "accession_check.py").write_text(CHECK)
    (dags / "foreign.py").write_text(FOREIGN)
    (dags / "mappings").mkdir()
    (dags / "mappings/book_library.yaml").write_text(MAPPING)
    (dags / "mappings/broken.yaml").write_text(MAPPING.replace("name: book_library", "nome: broken"))
    environ = make_environ(dags, ACCESSION_MAPPINGS=str(dags / "mappings"))
    command = [str(PYTHON), "-m", "accession.cli", "deploy", "--environment", "local"]
    done = subprocess.run(command, env=environ, cwd=dags, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bucket = next(line for line in done.stdout.splitlines() if line.startswith("bucket: "))
    return dags, bucket.removeprefix("bucket: ")


@pytest.fixture(scope="module")
def airflow(
    deployed: tuple[Path, str], plugins: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    home = tmp_path_factory.mktemp("airflow")
    environ = {
        "AIRFLOW__CORE__DAGS_FOLDER": str(deployed[0]),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(plugins),
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
        "AIRFLOW__ACCESSION__BUCKET": deployed[1],
        "ACCESSION_BUCKET": deployed[1],
        "PYTHONPATH": "",
    }
    dag_ids = ("migrate_book_library", "rollback_book_library", "foreign")
    with start_airflow(home, environ, PYTHON.with_name("airflow"), dag_ids) as deployment:
        yield deployment


def list_errors(airflow: Deployment) -> dict[str, str]:
    found = airflow.call("GET", "/importErrors")["import_errors"]
    return {error["filename"]: error["stack_trace"] for error in found}


def test_a_broken_mapping_is_an_import_error_and_breaks_no_other_dag(
    airflow: Deployment, deployed: tuple[Path, str]
) -> None:
    wait_until(lambda: bool(list_errors(airflow)), "the check is parsed", 60)
    ((file, trace),) = list_errors(airflow).items()
    assert file == "accession_check.py"
    assert f"{deployed[0]}/mappings/broken.yaml: name: this key is missing. nome: there is no such key" in trace
    time.sleep(5)  # so that every file is parsed again after the error was stored
    shown = {dag["dag_id"]: dag["has_import_errors"] for dag in airflow.call("GET", "/dags")["dags"]}
    assert shown == {"migrate_book_library": False, "rollback_book_library": False, "foreign": False}


@pytest.fixture(scope="module")
def migrated(airflow: Deployment, deployed: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The sample, migrated; the id of Airflow's run."""
    source = write_sample(tmp_path_factory.mktemp("source") / "site.db")
    conf = {"source": str(source), "environment": "local", "bucket": deployed[1], "max_rejects": 2}
    run = airflow.trigger("migrate_book_library", conf)
    assert airflow.wait("migrate_book_library", run) == "success", airflow.log("migrate_book_library", run)
    return run


def find_run(airflow: Deployment, airflow_run: str) -> str:
    """The name of the run that a run of Airflow made."""
    path = f"/dags/migrate_book_library/dagRuns/{airflow_run}/taskInstances/backup/xcomEntries/run"
    return str(airflow.call("GET", path)["value"])


def test_a_migration_ends_verified_beside_a_foreign_dag(
    aws: LocalAws, airflow: Deployment, deployed: tuple[Path, str], migrated: str
) -> None:
    s3 = aws.client("s3")
    keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=deployed[1])["Contents"]]
    (report,) = [key for key in keys if key.endswith("/report.json")]
    assert json.load(s3.get_object(Bucket=deployed[1], Key=report)["Body"])["status"] == "verified"
    assert any(key.rpartition("/")[2].startswith("verify_register-") for key in keys)
    assert airflow.run("migrate_book_library", migrated)["note"] == "718 put, 2 rejected, verified"
    assert airflow.wait("foreign", airflow.trigger("foreign", {})) == "success"


def test_the_audit_pages_are_open_to_those_who_may_and_closed_to_others(
    airflow: Deployment, deployed: tuple[Path, str], migrated: str
) -> None:
    path = f"/accession/migrate_book_library/{deployed[1]}/local"
    shown = get_page(airflow, path)
    assert shown.status_code == 200
    assert find_run(airflow, migrated) in shown.text
    assert get_page(airflow, path, token="").status_code == 401
    assert get_page(airflow, path, token="forged").status_code == 403


def get_page(airflow: Deployment, path: str, token: str | None = None) -> httpx.Response:
    """Ask for a page as the user who is logged in, or with another token."""
    headers = {"Authorization": f"Bearer {airflow.token if token is None else token}"} if token != "" else {}
    return httpx.get(f"{airflow.url}{path}", headers=headers, timeout=60, trust_env=False)


def test_a_corrected_mapping_gets_its_dags_and_pages_without_a_restart(
    airflow: Deployment, deployed: tuple[Path, str]
) -> None:
    path = f"/accession/migrate_broken/{deployed[1]}/local"
    assert get_page(airflow, path).status_code == 404
    broken = deployed[0] / "mappings/broken.yaml"
    broken.write_text(broken.read_text().replace("nome: broken", "name: broken"))
    wait_until(partial(knows, airflow, "migrate_broken"), "the corrected mapping has its DAG", 60)
    wait_until(lambda: list_errors(airflow) == {}, "the import error is gone", 60)
    assert get_page(airflow, path).status_code == 200


def test_the_undo_of_the_wheel_empties_the_tables(
    aws: LocalAws, airflow: Deployment, deployed: tuple[Path, str], migrated: str
) -> None:
    conf = {"run": find_run(airflow, migrated), "environment": "local", "bucket": deployed[1]}
    run = airflow.trigger("rollback_book_library", conf)
    assert airflow.wait("rollback_book_library", run) == "success", airflow.log("rollback_book_library", run)
    assert aws.client("dynamodb").scan(TableName="BookLibrary-Users-local", Select="COUNT")["Count"] == 0
