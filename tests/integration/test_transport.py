"""What a client is told about TLS, proxies and credentials holds for the prepared bytes that go past its serialiser."""

import asyncio
import select
import socket
import ssl
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import ClientError, CredentialRetrievalError, EndpointConnectionError
from certificate import write_certificate

from accession.dynamodb import DynamoDB, TableDescription, client_config
from accession.dynamodb.endpoint import find_endpoint
from accession.dynamodb.transport import HttpTransport
from accession.errors import CredentialsError, TransientError
from accession.items import KeySchema, Table

sys.path.append(str(Path(__file__).parents[1] / "bench"))


EMPTY = b'{"Items":[],"Count":0}'
SOME = Table("Some", KeySchema(("id",)))


class Handler(BaseHTTPRequestHandler):
    """Answers every request as an empty Scan, and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str]]]
    hung_up: threading.Event
    keeps_open = says_so = True
    refuses = False
    seconds = 0.0
    answer = (200, EMPTY)
    chunks: tuple[bytes, ...] | list[bytes] = ()
    tells_length = True

    def do_POST(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        status, body = self.answer
        self.send_response(status)
        if self.chunks:
            self.send_chunks()
            return
        if not self.keeps_open:
            self.close_connection = True
            if self.says_so:
                self.send_header("Connection", "close")
        if self.tells_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def send_chunks(self) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(ConnectionError):
            for chunk in self.chunks:
                time.sleep(self.seconds)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            self.wfile.write(b"0\r\n\r\n")

    def do_CONNECT(self) -> None:
        """Pass bytes on both ways, as a proxy that tunnels does, until one side hangs up."""
        self.asked.append((self.path, {"authorization": self.headers["Proxy-Authorization"] or ""}))
        if self.refuses:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        host, port = self.path.split(":")
        with socket.create_connection((host, int(port))) as other:
            self.send_response(200)
            self.end_headers()
            sides = {self.connection: other, other: self.connection}
            while data := (ready := select.select(list(sides), [], [])[0][0]).recv(65_536):
                sides[ready].sendall(data)
        self.close_connection = True

    def finish(self) -> None:
        super().finish()
        with suppress(OSError):  # the other side may have hung up before
            self.connection.shutdown(socket.SHUT_RDWR)
        self.hung_up.set()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server whose class of handlers is its own: it keeps what was asked."""

    RequestHandlerClass: type[Handler]


