"""Row → item: convert, check, measure, checksum. Pure: no clock, no network, no logging.

An item is serialised once, here; these bytes go over the wire later. What the service would refuse is found here, so
that one bad row never sinks its batch. The column types are in `accession.column_types`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import orjson

from accession.column_types import FIRST_SEEN_MARK, NULL, ValueProblem
from accession.items.keys import ItemKey, KeySchema
from accession.items.plan import ItemPlan
from accession.items.typed_json import TypedItem, canonical_json, measure_item, measure_value
from accession.mapping import Entity, Mapping

TRANSFORM_VERSION = 1  # raise it when the same row makes another item: `unchanged` compares it

# Amazon DynamoDB Developer Guide, "Service quotas": item size with attribute names.
MAX_ITEM_BYTES = 400 * 1024
# "Read and write operations": one write unit for each 1 KB begun; an index that holds the item costs the same again.
WRITE_UNIT_BYTES = 1024

MASK = "•••"
SHOWN = 60  # characters of a value in a reason
VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # RFC 9562 §4.1
NO_DIGEST = b"\0" * 8


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


class Converted(msgspec.Struct, frozen=True):  # made for every row, at a quarter of a NamedTuple's cost
    """A row's item without its key and the times of first sight, the number of index keys that were left out, and the
    digest of the row's identity."""

    item: TypedItem
    adjusted: int
    identity: bytes


class Prepared(msgspec.Struct, frozen=True):
    """An item ready to be written."""

    item: TypedItem
    data: bytes
    checksum: bytes
    write_units: int


