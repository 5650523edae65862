"""S3: the settings of a client, the translation of its errors, and objects that are not artifacts, such as a source."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error, RetriesExceededError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from accession.aws import explain_failure
from accession.errors import AccessionError, StoreError, TransientError

# Transfer two parts of 8 MB at once, with a short queue to the disk. boto3's defaults hold up to 80 MB of an upload and
# 250 MB of a download in memory, so a task's memory would grow with its file.
TRANSFER = TransferConfig(max_concurrency=2, io_chunksize=1024 * 1024, max_io_queue=4)
MISSING = {"NoSuchKey", "404", "NotFound"}


def client_config() -> Config:
    """Return the config of a client: ten attempts in standard mode, whose default is three (botocore, "Retries")."""
    return Config(retries={"mode": "standard", "total_max_attempts": 10}, connect_timeout=5, read_timeout=60)


@contextmanager
def translating(action: str, bucket: str, key: str) -> Iterator[None]:
    """Translate the errors of boto3 into errors of ours, with a sentence that a person understands."""
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
    """Download an s3:// source to `file`. Raises StoreError or AccessError."""
    bucket, key = _split(uri)
    with translating("s3:GetObject", bucket, key):
        try:
            client.download_file(bucket, key, str(file), Config=TRANSFER)
        except ClientError as error:
            if error.response["Error"]["Code"] in MISSING:
                raise StoreError(f"{uri} does not exist: check the source.") from error
            raise
    return file


def place_object(client: Any, file: Path, uri: str) -> str | None:
    """Upload a file to an s3:// address.

    An object that is there is copied to `<key>.aside-<n>` first. Return the address of the copy, or None.
    """
    bucket, key = _split(uri)
    with translating("s3:ListBucket", bucket, key):
        taken = {
            entry["Key"]
            for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key)
            for entry in page.get("Contents", ())
        }
    aside = None
    with translating("s3:PutObject", bucket, key):
        if key in taken:
            aside = next(name for name in (f"{key}.aside-{number}" for number in count(1)) if name not in taken)
            client.copy({"Bucket": bucket, "Key": key}, bucket, aside)
        client.upload_file(str(file), bucket, key, Config=TRANSFER)
    return aside and f"s3://{bucket}/{aside}"


def _split(uri: str) -> tuple[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key
