"""Row → item: convert, check, measure, checksum. Pure: no clock, no network, no logging.

An item is serialised once, here; these bytes go over the wire later. What the service would refuse is found here, so
that one bad row never sinks its batch. The column types are in `accession.column_types`.
"""

import hashlib
from collections.abc import Mapping as AnyMapping
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import orjson

from accession.column_types import FIRST_SEEN_MARK, NULL, TypedValue, ValueProblem
from accession.items.composed import Absent, BadPart, Composed
from accession.items.identity import IdentityDigest
from accession.items.keys import ItemKey, KeySchema
from accession.items.mask import MASK
from accession.items.plan import ItemPlan, Reference
from accession.items.typed_json import TypedItem, canonical_json, measure_item, measure_value
from accession.items.write_units import WRITE_UNIT_BYTES, WriteUnits
from accession.mapping import Entity, Mapping
from accession.validation import list_words

TRANSFORM_VERSION = 1  # raise it when the same row makes another item: `unchanged` compares it

# Amazon DynamoDB Developer Guide, "Service quotas": item size with attribute names.
MAX_ITEM_BYTES = 400 * 1024
JSON_BYTES = 12  # that the JSON of an item has for each attribute, beside its name and value

SHOWN = 60  # characters of a value in a reason
VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}  # RFC 9562 §4.1


