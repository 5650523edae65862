"""Links from Airflow to the audit page."""

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

TAB = "audit"  # the tab on a run's page, /dags/<dag>/runs/<run>/plugin/<tab>


class AuditLink(BaseOperatorLink):
    """From a task's Details to the audit tab of its run."""

    name = "Audit of this run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """An address on this Airflow."""
        from airflow.configuration import conf

        base = conf.get("api", "base_url", fallback=None) or "/"
        return f"{base.rstrip('/')}/dags/{quote(ti_key.dag_id)}/runs/{quote(ti_key.run_id, safe='')}/plugin/{TAB}"
