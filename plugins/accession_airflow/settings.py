"""The settings of a deployment: the section `[accession]` of Airflow's configuration.

So airflow.cfg, `AIRFLOW__ACCESSION__…` in the environment, Helm values and MWAA's options all work.
"""

import os

from accession.deployment import SECTION, Deployment, load_deployment


def read_setting(name: str) -> str | None:
    """Return a setting, or None if it is not set. The variable `ACCESSION_<NAME>` is its alias."""
    from airflow.configuration import conf

    value: str | None = conf.get(SECTION, name, fallback=None)
    return value or os.environ.get(f"ACCESSION_{name.upper()}") or None


def read_deployment() -> Deployment:
    """Return all settings. Raises ConfigurationError that names the options that are wrong."""
    return load_deployment(read_setting)


def find_source_queue() -> str:
    """Return the queue of the workers that can read the source: Airflow's default queue unless one is set."""
    from airflow.configuration import conf

    return read_setting("source_queue") or str(conf.get_mandatory_value("operators", "default_queue"))
