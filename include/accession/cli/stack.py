"""A CloudFormation stack: create or update it, wait for it, and say why it failed."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import ClientError

from accession.errors import AccessError, RefusedError, TargetError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_cloudformation.type_defs import StackTypeDef

WAIT_SECONDS = 900.0  # tables with two indexes take a minute or two on AWS
STARTS = {"CREATE_IN_PROGRESS", "UPDATE_IN_PROGRESS"}
POLL_SECONDS = (0.2, 5.0)  # the first and the longest pause between two requests for the status of a stack
# AWS CloudFormation User Guide, "Understand CloudFormation quotas": a template in a request, and one on S3.
MAX_INLINE_BYTES = 51_200
MAX_BYTES = 1_000_000

StackChange = Literal["created", "updated", "unchanged", "left alone"]


def find_stack(cloudformation: "CloudFormationClient", name: str) -> "StackTypeDef | None":
    """Return a stack that exists, or None."""
    try:
        [stack] = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise
    return None if stack["StackStatus"] == "DELETE_COMPLETE" else stack


def put_stack(
    cloudformation: "CloudFormationClient",
    name: str,
    template: str,
    parameters: dict[str, str],
    upload: Callable[[str], str] | None = None,
) -> StackChange:
    """Create or update one stack, and wait until CloudFormation is done. Other parameters keep their values.

    `upload` puts a template that is too large for a request on S3, and returns its URL. Raises RefusedError if a
    person must look at the stack first, and AccessError, TargetError or TransientError if it fails.
    """
    size = len(template.encode())
    if size > MAX_BYTES:
        raise RefusedError(
            f"The template of stack {name} has {size:,} bytes, and CloudFormation takes at most {MAX_BYTES:,}: divide "
            "the mapping."
        )
    stack = find_stack(cloudformation, name)
    if stack:
        _check_status(name, stack["StackStatus"])
    kept = (
        {parameter["ParameterKey"] for parameter in stack.get("Parameters", ())} - set(parameters) if stack else set()
    )
    request: dict[str, Any] = {
        "StackName": name,
        **_give_template(template, size, upload),
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


def _give_template(template: str, size: int, upload: Callable[[str], str] | None) -> dict[str, str]:
    if size > MAX_INLINE_BYTES and upload is not None:
        return {"TemplateURL": upload(template)}
    return {"TemplateBody": template}


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
