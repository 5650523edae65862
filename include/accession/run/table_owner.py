"""The owner of a table: a tag that names the target which writes into it.

The lock of a target is in its bucket, so two buckets or two mappings could own one table without any warning.
The tag guards against that mistake. It is not a lock: two first runs that begin in the same seconds may both set it.
"""

from accession.artifacts import Store
from accession.dynamodb import DynamoDB, TableDescription
from accession.errors import RefusedError

TAG = "accession:target"


def expect_owner(store: Store, dynamodb: DynamoDB, table: TableDescription) -> bool:
    """Return whether the table is tagged as ours; False if it has no owner. Raises RefusedError if another owns it."""
    owner = dynamodb.read_tags(table).get(TAG)
    if owner not in (None, store.uri("")):
        raise RefusedError(
            f"Table {table.name} belongs to the target {owner}, not to {store.uri('')}: give the bucket and the "
            f"mapping of that one. If it is abandoned, remove the tag {TAG} of the table."
        )
    return owner is not None


def claim_table(store: Store, dynamodb: DynamoDB, name: str) -> None:
    """Tag a table as ours, if nobody owns it. Safe to repeat. Raises RefusedError if another target owns it."""
    table = dynamodb.describe_table(name)
    if not expect_owner(store, dynamodb, table):
        dynamodb.set_tag(table, TAG, store.uri(""))
