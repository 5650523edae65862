"""The steps of a run, in the order of the DAG."""

from accession.run.end import Outcome
from accession.run.lint import Findings, Tally, lint_mapping
from accession.run.lookups import ask_application
from accession.run.plan import refuse_plan, show_plan
from accession.run.preflight import (
    check_table,
    expect_key,
    find_deployed_schemas,
    find_index_changes,
    find_open_types,
    find_source_schemas,
)
from accession.run.remote_source import fetch_source
from accession.run.report_page import TEMPLATES, describe_report, find_tone, make_environment
from accession.run.run import Gate, Run
from accession.run.summary import show_summary

__all__ = [
    "TEMPLATES",
    "Findings",
    "Gate",
    "Outcome",
    "Run",
    "Tally",
    "ask_application",
    "check_table",
    "describe_report",
    "expect_key",
    "fetch_source",
    "find_deployed_schemas",
    "find_index_changes",
    "find_open_types",
    "find_source_schemas",
    "find_tone",
    "lint_mapping",
    "make_environment",
    "refuse_plan",
    "show_plan",
    "show_summary",
]
