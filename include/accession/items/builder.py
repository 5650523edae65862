"""Row → item: assemble, check, measure, checksum. Pure: no clock, no network, no logging.

An item is serialised once, here; these bytes go over the wire later. What the service would refuse is found here, so
that one bad row never sinks the batch around it. The column types are in `accession.column_types`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from accession.column_types import FIRST_SEEN_MARK, NULL, ValueProblem
from accession.items.typed_json import TypedItem, canonical_json, measure_item, measure_value
from accession.mapping import Entity, Mapping

TRANSFORM_VERSION = 1  # raise it when the same row makes another item: `unchanged` compares it

# Amazon DynamoDB Developer Guide, "Service quotas": item size with attribute names; key lengths in bytes of UTF-8.
MAX_ITEM_BYTES = 400 * 1024
MAX_PARTITION_KEY_BYTES = 2048
MAX_SORT_KEY_BYTES = 1024
# "Read and write operations": one write unit for each 1 KB begun; an index that holds the item costs the same again.
WRITE_UNIT_BYTES = 1024

MASK = "•••"
SHOWN = 60  # characters of a value in a reason
VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # RFC 9562 §4.1


class Reject(Exception):
    """A row that cannot be migrated. `column` names the source column; the message is the reason, values masked."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


class Orphan(Reject):
    """A reference to a parent that has no new id. `shown` is the old key as a reason may show it."""

    def __init__(self, column: str, parent: str, old_key: Any, shown: str) -> None:
        super().__init__(column, f"{column} {shown} refers to no {parent}")
        self.parent = parent
        self.old_key = old_key
        self.shown = shown


class Prepared(NamedTuple):
    """An item ready to be written."""

    item: TypedItem
    data: bytes
    checksum: bytes
    write_units: int


