"""AWS clients from the Airflow connection `aws_default` and boto3's own environment."""

from typing import Any

from airflow.providers.amazon.aws.hooks.base_aws import AwsGenericHook

from accession import dynamodb, store

CONNECTION = "aws_default"


def connect_dynamodb() -> Any:
    """A DynamoDB client with the library's retry settings."""
    return AwsGenericHook(CONNECTION, client_type="dynamodb", config=dynamodb.client_config()).get_conn()


def connect_s3() -> Any:
    """An S3 client with the library's retry settings."""
    return AwsGenericHook(CONNECTION, client_type="s3", config=store.client_config()).get_conn()