class ItemBuilder:
    """Makes the items of one entity: `convert` a row, find out its key, `complete` the item. A row is what `ItemPlan`
    says; `namespace` keys the identity digests and the new ids."""

    def __init__(self, entity: Entity, mapping: Mapping, namespace: UUID) -> None:
        self.entity = entity
        self.key = KeySchema.of(entity)
        self._plan = ItemPlan.make(entity, mapping.timezone)
        self._indexes, self._index_keys = tuple(entity.indexes.values()), entity.index_keys
        # Hashes that have taken in what all rows begin with, to be copied: half the cost of new ones.
        self._id = hashlib.sha1(namespace.bytes + f"{entity.name}/".encode(), usedforsecurity=False)
        self._identity = [
            (names, hashlib.blake2b(orjson.dumps(names), digest_size=8, key=namespace.bytes))
            for names in entity.identity
        ]

    def convert(self, row: Sequence[Any]) -> Converted:
        """Convert the values of a row. Raises Reject (or Orphan) for the first that cannot be migrated."""
        plan = self._plan
        item: TypedItem = plan.constants.copy()
        adjusted = 0
        for field in plan.fields:
            value = row[field.position]
            # NULL and '', but not 0; of index keys the empty BLOB too.
            if not value and (value is None or value == "" or (value == b"" and field.is_index_key)):
                if field.default is not None:
                    item[field.name] = field.default
                    continue
                if field.is_index_key:
                    adjusted += 1
                    continue
                if value is None:
                    item[field.name] = NULL
                    continue
            try:
                item[field.name] = field.convert(value)
            except ValueProblem as problem:
                shown = self._show(field.column, value)
                raise Reject(field.column, f"{field.name}: {shown} {problem}") from None
        for reference in plan.references:
            new_id = row[reference.resolved]
            if new_id is None:
                old_key = row[reference.position]
                shown = self._show(reference.column, old_key)
                raise Orphan(reference.column, reference.parent, old_key, shown)
            item[reference.name] = {"S": new_id}
        for name, limit in plan.key_limits:
            if name in item:
                for content in item[name].values():
                    if len(content) * 4 > limit:  # a character has at most four bytes
                        self._check_index_key(name, item, limit)
        return Converted(item, adjusted, self._digest_identity(item) if self._identity else b"")

    def _check_index_key(self, name: str, item: TypedItem, limit: int) -> None:
        value = item[name]
        size = len(value["S"].encode(errors="surrogatepass")) if "S" in value else measure_value(value)
        if size > limit:
            reason = f"{name} has {size:,} bytes; an index key of DynamoDB has at most {limit:,}"
            raise Reject(self._find_column(name), reason)

    def _digest_identity(self, item: TypedItem) -> bytes:
        """Return eight bytes for each identity alternative, keyed with the namespace; zeros for one that holds a NULL.

        The names are digested too, so that alternatives may be added, removed or reordered later.
        """
        digests = []
        for names, begun in self._identity:
            values = list(map(item.get, names))
            if None in values or NULL in values:
                digests.append(NO_DIGEST)
            else:
                try:
                    data = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
                except orjson.JSONEncodeError:
                    raise self._find_invalid_text(item) from None
                digest = begun.copy()
                digest.update(data)
                digests.append(digest.digest())
        return b"".join(digests)

    def make_id(self, old_key: int | str, generation: int) -> ItemKey:
        """Return uuid5(namespace, "<entity>/<old key>/<generation>") as the item's key. Raises Reject.

        (RFC 9562 §5.5, written out: the uuid module's objects cost four times as much.)
        """
        id_hash = self._id.copy()
        try:
            id_hash.update(f"{old_key}/{generation}".encode())
        except UnicodeEncodeError:
            raise Reject(self.entity.source.key, "the key is not valid Unicode") from None
        digest = id_hash.hexdigest()
        return ItemKey(
            f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"
        )

    def complete(self, converted: Converted, key: ItemKey, first_seen: str) -> Prepared:
        """Add the key and the time of first sight to a converted item, check it as a whole and serialise it. The item
        is completed in place. Raises Reject."""
        item = converted.item
        self.key.add_to(item, key)
        for name in self._plan.first_seen:
            if item[name] is FIRST_SEEN_MARK:
                item[name] = {"S": first_seen}
        try:
            data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            raise self._find_invalid_text(item) from None
        # The JSON is never shorter than what DynamoDB counts, so only long items need measuring.
        return self._finish(item, data, len(data) if len(data) <= WRITE_UNIT_BYTES else measure_item(item))

    def merge(self, prepared: Prepared, kept: TypedItem) -> Prepared:
        """Add attributes of the application to an item of ours. Raises Reject if both together are too large."""
        if not kept:
            return prepared
        item = {**kept, **prepared.item}
        return self._finish(item, canonical_json(item), measure_item(item))

    def _finish(self, item: TypedItem, data: bytes, size: int) -> Prepared:
        if size > MAX_ITEM_BYTES:
            raise self._find_largest(item, size)
        return Prepared(item, data, hashlib.sha256(data).digest(), self.count_write_units(item, size))

    def count_write_units(self, item: TypedItem, size: int) -> int:
        """Return the units that one write of `item` (`size` bytes) costs, those of the indexes that hold it
        included."""
        if self._index_keys <= item.keys():
            copies = 1 + len(self._indexes)
        else:
            copies = 1 + sum(all(map(item.__contains__, names)) for names in self._indexes)
        return copies * -(-size // WRITE_UNIT_BYTES)

    def _find_largest(self, item: TypedItem, size: int) -> Reject:
        largest = max(item, key=lambda name: measure_value(item[name]))
        return Reject(
            self._find_column(largest),
            f"the item has {size:,} bytes, most of them in {largest}; DynamoDB takes at most {MAX_ITEM_BYTES:,}",
        )

    def _find_invalid_text(self, item: TypedItem) -> Reject:
        for name, value in item.items():
            try:
                orjson.dumps(value)
            except orjson.JSONEncodeError:
                return Reject(self._find_column(name), f"{name} holds text that is not valid Unicode")
        raise AssertionError("orjson refused an item, but each of its values is valid")

    def _find_column(self, name: str) -> str:
        """Return the source column of an attribute; the attribute itself if it has none."""
        attribute = self.entity.attributes.get(name)
        return (attribute.column if attribute else None) or name

    def _show(self, column: str, value: Any) -> str:
        """Return a value as a reason may show it: masked if any attribute from its column is sensitive."""
        if column in self.entity.sensitive_columns:
            return MASK
        text = repr(value) if not isinstance(value, bytes) else f"a BLOB of {len(value):,} bytes"
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def is_unicode(text: str) -> bool:
    """Tell whether `text` came from valid UTF-8 (invalid bytes are read as lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_same_thing(recorded: bytes, found: bytes) -> bool:
    """Tell whether two identity digests are of the same thing: they share an alternative, or one has nothing to
    compare."""
    if recorded == found or not recorded.strip(b"\0") or not found.strip(b"\0"):
        return True
    return any(one.strip(b"\0") for one in _split(recorded) & _split(found))


def _split(digests: bytes) -> set[bytes]:
    return {digests[i : i + 8] for i in range(0, len(digests), 8)}
