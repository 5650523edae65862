"""S3 as people meet it: what it refuses is one sentence of the right class, and nothing of theirs is overwritten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, CredentialRetrievalError, UnauthorizedSSOTokenError

from accession.artifacts import Changed, Store, fetch_object, place_object
from accession.errors import AccessError, AccessionError, StoreError, TransientError
from conftest import Library


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "backup.db"
    path.write_bytes(b"the backup")
    return path


def fail_with(client: Any, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request of the client fails so, before it leaves."""

    def fail(**_: Any) -> None:
        raise error

    client.meta.events.register_first("before-send.s3", fail)


def refuse(code: str, status: int = 403) -> ClientError:
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (refuse("AccessDenied"), AccessError, r"AWS denied s3:\w+ on s3://.* \(AccessDenied\): allow that action"),
        (refuse("SlowDown", 503), TransientError, "S3 is busy"),
        (
            UnauthorizedSSOTokenError(),
            AccessError,
            r"The AWS credentials for s3:\w+ on \S+ do not work .* log in again",
        ),
        (CredentialRetrievalError(provider="sso", error_msg="expired"), AccessError, "log in again"),
    ],
    ids=["denied", "busy", "logged out", "expired"],
)
@pytest.mark.parametrize("use", ["upload", "download", "find", "hash", "fetch a source", "place a source"])
def test_an_error_of_s3_is_a_sentence(
    library: Library, file: Path, error: Exception, kind: type[AccessionError], message: str, use: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    client = library.aws.client("s3", region_name=library.aws.region)
    store = Store(client, library.bucket, "book_library", library.environment)
    uri = f"s3://{library.bucket}/site.db"
    uses: dict[str, Callable[[], Any]] = {
        "upload": lambda: store.upload("x", file),
        "download": lambda: store.download("x", file),
        "find": lambda: store.find("x"),
        "hash": lambda: store.hash("x"),
        "fetch a source": lambda: fetch_object(client, uri, file),
        "place a source": lambda: place_object(client, file, uri),
    }
    fail_with(client, error, monkeypatch)
    with pytest.raises(kind, match=message):
        uses[use]()


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "s3:///key"])
def test_an_address_of_nothing_is_named(library: Library, file: Path, uri: str) -> None:
    with pytest.raises(StoreError, match="is not the address of an object: write s3://bucket/key"):
        fetch_object(library.aws.client("s3"), uri, file)


def test_a_source_put_back_leaves_no_wal_or_journal_of_the_old_one_beside_it(library: Library, file: Path) -> None:
    """SQLite would apply them to the backup, and change it back."""
    client = library.aws.client("s3")
    for suffix in ("", "-wal", "-journal"):
        client.put_object(Bucket=library.bucket, Key=f"app/site.db{suffix}", Body=f"old{suffix}".encode())
    aside = place_object(client, file, f"s3://{library.bucket}/app/site.db")
    assert aside == f"s3://{library.bucket}/app/site.db.aside-1"
    found = client.list_objects_v2(Bucket=library.bucket, Prefix="app/")["Contents"]
    bodies = {
        entry["Key"]: client.get_object(Bucket=library.bucket, Key=entry["Key"])["Body"].read() for entry in found
    }
    assert bodies == {
        "app/site.db": b"the backup",
        "app/site.db.aside-1": b"old",
        "app/site.db.aside-1-wal": b"old-wal",
        "app/site.db.aside-1-journal": b"old-journal",
    }


def test_what_lies_where_a_source_is_put_back_is_kept_aside(library: Library, file: Path) -> None:
    client = library.aws.client("s3")
    uri = f"s3://{library.bucket}/app/site.db"

    def read(key: str) -> bytes:
        body: bytes = client.get_object(Bucket=library.bucket, Key=key)["Body"].read()
        return body

    assert place_object(client, file, uri) is None
    for number in (1, 2):
        client.put_object(Bucket=library.bucket, Key="app/site.db", Body=b"newer %d" % number)
        assert place_object(client, file, uri) == f"{uri}.aside-{number}"
        assert read("app/site.db") == b"the backup"
        assert read(f"app/site.db.aside-{number}") == b"newer %d" % number


class _RepeatingClient:
    """An S3 client that loses the first answer to every put, so that botocore sends it again."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **request: Any) -> Any:
        self._client.put_object(**request)
        return self._client.put_object(**request)


def test_a_document_is_replaced_although_the_answer_to_its_first_put_was_lost(library: Library) -> None:
    store = Store(library.aws.client("s3", region_name=library.aws.region), library.bucket, "shelf", "lost")
    store.put("report.json", b"old")
    seen = store.find("report.json")
    store.client = _RepeatingClient(store.client)
    store.replace("report.json", b"new", seen)
    assert store.get("report.json") == b"new"
    with pytest.raises(Changed):
        store.replace("report.json", b"newer", seen)
