"""What every suite stands on: a real MiniStack, a fresh library per test, no way off the machine, an Airflow home."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import pytest
from hypothesis import settings

REPO = Path(__file__).parent.parent
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="accession-airflow-"))

# Airflow reads these once, when it is first imported, so they are set before any test module is.
os.environ.update(
    {
        "AIRFLOW_HOME": str(AIRFLOW_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPO / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPO / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW_CONN_AWS_DEFAULT": "aws://",
        "PYTHONPATH": os.pathsep.join([str(REPO / "include"), str(REPO / "plugins")]),
    }
)
# Whatever AWS the developer is logged in to, the tests do not know it.
for name in [name for name in os.environ if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]:
    del os.environ[name]
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.devnull
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# A test is a deployment, too: it says what its runs may do. Its environments are called t<digits>, see make_library.
for name in [name for name in os.environ if name.startswith("ACCESSION_") and name != "ACCESSION_SEED"]:
    del os.environ[name]
DEPLOYMENT = {
    "ACCESSION_ALLOWED_SOURCES": tempfile.gettempdir(),
    "ACCESSION_ALLOWED_BUCKETS": "accession-*",
    "ACCESSION_ENVIRONMENTS_WITHOUT_APPROVAL": "local, t*",
}
os.environ.update(DEPLOYMENT)

# `quick` is for the minute before a commit, `thorough` for CI and the long suites: HYPOTHESIS_PROFILE=thorough, or
# pytest --hypothesis-profile=thorough. Neither has a deadline, since two cores are shared with MiniStack and a slow
# example proves nothing, and neither leaves a database of examples in the repository.
settings.register_profile("quick", deadline=None, database=None, print_blob=True, max_examples=10)
settings.register_profile("thorough", deadline=None, database=None, print_blob=True, max_examples=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


class LeftTheMachineError(BaseException):
    """A test tried to reach something that is not on this machine. Not an Exception, so that no retry swallows it."""


HERE = {"localhost", "::1", "0.0.0.0", socket.gethostname()}


def refuse_other_machines(event: str, args: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        address = args[1]
    elif event == "socket.getaddrinfo":
        address = args
    else:
        return
    if isinstance(address, tuple):  # a Unix socket's address is a path
        host = address[0]
        if isinstance(host, bytes):
            host = host.decode()
        if host and host not in HERE and not host.startswith("127."):
            raise LeftTheMachineError(f"a test tried to reach {host}; tests talk to this machine only")


sys.addaudithook(refuse_other_machines)


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


Service = Literal["cloudformation", "dynamodb", "s3"]


@dataclass(frozen=True)
class LocalAws:
    """The running MiniStack; `os.environ` points at it."""

    endpoint: str
    region: str
    pid: int
    _clients: dict[str, Any] = field(default_factory=dict, repr=False)

    def client(self, service: Service, **options: Any) -> Any:
        """A boto3 client; one per service, unless options ask for a new one."""
        import boto3

        if options:
            return boto3.client(service, **options)
        if service not in self._clients:
            self._clients[service] = boto3.client(service)
        return self._clients[service]


@dataclass(frozen=True)
class Library:
    """A home library's target that nobody has used: three empty tables and a bucket."""

    aws: LocalAws
    environment: str
    bucket: str

    @property
    def tables(self) -> dict[str, str]:
        """Entity → table name."""
        return {
            entity: f"BookLibrary-{name}-{self.environment}"
            for entity, name in {"user": "Users", "book": "Books", "user_book": "UserBooks"}.items()
        }

    def scan(self, entity: str) -> list[dict[str, Any]]:
        """Every item of the entity's table, in DynamoDB's typed JSON."""
        pages = (
            self.aws.client("dynamodb")
            .get_paginator("scan")
            .paginate(TableName=self.tables[entity], ConsistentRead=True)
        )
        return [item for page in pages for item in page["Items"]]


@pytest.fixture(scope="session")
def aws() -> Iterator[LocalAws]:
    """MiniStack on a free port, with `os.environ` pointing boto3 at it."""
    from botocore.loaders import create_loader

    from accession.cli.ministack import start_ministack

    with start_ministack() as ministack, pytest.MonkeyPatch.context() as patch:
        # Airflow's hooks open a session for each client, and each would parse botocore's models again, in 0.3 s.
        patch.setattr("botocore.session.create_loader", cache(create_loader))
        for key, value in ministack.environ.items():
            patch.setenv(key, value)
        yield LocalAws(ministack.endpoint, ministack.region, ministack.pid)


@cache
def table_definitions() -> list[dict[str, Any]]:
    """The tables as the home library's template has them, since 0.1.0, for CreateTable.

    CreateTable takes 3 ms each, a stack 200 ms; test_deploy shows that a stack makes the same tables.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))
    template = yaml.load((REPO / "tests/fixtures/v0_1_0/tables.yaml").read_text(), Loader)
    keys = ("TableName", "BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes")
    return [
        {key: resource["Properties"][key] for key in keys}
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::DynamoDB::Table"
    ]


def make_library(aws: LocalAws) -> Library:
    """A fresh environment: three empty tables as the template defines them, and an empty versioned bucket."""
    environment = f"t{uuid4().hex[:8]}"
    bucket = f"accession-{environment}"
    for definition in table_definitions():
        aws.client("dynamodb").create_table(
            **definition | {"TableName": definition["TableName"].replace("${Environment}", environment)}
        )
    aws.client("s3").create_bucket(Bucket=bucket)
    aws.client("s3").put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return Library(aws, environment, bucket)


@pytest.fixture
def library(aws: LocalAws) -> Library:
    """A fresh environment for one test."""
    return make_library(aws)


@pytest.fixture(scope="session")
def airflow_home() -> Path:
    """A temporary AIRFLOW_HOME with its metadata database made; DAGS_FOLDER and PLUGINS_FOLDER are the repository's."""
    from airflow.utils.db import initdb

    initdb()
    return AIRFLOW_HOME
