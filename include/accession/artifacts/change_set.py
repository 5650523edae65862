"""The change set: parts of gzip'd JSON lines, one line for each row that is not unchanged.

    {"op":"put","key":"<new id>","old_key":17,"units":3,"checksum":"<hex>","before":null,"item":{…}}

`op` is put, update, delete, reject or conflict; items are DynamoDB's typed JSON; `before` is what the target held
when the run was staged. The bytes of `item` are those that are sent.
"""

import gzip
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import Field

from accession.artifacts.document import Document, run_path
from accession.artifacts.store import Store
from accession.errors import StoreError
from accession.items import KeySchema, TypedItem

Op = Literal["put", "update", "delete", "reject", "conflict"]

MAX_PARTS = 1000  # below Airflow's [core] max_map_length, 1024
PUT = b'{"op":"put","key":"'
KEY = slice(len(PUT), len(PUT) + 36)
ITEM = b'"before":null,"item":'
BUFFER_BYTES = 256 * 1024


class Change(NamedTuple):
    """One line of a part."""

    op: Op
    key: str | None
    old_key: Any
    units: int = 0
    checksum: str | None = None
    before: TypedItem | None = None
    item: TypedItem | None = None
    reason: str | None = None


class Part(Document):
    """What the index says of one part."""

    part: int
    sha256: str
    put: int = 0
    update: int = 0
    delete: int = 0
    reject: int = 0
    conflict: int = 0

    @property
    def writes(self) -> int:
        return self.put + self.update + self.delete


class Counts(Document):
    """What staging found in one entity.

    `read_units` are those that staging consumed; `reread_units` those that the writers will, as they read each item
    again just before they update or delete it.
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
    """`changes/<entity>/index.json`: written last, so that a part without it does not count. `attributes` are those
    that the runs up to this one have written: all others of an item are the application's."""

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


def part_path(run: str, entity: str, part: int) -> str:
    """Where a part lies."""
    return run_path(run, f"changes/{entity}/{part:05d}.jsonl.gz")


def staged_entity_path(run: str, entity: str) -> str:
    """Where the index of an entity's parts lies."""
    return run_path(run, f"changes/{entity}/index.json")


def load_staged_entity(store: Store, run: str, entity: str) -> StagedEntity:
    """The index of an entity's parts."""
    return store.get_document(staged_entity_path(run, entity), StagedEntity)


def encode_put(key: str, old_key: Any, units: int, checksum: bytes, data: bytes) -> bytes:
    """The line of a new item, without parsing its bytes."""
    return b'%b%b","old_key":%b,"units":%d,"checksum":"%b","before":null,"item":%b}\n' % (
        PUT, key.encode(), orjson.dumps(old_key), units, checksum.hex().encode(), data,
    )  # fmt: skip


def encode_change(change: Change) -> bytes:
    """The line of a change."""
    return orjson.dumps(change._asdict(), option=orjson.OPT_APPEND_NEWLINE)


class PartWriter:
    """Write the parts of one entity: `rows_per_part` lines each, at least one part, in constant memory.

    `upload` stores a finished file as the part with that number and returns its SHA-256.
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
        # No file name and no time in the header: the same lines make the same bytes.
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
        """Let go of the file, where writing stopped half-way."""
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
        """Write the last part; all parts."""
        self._finish()
        return self.parts


def read_lines(store: Store, run: str, entity: str, part: Part) -> Iterator[bytes]:
    """The lines of a part, its digest checked first. Raises StoreError when it is damaged."""
    path = part_path(run, entity, part.part)
    data = store.get(path)
    if hashlib.sha256(data).hexdigest() != part.sha256:
        raise StoreError(f"{store.uri(path)} is damaged: its SHA-256 is not {part.sha256}. Run make audit.")
    with gzip.open(io.BytesIO(data)) as stream:
        yield from stream


def read_changes(store: Store, run: str, entity: str, part: Part) -> Iterator[Change]:
    """The lines of a part, parsed."""
    return (Change(**orjson.loads(line)) for line in read_lines(store, run, entity, part))


def split_put(line: bytes) -> tuple[str, bytes] | None:
    """Key and item bytes of the line of a put without parsing it; None for other lines."""
    if not line.startswith(PUT):
        return None
    # Quotes inside texts are escaped, so the first of these is the field itself.
    start = line.index(ITEM)
    return line[KEY].decode(), line[start + len(ITEM) : -2]
