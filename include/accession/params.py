"""The params of the two DAGs: their names, types, bounds and descriptions.

The trigger form, the documentation's table and the check before a run are made from these models.
"""

import logging
import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from accession.errors import ParamsError
from accession.validation import explain_faults

logger = logging.getLogger(__name__)

ENVIRONMENT = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
RUN = r"^\d{8}T\d{6}Z-[0-9a-f]{8}$"
RUN_NAME = "the name of a run, such as 20260105T120000Z-0123abcd"
STAGED = ("existing_items", "deletes", "max_rejects", "rows_per_part")  # a resume cannot change these any more
DEFAULT_ENVIRONMENT = os.environ.get("ACCESSION_ENVIRONMENT") or "local"

SOURCE: dict[str, Any] = {"section": "1. Source"}
TARGET: dict[str, Any] = {"section": "2. Target"}
POLICIES: dict[str, Any] = {"section": "3. Policies"}
SPEED: dict[str, Any] = {"section": "4. Speed"}
OPERATE: dict[str, Any] = {"section": "5. Resume and seal"}

Environment = Annotated[
    str,
    Field(
        pattern=ENVIRONMENT,
        title="Environment",
        description="Replaces `{environment}` in the names of the tables. Scheduled runs use Airflow's environment "
        "variable `ACCESSION_ENVIRONMENT`, or `local` if it is not set.",
        json_schema_extra=TARGET | {"allowed": "1 to 64 letters, digits, _ and -, with a letter or digit first"},
    ),
]
Bucket = Annotated[
    str | None,
    Field(
        pattern=BUCKET,
        title="Artifacts bucket",
        description="S3 bucket for backups, change sets and reports, as printed by `make deploy`. If empty, the "
        "workers' environment variable `ACCESSION_BUCKET` names it.",
        json_schema_extra=TARGET | {"allowed": "the name of a bucket: 3 to 63 lower-case letters, digits, dots and -"},
    ),
]
Approval = Annotated[
    Literal["auto", "always", "never"],
    Field(
        title="Ask a person",
        description="`auto` asks about runs that a person triggered outside the environments local and dev. `always` "
        "asks about every run, `never` about none.",
        json_schema_extra=POLICIES,
    ),
]


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    old_names: ClassVar[dict[str, str]] = {}  # old name → name; accepted with a warning until version 0.3


