"""The store: the artifacts of a target on S3, and the few ways in which they are read and written.

    s3://<bucket>/<mapping>/<environment>/
      state.json  log/<sequence>.json  backups/<sha256>.db  verify_register-<sha256>.py
      runs/<run>/  manifest.json  id_map/<entity>-<digest>.db  changes/<entity>/<part>-<digest>.jsonl.gz  plan.json
                   rejects.csv  progress/…  verification.json  rollback.json  report.json  report.html

Artifacts are written once: small ones on the condition that they do not exist (`If-None-Match: *`), files under names
that contain their digest. Retries reuse them. Only state.json is swapped (`If-Match`). S3 answers 412 if a
condition fails, and 409 if writers race; that is retried (S3 User Guide, "Conditional writes").
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import ClientError
from pydantic import BaseModel

from accession.artifacts.s3 import MISSING, TRANSFER, translating
from accession.digest import hash_file
from accession.errors import StoreError, TransientError
from accession.host import HOST, Host

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

BACKUP_TAG = "accession=backup"  # the lifecycle rule of include/cloudformation/artifacts.yaml selects objects by it
CHUNK = 1024 * 1024
CHANGED = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


class Found(NamedTuple):
    """An object's bytes and its ETag."""

    data: bytes
    etag: str


class Changed(Exception):
    """The object does not meet the condition of the write."""


