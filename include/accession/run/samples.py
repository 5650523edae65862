"""Look up a sample of items that earlier runs wrote, so that emptied tables are never called unchanged."""

from accession.errors import RefusedError
from accession.items import MAX_ITEM_BYTES, ItemKey
from accession.run.batches import split_reads
from accession.run.context import RunContext


def expect_samples(run: RunContext) -> None:
    """Read the sampled items of each entity, strongly consistent. Raises RefusedError if any is gone. Read-only."""
    for name in run.mapping.order:
        staged = run.folder.load_staged(name)
        keys, table = [ItemKey(key) for key in staged.samples or ()], run.find_table(staged)
        gone: list[ItemKey] = []
        for batch in split_reads(keys, lambda _: MAX_ITEM_BYTES):
            found = run.dynamodb.read_items(table, batch)
            gone += [key for key in batch if key not in found]
        if gone:
            first = table.mask.show(gone[0])
            raise RefusedError(
                f"{len(gone):,} of {len(keys):,} items that were looked up in table {staged.table} are gone, the first "
                f"is {first}, and nothing changed in the source: they were deleted after an earlier run had written "
                "them. Nothing was written. If the application deleted them, set on_conflict=keep."
            )
