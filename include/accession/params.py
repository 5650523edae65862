"""The params of the two DAGs: their names, types, bounds and descriptions.

The trigger form, the documentation's table and the check before a run are made from these models.
"""

import os
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from accession.errors import ParamsError
from accession.names import BUCKET, BUCKET_WORDS, ENVIRONMENT, ENVIRONMENT_WORDS, RUN, RUN_WORDS

# A resume cannot change these any more.
STAGED = ("existing_items", "deletes", "max_rejects", "allow_renumbered", "rows_per_part")
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
        description="Replaces `{environment}` in the names of the tables. Runs that name none use the deployment's "
        "setting `environment`, or `local` if it is not set.",
        json_schema_extra=TARGET | {"allowed": ENVIRONMENT_WORDS},
    ),
]
Bucket = Annotated[
    str | None,
    Field(
        pattern=BUCKET,
        title="Artifacts bucket",
        description="S3 bucket for backups, change sets and reports, as printed by `make deploy`. If empty, the "
        "setting `bucket` of the deployment names it, which also says what other buckets are allowed.",
        json_schema_extra=TARGET | {"allowed": BUCKET_WORDS},
    ),
]
Approval = Annotated[
    Literal["auto", "always", "never"],
    Field(
        title="Ask a person",
        description="`auto` asks about every run that a schedule did not start, outside the environments that the "
        "deployment exempts (`local`). `always` asks there too. `never` is refused where the deployment asks.",
        json_schema_extra=POLICIES,
    ),
]
ApprovalHours = Annotated[
    int | None,
    Field(
        ge=1,
        le=720,
        title="Hours to wait for an answer",
        description="If nobody has answered by then, the run is rejected and writes nothing. If empty, as the "
        "deployment says: 24 hours, unless `approval_hours` is set.",
        json_schema_extra=POLICIES,
    ),
]

Cap = Annotated[
    int | None,
    Field(
        ge=1,
        le=10**9,
        title="Write units per second",
        description="Upper bound for the whole run, shared by its tasks. If empty, the run writes as fast as the "
        "tables accept.",
        json_schema_extra=SPEED,
    ),
]

ReadCap = Annotated[
    int | None,
    Field(
        ge=1,
        le=10**9,
        title="Read units per second",
        description="Upper bound for the reads that prove the tables, shared by the tasks of verify, and for all reads "
        "of an undo. A scan reads pages of up to 256 units. If empty, the tables are read as fast as they answer.",
        json_schema_extra=SPEED,
    ),
]


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    old_names: ClassVar[dict[str, str]] = {}  # old name → name; accepted with a warning until version 0.3


class MigrateParams(Params):
    """Params of `migrate_<mapping>`."""

    source: str | None = Field(
        None,
        title="SQLite file",
        description="Path on the workers, or `s3://bucket/key`. The file is read, never written. If empty, the "
        "setting `source` of the deployment names it, which also says what other sources are allowed. The -wal and "
        "-journal beside it belong to it, on S3 too.",
        json_schema_extra=SOURCE,
    )
    source_is_checkpointed: bool = Field(
        False,
        title="The source on S3 needs no -wal",
        description="A source on S3 that is in WAL mode and has no -wal beside it is refused, since its newest rows "
        "may be missing. Set this if the application had closed the database before it was copied.",
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
    approval_hours: ApprovalHours = None
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
    allow_renumbered: bool = Field(
        False,
        title="Row ids that changed",
        description="For tables without a key: if over 10 % of the rows are not what the last run found under their "
        "row ids, the run is refused before any write, since VACUUM may have renumbered them. Set this to write them "
        "as other things.",
        json_schema_extra=POLICIES,
    )
    rows_per_part: int = Field(
        10_000,
        ge=100,
        le=1_000_000,
        title="Rows per part",
        description="A part is what one task writes and what a retry repeats. Large items make a part end earlier, at "
        "64 MB of uncompressed lines. Both bounds are raised automatically to keep an entity within 1,000 parts.",
        json_schema_extra=SPEED,
    )
    write_units_per_second: Cap = None
    read_units_per_second: ReadCap = None
    app_url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        title="Application's URL",
        description="Requested with GET after all writes; the status must be below 400. Redirects are not followed. "
        "The deployment says which URLs are allowed; by default, none is.",
        json_schema_extra=TARGET | {"allowed": "a URL that begins with http:// or https://"},
    )
    resume: str | None = Field(
        None,
        pattern=RUN,
        title="Resume a run",
        description="The interrupted run that left the target open. It continues with its own change set.",
        json_schema_extra=OPERATE | {"allowed": RUN_WORDS},
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
    accept_drift: bool = Field(
        False,
        title="Seal over changes",
        description="A target with items that somebody else changed or deleted since they were migrated, or that are "
        "held back, is not sealed. With this, it is handed over as it is.",
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


class RollbackParams(Params):
    """Params of `rollback_<mapping>`."""

    old_names: ClassVar[dict[str, str]] = {"target": "undo_tables", "restore_source": "restore_to"}

    run: str = Field(
        "",
        pattern=f"({RUN})|^$",
        title="Run",
        description="The run to undo, as its report names it: the last one committed, or the one that left the target "
        "open.",
        json_schema_extra=TARGET | {"allowed": RUN_WORDS},
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
        description="Path or `s3://bucket/key` for the run's backup of the SQLite file: the source of the run, or "
        "another place that the deployment allows. A database that is already there is moved aside; any other file is "
        "refused. If empty, nothing is restored.",
        json_schema_extra=SOURCE,
    )
    accept_conflicts: bool = Field(
        False,
        title="Accept conflicts",
        description="Close the target even if the application changed items since the run. They stay as they are.",
        json_schema_extra=POLICIES,
    )
    write_units_per_second: Cap = None
    read_units_per_second: ReadCap = None
    approval: Approval = "auto"
    approval_hours: ApprovalHours = None
