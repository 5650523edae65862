"""The approval: shows the plan and waits for a person, or skips itself when the params ask for nobody."""

from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from accession.params import LOCAL_ENVIRONMENTS


class PlanApprovalOperator(ApprovalOperator):
    """Parks the run until somebody approves or rejects; holds no worker slot meanwhile.

    `auto` asks in runs that a person triggered, outside local and dev. Dry runs, empty change sets and resumed runs
    (approved before) ask for nobody.
    """

    def execute(self, context: Any) -> Any:
        params = context["params"]
        plan = context["ti"].xcom_pull(task_ids="plan") or {}
        asks = params["approval"] == "always" or (
            params["approval"] == "auto"
            and context["dag_run"].run_type == "manual"
            and params["environment"] not in LOCAL_ENVIRONMENTS
        )
        if not asks or params.get("dry_run") or params.get("resume") or plan.get("writes") == 0:
            raise AirflowSkipException("nobody is asked")
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        # Kept here: after a Reject the base class ends by skipping what follows, and its return value is lost.
        person = (event.get("responded_by_user") or {}).get("name")
        context["ti"].xcom_push(key="answer", value={"chosen": event.get("chosen_options"), "by": person})
        return super().execute_complete(context, event)
