"""Our signature is the one that botocore makes."""

from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import NoCredentialsError
from botocore.hooks import HierarchicalEmitter
from botocore.model import ServiceId
from botocore.signers import RequestSigner
from hypothesis import given
from hypothesis import strategies as st

from accession.aws import READ_SECONDS
from accession.dynamodb.endpoint import Proxy
from accession.dynamodb.requests import FENCE_SECONDS
from accession.dynamodb.signer import Signer, _Prepared
from accession.target.ownership import CHECK_SECONDS, SETTLE_SECONDS

TARGET = "DynamoDB_20120810.BatchWriteItem"


def make_signer(credentials: Credentials | None, region: str = "eu-north-1") -> RequestSigner:
    found: Any = credentials  # None if botocore found none, which its stubs leave out
    return RequestSigner(ServiceId("DynamoDB"), region, "dynamodb", "v4", found, HierarchicalEmitter())


def sign_by_botocore(url: str, headers: dict[str, str], body: bytes, credentials: Any, region: str) -> str:
    """The authorization of the same request, at the same time."""
    request = AWSRequest("POST", url, {n: v for n, v in headers.items() if n not in ("authorization", "host")}, body)
    request.context["timestamp"] = headers["x-amz-date"]
    auth: Any = SigV4Auth(credentials, "dynamodb", region)
    text = auth.string_to_sign(request, auth.canonical_request(request))
    auth._inject_signature_to_request(request, auth.signature(text, request))
    return str(request.headers["Authorization"])


@pytest.mark.parametrize(
    "url",
    [
        "https://dynamodb.eu-north-1.amazonaws.com/",
        "https://dynamodb.eu-north-1.amazonaws.com",
        "https://111122223333.ddb.eu-north-1.amazonaws.com/",
        "http://127.0.0.1:4566/",
        "https://proxy.example.org:8443/aws/dynamodb v2/",
    ],
)
@pytest.mark.parametrize("token", [None, "FwoGZXIvYXdzEBYa/+=="])
def test_every_address_and_kind_of_credentials(url: str, token: str | None) -> None:
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    headers = Signer(make_signer(credentials), url).sign(TARGET, b'{"TableName":"Some"}')
    assert headers["authorization"] == sign_by_botocore(
        url, headers, b'{"TableName":"Some"}', credentials, "eu-north-1"
    )
    assert headers.get("x-amz-security-token") == token


@given(body=st.binary(max_size=200), secret=st.text(min_size=1, max_size=50), region=st.sampled_from(["a-b-1", "us-x"]))
def test_every_body_and_secret(body: bytes, secret: str, region: str) -> None:
    credentials = Credentials("AKIDEXAMPLE", secret)
    headers = Signer(make_signer(credentials, region), "https://example.org/").sign(TARGET, body)
    assert headers["authorization"] == sign_by_botocore("https://example.org/", headers, body, credentials, region)


def test_refreshed_credentials_are_used_at_once() -> None:
    signer: Any = make_signer(Credentials("FIRST", "one"))
    url = "https://example.org/"
    ours = Signer(signer, url)
    ours.sign(TARGET, b"{}")
    second = Credentials("SECOND", "two", "token")
    signer._credentials = second
    headers = ours.sign(TARGET, b"{}")
    assert headers["authorization"] == sign_by_botocore(url, headers, b"{}", second, "eu-north-1")


def test_no_credentials() -> None:
    with pytest.raises(NoCredentialsError):
        Signer(make_signer(None), "https://example.org/").sign(TARGET, b"{}")


def test_nothing_that_is_kept_for_requests_shows_a_secret() -> None:
    proxy = Proxy("http://ann:secret@proxy:3128", {"Proxy-Authorization": "Basic secret"}, True, None)
    assert "secret" not in repr(proxy)
    prepared = _Prepared((), {"x-amz-security-token": "secret"}, "", "", b"secret", "")
    assert "secret" not in repr(prepared)


def test_the_writers_of_an_older_epoch_have_stopped_when_it_is_settled() -> None:
    """The fence's state may be CHECK_SECONDS old, its answer FENCE_SECONDS, and then a request takes READ_SECONDS."""
    assert CHECK_SECONDS + FENCE_SECONDS + READ_SECONDS < SETTLE_SECONDS
