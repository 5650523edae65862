"""Make the trigger form from the models of the params and the settings of the deployment."""

from pathlib import PurePosixPath
from typing import Any

from airflow.sdk import Param
from pydantic import BaseModel

from accession.deployment import Deployment
from accession_airflow.settings import read_deployment


def make_params(model: type[BaseModel]) -> dict[str, Param]:
    """Return an Airflow Param for each field of `model`, by its name. What the deployment lists is a choice."""
    deployment = read_deployment()
    choices = _list_choices(deployment)
    return {
        name: _make_param(field, choices.get(name, []), deployment.environment if name == "environment" else None)
        for name, field in model.model_json_schema()["properties"].items()
    }


def _list_choices(deployment: Deployment) -> dict[str, list[str]]:
    """Return the values of the params that the deployment lists in full: names without `*`, and files."""
    given = {
        "source": (deployment.allowed_sources, deployment.source, lambda place: bool(PurePosixPath(place).suffix)),
        "bucket": (deployment.allowed_buckets, deployment.bucket, lambda name: "*" not in name),
        "environment": (deployment.allowed_environments, deployment.environment, lambda name: "*" not in name),
    }
    return {
        name: list(dict.fromkeys([*([default] if default else []), *listed]))
        for name, (listed, default, is_full) in given.items()
        if listed and all(map(is_full, listed))
    }


def _make_param(field: dict[str, Any], choices: list[str], configured: str | None) -> Param:
    schema = dict(field)
    default = configured or schema.pop("default", None)
    schema.pop("default", None)
    description = schema.pop("description", None)
    schema.pop("allowed", None)  # the wording of our error; Airflow shows the pattern
    kinds = schema.pop("anyOf", None)
    if kinds:
        for kind in kinds:
            schema |= {key: value for key, value in kind.items() if key != "type"}
        schema["type"] = ["null", *(kind["type"] for kind in kinds if kind["type"] != "null")]
    if choices:
        schema["enum"] = [None, *choices] if kinds else choices  # empty means what the deployment configured
    return Param(default, description_md=description, **schema)
