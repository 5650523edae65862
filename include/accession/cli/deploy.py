"""Puts both CloudFormation stacks where the environment's AWS is: tables, for those who have none, and artifacts.

Repeatable: a second call changes nothing and says so. Tables that another stack made, such as the application's own,
are checked against the mapping and left alone.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
)

from accession.commands import HOME_LIBRARY
from accession.dynamodb import DynamoDB, client_config
from accession.errors import AccessError, PermanentError, RefusedError, TargetError, TransientError
from accession.mapping import Mapping
from accession.run import check_table

if TYPE_CHECKING:
    from boto3 import Session
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

TEMPLATES = Path(__file__).parents[2] / "cloudformation"
WAIT_SECONDS = 900.0  # tables with two indexes take a minute or two on AWS
STARTS = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"}
POLL_SECONDS = (0.2, 5.0)  # first and longest wait between two looks at a stack

Outcome = Literal["created", "updated", "unchanged", "left alone"]


@dataclass(frozen=True)
class Deployment:
    """Where a run finds what it needs, and what this deployment did."""

    bucket: str
    policy: str  # ARN of the managed policy for the role of Airflow's workers
    tables: Outcome
    artifacts: Outcome


def deploy_stacks(
    mapping: Mapping, environment: str, session: "Session", *, tell: Callable[[str], None] = lambda _line: None
) -> Deployment:
    """Create or update both stacks and wait for them; `tell` gets a line per step.

    Safe to repeat. Raises AccessError (credentials, a missing permission), RefusedError (a stack or a set of tables
    that a person must look at first), TargetError (tables not as the mapping says, a stack that failed).
    """
    folded = environment.lower().replace("_", "-")
    if folded != environment:
        raise RefusedError(
            f"environment {environment} would share stacks and bucket with {folded}, as their names are lower case and "
            f"without underscores: call it {folded}."
        )
    with _explain():
        partition, account, region = _find_account(session)
        cloudformation = session.client("cloudformation")
        prefix = f"accession-{mapping.name}-{environment}".replace("_", "-")

        stack = f"{prefix}-tables"
        if _find_stack(cloudformation, stack) is None and _check_existing_tables(mapping, environment, session):
            tables: Outcome = "left alone"
        elif mapping.name != HOME_LIBRARY:
            raise RefusedError(
                f"the tables of {mapping.name} are not there, and tables.yaml makes only those of {HOME_LIBRARY}: make "
                "them with the keys and indexes of the mapping, then deploy again."
            )
        else:
            tables = _put_stack(cloudformation, stack, "tables.yaml", {"Environment": environment})
        tell(f"tables: {tables} ({', '.join(entity.table(environment) for entity in mapping.entities.values())})")

        table_arn = f"arn:{partition}:dynamodb:{region}:{account}:table"
        arns = {entity.table(environment): list(entity.indexes) for entity in mapping.entities.values()}
        table_arns = [f"{table_arn}/{table}" for table in arns]
        index_arns = [f"{table_arn}/{table}/index/{index}" for table, indexes in arns.items() for index in indexes]
        stack = f"{prefix}-artifacts"
        artifacts = _put_stack(
            cloudformation,
            stack,
            "artifacts.yaml",
            {
                "Environment": environment,
                "Mapping": mapping.name,
                "BucketName": name_bucket(account, region, environment, mapping.name),
                "TableArns": ",".join(table_arns),
                "IndexArns": ",".join(index_arns or table_arns),  # IAM takes no empty list
            },
        )
        [found] = cloudformation.describe_stacks(StackName=stack)["Stacks"]
        outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
        tell(f"artifacts: {artifacts} (s3://{outputs['Bucket']})")
        return Deployment(outputs["Bucket"], outputs["Policy"], tables, artifacts)


def _check_existing_tables(mapping: Mapping, environment: str, session: "Session") -> bool:
    """Whether the tables are there already, made elsewhere, and as the mapping says; False when there are none."""
    dynamodb = DynamoDB(session.client("dynamodb", config=client_config()))
    present: list[str] = []
    absent: list[str] = []
    for entity in mapping.entities.values():
        name = entity.table(environment)
        try:
            dynamodb.describe_table(name)
        except TargetError:
            absent.append(name)
        else:
            present.append(name)
            check_table(entity, environment, dynamodb)
    if present and absent:
        raise RefusedError(
            f"{_join(present)} exist{'s' if len(present) == 1 else ''} already, but {_join(absent)} "
            f"do{'es' if len(absent) == 1 else ''} not: let the stack that made the former make the rest, "
            "or deploy to an environment that has none of them."
        )
    return bool(present)


def _join(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def name_bucket(account: str, region: str, environment: str, mapping: str = HOME_LIBRARY) -> str:
    """The artifacts bucket: global, lower case, at most 63 long (S3 User Guide, "Bucket naming rules")."""
    owner = environment if mapping == HOME_LIBRARY else f"{mapping}-{environment}"
    return f"accession-{account}-{region}-{owner}".lower().replace("_", "-")[:63].rstrip("-")


def find_bucket(environment: str, session: "Session", mapping: str = HOME_LIBRARY) -> str:
    """The name that `deploy_stacks` gives the bucket in this account and region. Read-only; asks AWS who we are."""
    with _explain():
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


def _put_stack(cloudformation: "CloudFormationClient", name: str, template: str, parameters: dict[str, str]) -> Outcome:
    """Create or update one stack and wait until it is done."""
    stack = _find_stack(cloudformation, name)
    if stack:
        _check_status(name, stack["StackStatus"])
    request: dict[str, Any] = {
        "StackName": name,
        "TemplateBody": (TEMPLATES / template).read_text(),
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        "Capabilities": ["CAPABILITY_IAM"],
        # What a failed creation has made so far goes away with it, retained or not: the next attempt starts clean.
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
            f"Stack {name} is in {status}, from which CloudFormation cannot update it: "
            f"run `aws cloudformation delete-stack --stack-name {name}` and deploy again."
        )
    if status.endswith("_IN_PROGRESS"):
        raise RefusedError(f"Stack {name} is in {status}: somebody is deploying it now; try again when that is done.")
    if status.endswith("_FAILED"):
        raise RefusedError(
            f"Stack {name} is in {status}: run `aws cloudformation continue-update-rollback --stack-name {name}` "
            "and deploy again."
        )


def _wait(cloudformation: "CloudFormationClient", name: str, stack_id: str, wanted: str) -> None:
    """Return when the stack is `wanted`; raise with the first reason that it gives when it ends otherwise."""
    pause, longest = POLL_SECONDS
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        [stack] = cloudformation.describe_stacks(StackName=stack_id)["Stacks"]  # by id: a deleted one is still found
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
        f"Stack {name} is not done after {WAIT_SECONDS:.0f} s: look at it in the console, deploy again."
    )


def _find_reason(cloudformation: "CloudFormationClient", stack_id: str) -> str | None:
    """What failed first; what follows is mostly "Resource creation cancelled"."""
    reason = None
    pages = cloudformation.get_paginator("describe_stack_events").paginate(StackName=stack_id)
    for event in (event for page in pages for event in page["StackEvents"]):  # newest first
        if event["ResourceStatus"].endswith("_FAILED") and event.get("ResourceStatusReason"):
            reason = f"{event['LogicalResourceId']}: {event['ResourceStatusReason']}"
        elif event["ResourceStatus"] in STARTS and event.get("PhysicalResourceId") == stack_id:
            break  # the start of this very operation; older events tell older stories
    if reason and "DescribeEvents" in reason:  # refused before anything was made; the sentence is elsewhere
        failed = cloudformation.describe_events(StackName=stack_id, Filters={"FailedEvents": True})["OperationEvents"]
        told = [f"{event['LogicalResourceId']}: {event['ValidationStatusReason']}"
                for event in failed if event.get("ValidationStatusReason")]  # fmt: skip
        return told[0] if told else reason
    return reason


@contextlib.contextmanager
def _explain() -> Iterator[None]:
    """Turn what botocore raises into one sentence with a remedy."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise AccessError(
            "There are no AWS credentials: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        ) from error
    except NoRegionError as error:
        raise AccessError("There is no AWS region: set AWS_DEFAULT_REGION=eu-north-1, or yours.") from error
    except EndpointConnectionError as error:
        raise TransientError(f"Nothing answers at {error.kwargs['endpoint_url']}: check AWS_ENDPOINT_URL.") from error
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
        if code in {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}:
            raise AccessError(f"AWS refused {error.operation_name}: {message.rstrip('.')}.") from error
        if code in {"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "SignatureDoesNotMatch"}:
            raise AccessError(f"AWS does not accept the credentials ({code}): log in again.") from error
        raise PermanentError(f"AWS refused {error.operation_name} ({code}): {message.rstrip('.')}.") from error
    except BotoCoreError as error:
        raise TransientError(f"AWS could not be asked: {str(error).rstrip('.')}.") from error
