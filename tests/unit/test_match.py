"""What a row is beside what the head recorded for its key."""

from dataclasses import dataclass

import pytest

from accession.items import ItemKey
from accession.run.match import New, Recorded, Replaced, Same, match_recorded

ONE, OTHER, NOTHING = b"1" * 8, b"2" * 8, b"\0" * 8


@dataclass(frozen=True)
class Case:
    state: str
    recorded: bytes
    found: bytes
    kind: type
    generation: int
    shares_identity: bool = True


@pytest.mark.parametrize(
    "case",
    [
        Case("live", ONE, ONE, Same, 3),
        Case("live", ONE, OTHER, Replaced, 4),
        Case("live", ONE + OTHER, OTHER + OTHER, Same, 3),  # one alternative is enough
        Case("live", ONE, NOTHING, Same, 3),  # nothing to compare
        Case("live", NOTHING, ONE, Same, 3),
        Case("live", b"", b"", Same, 3),  # a mapping without identity
        Case("live", ONE, OTHER, Same, 3, shares_identity=False),
        Case("kept_conflict", ONE, OTHER, Replaced, 4),
        Case("held_reject", ONE, ONE, Same, 3),
        Case("tombstone", ONE, ONE, New, 4),  # an id is never used again
        Case("tombstone", ONE, OTHER, New, 4),
    ],
    ids=str,
)
def test_a_row_is_matched_with_what_was_recorded(case: Case) -> None:
    recorded = Recorded(3, ItemKey("id"), case.recorded, b"", None, "", case.state)  # type: ignore[arg-type]
    match = match_recorded(recorded, case.found, shares_identity=case.shares_identity)
    assert type(match) is case.kind
    assert match.generation == case.generation


def test_a_key_that_nobody_recorded_is_new() -> None:
    assert match_recorded(None, ONE) == New(0)
