"""The write units of an item: those of its table, and those of the indexes that hold it. Pure."""

from dataclasses import dataclass
from functools import cached_property

from accession.items.typed_json import TypedItem, measure_item
from accession.mapping import Index

# Amazon DynamoDB Developer Guide, "Read and write operations": one unit for each 1 KB begun; an index costs the same
# for what it holds of the item.
WRITE_UNIT_BYTES = 1024


@dataclass(frozen=True)
class WriteUnits:
    """The costs of writes to one table: the attributes of its key, and its indexes."""

    key: tuple[str, ...]
    indexes: tuple[Index, ...]

    @cached_property
    def _index_keys(self) -> frozenset[str]:
        return frozenset(name for index in self.indexes for name in index.names)

    @cached_property
    def _holds_whole_items(self) -> bool:
        return all(index.projection == "all" for index in self.indexes)

    def count(self, item: TypedItem, size: int) -> int:
        """Return the units that one write of `item` (`size` bytes) costs, those of the indexes that hold it
        included."""
        units = -(-size // WRITE_UNIT_BYTES)
        if self._holds_whole_items and self._index_keys <= item.keys():
            return units * (1 + len(self.indexes))
        holding = [index for index in self.indexes if all(map(item.__contains__, index.names))]
        return units + sum(units if index.projection == "all" else self._count_copy(item, index) for index in holding)

    def _count_copy(self, item: TypedItem, index: Index) -> int:
        """Return the units of what an index projects of an item."""
        names = {*self.key, *index.names, *(index.projection if isinstance(index.projection, tuple) else ())}
        return -(-measure_item({name: item[name] for name in names if name in item}) // WRITE_UNIT_BYTES)