class Reject(Exception):
    """A row that cannot be migrated. `column` names the source column; the message is the reason, values masked."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


class Orphan(Reject):
    """A reference to a parent that has no key. `reference` is its attribute, `old_key` the values of its columns, and
    `shown` is them as a reason may show them."""

    def __init__(self, column: str, reference: str, parent: str, old_key: tuple[Any, ...], shown: str) -> None:
        super().__init__(column, f"{column} {shown} refers to no {parent}")
        self.reference = reference
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
    """An item ready to be written. `size` is about that in bytes which DynamoDB counts."""

    item: TypedItem
    data: bytes
    checksum: bytes
    write_units: int
    size: int


class ItemBuilder:
    """Makes the items of one entity: `convert` a row, find out its key, `complete` the item. A row is what `ItemPlan`
    says; `schemas` has the keys of the entity and of its parents; `namespace` keys the identity digests and the new
    ids."""

    def __init__(self, entity: Entity, mapping: Mapping, schemas: AnyMapping[str, KeySchema], namespace: UUID) -> None:
        self.entity = entity
        self.key = schemas[entity.name]
        self._sensitive = mapping.sensitive_columns[entity.name]
        self._plan = ItemPlan.make(entity, mapping, schemas)
        self._is_new_id = entity.new_id is not None and len(self.key.names) == 1
        self._write_units = WriteUnits(self.key.names, mapping.indexes[entity.name])
        # A hash that has taken in what all ids begin with, to be copied: half the cost of a new one.
        self._id = hashlib.sha1(namespace.bytes + f"{entity.name}/".encode(), usedforsecurity=False)
        self._identity = IdentityDigest(entity.identity, namespace.bytes) if entity.identity else None

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
                if field.is_key:
                    state = "NULL" if value is None else "empty"
                    raise Reject(field.column, f"{field.name} is {state}, and a key must have a value")
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
            key = row[reference.resolved]
            if key is not None:
                item[reference.name] = {reference.kind: key}
            elif _may_be_null(reference, row):
                if reference.is_index_key:
                    adjusted += 1
                else:
                    item[reference.name] = NULL
            else:
                raise self._make_orphan(reference, row)
        for composed in plan.composed:
            adjusted += self._compose(composed, item, row)
        for name, limit in plan.key_limits:
            if name in item:
                for content in item[name].values():
                    if len(content) * 4 > limit:  # a character has at most four bytes
                        self._check_index_key(name, item, limit)
        for names, limit in plan.part_limits:
            self._check_index_part(names, item, limit)
        return Converted(item, adjusted, self._digest_identity(item))

    def find_orphans(self, row: Sequence[Any]) -> list[Orphan]:
        """Return all references of a row to parents that have no key."""
        unknown = (one for one in self._plan.references if row[one.resolved] is None and not _may_be_null(one, row))
        return [self._make_orphan(reference, row) for reference in unknown]

    def _make_orphan(self, reference: Reference, row: Sequence[Any]) -> Orphan:
        column = ", ".join(reference.columns)
        values = tuple(row[position] for position in reference.positions)
        shown = ", ".join(map(self._show, reference.columns, values))
        return Orphan(column, reference.name, reference.parent, values, shown)

    def _compose(self, composed: Composed, item: TypedItem, row: Sequence[Any]) -> int:
        """Set the attribute that a template makes. Return 1 if it is an index key that is left out. Raises Reject."""
        try:
            item[composed.name] = composed.compose(item, row)
        except Absent as absent:
            if composed.is_key:
                column = ", ".join(absent.columns)
                raise Reject(column, f"{composed.name}: {absent}, and a key must have a value") from None
            return int(composed.is_index_key)
        except BadPart as problem:
            values = dict(zip(self.entity.columns, row, strict=False))
            shown = ", ".join(self._show(column, values[column]) for column in problem.columns)
            raise Reject(", ".join(problem.columns), f"{composed.name}: {shown} {problem}") from None
        return 0

    def _check_index_key(self, name: str, item: TypedItem, limit: int) -> None:
        size = _measure_key(item[name])
        if size > limit:
            of_index = "" if name in self.key.names else "n index"
            reason = f"{name} has {size:,} bytes; a{of_index} key of DynamoDB has at most {limit:,}"
            raise Reject(self._find_column(name), reason)

    def _check_index_part(self, names: tuple[str, ...], item: TypedItem, limit: int) -> None:
        sizes = [_measure_key(item[name]) for name in names if name in item]
        if len(sizes) == len(names) and sum(sizes) > limit:
            column = ", ".join(map(self._find_column, names))
            shown = list_words(names, "and")
            reason = f"{shown} have {sum(sizes):,} bytes; a part of an index key of DynamoDB has at most {limit:,}"
            raise Reject(column, reason)

    def _digest_identity(self, item: TypedItem) -> bytes:
        if self._identity is None:
            return b""
        try:
            return self._identity.digest(item)
        except orjson.JSONEncodeError:
            raise self._find_invalid_text(item) from None

    def make_id(self, old_key: int | str, generation: int) -> ItemKey:
        """Return uuid5(namespace, "<entity>/<old key>/<generation>") as the item's key. Raises Reject.

        (RFC 9562 §5.5, written out: the uuid module's objects cost four times as much.)
        """
        id_hash = self._id.copy()
        try:
            id_hash.update(f"{old_key}/{generation}".encode())
        except UnicodeEncodeError:
            raise Reject(self.entity.source.key_name, "the key is not valid Unicode") from None
        digest = id_hash.hexdigest()
        return ItemKey(
            f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{VARIANT[digest[16]]}{digest[17:20]}-{digest[20:32]}"
        )

    def find_key(self, converted: Converted, old_key: int | str, generation: int) -> ItemKey:
        """Return the key of a converted item: from its attributes, and from the row's key if it has a new id. Raises
        Reject."""
        if self._is_new_id:
            return self.make_id(old_key, generation)
        item, new_id = converted.item, self.entity.new_id
        if new_id is not None:
            item = {**item, new_id: {"S": self.make_id(old_key, generation)}}
        if len(self.key.names) > 1:
            for name in self.key.names:
                if "\0" in item[name].get("S", ""):  # SQLite's json_extract, by which children read it, would end there
                    reason = f"{name} has a NUL character, which a key of two attributes cannot hold"
                    raise Reject(self.entity.source.key_name, reason)
        return self.key.read(item)

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
        units = self.count_write_units(item, size)
        if size == len(data):  # it was not measured
            size -= JSON_BYTES * len(item)
        return Prepared(item, data, hashlib.sha256(data).digest(), units, size)

    def count_write_units(self, item: TypedItem, size: int) -> int:
        """Return the units that one write of `item` (`size` bytes) costs, those of the indexes that hold it
        included."""
        return self._write_units.count(item, size)

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
        return (", ".join(attribute.columns) if attribute else None) or name

    def _show(self, column: str, value: Any) -> str:
        """Return a value as a reason may show it: masked if any attribute from its column is sensitive."""
        if column in self._sensitive:
            return MASK
        text = repr(value) if not isinstance(value, bytes) else f"a BLOB of {len(value):,} bytes"
        return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _may_be_null(reference: Reference, row: Sequence[Any]) -> bool:
    return reference.is_optional and None in [row[position] for position in reference.positions]


def _measure_key(value: TypedValue) -> int:
    return len(value["S"].encode(errors="surrogatepass")) if "S" in value else measure_value(value)


def is_unicode(text: str) -> bool:
    """Tell whether `text` came from valid UTF-8 (invalid bytes are read as lone surrogates)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
