"""The steps of a run, in the order of the DAG."""

from accession.run.backup import start_run
from accession.run.finish import Outcome, end_run, unseal_target
from accession.run.lineage import check_resumable, expect_entities
from accession.run.lookups import ask_application
from accession.run.migrate import migrate_part, remove_items
from accession.run.plan import make_plan, refuse_plan, show_plan
from accession.run.preflight import check_all, check_empty, check_table
from accession.run.report_page import TEMPLATES, describe_report, find_tone, make_environment
from accession.run.rollback import take_for_undo, undo_run
from accession.run.share import Share
from accession.run.stage import stage_entity
from accession.run.summary import show_summary
from accession.run.verify import verify_entity

__all__ = [
    "TEMPLATES",
    "Outcome",
    "Share",
    "ask_application",
    "check_all",
    "check_empty",
    "check_resumable",
    "check_table",
    "describe_report",
    "end_run",
    "expect_entities",
    "find_tone",
    "make_environment",
    "make_plan",
    "migrate_part",
    "refuse_plan",
    "remove_items",
    "show_plan",
    "show_summary",
    "stage_entity",
    "start_run",
    "take_for_undo",
    "undo_run",
    "unseal_target",
    "verify_entity",
]
