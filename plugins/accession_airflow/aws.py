"""Make AWS clients from the Airflow connection `aws_default` and boto3's own environment."""

from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

from accession import artifacts, dynamodb
from accession.aws import adopt_region

CONNECTION = "aws_default"


def connect_dynamodb() -> Any:
    """Return a DynamoDB client with the library's settings."""
    return _connect("dynamodb", dynamodb.client_config())


def connect_s3() -> Any:
    """Return an S3 client with the library's settings."""
    return _connect("s3", artifacts.client_config())


def _connect(service: str, config: Any) -> Any:
    adopt_region()
    return AwsGenericHook(CONNECTION, client_type=service, config=config).get_conn()
