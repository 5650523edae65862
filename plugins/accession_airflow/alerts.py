"""Send a message to an SNS topic when a run fails or is late, if one is configured."""

from datetime import timedelta
from typing import Any

from accession_airflow.settings import read_deployment

RUN_HOURS = 24
"""A run is late if it has not ended this long after the wait for an approval. 100 million rows take hours: scale.md."""


def make_alerts() -> dict[str, Any]:
    """Return the DAG's failure callback and its deadline; empty if the setting `sns_topic` names no topic."""
    deployment = read_deployment()
    topic = deployment.sns_topic
    if not topic:
        return {}
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    message = "{{ dag.dag_id }} run {{ dag_run.run_id }} failed: read the log of its task report."
    alerts: dict[str, Any] = {
        "on_failure_callback": [
            SnsNotifier(aws_conn_id="aws_default", target_arn=topic, message=message, subject="Accession: a run failed")
        ]
    }
    hours = deployment.approval_hours + RUN_HOURS
    alerts["deadline"] = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(hours=hours),
        callback=AsyncCallback("accession_airflow.alerts.tell_of_late_run", kwargs={"topic": topic, "hours": hours}),
    )
    return alerts


async def tell_of_late_run(topic: str, hours: int, context: Any) -> None:
    """Send the message of a late run. Airflow's triggerer calls this when the deadline has passed.

    The notifier's own asynchronous way needs aiobotocore, which moves botocore.
    """
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier
    from asgiref.sync import sync_to_async

    run = context["dag_run"]
    message = (
        f"{run['dag_id']} run {run['dag_run_id']} has not ended after {hours} hours: look at its tasks in Airflow."
    )
    notifier = SnsNotifier(
        aws_conn_id="aws_default", target_arn=topic, message=message, subject="Accession: a run is late"
    )
    await sync_to_async(notifier.notify)(context)
