"""What people write wrongly is said in our words: where, what is wrong, what is allowed; never with the value."""

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from accession.params import MigrateParams, RollbackParams
from accession.validation import FieldFault, StrictModel, explain_faults, list_words


class Shelf(StrictModel):
    size: Literal["small", "large"] = "small"
    code: str = Field("A1", pattern="^[A-Z][0-9]$", json_schema_extra={"allowed": "a letter and a digit"})
    books: tuple[str, ...] = ()
    weight: float | None = Field(None, gt=0, lt=100)


class Room(StrictModel):
    shelves: dict[Annotated[str, Field(min_length=1, max_length=3)], Shelf]
    rows: tuple[tuple[Shelf, ...], ...] = ()
    key: str = Field("", exclude=True)
    door: str | None = None

    @model_validator(mode="after")
    def _check(self) -> "Room":
        if self.door == "locked":
            raise FieldFault("door", "must be open")
        if self.door == "missing":
            raise ValueError("a room has a door")
        return self


def refuse(model: type[StrictModel], given: Any, what: str = "key") -> list[str]:
    with pytest.raises(ValidationError) as refused:
        model.model_validate(given)
    return explain_faults(refused.value, model, what)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({}, "shelves: this key is missing"),
        ({"shelves": {}, "dor": "x"}, "dor: there is no such key; did you mean door? Known are shelves, rows and door"),
        ({"shelves": {}, "xyz": "x"}, "xyz: there is no such key. Known are shelves, rows and door"),
        ({"shelves": {}, "door": 5}, "door: must be text, but is a number; put it in quotes"),
        ({"shelves": {}, "door": True}, "door: must be text, but is true or false; put it in quotes"),
        ({"shelves": {}, "door": ["x"]}, "door: must be text, but is a list"),
        ({"shelves": {}, "door": "locked"}, "door: must be open"),
        ({"shelves": {}, "door": "missing"}, "a room has a door"),
        ({"shelves": []}, "shelves: must be a block of names, each with its own keys, but is a list"),
        ({"shelves": None}, "shelves: must be a block of names, each with its own keys, but is empty"),
        ({"shelves": {1: {}}}, "shelves: the key 1 is a number; put it in quotes"),
        ({"shelves": {"": {}}}, "shelves: the key '' is empty"),
        ({"shelves": {"long": {}}}, "shelves: the key 'long' is not allowed"),
        ({"shelves": {"a": "x"}}, "shelves.a: must be a block with the keys size, code, books and weight, but is text"),
        ({"shelves": {"a": {"siez": 1}}}, "shelves.a.siez: there is no such key; did you mean size? Known are size,"),
        ({"shelves": {"a": {"size": "huge"}}}, "shelves.a.size: must be small or large"),
        ({"shelves": {"a": {"code": "secret"}}}, "shelves.a.code: must be a letter and a digit"),
        ({"shelves": {"a": {"books": "x"}}}, "shelves.a.books: must be a list, but is text"),
        ({"shelves": {"a": {"books": [1]}}}, "shelves.a.books.0: must be text, but is a number; put it in quotes"),
        ({"shelves": {"a": {"weight": 0}}}, "shelves.a.weight: must be greater than 0"),
        ({"shelves": {"a": {"weight": 100}}}, "shelves.a.weight: must be less than 100"),
        ({"shelves": {"a": {"weight": "secret"}}}, "shelves.a.weight: must be a number"),
        (
            {"shelves": {}, "rows": [[{"cod": "A1"}]]},
            "rows.0.0.cod: there is no such key; did you mean code? Known are",
        ),
        ({1: 2, "shelves": {}}, "the key 1 is a number; put it in quotes"),
    ],
)
def test_a_fault_says_where_what_is_wrong_and_what_is_allowed(given: Any, fault: str) -> None:
    (said,) = refuse(Room, given)
    assert said.startswith(fault)
    assert not said.endswith(".")
    assert "secret" not in said


def test_every_fault_is_said() -> None:
    assert refuse(Room, {"shelves": {"a": {"size": "x", "books": 1}}, "dor": 1}) == [
        "shelves.a.size: must be small or large",
        "shelves.a.books: must be a list, but is a number",
        "dor: there is no such key; did you mean door? Known are shelves, rows and door",
    ]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (
            {"max_reject": 1},
            "Param max_reject: there is no such param; did you mean max_rejects? Known are source, source_is_chec",
        ),
        ({"approval": "maybe"}, "Param approval: must be auto, always or never"),
        ({"max_rejects": -1}, "Param max_rejects: must be at least 0"),
        ({"max_rejects": 1.5}, "Param max_rejects: must be a whole number"),
        ({"max_rejects": "many"}, "Param max_rejects: must be a whole number"),
        ({"max_rejects": None}, "Param max_rejects: must be a whole number, but is empty"),
        ({"rows_per_part": 1_000_001}, "Param rows_per_part: must be at most 1000000"),
        ({"seal": "ok"}, "Param seal: must have at least 3 characters"),
        ({"unseal": "x" * 501}, "Param unseal: must have at most 500 characters"),
        ({"dry_run": "perhaps"}, "Param dry_run: must be true or false"),
        ({"source": 5}, "Param source: must be text, but is a number"),
        ({"app_url": "ftp://u:secret@x"}, "Param app_url: must be a URL that begins with http:// or https://"),
        ({"dry_run": True, "seal": "cutover"}, "Param dry_run excludes seal, unseal and resume"),
    ],
)
def test_params_are_worded_too(given: dict[str, Any], fault: str) -> None:
    (said,) = refuse(MigrateParams, given, "param")  # type: ignore[arg-type]
    assert said.startswith(fault)
    assert "secret" not in said


def test_the_nearest_param_is_of_the_same_dag() -> None:
    (said,) = refuse(RollbackParams, {"restore": "x"}, "param")  # type: ignore[arg-type]
    assert said.startswith("Param restore: there is no such param; did you mean restore_to? Known are run, environment")


@pytest.mark.parametrize(("words", "text"), [([], ""), (["a"], "a"), (["a", "b"], "a or b"), ("abc", "a, b or c")])
def test_words_are_listed_as_prose(words: Any, text: str) -> None:
    assert list_words(words) == text
