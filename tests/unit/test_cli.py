"""What `make` commands say when they are called wrongly, and what they show of Airflow's log."""

import os
from pathlib import Path
from typing import Any

import pytest

from accession.cli import main, ui
from accession.cli.airflow_process import AirflowRun, allow_conf, choose_lines
from accession.cli.deploy import Deployment
from accession.deployment import load_deployment, read_environ
from accession.errors import ConfigurationError, RefusedError
from accession.mapping import MAPPINGS
from accession.params import MigrateParams
from accession.permissions import expect_allowed, expect_restore, is_exempt

RUN = "20260105T120000Z-0123abcd"
LOG = """\
2026-01-05T12:00:00.1Z WARNING [py.warnings] Could not import graphviz.
Run `pip install graphviz`
2026-01-05T12:00:01.1Z INFO [airflow.sdk.definitions.dag] [DAG TEST] starting task_id=stage.user map_index=-1
2026-01-05T12:00:01.2Z INFO [accession.stage] user: 100 of 200 rows
2026-01-05T12:00:01.3Z WARNING [accession.stage] 1 row rejected
2026-01-05T12:00:02.1Z INFO [airflow.sdk.definitions.dag] [DAG TEST] starting task_id=migrate.user map_index=3
2026-01-05T12:00:02.2Z INFO [accession.report] table
----- -
user  1
2026-01-05T12:00:02.3Z INFO [accessioned.elsewhere] not ours
2026-01-05T12:00:03.1Z ERROR [task] Task failed with exception
Traceback (most recent call last):
  File "x.py", line 1, in x
accession.errors.RefusedError: 3 rows are rejected, max_rejects is 2: mend them.

2026-01-05T12:00:03.2Z ERROR [accession.report] said by us
2026-01-05T12:00:03.2Z ERROR [task] Task failed with exception
Traceback (most recent call last):
accession.errors.RefusedError: said by us
2026-01-05T12:00:03.2Z ERROR [accession.report] undo it:
  make rollback
2026-01-05T12:00:03.2Z ERROR [task] Task failed with exception
Traceback (most recent call last):
accession.errors.RefusedError: undo it:
  make rollback
2026-01-05T12:00:03.2Z INFO [task] ::group::Post Execute
2026-01-05T12:00:03.3Z ERROR [task] Task failed with exception
Traceback (most recent call last):
accession.errors.RefusedError: 3 rows are rejected, max_rejects is 2: mend them.
2026-01-05T12:00:03.4Z ERROR [task] Task failed with exception
Traceback (most recent call last):
accession.errors.RefusedError: 3 rows are rejected, max_rejects is 2: mend them.
2026-01-05T12:00:04.1Z ERROR [task] Task failed with exception
Traceback (most recent call last):
KeyError: 'x'
"""


