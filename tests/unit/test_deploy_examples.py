"""The examples of docs/deploy say what the code takes. The machines that tests run on have neither Helm nor Docker."""

import re
import tomllib
from typing import Any

import yaml

from accession.deployment import Deployment, load_deployment
from conftest import REPO

DEPLOY = REPO / "docs/deploy"
VALUES: Any = yaml.safe_load((DEPLOY / "values.yaml").read_text())


def test_the_values_are_settings_that_are_read() -> None:
    given = VALUES["config"]["accession"]
    assert given.keys() <= Deployment.model_fields.keys()
    assert load_deployment(given.get).bucket == given["bucket"]


def test_the_image_holds_the_mappings_that_the_values_name() -> None:
    lines = (DEPLOY / "Dockerfile").read_text()
    folder = VALUES["config"]["accession"]["mappings"]
    assert f"mappings {folder}\n" in lines
    assert f"ENV AIRFLOW__ACCESSION__MAPPINGS={folder}\n" in lines


def test_the_image_installs_the_wheel_of_this_version() -> None:
    version = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["version"]
    named = set(re.findall(r"accession-[^ ]*\.whl", (DEPLOY / "Dockerfile").read_text()))
    assert named == {f"accession-{version}-py3-none-any.whl"}


def test_the_dockerfile_has_only_instructions_and_comments() -> None:
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    words = [line.split(" ")[0] for line in text.splitlines() if line and not line.startswith("#")]
    assert words == ["ARG", "FROM", "COPY", "RUN", "COPY", "ENV"]


def test_the_values_and_the_image_are_of_the_airflow_that_we_install() -> None:
    (locked,) = re.findall(r"^apache-airflow==(\S+)", (REPO / "requirements.lock").read_text(), re.MULTILINE)
    assert VALUES["airflowVersion"] == locked
    assert f"ARG AIRFLOW_IMAGE=apache/airflow:{locked}\n" in (DEPLOY / "Dockerfile").read_text()
