"""Where the bench works: MiniStack for S3, the stand-in for DynamoDB, child processes that do the work."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import orjson
from certificate import write_certificate

from accession.artifacts import RunFolder, Store, client_config, split_put
from accession.cli.ministack import start_ministack
from accession.mapping import MAPPINGS, load_mapping

HERE = Path(__file__).parent
REPO = HERE.parent.parent
BENCH_PYTHON = REPO / "tests/bench/.venv/bin/python"
MAPPING = load_mapping(MAPPINGS / "book_library.yaml")
CERTIFICATE = "certificate.pem"
PARENTS = {"user": [], "book": [], "user_book": ["user", "book"]}


@dataclass(frozen=True)
class Prepared:
    """A library that is staged and open: everything up to the first write is done."""

    environment: str
    run: str
    epoch: int
    rows: int
    costs: dict[str, dict[str, Any]]


class Lab:
    """Both servers, and what runs against them."""

    def __init__(self, scratch: Path, ports: list[int], server_pid: int, s3: str, environ: dict[str, str]) -> None:
        self.scratch, self.server_pid = scratch, server_pid
        self.port, tls_port = ports
        self.dynamodb, self.s3_endpoint = f"http://127.0.0.1:{self.port}", s3
        self.tls, self.certificate = f"https://127.0.0.1:{tls_port}", scratch / CERTIFICATE
        self.environ = environ
        self.s3 = boto3.client("s3", endpoint_url=s3, config=client_config())
        self._created: set[str] = set()

    def tell(self, command: str, **request: Any) -> dict[str, Any]:
        """A command to the stand-in, or a DynamoDB operation that it speaks."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        connection.request("POST", "/", json.dumps(request), {"X-Amz-Target": command})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        connection.close()
        if response.status != 200:
            raise RuntimeError(f"{command}: {answer}")
        return answer

    def start(
        self, script: str, *arguments: str, bench: bool = False, environ: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A child process that prints JSON at its end."""
        return subprocess.Popen(
            [str(BENCH_PYTHON) if bench else sys.executable, str(HERE / script), *arguments],
            env=self.environ | (environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, child: "subprocess.Popen[str]") -> dict[str, Any]:
        """What the child printed last. Raises with its errors when it failed."""
        out, errors = child.communicate(timeout=1200)
        if child.returncode != 0:
            raise RuntimeError(f"{child.args!r} failed:\n{out[-2000:]}\n{errors[-4000:]}")
        result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return result

    def step(self, library: Prepared | None = None, /, **request: Any) -> dict[str, Any]:
        """One step of a migration, see steps.py."""
        return self.finish(self.begin(library, **request))

    def begin(
        self, library: Prepared | None = None, environ: dict[str, str] | None = None, **request: Any
    ) -> "subprocess.Popen[str]":
        """The same, not waiting for its end."""
        if library is not None:
            mine = {"bucket": self.bucket(library.environment), "environment": library.environment, "run": library.run}
            if request["step"] == "migrate":
                mine["epoch"] = library.epoch  # type: ignore[assignment]
            request = mine | request
        return self.start("steps.py", json.dumps(request), environ=environ)

    @staticmethod
    def bucket(environment: str) -> str:
        return f"accession-{environment}"

    @staticmethod
    def table(environment: str, name: str = "user_book") -> str:
        return MAPPING.entities[name].table(environment)

    def holds(self, environment: str, name: str) -> bool:
        """Whether the stand-in has that table."""
        return self.table(environment, name) in self._created

    def store(self, environment: str) -> Store:
        return Store(self.s3, self.bucket(environment), MAPPING.name, environment)

    def folder(self, library: Prepared) -> RunFolder:
        """The artifacts of a prepared library's run."""
        return RunFolder(self.store(library.environment), library.run)

    def prepare(self, environment: str, rows: int, rounds: int = 1) -> Prepared:
        """Make a library with so many user_books, its tables and bucket; back it up, stage `rounds` times, open it."""
        source = self.sample(users=rows // 20, books=rows // 10, user_books=rows)
        self.create_tables(environment)
        bucket = self.bucket(environment)
        self.s3.create_bucket(Bucket=bucket)
        here = {"bucket": bucket, "environment": environment}
        costs = {"backup": self.step(step="backup", source=str(source), **here) | {"rows": rows}}
        run = costs["backup"]["run"]
        id_maps: dict[str, str] = {}
        for name, parents in PARENTS.items():
            given = {parent: id_maps[parent] for parent in parents}
            tries = []
            for _ in range(rounds):
                self.s3.delete_object(
                    Bucket=bucket, Key=f"book_library/{environment}/runs/{run}/changes/{name}/index.json"
                )
                tries.append(self.step(step="stage", name=name, run=run, id_maps=given, **here))
            costs[f"stage.{name}"] = median(tries)
            id_maps[name] = costs[f"stage.{name}"]["id_map"]
        costs["plan"] = self.step(step="plan", run=run, **here)
        epoch = self.step(step="open", run=run, **here)["epoch"]
        return Prepared(environment, run, epoch, rows, costs)

    def sample(self, **rows: int) -> Path:
        """A library with so many users, books and user_books; made once."""
        path = self.scratch / f"{'-'.join(map(str, rows.values()))}.db"
        if not path.exists():
            self.step(step="sample", path=str(path), orphans=0, odd=0, **rows)
        return path

    def create_tables(self, environment: str, client: Any = None) -> None:
        """The tables of the mapping, empty: in the stand-in, or where `client` points."""
        if client is not None:
            self.drop_tables(environment, client)
        for entity in MAPPING.entities.values():
            names = {entity.target.keys[0], *(name for names in entity.indexes.values() for name in names)}
            request = {
                "TableName": entity.table(environment),
                "KeySchema": [{"AttributeName": entity.target.keys[0], "KeyType": "HASH"}],
                "AttributeDefinitions": [{"AttributeName": name, "AttributeType": "S"} for name in sorted(names)],
                "GlobalSecondaryIndexes": [
                    {
                        "IndexName": index,
                        "KeySchema": [
                            {"AttributeName": name, "KeyType": kind}
                            for name, kind in zip(names, ("HASH", "RANGE"), strict=False)
                        ],
                        "Projection": {"ProjectionType": "ALL"},
                    }
                    for index, names in entity.indexes.items()
                ],
            }
            if client is None:
                self.tell("CreateTable", **request)
                self._created.add(entity.table(environment))
            else:
                client.create_table(BillingMode="PAY_PER_REQUEST", **request)

    @staticmethod
    def drop_tables(environment: str, client: Any) -> None:
        """Take the tables away where `client` points."""
        for entity in MAPPING.entities.values():
            with suppress(client.exceptions.ResourceNotFoundException):
                client.delete_table(TableName=entity.table(environment))

    def forget_progress(self, library: Prepared) -> None:
        """As if no part had been begun: else the next execution reads first what is there."""
        store = self.store(library.environment)
        for path in list(store.list(f"runs/{library.run}/progress/")):
            self.s3.delete_object(Bucket=store.bucket, Key=store.prefix + path)

    def read_items(self, library: Prepared, name: str = "user_book") -> Iterator[dict[str, Any]]:
        """The items of a change set, as typed JSON."""
        folder = self.folder(library)
        for part in folder.load_staged(name).parts:
            for line in folder.read_lines(name, part):
                put = split_put(line)
                assert put
                yield orjson.loads(put[1])


def median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The result with the median CPU time; the others' times beside it."""
    ordered = sorted(results, key=lambda result: result["cpu"])
    middle = dict(ordered[len(ordered) // 2])
    middle["all"] = [{"wall": result["wall"], "cpu": result["cpu"]} for result in results]
    return middle


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Start both servers; stop them and remove every file at the end."""
    with tempfile.TemporaryDirectory(prefix="accession-bench-") as scratch, start_ministack() as ministack:
        folder = Path(scratch)
        certificate = write_certificate(folder / CERTIFICATE)
        server = subprocess.Popen(
            [sys.executable, str(HERE / "standin.py"), str(certificate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.stdout and server.stdin
            ports = [int(port) for port in server.stdout.readline().split()]
            kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AIRFLOW"))}
            kept.pop("PYTHONDONTWRITEBYTECODE", None)
            environ = kept | ministack.environ | {
                "AWS_ENDPOINT_URL_S3": ministack.endpoint,
                "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{ports[0]}",
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
                "AIRFLOW_HOME": str(folder / "airflow"),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
                "PYTHONPATH": os.pathsep.join([str(REPO / "include"), str(REPO / "plugins")]),
                "TMPDIR": scratch,
            }  # fmt: skip
            os.environ.update({name: environ[name] for name in environ if name.startswith("AWS_")})
            yield Lab(folder, ports, server.pid, ministack.endpoint, environ)
        finally:
            server.kill()
            server.wait()
