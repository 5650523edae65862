"""The steps of a run are done, at work or waiting, judged by what the run has left so far."""

from accession.audit.run_progress import Step, judge_steps


def judge(*stages: list[Step]) -> list[str]:
    return [step.state for step in judge_steps([("", steps) for steps in stages])]


def test_a_stage_begins_when_all_before_it_are_done() -> None:
    assert judge([Step("a", 0)], [Step("b", 0)]) == ["at work", "waiting"]
    assert judge([Step("a", 1)], [Step("b", 0)], [Step("c", 0)]) == ["done", "at work", "waiting"]
    assert judge([Step("a", 1), Step("b", 0)], [Step("c", 0)]) == ["done", "at work", "waiting"]
    assert judge([Step("a", 1)], [Step("b", 1)]) == ["done", "done"]


def test_a_step_begins_when_its_parents_are_done() -> None:
    child = Step("child", 0, parents=("user", "book"))
    assert judge([Step("user", 1), Step("book", 0), child]) == ["done", "at work", "waiting"]
    assert judge([Step("user", 1), Step("book", 1), child]) == ["done", "done", "at work"]


def test_a_step_is_done_with_its_last_part_and_at_once_without_any() -> None:
    assert judge([Step("a", 2, 3)]) == ["at work"]
    assert judge([Step("a", 3, 3)]) == ["done"]
    assert judge([Step("a", 0, 0)]) == ["done"]


def test_what_is_done_is_done_even_if_a_step_before_it_is_not() -> None:
    """A task was cleared, or an undo took the target."""
    assert judge([Step("open_run", 0)], [Step("user", 1), Step("book", 0)]) == ["at work", "done", "waiting"]


def test_steps_are_named_by_their_stage() -> None:
    [step] = judge_steps([("migrate.", [Step("user", 1, 2, "50 of 100 items")])])
    assert (step.name, step.done, step.total, step.note) == ("migrate.user", 1, 2, "50 of 100 items")
