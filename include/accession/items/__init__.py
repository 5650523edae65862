"""A row becomes an item: values, typed JSON, limits, checksum. Pure."""

from accession.items.builder import (
    MAX_ITEM_BYTES,
    TRANSFORM_VERSION,
    Converted,
    ItemBuilder,
    Orphan,
    Prepared,
    Reject,
    is_unicode,
)
from accession.items.identity import is_same_thing
from accession.items.keys import (
    Affinities,
    ItemKey,
    KeySchema,
    RowKey,
    Table,
    clean_key,
    find_attribute_type,
    find_key_schemas,
    find_mask,
    join_key,
    show_key,
)
from accession.items.mask import MASK, KeyMask, show_row_key
from accession.items.plan import MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES
from accession.items.typed_json import TypedItem, checksum_item, checksum_items, is_same_item, measure_item

__all__ = [
    "MASK",
    "MAX_ITEM_BYTES",
    "MAX_PARTITION_KEY_BYTES",
    "MAX_SORT_KEY_BYTES",
    "TRANSFORM_VERSION",
    "Affinities",
    "Converted",
    "ItemBuilder",
    "ItemKey",
    "KeyMask",
    "KeySchema",
    "Orphan",
    "Prepared",
    "Reject",
    "RowKey",
    "Table",
    "TypedItem",
    "checksum_item",
    "checksum_items",
    "clean_key",
    "find_attribute_type",
    "find_key_schemas",
    "find_mask",
    "is_same_item",
    "is_same_thing",
    "is_unicode",
    "join_key",
    "measure_item",
    "show_key",
    "show_row_key",
]
