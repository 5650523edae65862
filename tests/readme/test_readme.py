"""Every command of the README and of the documents, run as it stands, in its order, against a local AWS."""

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest

from accession.artifacts import Store
from accession.cli.sample import write_sample
from accession.mapping import MAPPINGS, load_mapping
from accession.target import load_state
from conftest import REPO, LocalAws

README, OPERATIONS = "README.md", "docs/operations.md"
DOCUMENTS = sorted(str(path.relative_to(REPO)) for path in [*REPO.glob("*.md"), *REPO.glob("docs/**/*.md")])
ELSEWHERE = {
    "make setup": ".ci/run",
    "make check": ".ci/run",
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "make test-unit": "tests/unit",
    "make up": "tests/stack",
    "make down": "tests/stack",
    "make clean": "tests/stack",
    "make ui": "tests/ui",
    "make bench": "docs/bench",
    "make draft": "tests/unit/test_draft.py",
}
ENVIRONMENT = "dev"
RUN_EXAMPLE = "20260105T120000Z-0123abcd"
SOURCE_EXAMPLE = "/path/to/site.db"


def read_commands(document: str) -> list[str]:
    """Return the lines of a document's shell blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", (REPO / document).read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and not line.startswith("#")]


def read_aws_commands(document: str) -> list[str]:
    """Return the commands of a document that work in AWS."""
    return [
        command for command in read_commands(document) if re.match(r"make (deploy|migrate|audit|rollback) ", command)
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_a_target_and_is_run_here_or_where_it_is_said(document: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for command in read_commands(document):
        words = shlex.split(command)
        if words[0] != "make":
            continue
        assert words[1] in targets, f"{document} says `{command}`, the Makefile has no such target"
        if words[1] in {"deploy", "migrate", "audit", "rollback"}:
            assert document in (README, OPERATIONS), f"`{command}` of {document} is run by no test"
        else:
            where = ELSEWHERE[" ".join(words[:2])]
            assert (REPO / where).exists()
    run = (REPO / ".ci" / "run").read_text()
    assert {"demo", "test", "check"} <= set(re.findall(r"[a-z-]+", run))


class Shell:
    """Runs README commands as a user whose shell is logged in to the local AWS."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.run_name = RUN_EXAMPLE

    def fill(self, command: str) -> str:
        """The command with this machine's file and this history's run in place of the README's examples."""
        return command.replace(SOURCE_EXAMPLE, str(self.source)).replace(RUN_EXAMPLE, self.run_name)

    def start(self, command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.fill(command), shell=True, cwd=REPO, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def __call__(self, command: str, code: int = 0) -> str:
        process = self.start(command)
        said, _ = process.communicate(timeout=280)
        assert process.returncode == code, said
        return said


@pytest.fixture(scope="module")
def shell(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    yield Shell(write_sample(tmp_path_factory.mktemp("readme") / "site.db", orphans=0, odd=0))


def open_store(aws: LocalAws) -> Store:
    import boto3

    from accession.cli.deploy import find_bucket

    bucket = find_bucket(ENVIRONMENT, boto3.Session())
    return Store(aws.client("s3"), bucket, load_mapping(MAPPINGS / "book_library.yaml").name, ENVIRONMENT)


def find_report(store: Store, said: str) -> dict[str, Any]:
    found = re.search(r"runs/([^/]+)/report\.html", said)
    assert found, said
    report: dict[str, Any] = orjson.loads(store.get(f"runs/{found[1]}/report.json"))
    return report


@pytest.mark.timeout(1500)
def test_the_commands_for_aws_do_what_the_documents_say(shell: Shell, aws: LocalAws) -> None:
    deploy, dry_run, migrate, audit, undo = read_aws_commands(README)
    audit_again, resume, undo_open, accept, undo_all, seal, unseal = read_aws_commands(OPERATIONS)
    assert audit_again == audit
    assert undo_open == undo
    assert "next: make migrate" in shell(deploy)
    store = open_store(aws)

    assert find_report(store, shell(dry_run))["status"] == "dry_run"
    first = find_report(store, shell(migrate))
    assert first["status"] == "verified"
    assert "is sound" in shell(audit)

    with closing(sqlite3.connect(shell.source)) as db, db:
        db.execute("UPDATE book SET title = 'Emma' WHERE id = 1")
    second = find_report(store, shell(migrate))
    assert (second["status"], second["entities"]["book"]["updated"]) == ("verified", 1)
    shell.run_name = second["run"]
    shell(undo)

    with closing(sqlite3.connect(shell.source)) as db, db:  # spoiled by somebody, and still a database
        db.execute("DELETE FROM book")
    shell.run_name = first["run"]
    shell(undo_all)
    with closing(sqlite3.connect(shell.source)) as db:
        assert db.execute("SELECT count(*) FROM book").fetchone() == (200,)
    assert "is sound" in shell(audit)

    shell.run_name = interrupt(shell, store, migrate)
    assert "RESUME=" in shell(migrate, code=2)
    assert find_report(store, shell(resume))["status"] == "verified"
    assert "is sound" in shell(audit)

    # What the application changed since stops an undo, until somebody accepts it.
    aws.client("dynamodb").update_item(
        TableName=f"BookLibrary-Books-{ENVIRONMENT}",
        Key={"book_id": find_key(aws)},
        UpdateExpression="SET title = :title",
        ExpressionAttributeValues={":title": {"S": "changed by the application"}},
    )
    assert "accept_conflicts" in shell(undo_open, code=2)
    shell(accept)
    aws.client("dynamodb").delete_item(TableName=f"BookLibrary-Books-{ENVIRONMENT}", Key={"book_id": find_key(aws)})

    assert find_report(store, shell(seal))["status"] == "verified"
    assert "sealed" in shell(migrate, code=2)
    assert find_report(store, shell(unseal))["status"] == "unchanged"
    assert "is sound" in shell(audit)


def find_key(aws: LocalAws) -> dict[str, str]:
    """Return the key of a book that is in its table."""
    key: dict[str, str] = aws.client("dynamodb").scan(TableName=f"BookLibrary-Books-{ENVIRONMENT}")["Items"][0][
        "book_id"
    ]
    return key


def interrupt(shell: Shell, store: Store, migrate: str) -> str:
    """Kill a run, with all its processes, as soon as it has the target open; its name."""
    process = shell.start(migrate)
    try:
        for _ in range(1200):
            assert process.poll() is None, process.communicate()[0]
            state = load_state(store)
            if state is not None and state.open is not None:
                return state.open.run
            time.sleep(0.1)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    raise AssertionError("the run did not open the target")
