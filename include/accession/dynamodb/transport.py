"""The way to DynamoDB that a boto3 client knows, asked of it once, so that a request pays for signing and sending only.

botocore works out serialiser, endpoint, user agent, hooks, proxy and parser anew for each call: three quarters of a
request's CPU time. Here the client's endpoint, signer (whose credentials refresh themselves) and connections (pool,
TLS, proxy, time limits) are asked for once; Python's http.client reads the answers. None of these is ours.

How the client comes to its connections is private to botocore and urllib3, see `_find_pool` and `Channel._open`:
tests/integration/test_channel.py fails when new versions move it.
"""

import ssl
import threading
import zlib
from collections.abc import Iterator
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import TYPE_CHECKING, Any, NamedTuple

from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3 import exceptions as urllib3
from urllib3.connectionpool import HTTPConnectionPool

from accession.dynamodb.signer import Signer

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient


class Answer(NamedTuple):
    """An HTTP answer. `is_whole`: it matches the checksum that DynamoDB sent with it, if it did."""

    status: int
    body: bytes
    is_whole: bool


class Channel:
    """Sends prepared bytes to where `client` would. Safe for many threads.

    Raises botocore's own errors: no region, no credentials, and HTTPClientError or ConnectionError when sending fails.
    """

    def __init__(self, client: "DynamoDBClient") -> None:
        self._url, signer = _find_endpoint(client)
        self._signer = Signer(signer, self._url)
        self._pool, target = _find_pool(client, self._url)
        head = {"User-Agent": client.meta.config.user_agent, "Accept-Encoding": "identity"}  # type: ignore[attr-defined]
        self._tunnels = self._pool.proxy is not None and target != self._url
        if not self._tunnels:
            head |= self._pool.proxy_headers
        self._head = f"POST {target} HTTP/1.1\r\n{_join(head)}"

    def send(self, operation: str, body: bytes) -> Answer:
        """POST `body` for `operation` ("BatchWriteItem"), signed; one attempt."""
        headers = self._signer.sign(f"DynamoDB_20120810.{operation}", body)
        request = f"{self._head}{_join(headers)}Content-Length: {len(body)}\r\n\r\n".encode() + body
        connection = self._pool._get_conn()  # closed, where the server hung up while it was idle
        try:
            if connection.is_closed:
                self._open(connection)
            return self._exchange(connection, request)
        except BaseException:
            connection.close()
            raise
        finally:
            self._pool._put_conn(connection)

    def _open(self, connection: Any) -> None:
        try:
            if self._tunnels:
                self._pool._prepare_proxy(connection)
            else:
                connection.connect()
        except ssl.SSLError as error:
            raise SSLError(endpoint_url=self._url, error=error) from error
        except (urllib3.HTTPError, OSError) as error:
            # urllib3 counts a refused connection among the timeouts.
            is_slow = isinstance(error, urllib3.ConnectTimeoutError) and not isinstance(
                error, urllib3.NewConnectionError
            )
            kind = ConnectTimeoutError if is_slow else EndpointConnectionError
            raise kind(endpoint_url=self._url, error=error) from error
        connection.sock.settimeout(self._pool.timeout.read_timeout)

    def _exchange(self, connection: Any, request: bytes) -> Answer:
        try:
            connection.sock.sendall(request)
            with HTTPResponse(connection.sock, method="POST") as response:
                response.begin()
                body = response.read()
        except TimeoutError as error:
            raise ReadTimeoutError(endpoint_url=self._url, error=error) from error
        except (OSError, HTTPException) as error:
            raise ConnectionClosedError(endpoint_url=self._url, error=error) from error
        if response.will_close:
            connection.close()
        checksum = response.headers.get("x-amz-crc32")
        return Answer(response.status, body, checksum is None or checksum == str(zlib.crc32(body)))


def _join(headers: dict[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])


class _Nothing:
    """The body of an answer that nobody sent."""

    def stream(self) -> Iterator[bytes]:
        yield b"{}"


def _find_endpoint(client: "DynamoDBClient") -> tuple[str, Any]:
    """The URL that the client sends to, and its signer, taken from a call that its own events stop."""
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
    return known["url"], known["signer"]


def _find_pool(client: "DynamoDBClient", url: str) -> tuple[HTTPConnectionPool, str]:
    """The pool that the client takes its connections from, and what a request line names on them."""
    session = client._endpoint.http_session  # type: ignore[attr-defined]
    proxy = session._proxy_config.proxy_url_for(url)
    pool = session._get_connection_manager(url, proxy).connection_from_url(url)
    session._setup_ssl_cert(pool, url, session._verify)
    return pool, session._get_request_target(url, proxy)
