"""S3: the settings of a client, the translation of its errors, and objects that are not artifacts, such as a source."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error, RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from s3transfer.exceptions import S3DownloadFailedError

from accession.aws import explain_failure
from accession.database_file import LASTING_SIDE_FILES, MAGIC
from accession.errors import AccessionError, StoreError, TransientError

# Transfer two parts of 8 MB at once, with a short queue to the disk. boto3's defaults hold up to 80 MB of an upload and
# 250 MB of a download in memory, so a task's memory would grow with its file.
TRANSFER = TransferConfig(max_concurrency=2, io_chunksize=1024 * 1024, max_io_queue=4)
MISSING = {"NoSuchKey", "404", "NotFound"}
FETCH_TRIES = 5


def client_config() -> Config:
    """Return the config of a client: ten attempts in standard mode, whose default is three (botocore, "Retries")."""
    return Config(retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=5, read_timeout=60)


@contextmanager
def translating(action: str, bucket: str, key: str) -> Iterator[None]:
    """Translate the errors of boto3 into AccessionErrors, each with a sentence that a person understands."""
    try:
        yield
    except RetriesExceededError as error:
        raise translate_error(error.last_exception, action, bucket, key) from error  # type: ignore[attr-defined]
    except Boto3Error as error:  # it wraps another error and repeats its text
        raise translate_error(error.__context__ or error, action, bucket, key) from error
    except (ClientError, BotoCoreError) as error:
        raise translate_error(error, action, bucket, key) from error


def translate_error(error: BaseException, action: str, bucket: str, key: str) -> AccessionError:
    """Return the error for one of boto3's: it says what failed, on which object, and what to do."""
    request = f"{action} on s3://{bucket}/{key}"
    if isinstance(error, ParamValidationError):
        return StoreError(f"s3://{bucket}/{key} is not the address of an object: write s3://bucket/key.")
    if explained := explain_failure(error, request):
        return explained
    if not isinstance(error, ClientError):
        return TransientError(f"{request} failed ({type(error).__name__}): try again.")
    code = error.response["Error"]["Code"]
    if code == "NoSuchBucket":
        return StoreError(f"Bucket {bucket} does not exist: run make deploy first, or give the right bucket.")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return TransientError(f"S3 is busy ({code}) at s3://{bucket}/{key}: try again.")
    return StoreError(f"S3 refused {request} ({code}): look this error code up in the Amazon S3 API Reference.")


def fetch_object(client: Any, uri: str, file: Path) -> Path:
    """Download an s3:// source to `file`, and beside it the -wal and -journal that the source has on S3.

    If one of the objects is written in the meantime, all of them are fetched again, so that they belong together.
    Raises StoreError or AccessError, or TransientError if the objects keep changing.
    """
    bucket, key = _split(uri)
    for _ in range(FETCH_TRIES):
        found = _find_tags(client, bucket, key)
        if "" not in found:
            raise StoreError(f"{uri} does not exist: check the source.")
        if _download_all(client, bucket, key, file, found) and _find_tags(client, bucket, key) == found:
            return file
    raise TransientError(
        f"{uri} or its -wal or -journal was written each of {FETCH_TRIES} times that it was read: upload them while "
        "nothing else writes there, and try again."
    )


def _find_tags(client: Any, bucket: str, key: str) -> dict[str, str]:
    """Return the ETags of a source and its side files, by suffix. Those that do not exist are left out."""
    tags = {}
    for suffix in ("", *LASTING_SIDE_FILES):
        # S3 answers 403 instead of 404 to a role that may not list the bucket (API reference, HeadObject).
        action = "s3:GetObject and s3:ListBucket" if suffix else "s3:GetObject"
        with translating(action, bucket, key + suffix):
            try:
                tags[suffix] = client.head_object(Bucket=bucket, Key=key + suffix)["ETag"]
            except ClientError as error:
                if error.response["Error"]["Code"] not in MISSING:
                    raise
    return tags


def _download_all(client: Any, bucket: str, key: str, file: Path, suffixes: Iterable[str]) -> bool:
    """Download a source with these side files, and no others. Return False if one was written in the meantime."""
    for suffix in ("", *LASTING_SIDE_FILES):
        Path(f"{file}{suffix}").unlink(missing_ok=True)  # left by an earlier try
    for suffix in suffixes:
        with translating("s3:GetObject", bucket, key + suffix):
            try:
                client.download_file(bucket, key + suffix, f"{file}{suffix}", Config=TRANSFER)
            except S3DownloadFailedError:
                return False
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return False
                raise
    return True


def peek_object(client: Any, uri: str) -> bytes:
    """Return the first bytes of an object, as many as MAGIC has; none if the object is empty or missing."""
    bucket, key = _split(uri)
    with translating("s3:GetObject", bucket, key):
        try:
            data: bytes = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{len(MAGIC) - 1}")["Body"].read()
        except ClientError as error:
            if error.response["Error"]["Code"] in {*MISSING, "InvalidRange", "416"}:
                return b""
            raise
        return data


def place_object(client: Any, file: Path, uri: str) -> str | None:
    """Upload a file to an s3:// address.

    An existing object is moved to `<key>.aside-<n>` first, and its -wal and -journal with it: SQLite would apply
    them to the new file. Return the new address, or None if there was nothing.
    """
    bucket, key = _split(uri)
    with translating("s3:ListBucket", bucket, key):
        taken = {
            entry["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            for entry in page.get("Contents", ())
        }
    aside = None
    here = [suffix for suffix in ("", *LASTING_SIDE_FILES) if key + suffix in taken]
    with translating("s3:PutObject", bucket, key):
        if here:
            names = (f"{key}.aside-{number}" for number in count(1))
            aside = next(name for name in names if not any(other.startswith(name) for other in taken))
        for suffix in here:
            client.copy({"Bucket": bucket, "Key": key + suffix}, bucket, f"{aside}{suffix}")
    for suffix in here:
        if suffix:
            with translating("s3:DeleteObject", bucket, key + suffix):
                client.delete_object(Bucket=bucket, Key=key + suffix)
    with translating("s3:PutObject", bucket, key):
        client.upload_file(str(file), bucket, key, Config=TRANSFER)
    return aside and f"s3://{bucket}/{aside}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
