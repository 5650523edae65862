"""Everything that talks to DynamoDB."""

from accession.dynamodb.batch_writer import PutOutcome
from accession.dynamodb.client import DynamoDB
from accession.dynamodb.conditions import Delete, PutAbsent, Update
from accession.dynamodb.description import IndexKey, TableDescription
from accession.dynamodb.endpoint import client_config
from accession.dynamodb.rate import Limit

__all__ = [
    "Delete",
    "DynamoDB",
    "IndexKey",
    "Limit",
    "PutAbsent",
    "PutOutcome",
    "TableDescription",
    "Update",
    "client_config",
]