@contextmanager
def serve(certificate: Path | None = None, *, asks_for_certificate: bool = False) -> Iterator[Server]:
    handler = type("Asked", (Handler,), {"asked": [], "hung_up": threading.Event()})
    server = Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        if asks_for_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that only itself vouches for, with its key."""
    return write_certificate(tmp_path / "server.pem")


async def sleep(_: float) -> None:
    """Wait for nothing."""


def make_client(endpoint: str, **options: Any) -> Any:
    session = boto3.Session("AKIDEXAMPLE", "secret", options.pop("token", None), "us-east-1")
    config = client_config().merge(options.pop("config", Config()))
    return session.client("dynamodb", endpoint_url=endpoint, config=config, **options)


def open_dynamodb(client: Any) -> DynamoDB:
    """A DynamoDB for which each look at the clock comes 30 s after the one before."""
    now = iter(range(0, 100_000, 30))
    return DynamoDB(client, clock=lambda: float(next(now)), sleep=sleep)


def open_client(endpoint: str, **options: Any) -> DynamoDB:
    return open_dynamodb(make_client(endpoint, **options))


def test_a_certificate_that_the_client_trusts_is_taken(certificate: Path) -> None:
    with serve(certificate) as server:
        assert open_client(f"https://127.0.0.1:{server.server_port}", verify=str(certificate)).is_empty("Some")


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    with serve(certificate) as server:
        with pytest.raises(TransientError, match="SSL"):
            open_client(f"https://127.0.0.1:{server.server_port}").is_empty("Some")
        assert server.RequestHandlerClass.asked == []


def test_a_proxy_is_used() -> None:
    with serve() as proxy:
        config = Config(proxies={"http": f"http://127.0.0.1:{proxy.server_port}"})
        assert open_client("http://dynamodb.us-east-1.example", config=config).is_empty("Some")
        ((path, headers),) = proxy.RequestHandlerClass.asked
    assert path == "http://dynamodb.us-east-1.example/"
    assert headers["host"] == "dynamodb.us-east-1.example"


def test_a_proxy_tunnels_to_tls(certificate: Path) -> None:
    with serve(certificate) as server, serve() as proxy:
        config = Config(proxies={"https": f"http://127.0.0.1:{proxy.server_port}"})
        endpoint = f"https://127.0.0.1:{server.server_port}"
        assert open_client(endpoint, config=config, verify=str(certificate)).is_empty("Some")
        ((path, headers),) = server.RequestHandlerClass.asked
        assert proxy.RequestHandlerClass.asked == [(f"127.0.0.1:{server.server_port}", {"authorization": ""})]
    assert path == "/"
    assert headers["host"] == f"127.0.0.1:{server.server_port}"


def test_a_proxy_is_told_who_asks_and_what_it_refuses_is_tried_again(certificate: Path) -> None:
    with serve(certificate) as server, serve() as proxy:
        config = Config(proxies={"https": f"http://some%40body:p%3Ass@127.0.0.1:{proxy.server_port}"})
        endpoint = f"https://127.0.0.1:{server.server_port}"
        client = make_client(endpoint, config=config, verify=str(certificate))
        assert open_dynamodb(client).is_empty("Some")
        ((_, headers),) = proxy.RequestHandlerClass.asked
        assert headers["authorization"] == "Basic " + b64encode(b"some@body:p:ss").decode()
        ((_, inside),) = server.RequestHandlerClass.asked
        assert "proxy-authorization" not in inside, "it is for the proxy alone"
        proxy.RequestHandlerClass.refuses = True
        with pytest.raises(TransientError, match="ProxyConnectionError") as caught:
            open_dynamodb(client).is_empty("Some")
        assert "p%3Ass" not in str(caught.value) and "p:ss" not in str(caught.value)


def test_a_proxy_that_speaks_tls_itself_tunnels_too(certificate: Path) -> None:
    with serve(certificate) as server, serve(certificate) as proxy:
        config = Config(
            proxies={"https": f"https://127.0.0.1:{proxy.server_port}"},
            proxies_config={"proxy_ca_bundle": str(certificate)},
        )
        endpoint = f"https://127.0.0.1:{server.server_port}"
        assert open_client(endpoint, config=config, verify=str(certificate)).is_empty("Some")
        assert len(proxy.RequestHandlerClass.asked) == len(server.RequestHandlerClass.asked) == 1


def test_the_environment_names_the_proxy_and_who_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server, serve() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        assert open_client("http://dynamodb.us-east-1.example").is_empty("Some")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert open_client(f"http://127.0.0.1:{server.server_port}").is_empty("Some")
        assert len(proxy.RequestHandlerClass.asked) == len(server.RequestHandlerClass.asked) == 1


def test_the_environment_names_the_certificates_that_are_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    with serve(certificate) as server:
        assert open_client(f"https://127.0.0.1:{server.server_port}").is_empty("Some")


def test_a_client_shows_its_certificate(certificate: Path) -> None:
    with serve(certificate, asks_for_certificate=True) as server:
        endpoint = f"https://127.0.0.1:{server.server_port}"
        config = Config(client_cert=str(certificate))
        assert open_client(endpoint, config=config, verify=str(certificate)).is_empty("Some")
        with pytest.raises(TransientError):
            open_client(endpoint, verify=str(certificate)).is_empty("Some")


def test_an_answer_in_chunks_is_read() -> None:
    with serve() as server:
        server.RequestHandlerClass.chunks = [EMPTY[:5], EMPTY[5:]]
        dynamodb = open_client(f"http://127.0.0.1:{server.server_port}")
        assert dynamodb.is_empty("Some") and dynamodb.is_empty("Some")


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    with serve() as server:
        server.RequestHandlerClass.protocol_version = "HTTP/1.0"
        server.RequestHandlerClass.tells_length = False
        assert open_client(f"http://127.0.0.1:{server.server_port}").is_empty("Some")


def test_a_tag_is_set_when_the_answer_is_empty() -> None:
    """DynamoDB's answer to TagResource has no body; that of MiniStack is an empty object."""
    with serve() as server:
        server.RequestHandlerClass.answer = (200, b"")
        table = TableDescription("Some", "arn:some", "ACTIVE", "id", "S", None, {}, {}, {}, {})
        open_client(f"http://127.0.0.1:{server.server_port}").set_tag(table, "owner", "us")
        assert len(server.RequestHandlerClass.asked) == 1


