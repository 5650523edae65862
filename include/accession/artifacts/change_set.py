"""The change set: parts of gzip'd JSON lines, one line for each row that is not unchanged.

    {"op":"put","key":"<key of the item>","old_key":17,"units":3,"checksum":"<hex>","before":null,"item":{…}}

`op` is put, update, delete, reject or conflict. Items are DynamoDB's typed JSON. `before` is the item that the target
held when the run was staged. The bytes of `item` are sent to DynamoDB as they are.
"""

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import orjson
from pydantic import Field

from accession.artifacts.document import Document
from accession.items import ItemKey, KeySchema, RowKey, TypedItem

Op = Literal["put", "update", "delete", "reject", "conflict"]

MAX_PARTS = 1000  # below Airflow's [core] max_map_length, 1024
BUFFER_BYTES = 256 * 1024

# A put is written and read without parsing its item, so the order of its fields is fixed. Quotes in a JSON string are
# escaped, so the first occurrence of each of these marks is the field itself.
PUT = b'{"op":"put","key":'
OLD_KEY = b',"old_key":'
ITEM = b'"before":null,"item":'


class Change(NamedTuple):
    """One line of a part."""

    op: Op
    key: ItemKey | None
    old_key: RowKey
    units: int = 0
    checksum: str | None = None
    before: TypedItem | None = None
    item: TypedItem | None = None
    reason: str | None = None


class Part(Document):
    """One part of an entity: its number, its digest, and how many lines of each kind it has."""

    part: int
    sha256: str
    put: int = 0
    update: int = 0
    delete: int = 0
    reject: int = 0
    conflict: int = 0

    @property
    def writes(self) -> int:
        """Return how many lines are written to DynamoDB."""
        return self.put + self.update + self.delete


class Counts(Document):
    """The numbers that staging found in one entity.

    `read_units` were consumed by staging. `reread_units` will be consumed by the writers, which read each item again
    just before they update or delete it.
    """

    source_rows: int = 0
    put: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    conflicts: int = 0
    adjusted: int = 0
    kept_back: int = 0
    write_units: int = 0
    read_units: float = 0.0
    reread_units: int = 0
    put_bytes: int = 0


class StagedEntity(Document):
    """The result of staging one entity: `changes/<entity>/index.json`.

    It is written last: a part without it does not count. `attributes` are those that this run and earlier ones write;
    all others of an item belong to the application. `key` and `indexes` are those of the table; version 0.1.0 did not
    store them.
    """

    entity: str
    table: str
    key: KeySchema | None = None
    indexes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    counts: Counts
    rejects: dict[str, int]
    records_changed: bool
    identity: tuple[tuple[str, ...], ...]
    attributes: tuple[str, ...] = ()
    id_map: str
    id_map_sha256: str
    parts: list[Part]
    started_at: str
    ended_at: str


def encode_put(key: ItemKey, old_key: RowKey, units: int, checksum: bytes, data: bytes) -> bytes:
    """Return the line that puts a new item, without parsing its bytes."""
    return b'%b%b%b%b,"units":%d,"checksum":"%b",%b%b}\n' % (
        PUT, orjson.dumps(key), OLD_KEY, orjson.dumps(old_key), units, checksum.hex().encode(), ITEM, data,
    )  # fmt: skip


def encode_change(change: Change) -> bytes:
    """Return the line of a change."""
    return orjson.dumps(change._asdict(), option=orjson.OPT_APPEND_NEWLINE)


def decode_change(line: bytes) -> Change:
    """Return the change in a line."""
    return Change(**orjson.loads(line))


def split_put(line: bytes) -> tuple[ItemKey, bytes] | None:
    """Return the key and the item bytes of a put, without parsing the item; None for any other line."""
    if not line.startswith(PUT):
        return None
    end = line.index(OLD_KEY)
    return orjson.loads(line[len(PUT) : end]), line[line.index(ITEM, end) + len(ITEM) : -2]


class PartWriter:
    """Write the parts of one entity in constant memory: `rows_per_part` lines each, and at least one part.

    `upload` stores a finished file under the number of its part and returns its SHA-256.
    """

    def __init__(self, file: Path, rows_per_part: int, upload: Callable[[int, Path], str]) -> None:
        self._file, self._limit, self._upload = file, rows_per_part, upload
        self.parts: list[Part] = []
        self._start()

    def _start(self) -> None:
        self._ops: Counter[str] = Counter()
        self._lines: list[bytes] = []
        self._size = 0
        self._rows = 0
        # The header has no file name and no time, so that the same lines make the same bytes.
        self._stream = self._file.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._stream, mtime=0)

    def add(self, op: Op, line: bytes) -> None:
        """Append a line."""
        if self._rows == self._limit:
            self._finish()
            self._start()
        self._rows += 1
        self._ops[op] += 1
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES:
            self._flush()

    def __enter__(self) -> "PartWriter":
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, even if writing stopped early."""
        self._gzip.close()
        self._stream.close()

    def _flush(self) -> None:
        self._gzip.write(b"".join(self._lines))
        self._lines.clear()
        self._size = 0

    def _finish(self) -> None:
        self._flush()
        self._gzip.close()
        self._stream.close()
        number = len(self.parts)
        self.parts.append(Part(part=number, sha256=self._upload(number, self._file), **self._ops))

    def close(self) -> list[Part]:
        """Write the last part, and return all of them."""
        self._finish()
        return self.parts
