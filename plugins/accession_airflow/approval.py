"""The approval task: it shows the plan and waits for a person, or skips itself if the run needs no approval."""

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from accession.approval import needs_approval
from accession_airflow.job import merge_params


class PlanApprovalOperator(ApprovalOperator):
    """Park the run until a person approves or rejects it. A parked run holds no worker slot.

    `accession.approval` decides whether a person is asked.
    """

    def execute(self, context: Any) -> Any:
        params = merge_params(context)  # those that the tasks act on
        plan = context["ti"].xcom_pull(task_ids="plan") or {}
        if not needs_approval(
            params["environment"],
            params["approval"],
            is_manual=context["dag_run"].run_type == "manual",
            is_dry_run=bool(params.get("dry_run")),
            is_resume=bool(params.get("resume")),
            writes=plan.get("writes"),
        ):
            raise AirflowSkipException("This run needs no approval.")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        # Pushed here, since the base class ends a rejected run by skipping what follows, and its return value is lost.
        person = (event.get("responded_by_user") or {}).get("name")
        context["ti"].xcom_push(key="answer", value={"chosen": event.get("chosen_options"), "by": person})
        return super().execute_complete(context, event)
