"""Deploy both CloudFormation stacks to the AWS that the environment points at: the artifacts bucket, and the tables.

Safe to repeat: a second call changes nothing and says so. Tables that another stack made, such as the application's
own, are checked against the mapping and left alone.
"""

import hashlib
from collections.abc import Callable
from collections.abc import Mapping as Options
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from accession.aws import explain_errors
from accession.cli.resources import find_room, name_resources
from accession.cli.stack import StackChange, find_stack, put_stack
from accession.cli.template import has_environment, write_template
from accession.commands import HOME_LIBRARY
from accession.dynamodb import DynamoDB, TableDescription, client_config
from accession.errors import RefusedError, TargetError
from accession.items import KeySchema
from accession.mapping import Mapping
from accession.place import ROOT
from accession.run import (
    check_table,
    expect_key,
    find_deployed_schemas,
    find_index_changes,
    find_open_types,
    find_source_schemas,
)
from accession.validation import list_words

if TYPE_CHECKING:
    from boto3 import Session

TEMPLATES = ROOT / "cloudformation"
SHOWN_TABLES = 10


@dataclass(frozen=True)
class Deployment:
    """The result of a deployment: the names that a run needs, and what was changed."""

    bucket: str
    policy: str  # ARN of the managed policy for the role of Airflow's workers
    source_policy: str | None  # for those workers that read a source on S3
    pages_policy: str  # for the role of Airflow's API server
    auditor_policy: str  # for those who run `make audit`
    tables: StackChange
    artifacts: StackChange


@dataclass(frozen=True)
class _Tables:
    """The tables of a mapping in one environment: those that exist, by entity, and the keys that all should have."""

    present: dict[str, TableDescription]
    schemas: dict[str, KeySchema]
    has_stack: bool

    @property
    def are_ours(self) -> bool:
        """Tell whether our stack has the tables, or is to make them."""
        return self.has_stack or not self.present


