"""The retries of all tasks: a transient error is retried with back-off, a permanent one fails at once.

A task that takes longer than `execution_timeout` hangs: it fails, and the run is undone. The longest one that we know,
the undo of 100 million items at 1,600 a second, takes 17 hours, and no task gets near four times that by accident.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

RETRIES: dict[str, Any] = {
    "retries": 4,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": True,
    "execution_timeout": timedelta(days=3),
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception="accession.errors.PermanentError",
                action=RetryAction.FAIL,
                reason="The same call fails again",
            ),
            RetryRule(
                exception="airflow.sdk.exceptions.AirflowTaskTimeout",
                action=RetryAction.FAIL,
                reason="It would hang again",
            ),
        ]
    ),
}
