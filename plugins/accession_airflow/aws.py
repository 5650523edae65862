"""Make AWS clients from the Airflow connection `aws_default` and boto3's own environment."""

import os
from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

from accession import artifacts, dynamodb

CONNECTION = "aws_default"


def connect_dynamodb() -> Any:
    """Return a DynamoDB client with the library's settings."""
    return _connect("dynamodb", dynamodb.client_config())


def connect_s3() -> Any:
    """Return an S3 client with the library's settings."""
    return _connect("s3", artifacts.client_config())


def _connect(service: str, config: Any) -> Any:
    # AWS's container services set AWS_REGION, which boto3 does not read.
    if region := os.environ.get("AWS_REGION"):
        os.environ.setdefault("AWS_DEFAULT_REGION", region)
    return AwsGenericHook(CONNECTION, client_type=service, config=config).get_conn()
