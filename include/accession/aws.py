"""Settings and errors that all our AWS clients share.

Any AWS call can fail in one of these ways: there are no credentials, they do not work, there is no region, no such
profile, access is denied, nothing answers. They are explained here, in one wording.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)

from accession.errors import (
    AccessError,
    AccessionError,
    CredentialsError,
    ParamsError,
    PermanentError,
    TransientError,
)

CONNECT_SECONDS = 3
READ_SECONDS = 15
REQUEST_TIMEOUT_SECONDS = CONNECT_SECONDS + READ_SECONDS
"""The longest that one request to DynamoDB may be in flight. Undo and resume wait for it after they raise the epoch."""

# botocore's errors before a request is sent: there are no credentials, or none that could be fetched.
NO_CREDENTIALS = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, SSOError,
)  # fmt: skip
NO_ANSWER = (ConnectionError, HTTPClientError)  # time-outs, refused and dropped connections, failed TLS

# A service adds "Exception" to a code, or does not: "Common errors" in the API references of IAM, S3 and DynamoDB.
DENIED_CODES = {
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403", "OptInRequired",
    "SubscriptionRequiredException",
}  # fmt: skip
EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException"}
CREDENTIALS_CODES = EXPIRED_CODES | {
    "IncompleteSignatureException", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidSignatureException",
    "InvalidToken", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}  # fmt: skip


def adopt_region() -> None:
    """Make boto3 use AWS_REGION, which AWS's container services set and boto3 does not read."""
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)


def check_endpoints() -> None:
    """Raise ParamsError if a variable AWS_ENDPOINT_URL… is not a URL, which boto3 would not explain."""
    for name, value in os.environ.items():
        if name.startswith("AWS_ENDPOINT_URL") and value and not value.startswith(("http://", "https://")):
            raise ParamsError(f"{name} is {value}, which is not a URL: write http://{value} or https://{value}.")


def explain_code(code: str, request: str, message: str = "") -> AccessError | None:
    """Return an error that explains a code which any AWS service may answer with; None for all other codes.

    `request` names the action and its object: "s3:PutObject on s3://bucket/key". `message` is AWS's own; leave it out
    if it may quote an item.
    """
    quote = f" AWS says: {message.rstrip('.')}." if message else ""
    if code in DENIED_CODES:
        return AccessError(
            f"AWS denied {request} ({code}): allow that action for the role in use, or use another role.{quote}"
        )
    if code in CREDENTIALS_CODES:
        return CredentialsError(
            f"AWS does not accept the credentials for {request} ({code}): log in again, or use others.{quote}"
        )
    return None


def explain_failure(error: BaseException, request: str) -> AccessionError | None:
    """Return an error that explains one of botocore which any AWS call may raise; None for all other errors."""
    if isinstance(error, NoCredentialsError):
        return CredentialsError(
            f"There are no AWS credentials for {request}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or Airflow's connection aws_default, or attach a role."
        )
    if isinstance(error, NO_CREDENTIALS):
        return CredentialsError(
            f"The AWS credentials for {request} do not work ({type(error).__name__}): log in again, or use others."
        )
    if isinstance(error, NoRegionError):
        return AccessError(f"There is no AWS region for {request}: set AWS_DEFAULT_REGION, for example to eu-north-1.")
    if isinstance(error, ProfileNotFound):
        return AccessError(f"{str(error).rstrip('.')}: set AWS_PROFILE to a profile of your AWS configuration.")
    if isinstance(error, NO_ANSWER):
        endpoint = getattr(error, "kwargs", {}).get("endpoint_url") or "AWS"
        return TransientError(
            f"{endpoint} did not answer {request} ({type(error).__name__}): check AWS_ENDPOINT_URL and the network."
        )
    if isinstance(error, ClientError):
        return explain_code(error.response["Error"]["Code"], request)
    return None


@contextmanager
def explain_errors() -> Iterator[None]:
    """Raise botocore's errors as ours, for calls whose errors need no words of their own.

    AWS's message is repeated, so use it only around calls that hold no item.
    """
    try:
        yield
    except ClientError as error:
        code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "").rstrip(".")
        raise explain_code(code, error.operation_name, message) or PermanentError(
            f"AWS refused {error.operation_name} ({code}): {message}."
        ) from error
    except BotoCoreError as error:
        raise explain_failure(error, "the request") or PermanentError(
            f"The request to AWS failed: {str(error).rstrip('.')}."
        ) from error
