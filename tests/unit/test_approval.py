"""The one rule of who approves a run, as a table."""

from itertools import product
from pathlib import Path

import pytest

from accession.approval import LOCAL_ENVIRONMENTS, needs_approval
from accession.commands import show_rollback


@pytest.mark.parametrize(
    ("environment", "approval", "is_manual", "asks"),
    [
        ("local", "auto", True, False),
        ("dev", "auto", True, False),
        ("prod", "auto", True, True),
        ("prod", "auto", False, False),
        ("dev", "auto", False, False),
        ("local", "always", True, True),
        ("dev", "always", False, True),
        ("prod", "always", True, True),
        ("prod", "always", False, True),
        ("prod", "never", True, False),
        ("dev", "never", False, False),
    ],
)
def test_who_asks_whom(environment: str, approval: str, is_manual: bool, asks: bool) -> None:
    assert needs_approval(environment, approval, is_manual=is_manual) is asks
    assert needs_approval(environment, approval, is_manual=is_manual, writes=1) is asks


def test_nobody_is_asked_where_nothing_is_written_or_it_was_approved_before() -> None:
    for environment, approval, is_manual in product(("dev", "prod"), ("auto", "always", "never"), (True, False)):
        assert not needs_approval(environment, approval, is_manual=is_manual, is_dry_run=True)
        assert not needs_approval(environment, approval, is_manual=is_manual, is_resume=True)
        assert not needs_approval(environment, approval, is_manual=is_manual, writes=0)


def test_a_command_that_would_ask_is_printed_with_the_param_that_lets_it_run() -> None:
    for environment in (*LOCAL_ENVIRONMENTS, "prod"):
        command = show_rollback(environment, "20260105T120000Z-0123abcd")
        assert ('"approval": "never"' in command) is needs_approval(environment)


def test_nothing_else_decides_it() -> None:
    repo = Path(__file__).parents[2]
    files = [*(repo / "include/accession").rglob("*.py"), *(repo / "plugins").rglob("*.py")]
    deciding = {
        str(file.relative_to(repo))
        for file in files
        if "LOCAL_ENVIRONMENTS" in file.read_text() or '"always"' in file.read_text()
    }
    deciding.remove("include/accession/params.py")  # names the values, and decides nothing
    assert deciding == {"include/accession/approval.py"}