class ItemBuilder:
    """Makes the items of one entity. A row is a sequence of the values of `entity.columns` in that order, followed by
    the new ids that `entity.references` resolve to (None: unknown), in their order."""

    def __init__(self, entity: Entity, mapping: Mapping, namespace: UUID) -> None:
        self.entity = entity
        self._key = entity.target.key
        # Hashes that have taken in what all rows begin with, to be copied: half the cost of new ones.
        self._id = hashlib.sha1(namespace.bytes + f"{entity.name}/".encode(), usedforsecurity=False)
        self._identity = [
            (names, hashlib.blake2b(orjson.dumps(names), digest_size=8, key=namespace.bytes))
            for names in entity.identity
        ]
        position = {column: index for index, column in enumerate(entity.columns)}
        limits: dict[str, int] = {}
        for names in entity.indexes.values():
            for name, limit in zip(names, (MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES), strict=False):
                limits[name] = min(limit, limits.get(name, limit))
        # A new id is a UUID, far below any limit.
        self._index_limits = {name: limit for name, limit in limits.items() if name not in entity.references}
        self._indexes = tuple(entity.indexes.values())
        self._index_keys = frozenset(name for names in self._indexes for name in names)
        self._references = [
            (
                name,
                entity.attributes[name].column or "",
                position[entity.attributes[name].column or ""],
                len(position) + i,
            )
            for i, name in enumerate(entity.references)
        ]
        self._fields = [
            (name, position[a.column], a.make_converter(mapping.timezone), a.default_value, name in limits)
            for name, a in entity.attributes.items()
            if a.column is not None and not a.references
        ]
        self._constants = {
            name: default
            for name, a in entity.attributes.items()
            if a.column is None and not a.is_first_seen and (default := a.default_value) is not None
        }
        self._first_seen = [n for n, a in entity.attributes.items() if a.column is None and a.is_first_seen]
        self._first_seen_defaults = [
            n for n, a in entity.attributes.items() if a.column is not None and a.is_first_seen
        ]

    def convert(self, row: Sequence[Any]) -> tuple[TypedItem, int]:
        """The item but for its key and the times of first sight, and how many index keys were left out.

        Raises Reject (or Orphan) for the first value that cannot be migrated.
        """
        item: TypedItem = dict(self._constants)
        adjusted = 0
        for name, position, convert, default, is_index_key in self._fields:
            value = row[position]
            # NULL and '', but not 0; of index keys the empty BLOB too.
            if not value and (value is None or value == "" or (value == b"" and is_index_key)):
                if default is not None:
                    item[name] = default
                    continue
                if is_index_key:
                    adjusted += 1
                    continue
                if value is None:
                    item[name] = NULL
                    continue
            try:
                item[name] = convert(value)
            except ValueProblem as problem:
                raise self._reject(name, value, str(problem)) from None
        for name, column, position, resolved in self._references:
            new_id = row[resolved]
            if new_id is None:
                raise Orphan(column, self.entity.references[name], row[position], self._show(column, row[position]))
            item[name] = {"S": new_id}
        for name, limit in self._index_limits.items():
            if name in item and len(str(next(iter(item[name].values())))) * 4 > limit:
                self._check_index_key(name, item, limit)
        return item, adjusted

    def _check_index_key(self, name: str, item: TypedItem, limit: int) -> None:
        column = self.entity.attributes[name].column or name
        value = item[name]
        size = len(value["S"].encode(errors="surrogatepass")) if "S" in value else measure_value(value)
        if size > limit:
            raise Reject(column, f"{name} has {size:,} bytes; an index key of DynamoDB has at most {limit:,}")

    def _reject(self, name: str, value: Any, problem: str) -> Reject:
        column = self.entity.attributes[name].column or name
        return Reject(column, f"{name}: {self._show(column, value)} {problem}")

    def _show(self, column: str, value: Any) -> str:
        """A value in a reason; masked where any attribute that comes from its column is sensitive."""
        if column in self.entity.sensitive_columns:
            return MASK
        text = repr(value) if not isinstance(value, bytes) else f"a BLOB of {len(value):,} bytes"
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"

    def digest_identity(self, item: TypedItem) -> bytes:
        """Eight bytes an identity alternative, keyed with the namespace; zeros for one that holds a NULL.

        The names are digested too, so that alternatives may be added, removed or put in another order later.
        """
        digests = []
        for names, begun in self._identity:
            values = list(map(item.get, names))
            if None in values or NULL in values:
                digests.append(b"\0" * 8)
            else:
                try:
                    data = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
                except orjson.JSONEncodeError:
                    raise self._find_invalid_text(item) from None
                digest = begun.copy()
                digest.update(data)
                digests.append(digest.digest())
        return b"".join(digests)

    def make_id(self, old_key: int | str, generation: int) -> str:
        """uuid5(namespace, "<entity>/<old key>/<generation>"), as text. (RFC 9562 §5.5; written out: the uuid module's
        objects cost four times as much.)"""
        id_hash = self._id.copy()
        id_hash.update(f"{old_key}/{generation}".encode())
        digest = id_hash.hexdigest()
        return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"

    def prepare(self, item: TypedItem, new_id: str, first_seen: str) -> Prepared:
        """Complete a converted item in place, check it as a whole and serialise it. Raises Reject."""
        item[self._key] = {"S": new_id}
        for name in self._first_seen:
            item[name] = {"S": first_seen}
        for name in self._first_seen_defaults:
            if item[name] is FIRST_SEEN_MARK:
                item[name] = {"S": first_seen}
        try:
            data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            raise self._find_invalid_text(item) from None
        # The JSON is never shorter than what DynamoDB counts, so only long ones need measuring.
        size = len(data) if len(data) <= WRITE_UNIT_BYTES else measure_item(item)
        if size > MAX_ITEM_BYTES:
            raise self._find_largest(item, size)
        return Prepared(item, data, hashlib.sha256(data).digest(), self.count_write_units(item, size))

    def merge(self, prepared: Prepared, kept: TypedItem) -> Prepared:
        """`prepared` with attributes of the application kept beside it. Raises Reject when both are too much."""
        if not kept:
            return prepared
        item = {**kept, **prepared.item}
        data, size = canonical_json(item), measure_item(item)
        if size > MAX_ITEM_BYTES:
            raise self._find_largest(item, size)
        return Prepared(item, data, hashlib.sha256(data).digest(), self.count_write_units(item, size))

    def _find_largest(self, item: TypedItem, size: int) -> Reject:
        largest = max(item, key=lambda name: measure_value(item[name]))
        column = self.entity.attributes[largest].column if largest in self.entity.attributes else None
        return Reject(
            column or largest,
            f"the item has {size:,} bytes, most of them in {largest}; DynamoDB takes at most {MAX_ITEM_BYTES:,}",
        )

    def count_write_units(self, item: TypedItem, size: int) -> int:
        """Units of one write of `item` (`size` bytes), those of the indexes that hold it included."""
        if self._index_keys <= item.keys():
            copies = 1 + len(self._indexes)
        else:
            copies = 1 + sum(all(map(item.__contains__, names)) for names in self._indexes)
        return copies * -(-size // WRITE_UNIT_BYTES)

    def _find_invalid_text(self, item: TypedItem) -> Reject:
        for name, value in item.items():
            try:
                orjson.dumps(value)
            except orjson.JSONEncodeError:
                column = self.entity.attributes[name].column if name in self.entity.attributes else None
                return Reject(column or name, f"{name} holds text that is not valid Unicode")
        raise AssertionError("orjson refused an item, but none of its values")


def is_unicode(text: str) -> bool:
    """Whether `text` came from valid UTF-8 (invalid bytes are read as lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_same_thing(recorded: bytes, found: bytes) -> bool:
    """Whether two identity digests are of the same thing: any alternative alike, or nothing to compare."""
    if recorded == found or not recorded.strip(b"\0") or not found.strip(b"\0"):
        return True
    return any(one.strip(b"\0") for one in _split(recorded) & _split(found))


def _split(digests: bytes) -> set[bytes]:
    return {digests[i : i + 8] for i in range(0, len(digests), 8)}
