"""The params of the two DAGs: names, types, bounds and descriptions in one place. The trigger form, the README's
table and the check in preflight are made from these models."""

import os
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from accession.errors import ParamsError

ENVIRONMENT = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
BUCKET = r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"
RUN = r"^\d{8}T\d{6}Z-[0-9a-f]{8}$"
LOCAL_ENVIRONMENTS = ("local", "dev")
STAGED = ("existing_items", "deletes", "max_rejects", "rows_per_part")  # what staging has used up


def _section(name: str) -> dict[str, Any]:
    return {"section": name}


SOURCE, TARGET, POLICIES, SPEED, OPERATE = (
    _section(name) for name in ("1. Source", "2. Target", "3. Policies", "4. Speed", "5. Resume and seal")
)

Environment = Annotated[
    str,
    Field(
        os.environ.get("ACCESSION_ENVIRONMENT") or "local",
        pattern=ENVIRONMENT,
        title="Environment",
        description="Takes the place of `{environment}` in the names of the tables. Scheduled runs take the "
        "environment variable `ACCESSION_ENVIRONMENT` of Airflow, or local.",
        json_schema_extra=TARGET,
    ),
]
Bucket = Annotated[
    str | None,
    Field(
        None,
        pattern=BUCKET,
        title="Artifacts bucket",
        description="S3 bucket for backups, change sets and reports, as `make deploy` printed it. "
        "Empty: the environment variable `ACCESSION_BUCKET` of the workers.",
        json_schema_extra=TARGET,
    ),
]
Approval = Annotated[
    Literal["auto", "always", "never"],
    Field(
        "auto",
        title="Ask a person",
        description="`auto` asks in runs that a person triggered, outside local and dev. `always` asks, `never` does "
        "not.",
        json_schema_extra=POLICIES,
    ),
]


class _Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MigrateParams(_Params):
    """Params of `migrate_<mapping>`."""

    source: str | None = Field(
        None,
        title="SQLite file",
        description="Path on the workers, or `s3://bucket/key`. It is read, never written. "
        "Empty: the environment variable `ACCESSION_SOURCE` of the workers.",
        json_schema_extra=SOURCE,
    )
    environment: Environment
    bucket: Bucket
    dry_run: bool = Field(
        False,
        title="Dry run",
        description="Stage, plan and show the change set; write nothing.",
        json_schema_extra=POLICIES,
    )
    approval: Approval
    on_failure: Literal["rollback", "keep"] = Field(
        "rollback",
        title="When a write or the proof fails",
        description="`rollback` undoes what was written and proves it; `keep` leaves the target open as it is, to be "
        "resumed or undone later.",
        json_schema_extra=POLICIES,
    )
    on_conflict: Literal["refuse", "keep", "overwrite"] = Field(
        "refuse",
        title="Items that the application changed",
        description="`refuse` stops before any write, `keep` leaves the application's item, `overwrite` writes ours "
        "(its before image is kept, attributes that the application added survive).",
        json_schema_extra=POLICIES,
    )
    existing_items: Literal["refuse", "keep"] = Field(
        "refuse",
        title="Items in the tables before the first run",
        description="`refuse` wants empty tables, `keep` leaves what is there and reports it.",
        json_schema_extra=POLICIES,
    )
    deletes: Literal["delete", "keep"] = Field(
        "delete",
        title="Rows gone from the source",
        description="`delete` deletes their items, `keep` leaves and reports them.",
        json_schema_extra=POLICIES,
    )
    max_rejects: int = Field(
        0,
        ge=0,
        le=10**12,
        title="Rejects allowed",
        description="Rows that cannot be migrated are listed with their reason; more than this many refuse the run "
        "before any write.",
        json_schema_extra=POLICIES,
    )
    rows_per_part: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        title="Rows per part",
        description="A part is what one task writes and what a retry repeats. Raised where more than 1,000 parts of an "
        "entity would come out.",
        json_schema_extra=SPEED,
    )
    write_units_per_second: int | None = Field(
        None,
        ge=1,
        le=10**9,
        title="Write units per second",
        description="Upper bound for the whole run, shared by its tasks. Empty: as fast as the tables take it.",
        json_schema_extra=SPEED,
    )
    app_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        title="Application's URL",
        description="Asked with GET when everything is written; must answer below 400.",
        json_schema_extra=TARGET,
    )
    resume: str | None = Field(
        None,
        pattern=RUN,
        title="Resume a run",
        description="An interrupted run that left the target open: it goes on with its own change set.",
        json_schema_extra=OPERATE,
    )
    seal: str | None = Field(
        None,
        min_length=3,
        max_length=500,
        title="Seal (reason)",
        description="Cutover: every item is proved, changed or not; when this run ends verified, the target is handed "
        "over to the application, and later runs refuse to write until one unseals it.",
        json_schema_extra=OPERATE,
    )
    unseal: str | None = Field(
        None,
        min_length=3,
        max_length=500,
        title="Unseal (reason)",
        description="Takes the seal off first, so that this run and later ones write again.",
        json_schema_extra=OPERATE,
    )

    def resume_with(self, now: "MigrateParams") -> "MigrateParams":
        """These params of a run for its resume: what is given `now` (is no default) counts, but for what staging has
        used up. Raises ParamsError for that."""
        given = {name: value for name, value in now if value != type(self).model_fields[name].default}
        for name in STAGED:
            if name in given and given[name] != getattr(self, name):
                raise ParamsError(
                    f"param {name}: the run to resume was staged with {getattr(self, name)}: leave it out."
                )
        return self.model_copy(update=given)

    @model_validator(mode="after")
    def _check(self) -> "MigrateParams":
        if self.dry_run and (self.seal or self.unseal or self.resume):
            raise ValueError("dry_run writes nothing: leave out seal, unseal and resume")
        return self


class RollbackParams(_Params):
    """Params of `rollback_<mapping>`."""

    run: str = Field(
        "",
        pattern=f"({RUN})|^$",
        title="Run",
        description="The run to undo, as its report names it: the one committed last, or the one that left the target "
        "open.",
        json_schema_extra=TARGET,
    )
    environment: Environment
    bucket: Bucket
    target: bool = Field(
        True,
        title="Undo the tables",
        description="Restores every item that the run wrote or deleted to its state before.",
        json_schema_extra=POLICIES,
    )
    restore_source: str | None = Field(
        None,
        title="Put the backup back at",
        description="Path or `s3://bucket/key` where the run's backup is placed; what lies there is moved aside. "
        "Empty: the source is left alone.",
        json_schema_extra=SOURCE,
    )
    accept_conflicts: bool = Field(
        False,
        title="Accept conflicts",
        description="Close the target although the application changed items since; they are kept as they are.",
        json_schema_extra=POLICIES,
    )
    approval: Approval


P = TypeVar("P", bound=_Params)


def check_params(model: type[P], given: dict[str, Any]) -> P:
    """Validate the params of a run. Raises ParamsError naming the param and what it takes; unknown ones are refused."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"]) or "dry_run"
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise ParamsError(f"param {name}: there is no such param. Known are {known}.") from None
        what = first["msg"].removeprefix("Value error, ").removeprefix("String ").removeprefix("Input ")
        raise ParamsError(f"param {name}: {what}.") from None
