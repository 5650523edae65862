"""The settings of a deployment. Whoever runs Airflow decides them; the params of a run choose within them.

Airflow keeps them in the section `[accession]` of its configuration, and `make` takes them from the environment.
`permissions.py` has the rules that follow from them.
"""

import csv
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from accession.errors import ConfigurationError
from accession.names import BUCKET, BUCKET_WORDS, ENVIRONMENT, ENVIRONMENT_WORDS
from accession.validation import explain_faults

SECTION = "accession"
PATTERN_BUCKET = r"^[a-z0-9*][a-z0-9.*-]*$"
PATTERN_ENVIRONMENT = r"^[A-Za-z0-9*][A-Za-z0-9_*-]{0,63}$"


def split_list(text: object) -> object:
    """Split a comma-separated list. An entry that contains a comma stands in double quotes."""
    if not isinstance(text, str):
        return text
    entries = [entry.strip() for line in csv.reader(text.splitlines(), skipinitialspace=True) for entry in line]
    return tuple(entry for entry in entries if entry)


def join_list(*entries: str) -> str:
    """Return the text that `split_list` splits into these entries."""
    quoted = ('"' + entry.replace('"', '""') + '"' if set(entry) & set(',"') else entry for entry in entries)
    return ", ".join(quoted)


Texts = Annotated[tuple[str, ...], BeforeValidator(split_list)]
Place = Annotated[
    str,
    Field(
        pattern=r"^(/|s3://[^/]+).*$",
        json_schema_extra={"allowed": "an absolute path or an address that begins with s3://"},
    ),
]
Places = Annotated[tuple[Place, ...], BeforeValidator(split_list)]
BucketPattern = Annotated[
    str,
    Field(
        pattern=PATTERN_BUCKET,
        json_schema_extra={"allowed": "the name of a bucket, in which * stands for any characters"},
    ),
]
Buckets = Annotated[tuple[BucketPattern, ...], BeforeValidator(split_list)]
EnvironmentPattern = Annotated[
    str,
    Field(
        pattern=PATTERN_ENVIRONMENT,
        json_schema_extra={"allowed": "the name of an environment, in which * stands for any characters"},
    ),
]
Environments = Annotated[tuple[EnvironmentPattern, ...], BeforeValidator(split_list)]
Url = Annotated[
    str,
    Field(
        pattern=r"^https?://[^/@\s]+\S*$",
        json_schema_extra={"allowed": "a URL that begins with http:// or https:// and names no user"},
    ),
]
Urls = Annotated[tuple[Url, ...], BeforeValidator(split_list)]


class Deployment(BaseModel):
    """The settings of a deployment. Without any, only what needs no setting is allowed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | None = Field(
        None, description="Source of runs that name none: a path on the workers, or `s3://bucket/key`."
    )
    bucket: str | None = Field(
        None,
        pattern=BUCKET,
        description="Artifacts bucket of runs that name none. The audit pages list its targets.",
        json_schema_extra={"allowed": BUCKET_WORDS},
    )
    environment: str = Field(
        "local",
        pattern=ENVIRONMENT,
        description="Environment of runs that name none.",
        json_schema_extra={"allowed": ENVIRONMENT_WORDS},
    )
    source_queue: str | None = Field(
        None, description="Queue of the tasks that read the source, if only some workers see it."
    )
    sns_topic: str | None = Field(
        None,
        pattern=r"^arn:\S+$",
        json_schema_extra={"allowed": "an ARN, which begins with arn:"},
        description="ARN of the SNS topic that is told of a run that failed or is late. Its role needs `sns:Publish`.",
    )
    mappings: str | None = Field(None, description="Folder of mapping files, beside those that Accession brings.")
    allowed_sources: Places = Field(
        (),
        description="Files, folders and `s3://bucket/prefix/` addresses from which a run may read. If empty, the "
        "folder of `source`; if that is the root of the disk or of a bucket, `source` alone.",
    )
    allowed_buckets: Buckets = Field(
        (), description="Artifacts buckets that a run may name, besides `bucket`. `*` stands for any characters."
    )
    allowed_environments: Environments = Field(
        (),
        description="Environments that a run may name, besides `environment`. `*` stands for any characters. If empty, "
        "any.",
    )
    allowed_app_urls: Urls = Field(
        (),
        description="Beginnings of the URLs that a run may request after its writes, such as `https://app.example.org/`.",
    )
    allowed_restores: Places = Field(
        (),
        description="Files, folders and `s3://bucket/prefix/` addresses to which a backup may be restored, besides the "
        "run's own source.",
    )
    environments_without_approval: Environments = Field(
        ("local",),
        description="Environments in which nobody is asked, unless the param `approval` is `always`. `*` stands for "
        "any characters. They count only if `{environment}` is in the name of each table; `*` alone always counts.",
    )
    approvers: Texts = Field(
        (),
        description="Users who may approve, by their ids in Airflow: the user's name with the simple auth manager, the "
        "number with FAB. If empty, whoever may trigger the DAG.",
    )
    four_eyes: bool = Field(False, description="Refuse an approval by the person who triggered the run.")
    approval_hours: int = Field(
        24, ge=1, le=720, description="Hours for which an approval waits, if the param `approval_hours` is empty."
    )


def load_deployment(read: Callable[[str], str | None]) -> Deployment:
    """Return the settings; `read` returns one by its name, or None if it is not set.

    Raises ConfigurationError that names the options that are wrong.
    """
    given: dict[str, Any] = {}
    for name in Deployment.model_fields:
        value = read(name)
        if value is not None and value.strip():
            given[name] = value.strip()
    try:
        return Deployment.model_validate(given)
    except ValidationError as error:
        faults = explain_faults(error, Deployment, "option")
        raise ConfigurationError(f"[{SECTION}] of Airflow's configuration: {'; '.join(faults)}.") from None


def read_environ(environ: Mapping[str, str]) -> Callable[[str], str | None]:
    """Return a reader of settings for `make`, which has no configuration of Airflow's but the environment."""

    def read(name: str) -> str | None:
        upper = name.upper()
        return environ.get(f"AIRFLOW__{SECTION.upper()}__{upper}") or environ.get(f"ACCESSION_{upper}")

    return read
