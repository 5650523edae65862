"""The make commands that help, as they are to be typed."""

import json

from accession.params import LOCAL_ENVIRONMENTS

HOME_LIBRARY = "book_library"  # the mapping that make takes where none is named


def show_commands(environment: str, run: str, mapping: str) -> str:
    """The two commands that help with a target left open by `run`, as they are to be typed."""
    resume = f"make migrate{_show_mapping(mapping)} ENVIRONMENT={environment} RESUME={run}"
    return f"  {resume}\n  {show_rollback(environment, run, mapping)}"


def _show_mapping(mapping: str) -> str:
    return "" if mapping == HOME_LIBRARY else f" MAPPING={mapping}"


def show_rollback(environment: str, run: str, mapping: str = HOME_LIBRARY, **conf: bool | str) -> str:
    """The command that undoes `run`, as it is to be typed; it asks nobody, as there is no Airflow UI to answer in."""
    if environment not in LOCAL_ENVIRONMENTS:
        conf["approval"] = "never"
    given = f" CONF='{json.dumps(conf)}'" if conf else ""
    return f"make rollback{_show_mapping(mapping)} RUN={run} ENVIRONMENT={environment}{given}"
