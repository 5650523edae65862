"""The params of a run: every one has its bounds, unknown ones are refused, and the message names the param."""

import os
import subprocess
import sys
from typing import Any

import pytest

from accession.conf import check_params, drop_defaults, restore_params
from accession.errors import ParamsError
from accession.params import MigrateParams, RollbackParams

RUN = "20260105T123456Z-0123abcd"


def test_without_any_the_defaults_are_the_careful_choices() -> None:
    params = check_params(MigrateParams, {})
    assert (params.on_failure, params.on_conflict, params.existing_items, params.max_rejects, params.dry_run) == (
        "rollback",
        "refuse",
        "refuse",
        0,
        False,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"environment": "prod-2_x"},
        {"bucket": "my.bucket-1"},
        {"max_rejects": 0},
        {"rows_per_part": 100},
        {"rows_per_part": 1_000_000},
        {"write_units_per_second": 1},
        {"write_units_per_second": None},
        {"app_url": "http://localhost:5000/health"},
        {"app_url": "https://library.example.org"},
        {"resume": RUN},
        {"seal": "cutover on Monday"},
        {"dry_run": True, "on_conflict": "keep"},
    ],
)
def test_values_within_bounds_pass(given: dict[str, Any]) -> None:
    params = check_params(MigrateParams, given)
    for name, value in given.items():
        assert getattr(params, name) == value


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sauce": "x"}, "Param sauce: there is no such param; did you mean source? Known are source, "),
        ({"environment": ""}, "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter"),
        ({"environment": "a/b"}, "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter"),
        ({"environment": "-x"}, "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter"),
        ({"environment": "x" * 65}, "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter"),
        ({"environment": "prod\n"}, "Param environment: must be 1 to 64 letters, digits, _ and -, with a letter"),
        ({"bucket": "My_Bucket"}, "Param bucket: must be the name of a bucket: 3 to 63"),
        ({"bucket": "s3://bucket"}, "Param bucket: must be the name of a bucket: 3 to 63"),
        ({"approval": "maybe"}, "Param approval: must be auto, always or never"),
        ({"on_failure": "undo"}, "Param on_failure: must be rollback or keep"),
        ({"on_conflict": ""}, "Param on_conflict: must be refuse, keep or overwrite"),
        ({"existing_items": "overwrite"}, "Param existing_items: must be refuse or keep"),
        ({"deletes": "no"}, "Param deletes: must be delete or keep"),
        ({"max_rejects": -1}, "Param max_rejects: must be at least 0"),
        ({"max_rejects": 1.5}, "Param max_rejects: must be a whole number"),
        ({"max_rejects": None}, "Param max_rejects: must be a whole number"),
        ({"rows_per_part": 99}, "Param rows_per_part: must be at least 100"),
        ({"rows_per_part": 1_000_001}, "Param rows_per_part: must be at most 1000000"),
        ({"write_units_per_second": 0}, "Param write_units_per_second: must be at least 1"),
        ({"app_url": "ftp://x"}, "Param app_url: must be a URL that begins with http:// or https://"),
        ({"app_url": "file:///etc/passwd"}, "Param app_url: must be a URL that begins with http:// or https://"),
        ({"resume": "latest"}, "Param resume: must be the name of a run, such as 2026"),
        ({"seal": "ok"}, "Param seal: must have at least 3 characters"),
        ({"unseal": "x" * 501}, "Param unseal: must have at most 500 characters"),
        ({"dry_run": "perhaps"}, "Param dry_run: must be true or false"),
        ({"dry_run": True, "seal": "cutover"}, "Param dry_run excludes seal, unseal and resume: a dry run writes"),
        ({"dry_run": True, "resume": RUN}, "Param dry_run excludes seal, unseal and resume: a dry run writes nothing"),
    ],
)
def test_values_beyond_bounds_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as refused:
        check_params(MigrateParams, given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"run": "20260105"}, "Param run: must be the name of a run, such as 2026"),
        ({"run": f"{RUN}x"}, "Param run: must be the name of a run, such as 2026"),
        (
            {"restore_target": True},
            "Param restore_target: there is no such param; did you mean restore_to? Known are run, environment",
        ),
        ({"undo_tables": "perhaps"}, "Param undo_tables: must be true or false"),
        ({"target": "perhaps"}, "Param undo_tables: must be true or false"),
        ({"restore_to": True}, "Param restore_to: must be text"),
        ({"restore_source": True}, "Param restore_to: must be text"),
        ({"restore_to": 1}, "Param restore_to: must be text"),
        ({"target": False, "undo_tables": False}, "Params target and undo_tables are the same: give undo_tables alone"),
        ({"restore_to": "a", "restore_source": "a"}, "are the same: give restore_to alone"),
    ],
)
def test_the_undo_s_params_have_bounds_too(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as refused:
        check_params(RollbackParams, given)
    assert message in str(refused.value)


def test_a_run_to_undo_is_named_or_empty() -> None:
    assert check_params(RollbackParams, {"run": RUN}).run == RUN
    assert check_params(RollbackParams, {}).run == ""


def test_old_names_are_accepted_with_a_warning_that_names_the_new_one(caplog: pytest.LogCaptureFixture) -> None:
    params = check_params(RollbackParams, {"target": False, "restore_source": "/data/site.db"})
    assert (params.undo_tables, params.restore_to) == (False, "/data/site.db")
    assert [record.getMessage() for record in caplog.records] == [
        "Param target is now undo_tables; use the new name, as the old one ends with version 0.3.",
        "Param restore_source is now restore_to; use the new name, as the old one ends with version 0.3.",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


def test_new_names_warn_of_nothing_and_the_form_shows_no_others(caplog: pytest.LogCaptureFixture) -> None:
    check_params(RollbackParams, {"undo_tables": False, "restore_to": "/data/site.db"})
    assert caplog.records == []
    assert {"target", "restore_source"}.isdisjoint(RollbackParams.model_json_schema()["properties"])


def test_the_defaults_that_airflow_adds_are_no_second_value_of_a_param() -> None:
    """Airflow hands over every param with its default, whatever was typed."""
    defaults = RollbackParams().model_dump()
    typed = {"target": False, "restore_source": "/data/site.db"}
    params = check_params(RollbackParams, drop_defaults(RollbackParams, defaults | typed))
    assert (params.undo_tables, params.restore_to) == (False, "/data/site.db")
    with pytest.raises(ParamsError, match="are the same: give restore_to alone"):
        check_params(RollbackParams, drop_defaults(RollbackParams, defaults | typed | {"restore_to": "/elsewhere"}))
    with pytest.raises(ParamsError, match="Param sauce: there is no such param"):
        check_params(RollbackParams, drop_defaults(RollbackParams, defaults | {"sauce": None}))


@pytest.mark.parametrize("model", [MigrateParams, RollbackParams])
def test_every_param_has_a_title_a_description_and_a_section(model: type[MigrateParams] | type[RollbackParams]) -> None:
    for name, field in model.model_json_schema()["properties"].items():
        assert field.get("title"), name
        assert field.get("description", "").endswith("."), name
        assert field.get("section"), name


def test_a_resumed_run_goes_on_with_its_own_params_and_what_is_given_now() -> None:
    first = check_params(MigrateParams, {"write_units_per_second": 500, "app_url": "http://app", "max_rejects": 3})
    now = check_params(MigrateParams, {"resume": RUN, "on_conflict": "keep", "seal": "cutover"})
    resumed = first.resume_with(now)
    assert (resumed.write_units_per_second, resumed.app_url, resumed.max_rejects) == (500, "http://app", 3)
    assert (resumed.resume, resumed.on_conflict, resumed.seal) == (RUN, "keep", "cutover")


def test_what_staging_has_used_up_cannot_be_given_to_a_resume() -> None:
    first = check_params(MigrateParams, {"max_rejects": 3})
    first.resume_with(check_params(MigrateParams, {"resume": RUN, "max_rejects": 3}))
    message = r"Param max_rejects cannot change in a resume: the run was staged with 3\. Leave it out\."
    with pytest.raises(ParamsError, match=message):
        first.resume_with(check_params(MigrateParams, {"resume": RUN, "max_rejects": 4}))


def test_the_params_of_a_stored_run_are_read_or_named() -> None:
    assert restore_params(RUN, {"max_rejects": 3}) == MigrateParams(max_rejects=3)
    for stored in ({"max_rejects": 3, "a_param_of_tomorrow": 1}, {"approval": "by two"}):
        with pytest.raises(ParamsError, match=f"^Run {RUN} has params of another version of Accession: .* Param a"):
            restore_params(RUN, stored)


@pytest.mark.parametrize(("given", "environment"), [(None, "local"), ("", "local"), ("prod", "prod")])
def test_where_nobody_fills_in_a_form_airflow_names_the_environment(given: str | None, environment: str) -> None:
    """As a process of Airflow's finds it: in a process of its own."""
    variables = {name: value for name, value in os.environ.items() if name != "ACCESSION_ENVIRONMENT"}
    code = "from accession.params import MigrateParams; print(MigrateParams().environment)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=variables | ({"ACCESSION_ENVIRONMENT": given} if given is not None else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == environment
