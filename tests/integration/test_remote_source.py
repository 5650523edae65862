"""A source on S3 is read as in its own place: with its -wal and -journal, as of one moment."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from accession.artifacts import Store
from accession.conf import check_params
from accession.deployment import Deployment
from accession.errors import AccessError, SourceError, StoreError, TransientError
from accession.mapping import MAPPINGS, load_mapping
from accession.params import MigrateParams
from accession.source import take_snapshot
from accession_airflow.job import Job
from conftest import Library
from second_process import WAL_WRITER, die

KEY = "app/site.db"
HALF_WRITTEN = """
db = sqlite3.connect(path, isolation_level=None)
db.execute("CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT)")
db.executemany("INSERT INTO book (title) VALUES (?)", [("committed" + "x" * 500,)] * 200)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE book SET title = 'begun' || title")
"""


def upload(library: Library, path: Path, *suffixes: str) -> None:
    """Put the database and these of its side files on S3, the database last."""
    for suffix in (*suffixes, ""):
        library.aws.client("s3").upload_file(f"{path}{suffix}", library.bucket, f"{KEY}{suffix}")


@contextmanager
def fetching(library: Library, client: Any = None, **params: Any) -> Iterator[Path]:
    """The source as a task gets it."""
    client = client or library.aws.client("s3")
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    given = check_params(MigrateParams, {"source": f"s3://{library.bucket}/{KEY}", **params})
    job = Job(mapping, given, Store(client, library.bucket, mapping.name, "dev"), Deployment())
    with job.fetch_source() as source:
        assert source is not None
        yield source


def read_rows(library: Library, tmp_path: Path, client: Any = None, **params: Any) -> dict[str, int]:
    with fetching(library, client, **params) as source:
        return take_snapshot(source, tmp_path / "snapshot.db").rows


def read_titles(path: Path) -> set[str]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as db:
        return {title.rstrip("x") for (title,) in db.execute("SELECT title FROM book")}


def test_each_committed_row_of_a_wal_on_s3_is_read(library: Library, tmp_path: Path) -> None:
    die(WAL_WRITER, tmp_path / "site.db")
    assert read_titles(tmp_path / "site.db") == set(), "else this test proves nothing"
    upload(library, tmp_path / "site.db", "-wal")
    assert read_rows(library, tmp_path) == {"book": 1000}


def test_a_transaction_that_was_never_committed_is_rolled_back_in_the_copy(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    die(HALF_WRITTEN, path)
    assert "beguncommitted" in read_titles(path), "else this test proves nothing"
    upload(library, path, "-journal")
    before = library.aws.client("s3").list_objects_v2(Bucket=library.bucket)["Contents"]
    assert read_rows(library, tmp_path) == {"book": 200}
    assert read_titles(tmp_path / "snapshot.db") == {"committed"}
    assert library.aws.client("s3").list_objects_v2(Bucket=library.bucket)["Contents"] == before


def test_a_wal_database_without_its_wal_is_refused_unless_it_was_checkpointed(library: Library, tmp_path: Path) -> None:
    path = tmp_path / "site.db"
    die(WAL_WRITER, path)
    upload(library, path)
    uri = f"s3://{library.bucket}/{KEY}"
    with pytest.raises(SourceError, match=f"^{uri} is in WAL mode and there is no {uri}-wal, .*source_is_checkpointed"):
        read_rows(library, tmp_path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM book").fetchone() == (1000,)  # and checkpointed, as it is closed
    upload(library, path)
    assert read_rows(library, tmp_path, source_is_checkpointed=True) == {"book": 1000}


def test_a_database_in_rollback_mode_needs_no_word(library: Library, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "site.db")) as db:
        db.execute("CREATE TABLE book (id INTEGER PRIMARY KEY)")
    upload(library, tmp_path / "site.db")
    assert read_rows(library, tmp_path) == {"book": 0}


@pytest.mark.parametrize("written", [KEY, f"{KEY}-wal"])
def test_objects_that_are_written_while_they_are_read_are_read_again(
    library: Library, tmp_path: Path, written: str
) -> None:
    """The checkpoint of an application that moves on between the two requests."""
    old, new = tmp_path / "old.db", tmp_path / "site.db"
    die(WAL_WRITER, old)
    die(WAL_WRITER + WAL_WRITER.partition("checkpoint(TRUNCATE)")[2].partition("\n")[2], new)
    upload(library, old, "-wal")
    client = boto3.client("s3")
    gets: list[str] = []

    def write(params: dict[str, Any], **_: Any) -> None:
        gets.append(params["Key"])
        if params["Key"] == written and len(gets) <= 2:
            upload(library, new, "-wal")

    client.meta.events.register_first("before-parameter-build.s3.GetObject", write)
    assert read_rows(library, tmp_path, client) == {"book": 2000}
    assert len(gets) > 2


def test_objects_that_are_written_all_the_time_are_named(library: Library, tmp_path: Path) -> None:
    die(WAL_WRITER, tmp_path / "site.db")
    upload(library, tmp_path / "site.db", "-wal")
    client = boto3.client("s3")

    def write(params: dict[str, Any], **_: Any) -> None:
        if params["Key"] == KEY:
            wal = f"{KEY}-wal"
            library.aws.client("s3").put_object(Bucket=library.bucket, Key=wal, Body=str(len(written)).encode())
            written.append(wal)

    written: list[str] = []
    client.meta.events.register_first("before-parameter-build.s3.GetObject", write)
    with pytest.raises(TransientError, match=f"^s3://{library.bucket}/{KEY} or its -wal or -journal was written each"):
        read_rows(library, tmp_path, client)


def test_a_source_that_is_not_there_is_named(library: Library, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"s3://{library.bucket}/{KEY} does not exist: check the source"):
        read_rows(library, tmp_path)


def test_a_role_that_cannot_see_whether_there_is_a_wal_is_refused(library: Library, tmp_path: Path) -> None:
    """S3 answers 403 for an object that does not exist to a role without s3:ListBucket."""
    die(WAL_WRITER, tmp_path / "site.db")
    upload(library, tmp_path / "site.db")
    client = boto3.client("s3")

    def deny(params: dict[str, Any], **_: Any) -> None:
        if params["Key"] != KEY:
            response: Any = {"Error": {"Code": "403"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(response, "HeadObject")

    client.meta.events.register_first("before-parameter-build.s3.HeadObject", deny)
    with pytest.raises(AccessError, match=r"AWS denied s3:GetObject and s3:ListBucket on s3://.*/app/site\.db-wal"):
        read_rows(library, tmp_path, client)
