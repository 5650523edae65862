"""The one rule of who approves a run, as a table."""

from itertools import product
from pathlib import Path

import pytest

from accession.approval import LOCAL_ENVIRONMENTS, explain_answer, needs_approval, stops_make
from accession.commands import show_rollback
from accession.errors import RefusedError


@pytest.mark.parametrize(
    ("is_exempt", "approval", "is_scheduled", "asks"),
    [
        (True, "auto", False, False),
        (False, "auto", False, True),
        (False, "auto", True, False),
        (True, "auto", True, False),
        (True, "always", False, True),
        (True, "always", True, True),
        (False, "always", False, True),
        (False, "always", True, True),
        (False, "never", True, False),
        (True, "never", False, False),
    ],
)
def test_who_asks_whom(is_exempt: bool, approval: str, is_scheduled: bool, asks: bool) -> None:
    assert needs_approval(approval, is_exempt=is_exempt, is_scheduled=is_scheduled) is asks
    assert needs_approval(approval, is_exempt=is_exempt, is_scheduled=is_scheduled, writes=1) is asks


def test_never_is_refused_where_a_person_must_be_asked() -> None:
    with pytest.raises(RefusedError, match=r"so it cannot be never\. Leave it out\."):
        needs_approval("never", is_exempt=False)


def test_nobody_is_asked_where_nothing_is_written() -> None:
    for is_exempt, approval, is_scheduled in product((True, False), ("auto", "always", "never"), (True, False)):
        given: dict[str, bool] = {"is_exempt": is_exempt, "is_scheduled": is_scheduled}
        assert not needs_approval(approval, **given, is_dry_run=True)
        assert not needs_approval(approval, **given, writes=0)


def test_a_command_that_make_would_stop_is_printed_with_the_param_that_lets_it_run() -> None:
    for environment in (*LOCAL_ENVIRONMENTS, "prod"):
        command = show_rollback(environment, "20260105T120000Z-0123abcd")
        assert ('"approval": "never"' in command) is stops_make(environment)
        assert not stops_make(environment, "never")
        assert stops_make(environment, "always")


@pytest.mark.parametrize(
    ("person", "four_eyes", "approvers", "reason"),
    [
        ({"id": "7", "name": "ada"}, False, (), None),
        ({"id": "7", "name": "ada"}, False, ("7",), None),
        ({"id": "7", "name": "ada"}, False, ("8", "ada"), "ada is not among the approvers"),
        ({"id": "7", "name": "ann"}, True, (), "ann triggered this run"),
        ({"id": "ann", "name": "Ann A."}, True, ("ann",), "ann triggered this run"),
        ({"id": "7", "name": "ada"}, True, ("7",), None),
        (None, False, (), "Nobody is known to have approved"),
    ],
)
def test_whose_approval_counts(
    person: dict[str, str] | None, four_eyes: bool, approvers: tuple[str, ...], reason: str | None
) -> None:
    found = explain_answer(person, "ann", approvers, four_eyes=four_eyes)
    assert (found or "").startswith(reason or "")
    assert (found is None) is (reason is None)


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
