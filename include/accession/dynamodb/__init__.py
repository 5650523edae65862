"""Everything that talks to DynamoDB."""

from accession.dynamodb.client import DynamoDB
from accession.dynamodb.conditions import Delete, PutAbsent, Update
from accession.dynamodb.retry import client_config

__all__ = ["Delete", "DynamoDB", "PutAbsent", "Update", "client_config"]
