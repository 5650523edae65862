"""The params of a run: every one has its bounds, unknown ones are refused, and the message names the param."""

import os
import subprocess
import sys
from typing import Any

import pytest

from accession.errors import ParamsError
from accession.params import MigrateParams, RollbackParams, check_params

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
        ({"sauce": "x"}, "param sauce: there is no such param. Known are source, environment"),
        ({"environment": ""}, "param environment: "),
        ({"environment": "a/b"}, "param environment: should match pattern"),
        ({"environment": "-x"}, "param environment: should match pattern"),
        ({"environment": "x" * 65}, "param environment: should match pattern"),
        ({"environment": "prod\n"}, "param environment: should match pattern"),
        ({"bucket": "My_Bucket"}, "param bucket: should match pattern"),
        ({"bucket": "s3://bucket"}, "param bucket: should match pattern"),
        ({"approval": "maybe"}, "param approval: should be 'auto', 'always' or 'never'"),
        ({"on_failure": "undo"}, "param on_failure: should be 'rollback' or 'keep'"),
        ({"on_conflict": ""}, "param on_conflict: should be 'refuse', 'keep' or 'overwrite'"),
        ({"existing_items": "overwrite"}, "param existing_items: should be 'refuse' or 'keep'"),
        ({"deletes": "no"}, "param deletes: should be 'delete' or 'keep'"),
        ({"max_rejects": -1}, "param max_rejects: should be greater than or equal to 0"),
        ({"max_rejects": 1.5}, "param max_rejects: should be a valid integer"),
        ({"max_rejects": None}, "param max_rejects: should be a valid integer"),
        ({"rows_per_part": 99}, "param rows_per_part: should be greater than or equal to 100"),
        ({"rows_per_part": 1_000_001}, "param rows_per_part: should be less than or equal to 1000000"),
        ({"write_units_per_second": 0}, "param write_units_per_second: should be greater than or equal to 1"),
        ({"app_url": "ftp://x"}, "param app_url: should match pattern"),
        ({"app_url": "file:///etc/passwd"}, "param app_url: should match pattern"),
        ({"resume": "latest"}, "param resume: should match pattern"),
        ({"seal": "ok"}, "param seal: should have at least 3 characters"),
        ({"unseal": "x" * 501}, "param unseal: should have at most 500 characters"),
        ({"dry_run": "perhaps"}, "param dry_run: should be a valid boolean"),
        ({"dry_run": True, "seal": "cutover"}, "param dry_run: dry_run writes nothing: leave out seal"),
        ({"dry_run": True, "resume": RUN}, "param dry_run: dry_run writes nothing"),
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
        ({"run": "20260105"}, "param run: should match pattern"),
        ({"run": f"{RUN}x"}, "param run: should match pattern"),
        ({"restore_target": True}, "param restore_target: there is no such param"),
        ({"target": "perhaps"}, "param target: should be a valid boolean"),
    ],
)
def test_the_undo_s_params_have_bounds_too(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError) as refused:
        check_params(RollbackParams, given)
    assert message in str(refused.value)


def test_a_run_to_undo_is_named_or_empty() -> None:
    assert check_params(RollbackParams, {"run": RUN}).run == RUN
    assert check_params(RollbackParams, {}).run == ""


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
    with pytest.raises(ParamsError, match="param max_rejects: the run to resume was staged with 3: leave it out"):
        first.resume_with(check_params(MigrateParams, {"resume": RUN, "max_rejects": 4}))


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
