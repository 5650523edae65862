"""Single writes, each with a condition. A write can tell its own effect from a change by the application."""

import orjson

from accession.dynamodb.answers import ConditionFailedError
from accession.dynamodb.conditions import ConditionalWrite, Delete, PutAbsent
from accession.dynamodb.crew import find_call
from accession.dynamodb.reader import Reader
from accession.dynamodb.requests import Requests
from accession.errors import AccessionError, PermanentError
from accession.items import Table, TypedItem, is_same_item


class ConditionalWriter:
    """Write single items of one table.

    A condition cannot say that an item has no further attribute. If the application adds one between the caller's read
    and the delete, the answer to the delete shows it, and the item is put back. It is lost only if a second fault comes
    in the same milliseconds: the process dies before the item is back, the answer to the delete is lost, or DynamoDB
    refuses the put until patience ends, which raises PermanentError.
    """

    def __init__(self, requests: Requests, reader: Reader, table: Table) -> None:
        self._requests, self._reader, self._table = requests, reader, table

    def encode(self, write: ConditionalWrite) -> bytes:
        """Return the body of a request."""
        request = {"TableName": self._table.name, "ReturnConsumedCapacity": "TOTAL", **write.build(self._table.key)}
        return orjson.dumps(request)

    async def write(self, encoded: tuple[ConditionalWrite, bytes], *, may_be_done: bool = False) -> bool:
        """Send a write with its body. Return whether it was done; if not, nothing is changed.

        `may_be_done`: an earlier request may have had the same effect.
        """
        write, body = encoded
        try:
            answer = await self._requests.write(write.operation, self._table.name, body, -(-len(body) // 1024))
        except ConditionFailedError as error:
            return (may_be_done or error.repeated) and await self._was_done(write)
        removed = answer.get("Attributes")
        if not isinstance(write, Delete) or removed is None or is_same_item(removed, write.before):
            return True
        await self._put_back(write, removed)
        return False

    async def _was_done(self, write: ConditionalWrite) -> bool:
        """Tell whether an earlier attempt was applied and its answer lost. (A repeated update meets its own effect and
        succeeds.)"""
        match write:
            case PutAbsent():
                found = await self._reader.read_chunk(self._table, [write.key])
                return is_same_item(found[0] if found else None, write.item)
            case Delete():
                return not await self._reader.read_chunk(self._table, [write.key])
            case _:
                return False

    async def _put_back(self, delete: Delete, removed: TypedItem) -> None:
        """Put back what a delete removed beyond what it may remove, unless the application has recreated the item.

        It ignores the fence and runs to its end, since it restores the state of a moment ago.
        """
        put = PutAbsent(delete.key, removed)
        body = self.encode(put)
        call = find_call()
        call.must_end = True
        try:
            await self._requests.write(
                put.operation, self._table.name, body, -(-len(body) // 1024), at_once=True, is_fenced=False
            )
        except ConditionFailedError:
            pass  # by our own attempt whose answer was lost, or by the application
        except AccessionError as error:
            key = self._table.mask.show(delete.key)
            raise PermanentError(
                f"Item {key} of table {self._table.name} is deleted, and an attribute that the application had "
                f"added to it is lost, since the item could not be put back: {error}"
            ) from error
        finally:
            call.must_end = False
