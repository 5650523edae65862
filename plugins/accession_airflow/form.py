"""Make the trigger form from the models of the params."""

from typing import Any

from airflow.sdk import Param
from pydantic import BaseModel


def make_params(model: type[BaseModel]) -> dict[str, Param]:
    """Return an Airflow Param for each field of `model`, by its name."""
    return {name: _make_param(field) for name, field in model.model_json_schema()["properties"].items()}


def _make_param(field: dict[str, Any]) -> Param:
    schema = dict(field)
    default = schema.pop("default", None)
    description = schema.pop("description", None)
    schema.pop("allowed", None)  # the words for an error of ours; Airflow shows the pattern
    kinds = schema.pop("anyOf", None)
    if kinds:
        for kind in kinds:
            schema |= {key: value for key, value in kind.items() if key != "type"}
        schema["type"] = ["null", *(kind["type"] for kind in kinds if kind["type"] != "null")]
    return Param(default, description_md=description, **schema)
