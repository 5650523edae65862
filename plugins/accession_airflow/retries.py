"""The retries of all tasks: a transient error is retried with back-off, a permanent one fails at once."""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": True,
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception="accession.errors.PermanentError",
                action=RetryAction.FAIL,
                reason="The same call fails again",
            )
        ]
    ),
}
