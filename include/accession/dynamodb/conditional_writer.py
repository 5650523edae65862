"""Single writes, each if its condition holds, whose own effect is not mistaken for that of somebody else."""

import orjson

from accession.dynamodb.conditions import ConditionalWrite, Delete, PutAbsent
from accession.dynamodb.reader import Reader
from accession.dynamodb.requests import Requests
from accession.dynamodb.retry import ConditionFailedError
from accession.items import Table


class ConditionalWriter:
    """Writes single items of one table."""

    def __init__(self, requests: Requests, reader: Reader, table: Table) -> None:
        self._requests, self._reader, self._table = requests, reader, table

    def encode(self, write: ConditionalWrite) -> bytes:
        """Return the body of a request."""
        request = {"TableName": self._table.name, "ReturnConsumedCapacity": "TOTAL", **write.build(self._table.key)}
        return orjson.dumps(request)

    async def write(self, encoded: tuple[ConditionalWrite, bytes]) -> bool:
        """Send a write with its body. Return whether it was done; if not, nothing changed."""
        write, body = encoded
        try:
            await self._requests.write(write.operation, self._table.name, body, -(-len(body) // 1024))
        except ConditionFailedError as error:
            return error.repeated and await self._was_done(write)
        return True

    async def _was_done(self, write: ConditionalWrite) -> bool:
        """Whether an earlier attempt was applied, and its answer lost. (Repeated updates meet their own effect and
        succeed.)"""
        match write:
            case PutAbsent():
                return await self._reader.read_chunk(self._table, [write.key]) == [write.item]
            case Delete():
                return not await self._reader.read_chunk(self._table, [write.key])
            case _:
                return False
