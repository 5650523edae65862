"""The errors that any AWS call may raise are explained in one wording, with a remedy."""

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    UnauthorizedSSOTokenError,
)

from accession.aws import explain_code, explain_errors, explain_failure
from accession.errors import AccessError, AccessionError, CredentialsError, PermanentError, TransientError

REQUEST = "dynamodb:Scan on table Books"
URL = "http://127.0.0.1:9"


def refuse(code: str, message: str = "No.") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Scan")


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (NoCredentialsError(), CredentialsError, f"There are no AWS credentials for {REQUEST}: set AWS_PROFILE, or"),
        (
            PartialCredentialsError(provider="env", cred_var="x"),
            CredentialsError,
            f"The AWS credentials for {REQUEST} do not work (PartialCredentialsError): log in again, or use others.",
        ),
        (UnauthorizedSSOTokenError(), CredentialsError, "do not work (UnauthorizedSSOTokenError): log in again"),
        (NoRegionError(), AccessError, f"There is no AWS region for {REQUEST}: set AWS_DEFAULT_REGION"),
        (ProfileNotFound(profile="x"), AccessError, "The config profile (x) could not be found: set AWS_PROFILE"),
        (
            EndpointConnectionError(endpoint_url=URL),
            TransientError,
            f"{URL} did not answer {REQUEST} (EndpointConnectionError): check AWS_ENDPOINT_URL and the network.",
        ),
        (ReadTimeoutError(endpoint_url=URL), TransientError, f"{URL} did not answer {REQUEST} (ReadTimeoutError)"),
        (refuse("403"), AccessError, f"AWS denied {REQUEST} (403): allow that action for the role in use"),
        (
            refuse("ExpiredToken"),
            CredentialsError,
            f"AWS does not accept the credentials for {REQUEST} (ExpiredToken): log in again, or use others.",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_failure_of_any_call_is_a_sentence_with_a_remedy(
    error: Exception, kind: type[AccessionError], sentence: str
) -> None:
    found = explain_failure(error, REQUEST)
    assert type(found) is kind
    assert sentence in str(found)
    assert str(found).endswith(".")


@pytest.mark.parametrize("error", [refuse("NoSuchBucket"), ParamValidationError(report="x"), ValueError("x")])
def test_an_error_of_one_service_is_left_to_its_caller(error: Exception) -> None:
    assert explain_failure(error, REQUEST) is None


def test_the_service_s_message_is_shown_only_if_it_is_handed_over() -> None:
    assert str(explain_code("AccessDenied", REQUEST, "Not you.")).endswith("another role. AWS says: Not you.")
    assert "Not you" not in str(explain_failure(refuse("AccessDenied", "Not you."), REQUEST))
    assert explain_code("ValidationException", REQUEST, "Not you.") is None


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (refuse("AccessDenied", "Not you."), AccessError, "AWS denied Scan (AccessDenied): allow that action"),
        (refuse("ValidationError", "Bad."), PermanentError, "AWS refused Scan (ValidationError): Bad."),
        (NoRegionError(), AccessError, "There is no AWS region for the request"),
        (BotoCoreError(), PermanentError, "The request to AWS failed: An unspecified error occurred."),
    ],
)
def test_every_error_of_botocore_is_raised_as_ours(error: Exception, kind: type[AccessionError], sentence: str) -> None:
    with pytest.raises(kind) as raised, explain_errors():
        raise error
    assert type(raised.value) is kind
    assert sentence in str(raised.value)
    assert raised.value.__cause__ is error
