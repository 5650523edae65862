"""The way to DynamoDB that a boto3 client knows, asked of it once, so that a request pays for signing and sending only.

botocore works out serialiser, endpoint, user agent, hooks and parser anew for each call: half of a request's CPU time.
Here its endpoint and its signer (whose credentials refresh themselves) are taken from a call that its own events stop
before it leaves, and the prepared request, signed by signer.py, goes out through its HTTP session (pool, TLS, proxy,
time limits): none of these is ours. That the client holds its session at `_endpoint.http_session` is private to
botocore: tests/integration/test_dynamodb.py fails when a new version moves it.
"""

import logging
import threading
import zlib
from collections.abc import Iterator
from http.client import HTTPMessage
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.awsrequest import AWSPreparedRequest, AWSResponse

from accession.signer import Signer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

# One warning a connection that the server closed would drown the log; each such request is retried and counted.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


class Answer(NamedTuple):
    """An HTTP answer. `is_whole`: it matches the checksum that DynamoDB sent with it, if it did."""

    status: int
    body: bytes
    is_whole: bool


class _Nothing:
    """The body of an answer that nobody sent."""

    def stream(self) -> Iterator[bytes]:
        yield b"{}"


class Channel:
    """Sends prepared bytes to where `client` would. Safe for many threads.

    Raises botocore's own errors: no region, no credentials, and HTTPClientError or ConnectionError when sending fails.
    """

    def __init__(self, client: "DynamoDBClient") -> None:
        known: dict[str, Any] = {}
        thread = threading.get_ident()

        def keep_signer(request_signer: Any, **_: Any) -> None:
            if threading.get_ident() == thread:
                known["signer"] = request_signer

        def stop(request: Any, **_: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            known["url"] = request.url
            return AWSResponse(request.url, 200, HTTPMessage(), _Nothing())  # type: ignore[arg-type]

        events = client.meta.events
        events.register("before-sign.dynamodb.DescribeLimits", keep_signer)
        events.register("before-send.dynamodb.DescribeLimits", stop)
        try:
            client.describe_limits()
        finally:
            events.unregister("before-sign.dynamodb.DescribeLimits", keep_signer)
            events.unregister("before-send.dynamodb.DescribeLimits", stop)
        self._url, self._signer = known["url"], Signer(known["signer"], known["url"])
        self._user_agent = client.meta.config.user_agent  # type: ignore[attr-defined]
        self._session = client._endpoint.http_session  # type: ignore[attr-defined]

    def send(self, operation: str, body: bytes) -> Answer:
        """POST `body` for `operation` ("BatchWriteItem"), signed; one attempt."""
        headers = self._signer.sign(f"DynamoDB_20120810.{operation}", body) | {"User-Agent": self._user_agent}
        answer = self._session.send(AWSPreparedRequest("POST", self._url, headers, body, stream_output=False))  # type: ignore[arg-type]
        checksum = answer.headers.get("x-amz-crc32")
        body = answer.content
        return Answer(answer.status_code, body, checksum is None or int(checksum) == zlib.crc32(body))
