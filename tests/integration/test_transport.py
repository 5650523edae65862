"""What a client is told about TLS, proxies and credentials holds for the prepared bytes that go past its serialiser."""

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from accession.dynamodb import DynamoDB, client_config
from accession.errors import TransientError

EMPTY = b'{"Items":[],"Count":0}'


class Handler(BaseHTTPRequestHandler):
    """Answers every request as an empty Scan, and keeps what it was asked."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str]]]
    hung_up: threading.Event
    keeps_open = says_so = True
    seconds = 0.0
    answer = (200, EMPTY)

    def do_POST(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(self.seconds)
        status, body = self.answer
        self.send_response(status)
        if not self.keeps_open:
            self.close_connection = True
            if self.says_so:
                self.send_header("Connection", "close")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        """Pass bytes on both ways, as a proxy that tunnels does, until one side hangs up."""
        self.asked.append((self.path, {}))
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
        self.connection.shutdown(socket.SHUT_RDWR)
        self.hung_up.set()

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server whose class of handlers is its own: it keeps what was asked."""

    RequestHandlerClass: type[Handler]


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[Server]:
    handler = type("Asked", (Handler,), {"asked": [], "hung_up": threading.Event()})
    server = Server(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody but itself vouches for, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return file


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
        assert proxy.RequestHandlerClass.asked == [(f"127.0.0.1:{server.server_port}", {})]
    assert path == "/"
    assert headers["host"] == f"127.0.0.1:{server.server_port}"


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
