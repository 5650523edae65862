"""Templates: how they are read, and the texts that they make."""

from typing import Any

import pytest

from accession.column_types import ValueProblem
from accession.items.composed import format_part
from accession.mapping import Placeholder
from accession.mapping.template import parse_template


def test_a_template_is_texts_and_placeholders() -> None:
    template = parse_template("A{{#{id:010}-{@name}}}{first name}")
    assert template.pieces == (
        "A", "{", "#", Placeholder("id", width=10), "-", Placeholder("name", of_attribute=True), "}",
        Placeholder("first name"),
    )  # fmt: skip
    assert (template.columns, template.attributes) == (("id", "first name"), ("name",))


@pytest.mark.parametrize("text", ["{", "a}", "{}", "{id", "{id:}", "{id:4}", "{id:000}", "{a{b}}", "{@}"])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="template"):
        parse_template(text)


def test_a_template_may_be_a_constant_and_its_ends_tell_values_apart() -> None:
    assert parse_template("{{id}}").placeholders == ()
    assert [(t.start, t.end) for t in map(parse_template, ("#META", "A#{id}", "{id}#A", "{a}"))] == [
        ("#META", "#META"), ("A#", ""), ("", "#A"), ("", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [(7, 0, "7"), (-7, 0, "-7"), ("x y", 0, "x y"), ("", 0, ""), (7, 3, "007"), ("07", 3, "007"), (999, 3, "999"),
     (0, 2, "00")],
)  # fmt: skip
def test_a_part_is_the_text_of_the_value(value: Any, width: int, text: str) -> None:
    assert format_part(value, width) == text


@pytest.mark.parametrize(
    ("value", "width"), [(1.0, 0), (b"x", 0), (-1, 3), (1000, 3), ("x", 3), ("", 3), ("٣", 3), (True, 0), ("1.0", 4)]
)
def test_a_value_that_makes_no_exact_part_is_refused(value: Any, width: int) -> None:
    with pytest.raises(ValueProblem):
        format_part(value, width)
