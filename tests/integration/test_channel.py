"""What a client is told about TLS, proxies and credentials holds for the prepared bytes that go past its serialiser."""

import ssl
import threading
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

    def do_POST(self) -> None:
        self.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(EMPTY)))
        self.end_headers()
        self.wfile.write(EMPTY)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[ThreadingHTTPServer]:
    handler = type("Asked", (Handler,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
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


def open_client(endpoint: str, **options: Any) -> DynamoDB:
    session = boto3.Session("AKIDEXAMPLE", "secret", options.pop("token", None), "us-east-1")
    config = client_config().merge(options.pop("config", Config()))
    now = iter(range(0, 10_000, 30))
    client = session.client("dynamodb", endpoint_url=endpoint, config=config, **options)
    return DynamoDB(client, clock=lambda: float(next(now)), sleep=lambda _: None)


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


def test_a_request_is_signed_with_the_credentials_of_the_moment() -> None:
    with serve() as server:
        dynamodb = open_client(f"http://127.0.0.1:{server.server_port}", token="first")
        dynamodb.is_empty("Some")
        credentials = dynamodb._requests.wire._client._request_signer._credentials
        credentials.access_key, credentials.token = "AKIDNEXT", "second"  # as the refreshing credentials of a role
        dynamodb.is_empty("Some")
        first, second = (headers for _, headers in server.RequestHandlerClass.asked)
    assert "Credential=AKIDEXAMPLE/" in first["authorization"]
    assert (first["x-amz-security-token"], second["x-amz-security-token"]) == ("first", "second")
    assert "Credential=AKIDNEXT/" in second["authorization"]
    assert first["x-amz-target"] == "DynamoDB_20120810.Scan"
