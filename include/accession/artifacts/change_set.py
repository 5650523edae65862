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

from accession.artifacts.document import Document
from accession.digest import hash_file
from accession.items import ItemKey, KeySchema, RowKey, TypedItem

Op = Literal["put", "update", "delete", "reject", "conflict"]

MAX_PARTS = 1000  # below Airflow's [core] max_map_length, 1024
# Of a part, uncompressed. A part is a task's work and what a retry repeats, so it must stay small for large items too:
# 64 MB are about 160 items of 400 KB, the largest that DynamoDB takes.
PART_BYTES = 64 * 1024**2
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
    """One part of an entity: its number, its digest, and how many lines of each kind it has.

    `name` is that of its object, which contains the digest; version 0.1.0 stored none.
    """

    part: int
    sha256: str
    name: str = ""
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
    just before they update or delete it. `outdated` are the rejected rows whose earlier item stays in the target, since
    they could be migrated once. `item_bytes` is about the size of the items of all rows, as DynamoDB counts.
    `matched` rows were found by their row id, and `renumbered` of them are other things than recorded.
    """

    source_rows: int = 0
    put: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    outdated: int = 0
    conflicts: int = 0
    adjusted: int = 0
    kept_back: int = 0
    write_units: int = 0
    read_units: float = 0.0
    reread_units: int = 0
    put_bytes: int = 0
    item_bytes: int = 0
    matched: int = 0
    renumbered: int = 0


class StagedEntity(Document):
    """The result of staging one entity: `changes/<entity>/index.json`.

    It is written last: a part without it does not count. `attributes` are those that this run and earlier ones write;
    all others of an item belong to the application. `samples` are the keys of some live items, spread over the table.
    `key` is that of the table; version 0.1.0 stored neither it nor samples. `kept` says that keys are made of the rows'
    own values, and have no new id.
    """

    entity: str
    table: str
    key: KeySchema | None = None
    kept: bool = False
    counts: Counts
    rejects: dict[str, int]
    records_changed: bool
    identity: tuple[tuple[str, ...], ...]
    attributes: tuple[str, ...] = ()
    samples: tuple[str, ...] | None = None
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
    """Write the parts of one entity in constant memory: at least one part, and at most MAX_PARTS.

    A part has at most `rows_per_part` lines and PART_BYTES. If `lines`, the most that there can be, would make more
    than MAX_PARTS parts, the parts have more lines. If large lines use the parts up, the later ones have more bytes.
    `upload` stores the finished file of a part.
    """

    def __init__(self, file: Path, rows_per_part: int, lines: int, upload: Callable[[Part, Path], None]) -> None:
        self._file, self._upload = file, upload
        self._row_limit = max(rows_per_part, -(-lines // MAX_PARTS))
        self._lines_left = lines
        self.parts: list[Part] = []
        self._start()

    def _start(self) -> None:
        self._ops: Counter[str] = Counter()
        self._lines: list[bytes] = []
        self._size = 0
        self._rows = self._bytes = 0
        # Twice as many after each eighth of MAX_PARTS, 2 TB in all.
        self._byte_limit = PART_BYTES << (8 * len(self.parts) // MAX_PARTS)
        # The header has no file name and no time, so that the same lines make the same bytes.
        self._stream = self._file.open("wb")
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=self._stream, mtime=0)

    def add(self, op: Op, line: bytes) -> None:
        """Append a line."""
        if self._rows == self._row_limit or (self._bytes + len(line) > self._byte_limit and self._may_split()):
            self._finish()
            self._start()
        self._rows += 1
        self._bytes += len(line)
        self._lines_left -= 1
        self._ops[op] += 1
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BUFFER_BYTES:
            self._flush()

    def _may_split(self) -> bool:
        """Tell whether the part may end before it has all its lines: the parts that are left can take the rest."""
        return self._rows > 0 and (MAX_PARTS - len(self.parts) - 1) * self._row_limit >= self._lines_left

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
        number, sha256 = len(self.parts), hash_file(self._file)
        part = Part(part=number, sha256=sha256, name=f"{number:05d}-{sha256[:16]}.jsonl.gz", **self._ops)
        self._upload(part, self._file)
        self.parts.append(part)

    def close(self) -> list[Part]:
        """Write the last part, and return all of them."""
        self._finish()
        return self.parts
