"""Check the conf of a run, which comes from Airflow, the command line or a manifest, and read it into params."""

import logging
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from accession.errors import ParamsError
from accession.params import MigrateParams, Params
from accession.validation import explain_faults

logger = logging.getLogger(__name__)

P = TypeVar("P", bound=Params)


def check_params(model: type[P], given: Mapping[str, Any]) -> P:
    """Validate the params of a run. Old names are accepted. Raises ParamsError that names the param."""
    try:
        return model.model_validate(rename_old(model, given))
    except ValidationError as error:
        faults = explain_faults(error, model, "param")
        raise ParamsError(f"{'; '.join(faults)}.") from None


def restore_params(run: str, stored: Mapping[str, Any]) -> MigrateParams:
    """Return the params in the manifest of a run. A param that is not in it has its default.

    Raises ParamsError if this version does not take one of them.
    """
    try:
        return check_params(MigrateParams, stored)
    except ParamsError as error:
        raise ParamsError(f"Run {run} has params of another version of Accession: use that version. {error}") from None


def rename_old(model: type[Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params by their names of today, and log a warning for each old name.

    Raises ParamsError if a param is given by both of its names.
    """
    renamed = dict(given)
    for old, name in model.old_names.items():
        if old not in renamed:
            continue
        if name in renamed:
            raise ParamsError(f"Params {old} and {name} are the same: give {name} alone.")
        renamed[name] = renamed.pop(old)
        logger.warning("Param %s is now %s; use the new name, as the old one ends with version 0.3.", old, name)
    return renamed


def drop_defaults(model: type[Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that differ from their defaults.

    Airflow hands over the defaults of all params together with what was typed. Without them an old name is not taken
    for a second value of the param it stands for.
    """
    fields = model.model_fields
    return {name: value for name, value in given.items() if name not in fields or value != fields[name].default}
