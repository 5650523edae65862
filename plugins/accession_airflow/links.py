"""Link from Airflow to the audit pages."""

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

TAB = "audit"  # the tab on a run's page, /dags/<dag>/runs/<run>/plugin/<tab>


class AuditLink(BaseOperatorLink):
    """The link from a task's details to the audit tab of its run."""

    name = "Audit of this run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the URL of the tab in this Airflow."""
        from airflow.configuration import conf

        base = conf.get("api", "base_url", fallback=None) or "/"
        return f"{base.rstrip('/')}/dags/{quote(ti_key.dag_id)}/runs/{quote(ti_key.run_id, safe='')}/plugin/{TAB}"