class MigrateParams(_Params):
    """Params of `migrate_<mapping>`."""

    source: str | None = Field(
        None,
        title="SQLite file",
        description="Path on the workers, or `s3://bucket/key`. The file is read, never written. If empty, the "
        "workers' environment variable `ACCESSION_SOURCE` names it.",
        json_schema_extra=SOURCE,
    )
    environment: Environment = DEFAULT_ENVIRONMENT
    bucket: Bucket = None
    dry_run: bool = Field(
        False,
        title="Dry run",
        description="Stage, plan and show the change set, but write nothing to the tables.",
        json_schema_extra=POLICIES,
    )
    approval: Approval = "auto"
    on_failure: Literal["rollback", "keep"] = Field(
        "rollback",
        title="If a write or the verification fails",
        description="`rollback` undoes what was written and proves it. `keep` leaves the target open as it is; resume "
        "or undo the run later.",
        json_schema_extra=POLICIES,
    )
    on_conflict: Literal["refuse", "keep", "overwrite"] = Field(
        "refuse",
        title="Items that the application changed",
        description="`refuse` stops before any write. `keep` leaves the application's item. `overwrite` writes our "
        "attributes, leaves those that the application added, and stores a before image for the undo.",
        json_schema_extra=POLICIES,
    )
    existing_items: Literal["refuse", "keep"] = Field(
        "refuse",
        title="Items in the tables before the first run",
        description="`refuse` requires empty tables. `keep` leaves existing items and reports them.",
        json_schema_extra=POLICIES,
    )
    deletes: Literal["delete", "keep"] = Field(
        "delete",
        title="Rows gone from the source",
        description="`delete` deletes their items. `keep` leaves the items and reports them.",
        json_schema_extra=POLICIES,
    )
    max_rejects: int = Field(
        0,
        ge=0,
        le=10**12,
        title="Rejects allowed",
        description="Rows that cannot be migrated are listed with the reason. The run is refused before any write if "
        "there are more than this.",
        json_schema_extra=POLICIES,
    )
    rows_per_part: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        title="Rows per part",
        description="A part is what one task writes and what a retry repeats. Raised automatically to keep an entity "
        "within 1,000 parts.",
        json_schema_extra=SPEED,
    )
    write_units_per_second: int | None = Field(
        None,
        ge=1,
        le=10**9,
        title="Write units per second",
        description="Upper bound for the whole run, shared by its tasks. If empty, the run writes as fast as the "
        "tables accept.",
        json_schema_extra=SPEED,
    )
    app_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        title="Application's URL",
        description="Requested with GET after all writes; the status must be below 400.",
        json_schema_extra=TARGET | {"allowed": "a URL that begins with http:// or https://"},
    )
    resume: str | None = Field(
        None,
        pattern=RUN,
        title="Resume a run",
        description="The interrupted run that left the target open. It continues with its own change set.",
        json_schema_extra=OPERATE | {"allowed": RUN_NAME},
    )
    seal: str | None = Field(
        None,
        min_length=3,
        max_length=500,
        title="Seal (reason)",
        description="Cutover: the run proves every item, changed or not. If it ends verified, the target belongs to "
        "the application, and later runs refuse to write until one of them unseals it.",
        json_schema_extra=OPERATE,
    )
    unseal: str | None = Field(
        None,
        min_length=3,
        max_length=500,
        title="Unseal (reason)",
        description="Remove the seal first, so that this run and later ones may write again.",
        json_schema_extra=OPERATE,
    )

    def resume_with(self, now: "MigrateParams") -> "MigrateParams":
        """Merge the params of a run with those given `now` to its resume, and return the result.

        A param counts as given if it is not its default. Raises ParamsError if one would change what is staged.
        """
        given = {name: value for name, value in now if value != type(self).model_fields[name].default}
        for name in STAGED:
            if name in given and given[name] != getattr(self, name):
                raise ParamsError(
                    f"Param {name} cannot change in a resume: the run was staged with {getattr(self, name)}. "
                    "Leave it out."
                )
        return self.model_copy(update=given)

    @model_validator(mode="after")
    def _check(self) -> "MigrateParams":
        if self.dry_run and (self.seal or self.unseal or self.resume):
            raise ValueError("Param dry_run excludes seal, unseal and resume: a dry run writes nothing. Leave one out.")
        return self


class RollbackParams(_Params):
    """Params of `rollback_<mapping>`."""

    old_names: ClassVar[dict[str, str]] = {"target": "undo_tables", "restore_source": "restore_to"}

    run: str = Field(
        "",
        pattern=f"({RUN})|^$",
        title="Run",
        description="The run to undo, as its report names it: the last one committed, or the one that left the target "
        "open.",
        json_schema_extra=TARGET | {"allowed": RUN_NAME},
    )
    environment: Environment = DEFAULT_ENVIRONMENT
    bucket: Bucket = None
    undo_tables: bool = Field(
        True,
        title="Undo the tables",
        description="Restore every item that the run wrote or deleted to its state before.",
        json_schema_extra=POLICIES,
    )
    restore_to: str | None = Field(
        None,
        title="Restore the backup to",
        description="Path or `s3://bucket/key` for the run's backup of the SQLite file. A file that is already there "
        "is moved aside. If empty, nothing is restored.",
        json_schema_extra=SOURCE,
    )
    accept_conflicts: bool = Field(
        False,
        title="Accept conflicts",
        description="Close the target even if the application changed items since the run. They stay as they are.",
        json_schema_extra=POLICIES,
    )
    approval: Approval = "auto"


P = TypeVar("P", bound=_Params)


def check_params(model: type[P], given: Mapping[str, Any]) -> P:
    """Validate the params of a run. Old names are accepted. Raises ParamsError that names the param."""
    try:
        return model.model_validate(rename_old(model, given))
    except ValidationError as error:
        faults = explain_faults(error, model, "param")
        raise ParamsError(f"{'; '.join(faults)}.") from None


def rename_old(model: type[_Params], given: Mapping[str, Any]) -> dict[str, Any]:
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


def drop_defaults(model: type[_Params], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the params that differ from their defaults.

    Airflow hands over the defaults of all params together with what was typed. Without them an old name is not taken
    for a second value of the param it stands for.
    """
    fields = model.model_fields
    return {name: value for name, value in given.items() if name not in fields or value != fields[name].default}