def test_an_answer_that_trickles_in_is_given_up_in_time() -> None:
    """The time-out is of the whole request: here each byte comes well within it."""
    with serve() as server:
        server.RequestHandlerClass.chunks = [EMPTY[number : number + 1] for number in range(len(EMPTY))]
        server.RequestHandlerClass.seconds = 0.04
        dynamodb = open_client(f"http://127.0.0.1:{server.server_port}", config=Config(read_timeout=0.2))
        with pytest.raises(TransientError, match="ReadTimeoutError"):
            dynamodb.is_empty("Some")
        server.RequestHandlerClass.seconds = 0.0


def test_a_request_that_timed_out_is_never_sent_to_its_end() -> None:
    """Its connection is aborted: closing it would send what is still in the buffer, long after the time-out."""
    got = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def read_late() -> None:
            connection, _ = listener.accept()
            with connection:
                time.sleep(0.6)  # the request's time is over
                with suppress(ConnectionResetError):
                    while data := connection.recv(65_536):
                        got.extend(data)

        reader = threading.Thread(target=read_late, daemon=True)
        reader.start()
        client = make_client(f"http://127.0.0.1:{listener.getsockname()[1]}", config=Config(read_timeout=0.2))
        item = b'{"id":{"S":"x"},"text":{"S":"%b"}}' % (b"x" * 15_000_000)
        with pytest.raises(TransientError):
            open_dynamodb(client).put_items(SOME, [("x", item)])  # once; the look for it is never answered
        reader.join(10)
    assert len(got) < 12_000_000


@pytest.mark.parametrize("says_so", [True, False], ids=["saying so", "without a word"])
def test_a_server_that_hangs_up_after_each_answer_is_called_again(says_so: bool) -> None:
    with serve() as server:
        server.RequestHandlerClass.keeps_open = False
        server.RequestHandlerClass.says_so = says_so
        dynamodb = open_client(f"http://127.0.0.1:{server.server_port}")
        for _ in range(3):
            assert dynamodb.is_empty("Some")
            if not says_so:
                assert server.RequestHandlerClass.hung_up.wait(10)
                server.RequestHandlerClass.hung_up.clear()
        assert len(server.RequestHandlerClass.asked) == 3


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    with serve() as server:
        server.RequestHandlerClass.seconds = 1.0
        with pytest.raises(TransientError, match="ReadTimeoutError"):
            open_client(f"http://127.0.0.1:{server.server_port}", config=Config(read_timeout=0.05)).is_empty("Some")
        server.RequestHandlerClass.seconds = 0.0


@pytest.mark.parametrize("body", [b"null", b"[]", b'"busy"', b"<html>"])
def test_a_proxy_that_answers_otherwise_than_dynamodb_is_asked_again(body: bytes) -> None:
    with serve() as server:
        server.RequestHandlerClass.answer = (503, body)
        with pytest.raises(TransientError, match="HTTP 503"):
            open_client(f"http://127.0.0.1:{server.server_port}").is_empty("Some")
        assert len(server.RequestHandlerClass.asked) > 1


