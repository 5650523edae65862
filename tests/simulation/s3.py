"""S3 in the process: objects in a dict, and the methods of a boto3 client that the library calls.

A request is done at one moment between its call and its answer. What the client of botocore retries by itself (see
`client_config` in artifacts/s3.py: ten attempts in standard mode) is retried here, so a conditional write whose answer
was lost meets its own effect, as it does in S3.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from botocore.exceptions import ClientError, ConnectionClosedError

from simulation.faults import Climate
from simulation.world import Process, World

T = TypeVar("T")

ATTEMPTS = 10
PAGE = 1000  # API reference, ListObjectsV2
STATE = "/state.json"
DECISIVE = re.compile(r"\.started$|/report\.json$|/log/")  # what others conclude from, when it is there
LAST_CHARACTER = "\U0010ffff"


class Object(NamedTuple):
    """An object. The ETag of an object that was not uploaded in parts is its MD5 (API reference, "Object")."""

    data: bytes
    etag: str


class Body:
    """The body of an answer, as far as the library reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self) -> bytes:
        return self._data

    def iter_chunks(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self._data), size):
            yield self._data[start : start + size]


def fail(code: str, status: int, operation: str) -> ClientError:
    """Make the error that botocore raises for such an answer."""
    metadata: Any = {"HTTPStatusCode": status}
    return ClientError({"Error": {"Code": code, "Message": code}, "ResponseMetadata": metadata}, operation)


Watch = Callable[[str, bytes | None, bytes | None, Process | None], None]


@dataclass
class S3:
    """The service. A key begins with its bucket. `watch` is called with key, bytes before and after, and who wrote."""

    objects: dict[str, Object] = field(default_factory=dict)
    watch: Watch = lambda *_: None

    def put(self, key: str, data: bytes, condition: dict[str, str], who: Process | None) -> dict[str, Any]:
        found = self.objects.get(key)
        if condition.get("IfNoneMatch") == "*" and found is not None:
            raise fail("PreconditionFailed", 412, "PutObject")
        if wanted := condition.get("IfMatch"):
            if found is None:
                raise fail("NoSuchKey", 404, "PutObject")
            if found.etag != wanted:
                raise fail("PreconditionFailed", 412, "PutObject")
        self.objects[key] = Object(data, f'"{hashlib.md5(data).hexdigest()}"')
        self.watch(key, found.data if found else None, data, who)
        return {"ETag": self.objects[key].etag}

    def get(self, key: str, operation: str = "GetObject") -> Object:
        found = self.objects.get(key)
        if found is None:
            raise fail("404" if operation == "HeadObject" else "NoSuchKey", 404, operation)
        return found

    def delete(self, key: str, who: Process | None) -> dict[str, Any]:
        found = self.objects.pop(key, None)
        if found is not None:
            self.watch(key, found.data, None, who)
        return {}

    def find_keys(self, prefix: str, after: str) -> list[str]:
        return sorted(key for key in self.objects if key.startswith(prefix) and key > after)