class Store:
    """The artifacts of one target. Paths are relative to s3://<bucket>/<mapping>/<environment>/.

    `host` gives the time and the random names to everything that works with the store.
    """

    def __init__(self, client: Any, bucket: str, mapping: str, environment: str, host: Host = HOST) -> None:
        self.client = client
        self.host = host
        self.bucket = bucket
        self.mapping = mapping
        self.environment = environment
        self.prefix = f"{mapping}/{environment}/" if environment else f"{mapping}/"

    def uri(self, path: str) -> str:
        """Return the s3:// address of `path`."""
        return f"s3://{self.bucket}/{self.prefix}{path}"

    def path(self, uri: str) -> str:
        """Return the path of an address that `uri` made. Raises StoreError if it is outside the target."""
        base = self.uri("")
        if not uri.startswith(base):
            raise StoreError(f"{uri} is not an artifact of {base}: give an address below that one.")
        return uri.removeprefix(base)

    def find(self, path: str) -> Found | None:
        """Return the object at `path`, or None."""

        def fetch() -> Found:
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)
            return Found(answer["Body"].read(), answer["ETag"])

        return self._look(path, fetch)

    def get(self, path: str) -> bytes:
        """Return the bytes of the object at `path`. Raises StoreError if it is not there."""
        found = self.find(path)
        if found is None:
            raise StoreError(f"{self.uri(path)} is missing: it was removed, or it expired. Run make audit.")
        return found.data

    def find_document(self, path: str, model: type[M]) -> M | None:
        """Return the JSON document at `path`, or None. Raises StoreError if it is damaged."""
        found = self.find(path)
        return None if found is None else self._parse(path, model, found.data)

    def get_document(self, path: str, model: type[M]) -> M:
        """Return the JSON document at `path`. Raises StoreError if it is damaged or not there."""
        return self._parse(path, model, self.get(path))

    def _parse(self, path: str, model: type[M], data: bytes) -> M:
        try:
            return model.model_validate_json(data)
        except ValueError:  # its message quotes the document
            raise StoreError(f"{self.uri(path)} is damaged: it is not as it was written. Run make audit.") from None

    def has(self, path: str) -> bool:
        """Tell whether there is an object at `path`."""
        return self.measure(path) is not None

    def claim(self, path: str, data: bytes) -> bool:
        """Write an object unless it exists, and tell whether it was written.

        An object with the same bytes is ours: the answer to an earlier attempt was lost on its way.
        """
        try:
            self._put(path, data, IfNoneMatch="*")
        except Changed:
            found = self.find(path)
            return found is not None and found.data == data
        return True

    def put(self, path: str, data: bytes) -> str:
        """Write an object, whether or not it exists, and return its SHA-256."""
        self._put(path, data)
        return hashlib.sha256(data).hexdigest()

    def replace(self, path: str, data: bytes, seen: Found | None) -> str:
        """Replace the version that was `seen`, or create the object if none was, and return its SHA-256.

        Raises Changed, and writes nothing, if another writer was faster. An object with the same bytes is ours.
        """
        if seen is None:
            if not self.claim(path, data):
                raise Changed(path)
        else:
            try:
                self.swap(path, data, seen.etag)
            except Changed:
                found = self.find(path)
                if found is None or found.data != data:
                    raise
        return hashlib.sha256(data).hexdigest()

    def swap(self, path: str, data: bytes, etag: str) -> None:
        """Write an object if it still has `etag`. If not, raise Changed.

        The object may have changed by this very call: if an answer is lost, botocore sends the request again.
        """
        self._put(path, data, IfMatch=etag)

    def _put(self, path: str, data: bytes, **condition: str) -> None:
        with self._translated("s3:PutObject", path):
            for _ in range(5):
                try:
                    self.client.put_object(Bucket=self.bucket, Key=self.prefix + path, Body=data, **condition)
                    return
                except ClientError as error:
                    code = error.response["Error"]["Code"]
                    if code in ("PreconditionFailed", "412") or (condition.get("IfMatch") and code in MISSING):
                        raise Changed(path) from None
                    if code not in CHANGED:
                        raise
            raise TransientError(f"Other processes keep writing to {self.uri(path)}: try again later.")

    def upload(self, path: str, file: Path, backup: bool = False) -> None:
        """Upload a file, in parts if it is large, whether or not there is an object.

        boto3's transfers take no condition. So `path` contains the digest of the file, unless every attempt makes the
        same bytes or the register does not refer to them yet.
        """
        with self._translated("s3:PutObject", path):
            extra = {"Tagging": BACKUP_TAG} if backup else {}
            self.client.upload_file(str(file), self.bucket, self.prefix + path, ExtraArgs=extra, Config=TRANSFER)

    def download(self, path: str, file: Path, sha256: str | None = None) -> Path:
        """Download an object to `file`, and check its digest if one is given. Raises StoreError if it differs."""

        def fetch() -> bool:
            self.client.download_file(self.bucket, self.prefix + path, str(file), Config=TRANSFER)
            return True

        if not self._look(path, fetch):
            raise StoreError(f"{self.uri(path)} is missing: it was removed, or it expired. Run make audit.")
        if sha256 is not None and hash_file(file) != sha256:
            raise StoreError(f"{self.uri(path)} is damaged: its SHA-256 is not {sha256}. Run make audit.")
        return file

    def refresh(self, path: str) -> None:
        """Copy an object onto itself, so that its lifecycle starts again."""
        source = {"Bucket": self.bucket, "Key": self.prefix + path}
        with self._translated("s3:PutObject", path):
            self.client.copy(
                source,
                self.bucket,
                self.prefix + path,
                ExtraArgs={"MetadataDirective": "REPLACE", "TaggingDirective": "REPLACE", "Tagging": BACKUP_TAG},
            )

    def list(self, path: str = "") -> Iterator[str]:
        """Yield the paths of all objects below `path`, in order."""
        with self._translated("s3:ListBucket", path):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + path)
            for page in pages:
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(self.prefix)

    def list_folders(self, path: str = "", after: str = "") -> Iterator[str]:
        """Yield the names of the folders directly below `path`, in order, beginning after `after`."""
        prefix = self.prefix + path
        start = {"StartAfter": prefix + after} if after else {}
        with self._translated("s3:ListBucket", path):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix, Delimiter="/", **start
            )
            for page in pages:
                for entry in page.get("CommonPrefixes", ()):
                    yield entry["Prefix"].removeprefix(prefix).rstrip("/")

    def measure(self, path: str) -> int | None:
        """Return the size of an object in bytes, or None if it is not there."""
        head = self._look(path, lambda: self.client.head_object(Bucket=self.bucket, Key=self.prefix + path))
        return None if head is None else int(head["ContentLength"])

    def peek(self, path: str, length: int) -> bytes:
        """Return the first `length` bytes of an object; no bytes if it is empty or not there."""
        if not self.measure(path):
            return b""
        with self._translated("s3:GetObject", path):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + path, Range=f"bytes=0-{length - 1}")
            data: bytes = answer["Body"].read()
            return data

    def hash(self, path: str) -> str | None:
        """Return the SHA-256 of an object, computed in constant memory, or None if it is not there."""

        def digest() -> str:
            found = hashlib.sha256()
            for chunk in self.client.get_object(Bucket=self.bucket, Key=self.prefix + path)["Body"].iter_chunks(CHUNK):
                found.update(chunk)
            return found.hexdigest()

        return self._look(path, digest)

    def probe(self) -> None:
        """Check that the bucket exists, is writable and honours conditional writes (some other stores ignore them).

        Raises StoreError or AccessError. The probe object is removed again.
        """
        path = f"probe/{self.host.token(8)}"
        self._put(path, b"1")
        try:
            if self.claim(path, b"2"):
                raise StoreError(
                    f"Bucket {self.bucket} ignores If-None-Match, so that two runs could overwrite each other: "
                    "use Amazon S3, or a store that honours conditional writes."
                )
            try:
                self.swap(path, b"2", '"00000000000000000000000000000000"')
            except Changed:
                pass
            else:
                raise StoreError(f"Bucket {self.bucket} ignores If-Match: use a store that honours conditional writes.")
        finally:
            with self._translated("s3:DeleteObject", path):
                self.client.delete_object(Bucket=self.bucket, Key=self.prefix + path)

    def _look(self, path: str, call: Callable[[], T]) -> T | None:
        """Return what `call` returns for `path`, or None if nothing is there."""
        with self._translated("s3:GetObject", path):
            try:
                return call()
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    return None
                raise

    def _translated(self, action: str, path: str) -> AbstractContextManager[None]:
        return translating(action, self.bucket, self.prefix + path)


def list_environments(client: Any, bucket: str, mapping: str) -> list[str]:
    """Return the environments of a mapping that have objects in the bucket, sorted."""
    return list(Store(client, bucket, mapping, "").list_folders())