def test_a_request_is_signed_with_the_credentials_of_the_moment() -> None:
    with serve() as server:
        client = make_client(f"http://127.0.0.1:{server.server_port}", token="first")
        dynamodb = open_dynamodb(client)
        dynamodb.is_empty("Some")
        credentials = client._request_signer._credentials
        credentials.access_key, credentials.token = "AKIDNEXT", "second"  # as the refreshing credentials of a role
        dynamodb.is_empty("Some")
        first, second = (headers for _, headers in server.RequestHandlerClass.asked)
    assert "Credential=AKIDEXAMPLE/" in first["authorization"]
    assert (first["x-amz-security-token"], second["x-amz-security-token"]) == ("first", "second")
    assert "Credential=AKIDNEXT/" in second["authorization"]
    assert first["x-amz-target"] == "DynamoDB_20120810.Scan"


class Refreshing:
    """Credentials that botocore refreshes: it may from 15 minutes before their end, and must from 10."""

    def __init__(self, port: int, refresh: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("accession.dynamodb.transport.REFRESH_SECONDS", 0.0)
        self.refresh, self.lifetime = refresh, timedelta(minutes=60)
        self.client = make_client(f"http://127.0.0.1:{port}")
        first = self.describe("AKIDFIRST")
        # Any, since the stubs leave out the private attributes that the tests set and read.
        self.credentials: Any = RefreshableCredentials.create_from_metadata(first, self.fetch, "test")
        self.client._request_signer._credentials = self.credentials

    def end_in(self, minutes: float) -> None:
        self.credentials._expiry_time = datetime.now(UTC) + timedelta(minutes=minutes)

    def fetch(self) -> dict[str, Any]:
        self.refresh()
        return self.describe("AKIDNEXT")

    def describe(self, key: str) -> dict[str, Any]:
        ends = datetime.now(UTC) + self.lifetime
        return {"access_key": key, "secret_key": "secret", "token": "token", "expiry_time": ends.isoformat()}


def test_credentials_that_end_are_refreshed_before_the_fence_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The refresh takes longer than an answer of the fence is good for."""
    passed: list[float] = []
    with serve() as server:
        refreshing = Refreshing(server.server_port, lambda: time.sleep(1.2), monkeypatch)
        dynamodb = DynamoDB(refreshing.client, check=lambda: passed.append(time.monotonic()))
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=5)
        server.RequestHandlerClass.answer = (200, b'{"UnprocessedItems":{}}')
        assert dynamodb.put_items(SOME, [("x", b'{"id":{"S":"x"}}')]) == (1, [])
        ended = time.monotonic()
        keys = [headers["authorization"] for _, headers in server.RequestHandlerClass.asked]
    assert ["AKIDFIRST/" in keys[0], "AKIDNEXT/" in keys[1]] == [True, True]
    assert len(passed) == 1 and ended - passed[0] < 1.0


def test_credentials_that_end_soon_are_refreshed_beside_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    is_answered = threading.Event()
    with serve() as server:
        refreshing = Refreshing(server.server_port, is_answered.wait, monkeypatch)
        dynamodb = DynamoDB(refreshing.client)
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=12)
        for _ in range(3):
            assert dynamodb.is_empty("Some")
        is_answered.set()
        while refreshing.credentials._frozen_credentials.access_key != "AKIDNEXT":
            time.sleep(0.01)
        time.sleep(0.05)
        assert dynamodb.is_empty("Some")
        keys = [headers["authorization"] for _, headers in server.RequestHandlerClass.asked]
    assert ["AKIDFIRST/" in key for key in keys] == [True] * 4 + [False]
    assert "Credential=AKIDNEXT/" in keys[-1]


def test_credentials_that_cannot_be_refreshed_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise CredentialRetrievalError(provider="test", error_msg="the role is gone")

    with serve() as server:
        refreshing = Refreshing(server.server_port, refuse, monkeypatch)
        dynamodb = DynamoDB(refreshing.client)
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=5)
        with pytest.raises(CredentialsError, match="CredentialRetrievalError"):
            dynamodb.is_empty("Some")


def refuse_role(code: str, status: int) -> ClientError:
    metadata: Any = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": metadata}, "AssumeRole")


def test_a_role_that_may_no_longer_be_assumed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's own ClientError came through, which no caller knows."""

    def refuse() -> None:
        raise refuse_role("AccessDenied", 403)

    with serve() as server:
        refreshing = Refreshing(server.server_port, refuse, monkeypatch)
        dynamodb = DynamoDB(refreshing.client)
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=5)
        with pytest.raises(CredentialsError, match=r"dynamodb:Scan on table Some .*AssumeRole \(AccessDenied\)"):
            dynamodb.is_empty("Some")


