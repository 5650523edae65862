"""Classify the answers of DynamoDB: done, refused for good, refused for now, or unknown."""

import re
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from accession.aws import EXPIRED_CODES, NO_ANSWER, explain_code, explain_failure
from accession.dynamodb.connection import Answer
from accession.errors import AccessionError, CredentialsError, PermanentError, TargetError

# Which errors to retry: DynamoDB Developer Guide, Programming.Errors
_THROTTLES = {"ProvisionedThroughputExceededException", "ThrottlingException", "Throttling", "RequestLimitExceeded"}
_PASSING = {
    "InternalServerError", "InternalFailure", "ServiceUnavailable", "ItemCollectionSizeLimitExceededException",
    "TransactionInProgressException", "TransactionConflictException", "ReplicatedWriteConflictException",
    "RequestTimeout", "RequestTimeoutException",
}  # fmt: skip


class ConditionFailedError(Exception):
    """The condition of a write does not hold.

    `repeated`: an earlier attempt of the same call may have been applied, so that its own effect can be the reason.
    """

    def __init__(self, repeated: bool) -> None:
        super().__init__("the condition does not hold")
        self.repeated = repeated


class ThrottledError(Exception):
    """The table refused for now; `reasons` as DynamoDB gave them, e.g. TableWriteKeyRangeThroughputExceeded."""

    def __init__(self, reasons: set[str]) -> None:
        super().__init__(", ".join(sorted(reasons)) or "throttled")
        self.reasons = reasons

    @property
    def hot_keys_only(self) -> bool:
        """Tell whether only one key range is hot: its items wait, and the others go on as fast as before."""
        return bool(self.reasons) and all(reason.endswith("KeyRangeThroughputExceeded") for reason in self.reasons)


class PassingError(Exception):
    """A failure that may pass. `may_be_applied`: the request was sent, so whether it was applied is not known.

    `has_ended`: DynamoDB answered something, so it will not apply the request later.
    """

    def __init__(self, reason: str, *, may_be_applied: bool, has_ended: bool = True) -> None:
        super().__init__(reason)
        self.may_be_applied, self.has_ended = may_be_applied, has_ended


class LostAnswerError(Exception):
    """The answer to a write was lost, and the caller must look before it writes again."""


class ExpiredError(Exception):
    """DynamoDB refused expired credentials. `refusal` is the error to raise if they cannot be refreshed."""

    def __init__(self, code: str, refusal: AccessionError) -> None:
        super().__init__(code)
        self.refusal = refusal


def explain_unsent(error: Exception, request: str) -> Exception:
    """Return the error for one of botocore that came before the request was sent.

    A ClientError is the refusal of another service, which was asked for new credentials.
    """
    if isinstance(error, NO_ANSWER):
        return PassingError(type(error).__name__, may_be_applied=False)
    if isinstance(error, ClientError):
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code in _THROTTLES | _PASSING or status >= 500:
            return PassingError(f"{error.operation_name}: {code}", may_be_applied=False)
        return CredentialsError(
            f"The AWS credentials for {request} were not refreshed: AWS refused {error.operation_name} ({code}). Log "
            "in again, use others, or allow the role to be assumed."
        )
    return explain_failure(error, request) or PermanentError(
        f"Request {request} failed ({type(error).__name__}): check the configuration of the AWS client."
    )


def explain_sent(error: BotoCoreError, request: str) -> Exception:
    """Return the error for one of botocore that came while or after the request was sent."""
    if isinstance(error, NO_ANSWER):
        return PassingError(type(error).__name__, may_be_applied=True, has_ended=False)
    return explain_unsent(error, request)


def explain_answer(answer: Answer, operation: str, table: str, region: str) -> Exception:
    """Return the error for an answer that is not a success.

    `__type` ends with the error's code (AWS JSON protocol); a proxy may answer with something other than JSON.
    """
    try:
        response = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        response = None
    if not isinstance(response, dict):
        response = {}
    code = str(response.get("__type", "")).rpartition("#")[2]
    if code == "ConditionalCheckFailedException":
        return ConditionFailedError(False)
    if code in _THROTTLES or answer.status == 429:
        listed = response.get("ThrottlingReasons") or response.get("throttlingReasons") or []
        return ThrottledError({str(entry["reason"]) for entry in listed if entry.get("reason")})
    if code in _PASSING or answer.status >= 500:
        return PassingError(code or f"HTTP {answer.status}", may_be_applied=True)
    if code in {"ResourceNotFoundException", "TableNotFoundException"}:
        return TargetError(
            f"Table {table} does not exist in {region}: run make deploy ENVIRONMENT=<environment> first, or point "
            "AWS_DEFAULT_REGION and AWS_ENDPOINT_URL at the tables."
        )
    request = name_request(operation, table)
    refusal = explain_code(code, request)
    if refusal is not None:
        return ExpiredError(code, refusal) if code in EXPIRED_CODES else refusal
    return PermanentError(f"DynamoDB refused {request} ({code or f'HTTP {answer.status}'}){_quote(response)}.")


def name_request(operation: str, table: str) -> str:
    """Return how errors name a request: by the IAM action and the table."""
    return f"dynamodb:{operation} on table {table}"


def _quote(response: dict[str, Any]) -> str:
    """Return the service's message without the values in it, which may be personal."""
    message = str(response.get("message") or response.get("Message") or "").rstrip(".")
    message = re.sub(r"'.*'|\".*\"|\{.*\}|\[.*\]|<.*>", "…", message, flags=re.DOTALL)
    message = re.sub(r"(numeric value|number):? .*", r"\1 …", message)
    return f": {message}" if message else ""
