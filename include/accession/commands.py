"""The make commands that errors and reports print, ready to be typed."""

import json

from accession.approval import stops_make

HOME_LIBRARY = "book_library"  # the mapping of make commands without MAPPING


def show_commands(environment: str, run: str, mapping: str) -> str:
    """Return two indented lines: the commands that resume or undo `run`, which left the target open."""
    resume = f"make migrate{_show_mapping(mapping)} ENVIRONMENT={environment} RESUME={run}"
    return f"  {resume}\n  {show_rollback(environment, run, mapping)}"


def _show_mapping(mapping: str) -> str:
    return "" if mapping == HOME_LIBRARY else f" MAPPING={mapping}"


def show_rollback(environment: str, run: str, mapping: str = HOME_LIBRARY, **conf: bool | str) -> str:
    """Return the command that undoes `run`. It asks for no approval, because make has no UI in which to approve."""
    if stops_make(environment):
        conf["approval"] = "never"
    given = f" CONF='{json.dumps(conf)}'" if conf else ""
    return f"make rollback{_show_mapping(mapping)} RUN={run} ENVIRONMENT={environment}{given}"
