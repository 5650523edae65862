"""Send a message to an SNS topic when a run fails, if one is configured."""

import os
from typing import Any

TOPIC_VARIABLE = "ACCESSION_SNS_TOPIC"


def make_alerts() -> dict[str, Any]:
    """Return the DAG's failure callback; empty if `ACCESSION_SNS_TOPIC` names no topic."""
    topic = os.environ.get(TOPIC_VARIABLE)
    if not topic:
        return {}
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    message = "{{ dag.dag_id }} run {{ dag_run.run_id }} failed: read the log of its task report."
    return {
        "on_failure_callback": [
            SnsNotifier(aws_conn_id="aws_default", target_arn=topic, message=message, subject="Accession: a run failed")
        ]
    }
