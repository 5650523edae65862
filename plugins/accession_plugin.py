"""The Airflow plugin of Accession: the audit pages, their places in the UI, and the note of a run."""

import logging
from typing import Any

from airflow.plugins_manager import AirflowPlugin

from accession_airflow import listener
from accession_airflow.links import TAB

logger = logging.getLogger(__name__)

PREFIX = "/accession"


class AccessionPlugin(AirflowPlugin):
    """All that Accession adds to Airflow."""

    name = "accession"
    listeners: list[Any] = [listener]  # noqa: RUF012  as the base class declares it
    external_views: list[Any] = [  # noqa: RUF012
        {
            "name": "Accession",
            "href": f"{PREFIX}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "accession",
        },
        {
            "name": "Audit",
            "href": f"{PREFIX}/go?dag_id={{DAG_ID}}&run_id={{RUN_ID}}",
            "destination": "dag_run",
            "url_route": TAB,
        },
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Make the app when the API server asks for it. To import FastAPI takes every other process over a second.

        An error here would keep the API server from starting. Without the library there are no pages.
        """
        try:
            from accession_airflow.page import make_app
        except ImportError as error:
            logger.error("There are no audit pages: install Accession on the API server too (%s).", error)  # noqa: TRY400
            return []
        return [{"name": "Accession", "app": make_app(), "url_prefix": PREFIX}]
