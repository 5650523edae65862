"""Deploy both CloudFormation stacks to the AWS that the environment points at: the tables, and the artifacts bucket.

Safe to repeat: a second call changes nothing and says so. Tables that another stack made, such as the application's
own, are checked against the mapping and left alone.
"""

import time
from collections.abc import Callable, Sequence
from collections.abc import Mapping as Options
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from accession.aws import explain_errors
from accession.commands import HOME_LIBRARY
from accession.dynamodb import DynamoDB, TableDescription, client_config
from accession.errors import AccessError, RefusedError, TargetError, TransientError
from accession.mapping import Mapping
from accession.place import ROOT
from accession.run import check_table, find_deployed_schemas

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

TEMPLATES = ROOT / "cloudformation"
WAIT_SECONDS = 900.0  # tables with two indexes take a minute or two on AWS
STARTS = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"}
POLL_SECONDS = (0.2, 5.0)  # the first and the longest pause between two requests for the status of a stack

StackChange = Literal["created", "updated", "unchanged", "left alone"]


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


def deploy_stacks(
    mapping: Mapping,
    environment: str,
    session: "Session",
    *,
    options: Options[str, str] = MappingProxyType({}),
    tell: Callable[[str], None] = lambda _line: None,
) -> Deployment:
    """Create or update both stacks and wait for them. `tell` gets a line per step. Safe to repeat.

    `options` are further parameters of artifacts.yaml, such as KeyArn. One that is left out keeps its value.

    Raises AccessError (no credentials, a missing permission), RefusedError (a stack or a set of tables that a person
    must look at first) or TargetError (tables that do not match the mapping, a stack that failed).
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
        if _find_stack(cloudformation, stack) is None and _check_existing_tables(mapping, environment, session):
            tables: StackChange = "left alone"
        elif mapping.name != HOME_LIBRARY:
            raise RefusedError(
                f"The tables of {mapping.name} do not exist, and tables.yaml creates only those of {HOME_LIBRARY}: "
                "create them with the keys and indexes of the mapping, then deploy again."
            )
        else:
            tables = _put_stack(cloudformation, stack, "tables.yaml", {"Environment": environment})
        tell(f"tables: {tables} ({', '.join(entity.table(environment) for entity in mapping.entities.values())})")

        table_arn = f"arn:{partition}:dynamodb:{region}:{account}:table"
        arns = {entity.table(environment): list(entity.indexes) for entity in mapping.entities.values()}
        table_arns = [f"{table_arn}/{table}" for table in arns]
        index_arns = [f"{table_arn}/{table}/index/{index}" for table, indexes in arns.items() for index in indexes]
        stack = f"{prefix}-artifacts"
        parameters = {
            "Environment": environment,
            "Mapping": mapping.name,
            "BucketName": name_bucket(account, region, environment, mapping.name),
            "TableArns": ",".join(table_arns),
            "IndexArns": ",".join(index_arns or table_arns),  # IAM refuses an empty list
        }
        artifacts = _put_stack(cloudformation, stack, "artifacts.yaml", {**options, **parameters})
        [found] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        tell(f"artifacts: {artifacts} (s3://{outputs['Bucket']})")
        return Deployment(
            outputs["Bucket"],
            outputs["Policy"],
            outputs.get("SourcePolicy"),
            outputs["PagesPolicy"],
            outputs["AuditorPolicy"],
            tables,
            artifacts,
        )


def _check_existing_tables(mapping: Mapping, environment: str, session: "Session") -> bool:
    """Return whether another stack made the tables. Raises TargetError if they do not match the mapping."""
    present: list[str] = []
    absent: list[str] = []
    tables: dict[str, TableDescription] = {}
    with DynamoDB(session.client("dynamodb", config=client_config())) as dynamodb:
        for entity in mapping.entities.values():
            name = entity.table(environment)
            try:
                tables[entity.name] = dynamodb.describe_table(name)
            except TargetError:
                absent.append(name)
            else:
                present.append(name)
    schemas = find_deployed_schemas(mapping, tables)
    for name, table in tables.items():
        check_table(mapping.entities[name], table, schemas)
    if present and absent:
        raise RefusedError(
            f"{_join(present)} exist{'s' if len(present) == 1 else ''} already, but {_join(absent)} "
            f"do{'es' if len(absent) == 1 else ''} not: create the rest with the stack that made the others, "
            "or deploy to an environment that has none of them."
        )
    return bool(present)


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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


def _find_stack(cloudformation: "CloudFormationClient", name: str) -> "StackTypeDef | None":
    try:
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def _put_stack(
    cloudformation: "CloudFormationClient", name: str, template: str, parameters: dict[str, str]
) -> StackChange:
    """Create or update one stack, and wait until CloudFormation is done. Other parameters keep their values."""
    stack = _find_stack(cloudformation, name)
    if stack:
        _check_status(name, stack["StackStatus"])
    kept = (
        {parameter["ParameterKey"] for parameter in stack.get("Parameters", ())} - set(parameters) if stack else set()
    )
    request: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": (TEMPLATES / template).read_text(),
        "Parameters": [
            *({"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()),
            *({"ParameterKey": key, "UsePreviousValue": True} for key in sorted(kept)),
        ],
        "Capabilities": ["CAPABILITY_IAM"],
        # A failed creation removes everything it made, even what is to be retained: the next attempt starts clean.
        "RetainExceptOnCreate": True,
    }
    if stack is None:
        started = cloudformation.create_stack(**request, OnFailure="DELETE")["StackId"]
        _wait(cloudformation, name, started, "CREATE_COMPLETE")
        return "created"
    try:
        started = cloudformation.update_stack(**request)["StackId"]
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return "unchanged"
        raise
    _wait(cloudformation, name, started, "UPDATE_COMPLETE")
    return "updated"


def _check_status(name: str, status: str) -> None:
    if status in {"ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS", "DELETE_FAILED"}:
        raise RefusedError(
            f"Stack {name} is in {status}, and CloudFormation cannot update it: "
            f"run `aws cloudformation delete-stack --stack-name {name}` and deploy again."
        )
    if status.endswith("_IN_PROGRESS"):
        raise RefusedError(f"Stack {name} is in {status}: another deployment is at work. Try again later.")
    if status.endswith("_FAILED"):
        raise RefusedError(
            f"Stack {name} is in {status}: run `aws cloudformation continue-update-rollback --stack-name {name}` "
            "and deploy again."
        )


def _wait(cloudformation: "CloudFormationClient", name: str, stack_id: str, wanted: str) -> None:
    """Wait until the stack is `wanted`. Raises TargetError or AccessError, with the first reason, if it fails."""
    pause, longest = POLL_SECONDS
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        [stack] = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]  # an id finds a deleted stack too
        status = stack["StackStatus"]
        if status == wanted:
            return
        if not status.endswith("_IN_PROGRESS"):
            reason = _find_reason(cloudformation, stack_id) or stack.get("StackStatusReason", status)
            denied = "not authorized" in reason or "AccessDenied" in reason
            raise (AccessError if denied else TargetError)(f"Stack {name} ended in {status}: {reason.rstrip('.')}.")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)
    raise TransientError(
        f"Stack {name} is not done after {WAIT_SECONDS:.0f} s: look at it in the console, then deploy again."
    )


def _find_reason(cloudformation: "CloudFormationClient", stack_id: str) -> str | None:
    """Return why the operation failed first. Later reasons are mostly "Resource creation cancelled"."""
    reason = None
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
    for event in (event for page in pages for event in page["StackEvents"]):  # newest first
        if event["ResourceStatus"].endswith("_FAILED") and event.get("ResourceStatusReason"):
            reason = f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
        elif event["ResourceStatus"] in STARTS and event.get("PhysicalResourceId") == stack_id:
            break  # the start of this operation; older events belong to earlier ones
    if reason and "DescribeEvents" in reason:  # refused before anything was made: the reason is elsewhere
        failed = cloudformation.describe_events(StackName=stack_id, Filters={"FailedEvents": True})["OperationEvents"]
        reasons = [f"{event['LogicalResourceId']}: {event['ValidationStatusReason']}"
                   for event in failed if event.get("ValidationStatusReason")]  # fmt: skip
        return reasons[0] if reasons else reason
    return reason
