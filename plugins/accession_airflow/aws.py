"""Open AWS by the Airflow connection `aws_default` and boto3's own environment. A simulation opens its own instead."""

from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

from accession import artifacts, dynamodb
from accession.aws import adopt_region, explain_errors
from accession.mapping import Mapping

CONNECTION = "aws_default"


def open_store(bucket: str, mapping: Mapping, environment: str) -> artifacts.Store:
    """Return the store of a target."""
    return artifacts.Store(connect_s3(), bucket, mapping.name, environment)


def open_dynamodb() -> dynamodb.DynamoDB:
    """Return a connection to DynamoDB for reading."""
    return dynamodb.DynamoDB(connect_dynamodb())


def connect_dynamodb() -> Any:
    """Return a DynamoDB client with the library's settings."""
    return _connect("dynamodb", dynamodb.client_config())


def connect_s3() -> Any:
    """Return an S3 client with the library's settings."""
    return _connect("s3", artifacts.client_config())


def _connect(service: str, config: Any) -> Any:
    adopt_region()
    with explain_errors():
        return AwsGenericHook(CONNECTION, client_type=service, config=config).get_conn()
