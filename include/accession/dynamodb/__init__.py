"""Everything that talks to DynamoDB."""

from accession.dynamodb.client import DynamoDB
from accession.dynamodb.retry import client_config

__all__ = ["DynamoDB", "client_config"]
