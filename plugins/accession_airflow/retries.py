"""How often tasks try: transient errors back off, permanent ones fail at once."""

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
