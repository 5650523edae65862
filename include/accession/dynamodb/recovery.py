"""Recover a batch of puts whose answer was lost: read its items first, and put only those that are absent."""

import orjson

from accession.dynamodb.answers import LostAnswerError
from accession.dynamodb.conditional_writer import ConditionalWriter
from accession.dynamodb.conditions import PutAbsent
from accession.dynamodb.reader import Reader
from accession.dynamodb.requests import Requests
from accession.errors import TransientError
from accession.items import ItemKey, Table, is_same_item


class Recovery:
    """Find out which items of a batch are in the table, and put the others.

    DynamoDB may have applied the batch, and the application may have changed an item since. So no existing item is put
    again. If the application deleted an item before the read, that looks the same as a batch that was not applied, and
    the item is put again.
    """

    def __init__(self, requests: Requests, reader: Reader, table: Table) -> None:
        self._requests, self._reader, self._table = requests, reader, table
        self._writer = ConditionalWriter(requests, reader, table)

    async def recover(self, batch: list[bytes], lost: LostAnswerError) -> list[ItemKey]:
        """Return when every item of a batch is in the table, with the keys of those that are not as we put them."""
        if not await self._requests.backoff().wait():
            raise TransientError(f"The answer to a write of table {self._table.name} was lost ({lost}). Try again.")
        items = {self._table.key.read(item): item for item in map(orjson.loads, batch)}
        read = await self._reader.read_chunk(self._table, list(items))
        found = dict(zip(self._table.key.read_all(read), read, strict=True))
        return [
            key
            for key, item in items.items()
            if not (is_same_item(found[key], item) if key in found else await self._put(PutAbsent(key, item)))
        ]

    async def _put(self, put: PutAbsent) -> bool:
        return await self._writer.write((put, self._writer.encode(put)), may_be_done=True)
