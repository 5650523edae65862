"""The registry: what a type's one entry says is what the mapping, the builder and preflight do."""

from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import pytest

from accession.column_types import COLUMN_TYPES, NULL, ColumnType, Default, KeyType, Option, TypedValue, ValueProblem
from accession.items import ItemBuilder, Reject, find_key_schemas
from accession.mapping import Attribute, Mapping


def test_every_type_is_documented_and_has_its_name() -> None:
    for name, column_type in COLUMN_TYPES.items():
        assert column_type.name == name
        assert column_type.doc.endswith(".")
        assert column_type.key_type in (None, *get_args(KeyType))
        for option in column_type.options.values():
            assert option.doc
            assert not option.choices or option.default in option.choices


def test_the_types_of_the_language() -> None:
    assert {name: (t.key_type, t.default is not None, list(t.options)) for name, t in COLUMN_TYPES.items()} == {
        "string": ("S", True, []),
        "number": ("N", True, []),
        "boolean": (None, True, []),
        "binary": ("B", False, []),
        "timestamp": ("S", True, ["numbers"]),
        "date": ("S", False, []),
        "json": (None, False, []),
        "string_set": (None, False, ["separator"]),
        "auto": (None, False, []),
    }


@pytest.mark.parametrize(
    ("type_name", "default", "value"),
    [
        ("string", "", {"S": ""}),
        ("string", "5", {"S": "5"}),
        ("number", -3, {"N": "-3"}),
        ("number", 100, {"N": "100"}),
        ("number", 2**63 - 1, {"N": str(2**63 - 1)}),
        ("number", 0.1, {"N": "0.1"}),
        ("number", Decimal("1E-130"), {"N": "1E-130"}),
        ("number", 10**100, {"N": "1E+100"}),
        ("boolean", False, {"BOOL": False}),
    ],
)
def test_a_default_is_read_exactly(type_name: str, default: Any, value: TypedValue) -> None:
    assert COLUMN_TYPES[type_name].read_default(default) == value
    assert Attribute(column="c", type=type_name, default=default).default_value == value


@pytest.mark.parametrize(
    ("type_name", "default", "reason"),
    [
        ("number", True, "it is not a number; give a number of at most 38 digits"),
        ("number", float("nan"), "it is not a finite number"),
        ("number", 1e126, "it is outside DynamoDB's number range"),
        ("number", 10**38 + 1, "it has more than the 38 significant digits"),
        ("boolean", 0, "it is neither true nor false"),
        ("timestamp", "2026-01-05", "it is not first_seen"),
        ("binary", "x", "a binary, which has no default"),
    ],
)
def test_a_default_that_the_type_does_not_take_is_refused(type_name: str, default: Any, reason: str) -> None:
    with pytest.raises(ValueProblem, match=f"^cannot be the default of .*{reason}"):
        COLUMN_TYPES[type_name].read_default(default)


def to_shout(mark: str, value: Any) -> TypedValue:
    if type(value) is not str:
        raise ValueProblem("is not text to shout")
    return {"S": value.upper() + mark}


def read_shout(value: object) -> TypedValue:
    if value != "HUSH":
        raise ValueProblem("is not HUSH")
    return {"S": "HUSH"}


SHOUT = ColumnType(
    "shout",
    to_shout,
    "Text in capitals.",
    key_type="S",
    default=Default(read_shout, "HUSH"),
    options={"mark": Option("what ends it", default="!", choices=("!", "?"))},
)


@pytest.fixture
def shout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COLUMN_TYPES, "shout", SHOUT)


def make_mapping(attributes: dict[str, Any], indexes: dict[str, list[str]] | None = None) -> Mapping:
    thing = {
        "name": "thing",
        "source": {"table": "thing", "key": "id"},
        "target": {"table": "Things", "key": "thing_id"},
        "attributes": attributes,
        "indexes": indexes or {},
    }
    return Mapping.model_validate({"name": "m", "entities": {"thing": thing}, "sha256": ""})


@pytest.mark.usefixtures("shout")
def test_a_new_type_is_one_function_and_one_entry() -> None:
    mapping = make_mapping(
        {
            "a": {"column": "a", "type": "shout"},
            "b": {"column": "b", "type": "shout", "mark": "?", "default": "HUSH"},
        },
        {"i": ["a"]},
    )
    builder = ItemBuilder(mapping.entities["thing"], mapping, find_key_schemas(mapping, {}), UUID(int=0))
    assert builder.convert(("hey", "why")).item == {"a": {"S": "HEY!"}, "b": {"S": "WHY?"}}
    assert builder.convert((None, None)).item == {"b": {"S": "HUSH"}}
    assert mapping.entities["thing"].attributes["a"].key_type == "S"
    with pytest.raises(Reject, match="a: 5 is not text to shout"):
        builder.convert((5, NULL))


@pytest.mark.usefixtures("shout")
@pytest.mark.parametrize(
    ("attribute", "fault"),
    [
        ({"type": "shuot"}, "there is no type shuot; did you mean shout?"),
        ({"type": "shout", "default": "hush"}, "'hush' cannot be the default of a shout: it is not HUSH; give HUSH"),
        ({"type": "shout", "mark": "."}, r"must be ! or \?"),
        ({"type": "shout", "mark": 5}, "must be text"),
        ({"type": "string", "mark": "!"}, "mark: only a shout has it"),
        ({"references": "thing", "mark": "!"}, "mark: only a shout has it"),
    ],
)
def test_a_new_type_s_rules_hold_on_load(attribute: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        make_mapping({"a": {"column": "a", **attribute}})


def test_the_types_that_index_keys_may_have_are_listed_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = {"a": {"column": "a", "type": "json"}}
    with pytest.raises(ValueError, match="a must be of one type, string, number, binary, timestamp or date"):
        make_mapping(attributes, {"i": ["a"]})
    monkeypatch.setitem(COLUMN_TYPES, "shout", SHOUT)
    with pytest.raises(ValueError, match="string, number, binary, timestamp, date or shout"):
        make_mapping(attributes, {"i": ["a"]})