@pytest.mark.parametrize(("code", "status"), [("Throttling", 400), ("InternalFailure", 500)])
def test_a_refresh_that_fails_for_now_is_tried_again(monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    refused: list[str] = []

    def refuse_twice() -> None:
        if len(refused) < 2:
            refused.append(code)
            raise refuse_role(code, status)

    with serve() as server:
        refreshing = Refreshing(server.server_port, refuse_twice, monkeypatch)
        dynamodb = DynamoDB(refreshing.client)
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=5)
        assert dynamodb.is_empty("Some")
        assert "AKIDNEXT/" in server.RequestHandlerClass.asked[-1][1]["authorization"]
    assert len(refused) == 2


def test_new_credentials_that_have_expired_already_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore raises a RuntimeError."""
    with serve() as server:
        refreshing = Refreshing(server.server_port, lambda: None, monkeypatch)
        dynamodb = DynamoDB(refreshing.client)
        assert dynamodb.is_empty("Some")
        refreshing.end_in(minutes=5)
        refreshing.lifetime = timedelta(minutes=-1)
        with pytest.raises(CredentialsError, match="dynamodb:Scan on table Some do not work"):
            dynamodb.is_empty("Some")


EXPIRED = (400, b'{"__type":"com.amazon.coral.service#ExpiredTokenException","message":"expired"}')


def test_credentials_that_dynamodb_takes_for_expired_are_refreshed_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They seem to be good for an hour."""
    with serve() as server:
        handler = server.RequestHandlerClass

        def accept() -> None:
            handler.answer = (200, EMPTY)

        dynamodb = DynamoDB(Refreshing(server.server_port, accept, monkeypatch).client)
        assert dynamodb.is_empty("Some")
        handler.answer = EXPIRED
        assert dynamodb.is_empty("Some")
        keys = [headers["authorization"].partition("/")[0][-9:] for _, headers in handler.asked]
    assert keys == ["AKIDFIRST", "AKIDFIRST", "=AKIDNEXT"]


def test_credentials_that_stay_expired_end_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    refreshed: list[None] = []
    with serve() as server:
        server.RequestHandlerClass.answer = EXPIRED
        refreshing = Refreshing(server.server_port, lambda: refreshed.append(None), monkeypatch)
        with pytest.raises(CredentialsError, match=r"dynamodb:Scan on table Some \(ExpiredTokenException\): log in"):
            DynamoDB(refreshing.client).is_empty("Some")
        assert len(server.RequestHandlerClass.asked) == 3
    assert len(refreshed) == 2


def test_expired_credentials_that_nobody_can_refresh_are_told_at_once() -> None:
    with serve() as server:
        server.RequestHandlerClass.answer = EXPIRED
        with pytest.raises(CredentialsError, match=r"\(ExpiredTokenException\): log in again, or use others\.$"):
            open_client(f"http://127.0.0.1:{server.server_port}", token="old").is_empty("Some")
        assert len(server.RequestHandlerClass.asked) == 1


class Refusing(asyncio.SelectorEventLoop):
    """A loop that makes no connection of a socket."""

    given: socket.socket | None = None

    async def create_connection(self, *_: Any, **options: Any) -> Any:
        self.given = options["sock"]
        raise OSError("too many open files")


def test_a_socket_that_becomes_no_connection_is_closed() -> None:
    with serve() as server, closing(Refusing()) as loop, ThreadPoolExecutor(1) as executor:
        endpoint = find_endpoint(make_client(f"http://127.0.0.1:{server.server_port}"))

        async def connect() -> None:
            with pytest.raises(EndpointConnectionError):
                await HttpTransport(endpoint, executor, time.monotonic).lease()

        loop.run_until_complete(connect())
        assert loop.given is not None and loop.given.fileno() == -1