class S3Client:
    """A boto3 client for S3 in one process. Without a process it is a look from outside, which takes no time."""

    def __init__(self, service: S3, process: Process | None = None, climate: Climate | None = None) -> None:
        self._service, self._process = service, process
        self._climate = climate = climate or Climate()
        rates = {
            "lost request": climate.lost_request / 4,
            "lost answer": climate.lost_answer / 4,
            "500": climate.error / 8,
            "500 after it": climate.error / 8,
        }
        self._fates = [(fate, rate) for fate, rate in rates.items() if rate]

    def put_object(self, *, Bucket: str, Key: str, Body: bytes, **condition: str) -> dict[str, Any]:  # noqa: N803
        return self._put(f"{Bucket}/{Key}", Body, condition)

    def _put(self, key: str, data: bytes, condition: dict[str, str]) -> dict[str, Any]:
        about = f"{len(data)} B {crc32(data):08x} {' '.join(condition)}".rstrip()
        put = partial(self._service.put, key, data, condition, self._process)
        return self._send("PUT", key, about, put, is_conditional=bool(condition))

    def _get(self, key: str, operation: str = "GetObject") -> Object:
        verb = "HEAD" if operation == "HeadObject" else "GET"
        return self._send(verb, key, "", partial(self._service.get, key, operation))

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> dict[str, Any]:  # noqa: N803
        found = self._get(f"{Bucket}/{Key}")
        data = found.data
        if Range:
            first, _, last = Range.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1]
        return {"Body": Body(data), "ETag": found.etag, "ContentLength": len(data)}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        found = self._get(f"{Bucket}/{Key}", "HeadObject")
        return {"ContentLength": len(found.data), "ETag": found.etag}

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        key = f"{Bucket}/{Key}"
        return self._send("DELETE", key, "", partial(self._service.delete, key, self._process))

    def upload_file(self, file: str, bucket: str, key: str, ExtraArgs: Any = None, Config: Any = None) -> None:  # noqa: N803
        condition = {name: value for name, value in (ExtraArgs or {}).items() if name.startswith("If")}
        self._put(f"{bucket}/{key}", Path(file).read_bytes(), condition)

    def download_file(self, bucket: str, key: str, file: str, Config: Any = None) -> None:  # noqa: N803
        self._get(f"{bucket}/{key}", "HeadObject")
        Path(file).write_bytes(self._get(f"{bucket}/{key}").data)

    def copy(self, source: dict[str, str], bucket: str, key: str, ExtraArgs: Any = None) -> None:  # noqa: N803
        data = self._get(f"{source['Bucket']}/{source['Key']}", "HeadObject").data
        name = f"{bucket}/{key}"
        self._send("COPY", name, "", partial(self._service.put, name, data, {}, self._process))

    def get_paginator(self, operation: str) -> "S3Client":
        assert operation == "list_objects_v2"
        return self

    def paginate(
        self,
        *,
        Bucket: str,  # noqa: N803
        Prefix: str,  # noqa: N803
        Delimiter: str = "",  # noqa: N803
        StartAfter: str = "",  # noqa: N803
    ) -> Iterator[dict[str, Any]]:
        base = f"{Bucket}/"
        prefix, after = base + Prefix, base + StartAfter
        while True:
            keys = self._send("LIST", prefix, "", partial(self._service.find_keys, prefix, after))
            size = PAGE
            if self._process is not None and self._world.chance(self._climate.pages):
                size = self._world.random.randint(1, 20)
            files, folders = [], []
            for key in keys[:size]:
                inside, found, _ = key[len(prefix) :].partition(Delimiter) if Delimiter else (key, "", "")
                if found:
                    folders.append(prefix + inside + Delimiter)
                else:
                    files.append(key)
            yield {
                "Contents": [{"Key": key.removeprefix(base)} for key in files],
                "CommonPrefixes": [{"Prefix": name.removeprefix(base)} for name in dict.fromkeys(folders)],
            }
            if len(keys) <= size:
                return
            last = keys[size - 1]
            # A folder is listed once, whichever page its objects are on.
            after = folders[-1] + LAST_CHARACTER if folders and last.startswith(folders[-1]) else last

    @property
    def _world(self) -> World:
        assert self._process is not None
        return self._process.world

    def _send(self, operation: str, key: str, about: str, apply: Callable[[], T], is_conditional: bool = False) -> T:
        if self._process is None:
            return apply()
        process, world, climate = self._process, self._world, self._climate
        fate = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                process.sleep(world.random.random() * min(20.0, 2.0 ** (attempt - 1)))
            world.counts["S3 requests"] += 1
            process.since_look += 1
            if operation == "PUT" and DECISIVE.search(key) and world.chance(climate.stall):
                process.freeze(world.spread(1.0, 900.0))
                process.sleep(0.0)
            process.meet(f"before {operation} {key}")
            process.sleep(world.spread(0.002, 0.02) if not world.chance(climate.slow) else world.spread(0.5, 30.0))
            fate = self._draw(is_conditional)
            if fate:
                world.counts[f"S3 {fate}"] += 1
            outcome = fate
            try:
                if fate == "conflict":
                    raise fail("ConditionalRequestConflict", 409, "PutObject")
                if fate not in ("lost request", "500"):
                    result = apply()
                    outcome = fate or "ok"
                    if key.endswith(STATE):
                        process.since_look = 0
            except ClientError as refused:
                outcome = fate or refused.response["Error"]["Code"]
                if fate not in ("lost answer", "500 after it"):
                    world.note(process.name, f"s3 {operation} {key} {about} → {outcome}")
                    process.sleep(world.spread(0.002, 0.02))
                    raise
            world.note(process.name, f"s3 {operation} {key} {about} → {outcome}")
            process.sleep(world.spread(0.002, 0.02))
            process.meet(f"after {operation} {key}")
            if not fate:
                return result
        if fate.startswith("500"):
            raise fail("InternalError", 500, operation)
        raise ConnectionClosedError(endpoint_url="simulated")

    def _draw(self, is_conditional: bool) -> str:
        world, climate = self._world, self._climate
        if is_conditional and world.chance(climate.conflict):
            return "conflict"
        for fate, rate in self._fates:
            if world.chance(rate):
                return fate
        return ""
