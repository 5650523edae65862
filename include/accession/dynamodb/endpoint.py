"""The endpoint of a boto3 client and the way to it. They are found once, for all requests.

botocore works out serialiser, endpoint, user agent, hooks, proxy and parser again for each call: three quarters of a
request's CPU time. Here the client's URL, signer, proxy, certificates and time limits are asked for once.

How the client knows these is private to botocore. Every private access is in this module, and
tests/integration/test_transport.py fails if a new version moves one.
"""

import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPMessage
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import InvalidProxiesConfigError
from botocore.httpsession import get_cert_path

from accession.aws import CONNECT_SECONDS, READ_SECONDS

if TYPE_CHECKING:
    from botocore.signers import RequestSigner
    from mypy_boto3_dynamodb import DynamoDBClient


def client_config() -> Config:
    """Return the configuration of a DynamoDB client.

    One attempt per call, since retry.py retries, and `standard` mode would otherwise cut DynamoDB's ten attempts to a
    few and hide throttles from the rate. Time limits bound a request. There is no client-side validation, since staging
    has checked every item. The user agent is short.
    """
    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        parameter_validation=False,
        tcp_keepalive=True,
        user_agent="Accession",
    )


@dataclass(frozen=True)
class Proxy:
    """A proxy on the way. `tunnels`: it passes bytes on after a CONNECT; otherwise it is asked for the whole URL."""

    url: str = field(repr=False)  # may hold a password, as the headers do
    headers: dict[str, str] = field(repr=False)
    tunnels: bool
    tls: ssl.SSLContext | None


@dataclass(frozen=True)
class Endpoint:
    """The address, and all that a request to it needs besides its body. `target` stands in the request line."""

    url: str
    target: str
    signer: "RequestSigner"
    user_agent: str
    tls: ssl.SSLContext | None
    proxy: Proxy | None
    socket_options: list[tuple[int, int, int]]
    connect_seconds: float
    read_seconds: float


def find_endpoint(client: "DynamoDBClient") -> Endpoint:
    """Ask a client for its endpoint. Blocks if credentials must be fetched.

    Raises botocore's own errors, such as those for no region and no credentials.
    """
    url, signer = _find_signer(client)
    session = client._endpoint.http_session  # type: ignore[attr-defined]
    proxy_url = session._proxy_config.proxy_url_for(url)
    target = session._get_request_target(url, proxy_url)
    return Endpoint(
        url=url,
        target=target,
        signer=signer,
        user_agent=client.meta.config.user_agent,  # type: ignore[attr-defined]
        tls=_make_context(session) if url.startswith("https:") else None,
        proxy=_find_proxy(session, proxy_url, target != url) if proxy_url else None,
        socket_options=session._socket_options,
        connect_seconds=session._timeout.connect_timeout,
        read_seconds=session._timeout.read_timeout,
    )


def find_credentials(signer: "RequestSigner") -> Any:
    """Return the credentials that a signer signs with; None if there are none. They may need a refresh."""
    return signer._credentials  # type: ignore[attr-defined]


def must_refresh(credentials: Any, *, soon: bool) -> bool:
    """Return whether credentials expire within botocore's mandatory refresh time, or with `soon` its advisory one."""
    if not hasattr(credentials, "refresh_needed"):
        return False
    seconds = credentials._advisory_refresh_timeout if soon else credentials._mandatory_refresh_timeout
    return bool(credentials.refresh_needed(seconds))


def renew_credentials(credentials: Any) -> None:
    """Refresh credentials that botocore can refresh, even if they do not seem to have expired. Blocks."""
    with credentials._refresh_lock:
        credentials._protected_refresh(is_mandatory=True)


class _EmptyBody:
    """The empty body of an answer that no server sent."""

    def stream(self) -> Iterator[bytes]:
        yield b"{}"


def _find_signer(client: "DynamoDBClient") -> tuple[str, "RequestSigner"]:
    """Return the URL that the client sends to, and its signer, taken from a call that its own events stop."""
    known: dict[str, Any] = {}
    thread = threading.get_ident()

    def keep_signer(request_signer: Any, **_: Any) -> None:
        if threading.get_ident() == thread:
            known["signer"] = request_signer

    def stop(request: Any, **_: Any) -> Any:
        if threading.get_ident() != thread:
            return None
        known["url"] = request.url
        return AWSResponse(request.url, 200, HTTPMessage(), _EmptyBody())  # type: ignore[arg-type]

    events = client.meta.events
    events.register("before-sign.dynamodb.DescribeLimits", keep_signer)
    events.register("before-send.dynamodb.DescribeLimits", stop)
    try:
        client.describe_limits()
    finally:
        events.unregister("before-sign.dynamodb.DescribeLimits", keep_signer)
        events.unregister("before-send.dynamodb.DescribeLimits", stop)
    return known["url"], known["signer"]


def _make_context(session: Any) -> ssl.SSLContext:
    context: ssl.SSLContext = session._get_ssl_context()
    if session._verify:
        context.load_verify_locations(get_cert_path(session._verify))
        context.check_hostname = True
    else:
        context.verify_mode = ssl.CERT_NONE
    if session._cert_file:
        context.load_cert_chain(session._cert_file, session._key_file)
    return context


def _find_proxy(session: Any, url: str, tunnels: bool) -> Proxy:
    tls = None
    if url.startswith("https:"):
        try:
            tls = session._setup_proxy_ssl_context(url) or ssl.create_default_context(cafile=get_cert_path(True))
        except OSError as error:
            raise InvalidProxiesConfigError(error=error) from error
    return Proxy(url, session._proxy_config.proxy_headers_for(url), tunnels, tls)