def test_of_airflows_log_a_person_sees_tasks_our_own_words_and_reasons() -> None:
    assert list(choose_lines(LOG.splitlines())) == [
        ("  stage.user", False),
        ("      user: 100 of 200 rows", True),
        ("    ! 1 row rejected", True),
        ("  migrate.user[3]", False),
        ("      table", True),
        ("      ----- -", True),
        ("      user  1", True),
        ("    ! 3 rows are rejected, max_rejects is 2: mend them.", False),
        ("    ! said by us", True),
        ("    ! undo it:", True),
        ("        make rollback", True),
        ("    ! 3 rows are rejected, max_rejects is 2: mend them.", False),
        ("    ! KeyError: 'x'", False),
    ]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """The DAG runs that a command asked for; Airflow itself is not started."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def run_dag(dag_id: str, conf: dict[str, Any], **_: Any) -> AirflowRun:
        asked.append((dag_id, conf))
        return AirflowRun(True, (), Path("log"))

    monkeypatch.setattr(main, "run_dag", run_dag)
    return asked


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["deploy"], "ENVIRONMENT is missing: make deploy ENVIRONMENT=dev."),
        (["migrate", "--environment", "dev"], "SOURCE is missing: make migrate SOURCE="),
        (["rollback", "--environment", "dev"], "RUN is missing: make rollback RUN="),
        (["migrate", "--environment", "dev", "--source", "x", "--conf", "{"], "CONF is not valid JSON"),
        (
            ["migrate", "--environment", "dev", "--source", "x", "--conf", "[]"],
            "CONF is not a JSON object: write it as",
        ),
        (
            ["migrate", "--environment", "dev", "--source", "/x", "--conf", '{"source": "/y"}'],
            "Param source is /x on the command line, but /y in CONF: give it once.",
        ),
        (["migrate", "--environment", "prod", "--source", "/x"], "A run in prod asks a person"),
        (["migrate", "--environment", "dev", "--source", "/x", "--conf", '{"approval": "always"}'], "asks a person"),
        (["audit"], "ENVIRONMENT is missing: make audit ENVIRONMENT=dev."),
        (["rollback", "--environment", "prod", "--run", "r"], "A run in prod asks a person"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_starts_nothing(
    arguments: list[str], sentence: str, runs: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(arguments) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert runs == []


def test_a_resume_needs_no_source(runs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command is printed as `make migrate ENVIRONMENT=dev RESUME=…`, to be typed as it stands."""
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    assert main.main(["migrate", "--environment", "dev", "--resume", "r"]) == 0
    assert runs == [("migrate_book_library", {"environment": "dev", "resume": "r", "bucket": "ours"})]


def test_migrate_hands_the_dag_what_was_typed(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    call = [
        "migrate",
        "--source",
        "site.db",
        "--environment",
        "prod",
        "--resume",
        "r",
        "--conf",
        '{"approval": "never"}',
    ]
    assert main.main(call) == 0
    assert runs == [
        (
            "migrate_book_library",
            {
                "approval": "never",
                "environment": "prod",
                "source": str(tmp_path / "site.db"),  # tasks work elsewhere
                "resume": "r",
                "bucket": "ours",
            },
        )
    ]


def test_bucket_in_conf_wins_and_a_dry_run_asks_nobody(runs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    conf = '{"dry_run": true, "bucket": "theirs"}'
    assert main.main(["migrate", "--source", "s3://b/k.db", "--environment", "prod", "--conf", conf]) == 0
    [(_, given)] = runs
    assert given == {"dry_run": True, "bucket": "theirs", "environment": "prod", "source": "s3://b/k.db"}


def test_a_failed_run_fails_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(main, "run_dag", lambda *_, **__: AirflowRun(False, (), Path("log")))
    assert main.main(["migrate", "--source", "x", "--environment", "dev", "--conf", '{"bucket": "b12"}']) == 1


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ('{"on_conflict": "keeep"}', "Param on_conflict: must be refuse, keep or overwrite."),
        ('{"max_rejects": "many"}', "Param max_rejects: must be a whole number."),
        ('{"max_rejects": NaN}', "Param max_rejects: must be a finite number."),
        ('{"max_rejects": 9223372036854775808}', "Param max_rejects: must be at most 1000000000000."),
        ('{"bucket": 5}', "Param bucket: must be text, but is a number; put it in quotes."),
        ('{"sauce": 1}', "Param sauce: there is no such param; did you mean source? Known are source, "),
        ("[" * 5000, "CONF is not valid JSON"),
    ],
)
def test_a_wrong_param_is_named_before_airflow_starts(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], conf: str, message: str
) -> None:
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    assert main.main(["migrate", "--source", "site.db", "--environment", "dev", "--conf", conf]) == 2
    assert message in capsys.readouterr().err
    assert runs == []


