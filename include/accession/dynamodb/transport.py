"""The way to DynamoDB: connections that are kept open, credentials that are ready, signed requests."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Protocol
from urllib.parse import urlsplit

from botocore.exceptions import (
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    SSLError,
)
from botocore.httpsession import mask_proxy_url

from accession.dynamodb.connection import Answer, Connection
from accession.dynamodb.endpoint import Endpoint, Proxy
from accession.dynamodb.poll import Poll
from accession.dynamodb.pool import Pool
from accession.dynamodb.signer import Signer

REFRESH_SECONDS = 30.0  # credentials that always expire soon are refreshed this often


class Transport(Protocol):
    """The seam between requests and the network. A simulation puts its own in place of HttpTransport."""

    async def lease(self) -> Connection:
        """Return an open connection for one request."""

    def release(self, connection: Connection) -> None:
        """Take a connection back."""

    def is_ready(self, connection: Connection) -> bool:
        """Return whether a request can be sent on it now, without waiting for anything."""

    def post(self, connection: Connection, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        """Sign and write a request at once, and return its answer as a future. Cancelling it drops the connection."""

    async def renew_credentials(self) -> bool:
        """Refresh credentials that DynamoDB calls expired. Return False if they cannot be refreshed."""

    def close(self) -> None:
        """Drop all connections."""


class HttpTransport:
    """HTTP/1.1 to one endpoint, directly or through a proxy. Use it on one event loop.

    Raises botocore's own errors: for credentials, and HTTPClientError or ConnectionError when connecting or sending
    fails.
    """

    def __init__(self, endpoint: Endpoint, executor: Executor, clock: Callable[[], float]) -> None:
        self._endpoint, self._executor = endpoint, executor
        self._loop = asyncio.get_running_loop()
        self._signer = Signer(endpoint.signer, endpoint.url)
        self._credentials = Poll(self._signer.refresh, executor, clock)
        self._renewal = Poll(self._signer.renew, executor, clock)
        head = {"User-Agent": endpoint.user_agent, "Accept-Encoding": "identity"}
        if endpoint.proxy is not None and not endpoint.proxy.tunnels:
            head |= endpoint.proxy.headers
        self._head = f"POST {endpoint.target} HTTP/1.1\r\n{_join(head)}"
        self._pool = Pool(self._connect)

    async def lease(self) -> Connection:
        """Return an open connection for one request, with credentials that will not expire on the way."""
        if self._must_refresh():
            await self._credentials.ask()
        elif self._signer.must_refresh(soon=True) and self._credentials.age > REFRESH_SECONDS:
            self._credentials.ask_ahead()
        return await self._pool.lease()

    def is_ready(self, connection: Connection) -> bool:
        """Return whether a request can be sent on it now, without waiting for anything."""
        return connection.is_open and not self._must_refresh()

    def _must_refresh(self) -> bool:
        return self._signer.must_refresh(soon=False) and self._credentials.age > REFRESH_SECONDS

    def release(self, connection: Connection) -> None:
        """Take a connection back, to use it again unless its request was given up."""
        self._pool.release(connection)

    def post(self, connection: Connection, operation: str, body: bytes) -> "asyncio.Future[Answer]":
        """Sign `body` for `operation` ("BatchWriteItem"), write it at once, and return its answer as a future."""
        headers = self._signer.sign(f"DynamoDB_20120810.{operation}", body)
        request = f"{self._head}{_join(headers)}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return connection.exchange(request, self._endpoint.read_seconds)

    async def renew_credentials(self) -> bool:
        """Refresh credentials that DynamoDB takes for expired. Return False if they cannot be refreshed.

        Requests in flight may all have been signed with the old ones, so that one refresh counts for a while.
        """
        if not self._signer.can_refresh:
            return False
        if self._renewal.age > REFRESH_SECONDS:
            await self._renewal.ask()
        return True

    def close(self) -> None:
        """Drop all idle connections."""
        self._pool.close()

    # Connecting

    async def _connect(self) -> Connection:
        endpoint = self._endpoint
        connection = Connection(self._loop, endpoint.url)
        try:
            async with asyncio.timeout(endpoint.connect_seconds):
                await self._open(connection, endpoint.proxy)
        except BaseException as error:
            connection.abort()
            match error:
                case ProxyConnectionError():  # an OSError, too
                    raise
                case ssl.SSLError():
                    raise SSLError(endpoint_url=endpoint.url, error=error) from error
                case TimeoutError():
                    raise ConnectTimeoutError(endpoint_url=endpoint.url, error=error) from error
                case OSError():
                    raise EndpointConnectionError(endpoint_url=endpoint.url, error=error) from error
            raise
        return connection

    async def _open(self, connection: Connection, proxy: Proxy | None) -> None:
        endpoint = self._endpoint
        opened = await self._open_socket(proxy.url if proxy else endpoint.url)
        try:
            await self._loop.create_connection(lambda: connection, sock=opened)
        except BaseException:
            opened.close()
            raise
        if proxy is not None:
            await self._start_tls(connection, proxy.tls, proxy.url)
            if not proxy.tunnels:
                return
            await self._tunnel(connection, proxy)
        await self._start_tls(connection, endpoint.tls, endpoint.url)

    async def _open_socket(self, url: str) -> socket.socket:
        host, port = _find_address(url)
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        error: OSError | None = None
        for family, kind, protocol, _, address in await self._loop.run_in_executor(self._executor, look_up):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.setblocking(False)
                for option in self._endpoint.socket_options:
                    opened.setsockopt(*option)
                await self._loop.sock_connect(opened, address)
            except BaseException as failed:
                opened.close()
                if not isinstance(failed, OSError):
                    raise
                error = failed
            else:
                return opened
        raise error or OSError(f"There is no address for {host}.")

    async def _start_tls(self, connection: Connection, context: ssl.SSLContext | None, url: str) -> None:
        if context is not None:
            assert connection.transport is not None
            host, _ = _find_address(url)
            connection.transport = await self._loop.start_tls(
                connection.transport, connection, context, server_hostname=host
            )

    async def _tunnel(self, connection: Connection, proxy: Proxy) -> None:
        host, port = _find_address(self._endpoint.url)
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        request = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{_join(proxy.headers)}\r\n"
        answer = await connection.exchange(request.encode(), self._endpoint.connect_seconds, connect=True)
        if answer.status != 200:
            raise ProxyConnectionError(proxy_url=mask_proxy_url(proxy.url), error=f"it answers {answer.status}")


def _find_address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _join(headers: dict[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