def deploy_stacks(
    mapping: Mapping,
    environment: str,
    session: "Session",
    *,
    source: Path | None = None,
    options: Options[str, str] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda _line: None,
) -> Deployment:
    """Create or update both stacks and wait for them. `tell` gets a line per step. Safe to repeat.

    `source` gives the types of key columns that the mapping leaves open; see `find_schemas`. `options` are further
    parameters of artifacts.yaml, such as KeyArn. One that is left out keeps its value.

    Raises AccessError (no credentials, a missing permission), RefusedError (a stack or a set of tables that a person
    must look at first), SourceError, or TargetError (tables that do not match the mapping, a stack that failed).
    """
    legal = environment.lower().replace("_", "-")
    if legal != environment:
        raise RefusedError(
            f"Environment {environment} would share stacks and bucket with {legal}, as their names are lower case and "
            f"without underscores: call it {legal}."
        )
    with explain_errors():
        partition, account, region = _find_account(session)
        cloudformation = session.client("cloudformation")
        prefix = f"accession-{mapping.name}-{environment}".replace("_", "-")
        stack = f"{prefix}-tables"
        names = list(dict.fromkeys(entity.table(environment) for entity in mapping.entities.values()))
        tables = _find_tables(
            mapping, environment, session, source, has_stack=find_stack(cloudformation, stack) is not None, tell=tell
        )
        template = write_template(mapping, tables.schemas) if tables.are_ours else ""

        arns = {
            entity.table(environment): [index.name for index in mapping.indexes[entity.name]]
            for entity in mapping.entities.values()
        }
        bucket = name_bucket(account, region, environment, mapping.name)
        table_arns, index_arns = name_resources(
            f"arn:{partition}:dynamodb:{region}:{account}:table", arns, find_room(bucket, mapping.name, environment)
        )
        parameters = {
            "Environment": environment,
            "Mapping": mapping.name,
            "BucketName": bucket,
            "TableArns": ",".join(table_arns),
            "IndexArns": ",".join(index_arns),
        }
        artifacts = put_stack(
            cloudformation,
            f"{prefix}-artifacts",
            (TEMPLATES / "artifacts.yaml").read_text(),
            {**options, **parameters},
        )
        [found] = cloudformation.describe_stacks(StackName=f"{prefix}-artifacts")["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        tell(f"artifacts: {artifacts} (s3://{outputs['Bucket']})")

        change: StackChange = "left alone"
        if tables.are_ours:
            given = {"Environment": environment} if has_environment(mapping) else {}
            # Only the bucket can hold a template that is too large for a request, so its stack comes first.
            change = put_stack(
                cloudformation, stack, template, given, lambda text: _upload(session, outputs["Bucket"], stack, text)
            )
            _check_deployed(mapping, environment, session, tables.schemas, stack)
        more = f" and {len(names) - SHOWN_TABLES} more" if len(names) > SHOWN_TABLES else ""
        tell(f"tables: {change} ({', '.join(names[:SHOWN_TABLES])}{more})")
        return Deployment(
            outputs["Bucket"],
            outputs["Policy"],
            outputs.get("SourcePolicy"),
            outputs["PagesPolicy"],
            outputs["AuditorPolicy"],
            change,
            artifacts,
        )


def find_schemas(
    mapping: Mapping, present: dict[str, TableDescription], source: Path | None, tell: Callable[[str], None]
) -> dict[str, KeySchema]:
    """Return the key of each entity's table.

    The mapping gives the types. Those that it leaves open are the types of the source's columns; without a source,
    those of the tables that are present; else text, and `tell` is told so. Raises SourceError, and RefusedError if
    entities that share a table differ.
    """
    if source is None:
        assumed = [
            f"{part} of {name}"
            for name in mapping.entities
            if name not in present
            for part in find_open_types(mapping, name)
        ]
        if assumed:
            tell(
                f"keys: text for {list_words(assumed, 'and')}, whose type the mapping does not say: if a column is a "
                "number, stop, and give SOURCE= the database or declare the type"
            )
        schemas = find_deployed_schemas(mapping, present)
    else:
        schemas = find_source_schemas(mapping, source)
    for table, (first, *others) in mapping.mates.items():
        for other in others:
            if schemas[other.name] != schemas[first.name]:
                raise RefusedError(
                    f"Entities {first.name} and {other.name} make the key of {table} of different types: say the types "
                    "of its key under tables in the mapping."
                )
    return schemas


def _find_tables(
    mapping: Mapping,
    environment: str,
    session: "Session",
    source: Path | None,
    *,
    has_stack: bool,
    tell: Callable[[str], None],
) -> _Tables:
    """Find the tables that exist, and check that they can stay. Raises RefusedError or TargetError if not."""
    present: dict[str, TableDescription] = {}
    absent: list[str] = []
    with DynamoDB(session.client("dynamodb", config=client_config())) as dynamodb:
        for mates in mapping.mates.values():
            name = mates[0].table(environment)
            try:
                present |= dict.fromkeys((entity.name for entity in mates), dynamodb.describe_table(name))
            except TargetError:
                absent.append(name)
    schemas = find_schemas(mapping, present, source, tell)
    for name, table in present.items():
        if has_stack:
            expect_key(mapping, name, table, schemas)
            if len(changes := find_index_changes(mapping, name, table)) > 1:
                named = ", ".join(dict.fromkeys(changes))
                raise RefusedError(
                    f"Table {table.name} does not have the indexes of the mapping ({named}), and CloudFormation "
                    "creates or deletes one index of a table at a time; altering one is both. Change the mapping in "
                    "steps and deploy after each, or restore a table that was changed outside of its stack."
                )
        else:
            check_table(mapping, name, table, schemas)
    if present and absent and not has_stack:
        there = list(dict.fromkeys(table.name for table in present.values()))
        raise RefusedError(
            f"{_say(there, 'exists', 'exist')} already, but {_say(absent, 'does', 'do')} not: create the rest with the "
            "stack that made the others, or deploy to an environment that has none of them."
        )
    return _Tables(present, schemas, has_stack)


def _say(names: list[str], one: str, many: str) -> str:
    return f"{list_words(names, 'and')} {one if len(names) == 1 else many}"


def _check_deployed(
    mapping: Mapping, environment: str, session: "Session", schemas: dict[str, KeySchema], stack: str
) -> None:
    """Raise TargetError if the tables are not what their stack says."""
    with DynamoDB(session.client("dynamodb", config=client_config())) as dynamodb:
        for entity in mapping.entities.values():
            try:
                check_table(mapping, entity.name, dynamodb.describe_table(entity.table(environment)), schemas)
            except TargetError as error:
                raise TargetError(
                    f"Stack {stack} is as the mapping says, but its table was changed outside of it. {error}"
                ) from error


def _upload(session: "Session", bucket: str, stack: str, template: str) -> str:
    """Put a template into the artifacts bucket, beside the targets, and return its URL."""
    s3 = session.client("s3")
    key = f"templates/{stack}-{hashlib.sha256(template.encode()).hexdigest()[:16]}.yaml"
    s3.put_object(Bucket=bucket, Key=key, Body=template.encode(), ContentType="application/yaml")
    return f"{s3.meta.endpoint_url}/{bucket}/{key}"


def name_bucket(account: str, region: str, environment: str, mapping: str = HOME_LIBRARY) -> str:
    """Return the name of the artifacts bucket: lower case, at most 63 characters, unique in the world.

    S3 User Guide, "Bucket naming rules".
    """
    owner = environment if mapping == HOME_LIBRARY else f"{mapping}-{environment}"
    return f"accession-{account}-{region}-{owner}".lower().replace("_", "-")[:63].rstrip("-")


def find_bucket(environment: str, session: "Session", mapping: str = HOME_LIBRARY) -> str:
    """Return the name that `deploy_stacks` gives the bucket in this account and region. Asks STS for the account."""
    with explain_errors():
        _, account, region = _find_account(session)
    return name_bucket(account, region, environment, mapping)


def _find_account(session: "Session") -> tuple[str, str, str]:
    sts = session.client("sts")
    _, partition, _, _, account, _ = sts.get_caller_identity()["Arn"].split(":", 5)
    return partition, account, sts.meta.region_name