@pytest.mark.parametrize("name", ["restore_to", "restore_source"])
def test_the_place_of_a_backup_is_checked_before_it_becomes_a_path(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    """Once `true` became the path "True", and the undo wrote a file of that name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    call = ["rollback", "--run", RUN, "--environment", "dev", "--conf"]
    for value in ("true", "5", "[]", "{}"):
        assert main.main([*call, f'{{"{name}": {value}}}']) == 2
        assert "Param restore_to: must be text, but is " in capsys.readouterr().err
    assert runs == []
    conf = {"environment": "dev", "run": RUN, "bucket": "ours"}
    for value, place in (("site.db", str(tmp_path / "site.db")), ("s3://b/k.db", "s3://b/k.db"), ("/x.db", "/x.db")):
        assert main.main([*call, f'{{"{name}": "{value}"}}']) == 0
        assert runs.pop() == ("rollback_book_library", {**conf, "restore_to": place})


def test_what_is_typed_on_this_machine_is_allowed_by_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The settings of the environment count as well, by either of their names."""
    monkeypatch.setenv("AIRFLOW__ACCESSION__ALLOWED_RESTORES", "/restored")
    monkeypatch.setenv("ACCESSION_SOURCE", "/data/site.db")
    odd = str(tmp_path / 'a, "b".db')
    environ = allow_conf(
        {"source": odd, "bucket": "theirs", "environment": "prod", "restore_to": odd, "app_url": "http://app/health"}
    )
    deployment = load_deployment(read_environ(environ))
    expect_allowed(deployment, MigrateParams(source=odd, bucket="theirs", app_url="http://app/health"))
    expect_restore(deployment, odd, "/data/site.db")
    assert deployment.allowed_restores == ("/restored", odd)
    assert is_exempt(deployment, "prod", is_in_each_table=False)
    with pytest.raises(RefusedError, match="Param bucket: this deployment does not allow others"):
        expect_allowed(deployment, MigrateParams(bucket="others"))


@pytest.mark.parametrize("command", ["deploy", "migrate", "rollback", "audit"])
def test_a_wrong_environment_is_refused_before_aws_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr("boto3.Session", lambda: pytest.fail("AWS was asked"))
    assert main.main([command, "--environment", "a/b"]) == 2
    assert "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter" in capsys.readouterr().err


@pytest.mark.parametrize("port", ["abc", "65536", "-1", "²"])
def test_the_ui_refuses_what_is_not_a_port(capsys: pytest.CaptureFixture[str], port: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        ui.main([f"--port={port}"])
    assert f"{port} is not a port: give a number up to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bucket", "Bad_One", "Option bucket: must be the name of a bucket: 3 to 63"),
        (
            "allowed_buckets",
            "good, Bad_One",
            "Option allowed_buckets.1: must be the name of a bucket, in which * ",
        ),
        ("allowed_sources", "data/site.db", "Option allowed_sources.0: must be an absolute path or an address that"),
        ("allowed_environments", "a/b", "Option allowed_environments.0: must be the name of an environment, in which"),
        ("allowed_app_urls", "ftp://x", "Option allowed_app_urls.0: must be a URL that begins with http:// or"),
        ("sns_topic", "topic", "Option sns_topic: must be an ARN, which begins with arn:"),
        ("approval_hours", "0", "Option approval_hours: must be at least 1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_takes(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_deployment({name: value}.get)
    assert str(refused.value).startswith(f"[accession] of Airflow's configuration: {message}")


def test_an_old_name_in_conf_is_warned_of_and_both_names_are_refused(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    call = ["rollback", "--run", RUN, "--environment", "dev", "--conf"]
    assert main.main([*call, '{"target": false}']) == 0
    assert runs.pop()[1]["undo_tables"] is False
    assert [record.getMessage() for record in caplog.records] == [
        "Param target is now undo_tables; use the new name, as the old one ends with version 0.3."
    ]
    assert main.main([*call, '{"target": false, "undo_tables": false}']) == 2
    assert "Params target and undo_tables are the same: give undo_tables alone." in capsys.readouterr().err
    assert runs == []


def test_deploy_says_what_to_type_next(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made = Deployment("ours", "arn:worker", "arn:source", "arn:pages", "arn:auditor", "created", "created")
    asked: list[dict[str, str]] = []

    def deploy(*_: Any, options: dict[str, str], **__: Any) -> Deployment:
        asked.append(options)
        return made

    monkeypatch.setattr(main, "deploy_stacks", deploy)
    call = ["deploy", "--environment", "dev"]
    assert main.main([*call, "--conf", '{"SourceRestore": true, "ObjectLockDays": 30}']) == 0
    assert asked == [{"SourceRestore": "true", "ObjectLockDays": "30"}]
    said = capsys.readouterr().out
    assert "next: make migrate SOURCE=/path/to/site.db ENVIRONMENT=dev\n" in said
    assert all(f": arn:{role}\n" in said for role in ("worker", "source", "pages", "auditor"))
    assert main.main(["deploy", "--environment", "dev", "--mapping", "book_library"]) == 0
    assert "next: make migrate MAPPING=book_library SOURCE=" in capsys.readouterr().out


def test_a_mapping_is_named_or_is_a_file_anywhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Airflow then looks for mappings in its folder, and the next command names the same file and source."""
    monkeypatch.setenv("ACCESSION_MAPPINGS", "elsewhere")
    deployed: list[Any] = []

    def deploy(mapping: Any, *_: Any, source: Path, **__: Any) -> Deployment:
        deployed.append((mapping.name, source))
        return Deployment("ours", "arn:worker", None, "arn:pages", "arn:auditor", "created", "created")

    monkeypatch.setattr(main, "deploy_stacks", deploy)
    text = (MAPPINGS / "book_library.yaml").read_text()
    file = tmp_path / "my own" / "shelf.yaml"
    file.parent.mkdir()
    file.write_text(text.replace("name: book_library", "name: shelf"))
    call = ["deploy", "--environment", "dev", "--mapping", str(file)]
    assert main.main([*call, "--source", "my site.db"]) == 0
    assert deployed == [("shelf", Path("my site.db"))]
    assert os.environ["ACCESSION_MAPPINGS"] == str(file.parent)
    said = capsys.readouterr().out
    assert f"next: make migrate MAPPING='{file}' SOURCE='my site.db' ENVIRONMENT=dev\n" in said

    file.rename(file.with_name("other.yaml"))
    assert main.main(call) == 2
    assert "There is no mapping shelf: set MAPPING to one of book_library, other" in capsys.readouterr().err
    assert main.main(["deploy", "--environment", "dev", "--mapping", str(file.with_name("other.yaml"))]) == 1
    assert "other.yaml: name: shelf is not the file's name: rename one of them." in capsys.readouterr().err
    assert len(deployed) == 1


@pytest.mark.parametrize(
    ("variables", "arguments", "message"),
    [
        (
            {"AWS_ENDPOINT_URL": "localhost:4566"},
            [],
            "AWS_ENDPOINT_URL is localhost:4566, which is not a URL: write http://localhost:4566",
        ),
        ({"AWS_PROFILE": "nope"}, [], "The config profile (nope) could not be found: set AWS_PROFILE"),
        ({}, ["--mapping", "nope"], "There is no mapping nope: set MAPPING to one of book_library"),
    ],
)
def test_what_is_wrong_around_a_command_is_a_sentence(
    runs: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    arguments: list[str],
    message: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert main.main(["migrate", "--source", "site.db", "--environment", "dev", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err


def test_another_mapping_is_another_dag(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text(
        (MAPPINGS / "book_library.yaml").read_text().replace("name: book_library", "name: other")
    )
    monkeypatch.setattr("accession.mapping.load.MAPPINGS", tmp_path)
    monkeypatch.setenv("ACCESSION_BUCKET", "ours")
    assert main.main(["migrate", "--source", "s", "--environment", "dev", "--mapping", "other"]) == 0
    assert main.main(["rollback", "--run", "r", "--environment", "dev", "--mapping", "other"]) == 0
    assert [run[0] for run in runs] == ["migrate_other", "rollback_other"]
