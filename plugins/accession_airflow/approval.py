"""The approval task: it shows the plan and waits for a person, or skips itself if the run needs no approval.

The approval is checked once more when the run is about to write, since a task can be marked as successful,
and another plan can be made while the question is open.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

from accession.approval import explain_answer, needs_approval
from accession.deployment import Deployment
from accession.errors import RefusedError
from accession.mapping import Mapping, load_mapping
from accession.permissions import is_exempt
from accession_airflow.job import Job, explaining, read_params


class PlanApprovalOperator(ApprovalOperator):
    """Park the run until a person approves or rejects it, or its time is over. A parked run holds no worker slot.

    `accession.approval` decides whether a person is asked. If the provider at hand supports it, Airflow itself accepts
    an answer from the deployment's approvers only.
    """

    def __init__(self, *, mapping_file: Path, **kwargs: Any) -> None:
        # An execution_timeout from the DAG's default_args would become the time to wait for an answer.
        super().__init__(defaults=self.REJECT, execution_timeout=None, **kwargs)
        self.mapping_file = str(mapping_file)

    def execute(self, context: Any) -> Any:
        with explaining(context):
            deployment, params = read_params(self.dag_id, context)
            mapping = load_mapping(self.mapping_file)
            if not _asks(deployment, mapping, params, context):
                raise AirflowSkipException("This run needs no approval.")
            users = self._find_users(deployment, context)
        self.response_timeout = timedelta(hours=params.approval_hours or deployment.approval_hours)
        self.assigned_users = [{"id": user, "name": user} for user in users] or None
        context["ti"].xcom_push(key="asked", value=_find_run(context))
        return super().execute(context)

    def _find_users(self, deployment: Deployment, context: Any) -> list[str]:
        """Return the users who may answer; empty if anybody may."""
        triggered_by = context["dag_run"].triggering_user_name if deployment.four_eyes else None
        users = [user for user in deployment.approvers if user != triggered_by]
        if deployment.approvers and not users:
            raise RefusedError(f"{triggered_by} triggered this run and is its only approver: add another one.")
        return users

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        # Pushed here, since the base class ends a rejected run by skipping what follows, and its return value is lost.
        person, chosen = event.get("responded_by_user"), event.get("chosen_options")
        by = person["name"] if person else "the time-out, since nobody answered"
        context["ti"].xcom_push(key="answer", value={"chosen": chosen, "by": by, "person": person})
        if chosen == [self.APPROVE]:
            with explaining(context):
                deployment, _ = read_params(self.dag_id, context)
                _expect_person(deployment, person, context)
        return super().execute_complete(context, event)


def expect_approval(job: Job, context: Any, run: str) -> None:
    """Raise RefusedError unless `run` needs no approval, or somebody who may has approved this very run."""
    _, params = read_params(context["dag"].dag_id, context)  # as the question did: without what a resumed run was given
    if not _asks(job.deployment, job.mapping, params, context):
        return
    ti = context["ti"]
    answer = ti.xcom_pull(task_ids="approve", key="answer") or {}
    if answer.get("chosen") != ["Approve"] or ti.xcom_pull(task_ids="approve", key="asked") != run:
        raise RefusedError(f"Nobody has approved run {run}: clear the task approve with its downstream tasks.")
    _expect_person(job.deployment, answer.get("person"), context)


def _asks(deployment: Deployment, mapping: Mapping, params: Any, context: Any) -> bool:
    plan = context["ti"].xcom_pull(task_ids="plan") or {}
    changes_seal = getattr(params, "seal", None) or getattr(params, "unseal", None)
    named = all("{environment}" in entity.target.table for entity in mapping.entities.values())
    return needs_approval(
        params.approval,
        is_exempt=is_exempt(deployment, params.environment, is_in_each_table=named),
        is_scheduled=context["dag_run"].run_type == "scheduled",
        is_dry_run=getattr(params, "dry_run", False),
        writes=None if changes_seal else plan.get("writes"),
    )


def _expect_person(deployment: Deployment, person: dict[str, str] | None, context: Any) -> None:
    triggered_by = context["dag_run"].triggering_user_name
    reason = explain_answer(person, triggered_by, deployment.approvers, four_eyes=deployment.four_eyes)
    if reason:
        raise RefusedError(reason)


def _find_run(context: Any) -> str | None:
    """Return the run that the question is about: what `backup` named, or what `check` is to undo."""
    ti = context["ti"]
    run: str | None = ti.xcom_pull(task_ids="backup") or ti.xcom_pull(task_ids="check")
    return run
