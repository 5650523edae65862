"""Row → item: defaults, index keys, identity, ids, sizes, and one checksum for one content."""

import base64
import hashlib
from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.items import (
    Converted,
    ItemBuilder,
    ItemKey,
    Orphan,
    Prepared,
    Reject,
    checksum_item,
    checksum_items,
    find_key_schemas,
    is_same_thing,
    measure_item,
)
from accession.items.builder import MAX_ITEM_BYTES
from accession.items.plan import MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES
from accession.items.typed_json import canonical_json
from accession.mapping import Mapping

NAMESPACE = UUID("6b5e3c1a-0000-4000-8000-000000000001")
NOW = "2026-01-05T12:34:56.123456+00:00"
LATER = "2027-01-05T12:34:56+00:00"
NULL = {"NULL": True}

attribute = st.one_of(
    st.text(max_size=5).map(lambda text: {"S": text}),
    st.integers(-(10**37), 10**37).map(lambda number: {"N": str(number)}),
    st.booleans().map(lambda value: {"BOOL": value}),
    st.just(NULL),
    st.binary(max_size=9).map(lambda data: {"B": base64.b64encode(data).decode()}),
    st.sets(st.text(min_size=1, max_size=3), min_size=1).map(lambda texts: {"SS": list(texts)}),
    st.sets(st.integers(-(10**37), 10**37), min_size=1, max_size=4).map(
        lambda numbers: {"NS": [str(number) for number in numbers]}
    ),
)
nested = st.recursive(
    attribute,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: {"L": values})
        | st.dictionaries(st.text(min_size=1, max_size=3), inner, max_size=3).map(lambda fields: {"M": fields})
    ),
    max_leaves=8,
)
items = st.dictionaries(st.text(min_size=1, max_size=4), nested, max_size=5)


def make_builder(namespace: UUID = NAMESPACE, **entity: Any) -> ItemBuilder:
    """The builder of an entity `thing` with the attributes, indexes and identity given."""
    thing = {"source": {"table": "thing", "key": "id"}, "target": {"table": "Things", "key": "thing_id"}, **entity}
    owner = {
        "source": {"table": "owner", "key": "id"},
        "target": {"table": "Owners", "key": "owner_id"},
        "attributes": {"name": {"column": "name", "type": "string"}},
    }
    entities = {"owner": {"name": "owner", **owner}, "thing": {"name": "thing", **thing}}
    mapping = Mapping.model_validate({"name": "m", "entities": entities, "sha256": ""})
    return ItemBuilder(mapping.entities["thing"], mapping, find_key_schemas(mapping, {}), namespace)


def complete(builder: ItemBuilder, row: Sequence[Any], key: str, first_seen: str) -> Prepared:
    """The finished item of a row."""
    return builder.complete(builder.convert(row), ItemKey(key), first_seen)


# NULL, '' and defaults


def test_null_stays_null_and_empty_stays_empty() -> None:
    builder = make_builder(attributes={"a": {"column": "a", "type": "string"}})
    assert builder.convert((None,)) == Converted({"a": NULL}, 0, b"")
    assert builder.convert(("",)) == Converted({"a": {"S": ""}}, 0, b"")


@pytest.mark.parametrize("value", [None, ""])
def test_a_default_stands_for_null_and_empty(value: Any) -> None:
    builder = make_builder(
        attributes={
            "s": {"column": "c", "type": "string", "default": "Unknown"},
            "n": {"column": "c", "type": "number", "default": 7},
            "b": {"column": "c", "type": "boolean", "default": False},
        },
    )
    assert builder.convert((value,)).item == {"s": {"S": "Unknown"}, "n": {"N": "7"}, "b": {"BOOL": False}}


def test_zero_is_a_value_and_no_default_takes_its_place() -> None:
    builder = make_builder(attributes={"n": {"column": "c", "type": "number", "default": 7}})
    assert builder.convert((0,)).item == {"n": {"N": "0"}}
    assert builder.convert((0.0,)).item == {"n": {"N": "0"}}


@pytest.mark.parametrize("default", [0.99, Decimal("0.99")])
def test_a_fraction_may_be_the_default_of_a_number(default: Any) -> None:
    attributes = {
        "n": {"column": "c", "type": "number", "default": default},
        "m": {"type": "number", "default": default},
    }
    assert make_builder(attributes=attributes).convert((None,)).item == {"n": {"N": "0.99"}, "m": {"N": "0.99"}}


def test_attributes_without_a_column_are_constants() -> None:
    builder = make_builder(
        attributes={
            "s": {"type": "string", "default": "x"},
            "n": {"type": "number", "default": -3},
            "t": {"type": "boolean", "default": True},
            "f": {"type": "boolean", "default": False},
        },
    )
    assert builder.convert(()).item == {"s": {"S": "x"}, "n": {"N": "-3"}, "t": {"BOOL": True}, "f": {"BOOL": False}}


def test_first_seen_is_the_only_now_and_fills_null_empty_and_constants() -> None:
    builder = make_builder(
        attributes={
            "added": {"column": "added", "type": "timestamp", "default": "first_seen"},
            "created_at": {"type": "timestamp", "default": "first_seen"},
        },
    )
    for value in (None, ""):
        item = complete(builder, (value,), "id-1", NOW).item
        assert item == {"thing_id": {"S": "id-1"}, "added": {"S": NOW}, "created_at": {"S": NOW}}
    item = complete(builder, ("2020-01-01",), "id-1", LATER).item
    assert item["added"] == {"S": "2020-01-01T00:00:00+00:00"}
    assert item["created_at"] == {"S": LATER}


def test_a_row_s_first_seen_never_reaches_the_next_row() -> None:
    builder = make_builder(attributes={"added": {"column": "added", "type": "timestamp", "default": "first_seen"}})
    first = complete(builder, (None,), "id-1", NOW).item
    second = complete(builder, (None,), "id-2", LATER).item
    assert (first["added"], second["added"]) == ({"S": NOW}, {"S": LATER})


def test_a_column_used_twice_makes_two_attributes() -> None:
    builder = make_builder(
        attributes={
            "owner_id": {"column": "owner", "references": "owner"},
            "legacy_owner": {"column": "owner", "type": "number"},
        },
    )
    assert builder.convert((17, "new-17")).item == {"owner_id": {"S": "new-17"}, "legacy_owner": {"N": "17"}}


# Index keys


@pytest.mark.parametrize("value", [None, ""])
def test_an_empty_index_key_is_left_out_and_counted(value: Any) -> None:
    builder = make_builder(
        attributes={"isbn": {"column": "isbn", "type": "string"}, "title": {"column": "title", "type": "string"}},
        indexes={"i": ["isbn"], "j": ["title", "isbn"]},
    )
    assert builder.convert((value, "Emma")) == Converted({"title": {"S": "Emma"}}, 1, b"")
    assert builder.convert((value, value)) == Converted({}, 2, b"")


def test_an_empty_blob_is_no_index_key_either() -> None:
    builder = make_builder(attributes={"b": {"column": "b", "type": "binary"}, "c": {"column": "c", "type": "binary"}},
        indexes={"i": ["b"]},
    )  # fmt: skip
    assert builder.convert((b"", b"")) == Converted({"c": {"B": ""}}, 1, b"")


def test_an_index_key_with_a_default_has_it() -> None:
    builder = make_builder(attributes={"g": {"column": "g", "type": "string", "default": "?"}}, indexes={"i": ["g"]})
    assert builder.convert(("",)) == Converted({"g": {"S": "?"}}, 0, b"")


@pytest.mark.parametrize(
    ("indexes", "limit"),
    [
        ({"i": ["a"]}, MAX_PARTITION_KEY_BYTES),
        ({"i": ["b", "a"]}, MAX_SORT_KEY_BYTES),
        ({"i": ["a"], "j": ["b", "a"]}, MAX_SORT_KEY_BYTES),
        ({"j": ["b", "a"], "i": ["a"]}, MAX_SORT_KEY_BYTES),
    ],
)
@pytest.mark.parametrize(("kind", "character"), [("string", "x"), ("string", "é"), ("string", "😀"), ("binary", b"x")])
def test_index_keys_are_measured_in_bytes_to_the_last_one(
    indexes: dict[str, Any], limit: int, kind: str, character: Any
) -> None:
    builder = make_builder(
        attributes={"a": {"column": "a", "type": kind}, "b": {"column": "b", "type": "string"}},
        indexes=indexes,
    )
    width = len(character.encode() if isinstance(character, str) else character)
    filler = character[:0] + (b"x" if kind == "binary" else "x") * (limit % width)
    fits = character * (limit // width) + filler
    assert "a" in builder.convert((fits, "b")).item
    with pytest.raises(
        Reject, match=f"a has {limit + 1:,} bytes; an index key of DynamoDB has at most {limit:,}"
    ) as no:
        builder.convert((fits + (b"x" if kind == "binary" else "x"), "b"))
    assert no.value.column == "a"


# References


def test_references_become_the_parents_new_ids() -> None:
    builder = make_builder(attributes={"owner_id": {"column": "owner", "references": "owner"}})
    assert builder.convert((5, "new-5")).item == {"owner_id": {"S": "new-5"}}
    with pytest.raises(Orphan, match="owner 6 refers to no owner") as orphan:
        builder.convert((6, None))
    assert (orphan.value.column, orphan.value.parent, orphan.value.old_key) == ("owner", "owner", (6,))


# Reasons


def test_a_reason_names_attribute_column_and_value() -> None:
    builder = make_builder(attributes={"stars": {"column": "rating", "type": "number"}})
    with pytest.raises(Reject, match=r"^stars: 'good' is not a number$") as reject:
        builder.convert(("good",))
    assert reject.value.column == "rating"


def test_a_long_value_and_a_blob_are_shown_in_short() -> None:
    builder = make_builder(attributes={"stars": {"column": "rating", "type": "number"}})
    for value in ("x" * 10_000, b"x" * 10_000):
        with pytest.raises(Reject) as reject:
            builder.convert((value,))
        assert len(str(reject.value)) < 120


@pytest.mark.parametrize("value", ["s3cret", b"s3cret", "s3cret\udcff", 5.25])
def test_a_sensitive_value_is_in_no_reason_even_where_its_column_is_used_twice(value: Any) -> None:
    for kind in ("number", "boolean", "timestamp", "json"):
        builder = make_builder(
            attributes={
                "copy": {"column": "email", "type": kind},
                "email": {"column": "email", "type": "string", "sensitive": True},
                "owner_id": {"column": "email", "references": "owner"},
            },
        )
        with pytest.raises(Reject) as reject:
            complete(builder, (value, None), "id", NOW)
        assert "s3cret" not in str(reject.value)
        assert "5.25" not in str(reject.value)
    with pytest.raises(Orphan) as orphan:
        make_builder(
            attributes={
                "email": {"column": "email", "type": "auto", "sensitive": True},
                "owner_id": {"column": "email", "references": "owner"},
            },
        ).convert((value, None))
    assert "••• refers to no owner" in str(orphan.value)


@pytest.mark.parametrize("text", ["\udcff", "a\ud800b"])
def test_text_that_is_not_unicode_is_rejected_by_column(text: str) -> None:
    builder = make_builder(
        attributes={"a": {"column": "ok", "type": "string"}, "b": {"column": "bad", "type": "string"}},
        identity=[["a"]],
    )
    converted = builder.convert(("fine", text))
    with pytest.raises(Reject, match="b holds text that is not valid Unicode") as reject:
        builder.complete(converted, ItemKey("id"), NOW)
    assert reject.value.column == "bad"


def test_text_that_is_not_unicode_is_found_in_identity_index_keys_and_json() -> None:
    attributes = {"a": {"column": "a", "type": "string"}, "j": {"column": "j", "type": "json"}}
    builder = make_builder(attributes=attributes, identity=[["a"]], indexes={"i": ["a"]})
    with pytest.raises(Reject, match="a holds text that is not valid Unicode"):
        builder.convert(("\udcff" * 600, "1"))
    for document in ('"\\ud800"', '{"\\ud800": 1}', '[["\\udfff"]]'):
        with pytest.raises(Reject, match="j holds text that is not valid Unicode"):
            complete(builder, ("a", document), "id", NOW)


# Identity


def make_digests(*rows: tuple[Any, ...]) -> list[bytes]:
    builder = make_builder(
        attributes={name: {"column": name, "type": "string"} for name in ("isbn", "title", "author")},
        identity=[["isbn"], ["title", "author"]],
        indexes={"i": ["isbn"]},
    )
    return [builder.convert(row).identity for row in rows]


@pytest.mark.parametrize(
    ("then", "now", "same"),
    [
        (("1", "Emma", "Austen"), ("1", "Emma", "Austen"), True),
        (("1", "Emma", "Austen"), ("2", "Emma", "Austen"), True),  # a corrected ISBN
        (("1", "Emma", "Austen"), ("1", "EMMA", "Austen"), True),  # an edited title
        (("1", "Emma", "Austen"), ("2", "Ulysses", "Joyce"), False),
        (("1", "Emma", "Austen"), ("2", "Emma", "Joyce"), False),  # half an alternative is none
        ((None, "Emma", "Austen"), (None, "Ulysses", "Joyce"), False),  # NULL matches nothing
        ((None, "Emma", None), (None, "Emma", None), True),  # all NULL counts as the same
        ((None, "Emma", None), (None, "Ulysses", None), True),
        ((None, None, None), ("1", "Emma", "Austen"), True),
        (("1", None, None), (None, "Emma", "Austen"), False),
        (("", "Emma", "Austen"), ("", "Ulysses", "Joyce"), False),  # an empty index key is left out: NULL
        (("1", "", ""), ("2", "", ""), True),
    ],
)
def test_a_row_is_another_thing_when_all_alternatives_differ(
    then: tuple[Any, ...], now: tuple[Any, ...], same: bool
) -> None:
    one, other = make_digests(then, now)
    assert is_same_thing(one, other) is same
    assert is_same_thing(other, one) is same


def test_without_identity_a_key_is_always_the_same_thing() -> None:
    builder = make_builder(attributes={"a": {"column": "a", "type": "string"}})
    assert is_same_thing(*(builder.convert((text,)).identity for text in "xy"))


def test_alternatives_may_be_added_removed_and_put_in_another_order() -> None:
    def digest(*identity: list[str]) -> bytes:
        attributes = {name: {"column": name, "type": "string"} for name in ("username", "email")}
        builder = make_builder(attributes=attributes, identity=list(identity))
        return builder.convert(("ada", "ada@example.org")).identity

    then = digest(["username"], ["email"])
    for now in (digest(["email"], ["username"]), digest(["email"]), digest(["username", "email"], ["username"])):
        assert is_same_thing(then, now)
    assert not is_same_thing(digest(["username"]), digest(["email"]))


def test_one_value_in_two_attributes_is_not_taken_for_the_other() -> None:
    attributes = {name: {"column": name, "type": "string"} for name in ("username", "email")}
    builder = make_builder(attributes=attributes, identity=[["username"], ["email"]])
    one, other = (builder.convert(row).identity for row in (("x", "y"), ("y", "x")))
    assert not is_same_thing(one, other)


def test_fields_do_not_run_into_each_other() -> None:
    one, other = make_digests(("1", "ab", "c"), ("2", "a", "bc"))
    assert not is_same_thing(one, other)


def test_digests_are_keyed_so_that_nobody_can_try_values_on_them() -> None:
    mapping: dict[str, Any] = {"attributes": {"a": {"column": "a", "type": "string"}}, "identity": [["a"]]}
    builder = make_builder(**mapping)
    other = make_builder(UUID(int=NAMESPACE.int + 1), **mapping)
    assert builder.convert(("x",)).identity != other.convert(("x",)).identity


# Ids


@given(key=st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1), generation=st.integers(0, 2**40))
def test_new_ids_are_the_uuid5_that_python_makes(key: int | str, generation: int) -> None:
    builder = make_builder(attributes={"a": {"column": "a", "type": "string"}})
    assert builder.make_id(key, generation) == str(uuid5(NAMESPACE, f"thing/{key}/{generation}"))


def test_an_id_of_a_key_that_is_not_unicode_is_rejected_at_the_key() -> None:
    builder = make_builder(attributes={"a": {"column": "a", "type": "string"}})
    with pytest.raises(Reject, match=r"^the key is not valid Unicode$") as reject:
        builder.make_id("\udcff", 0)
    assert reject.value.column == "id"


# Checksums


@given(item=items)
def test_one_content_has_one_checksum_however_it_is_written(item: dict[str, Any]) -> None:
    shuffled = {name: scramble(item[name]) for name in reversed(item)}
    assert checksum_item(shuffled) == checksum_item(item)
    assert orjson.loads(canonical_json(shuffled)) == orjson.loads(canonical_json(item))


@given(page=st.lists(items, max_size=5))
def test_a_page_at_once_has_the_checksums_of_its_items(page: list[dict[str, Any]]) -> None:
    page = [{name: scramble(value) for name, value in item.items()} for item in page]
    assert checksum_items(page) == [checksum_item(item) for item in page]


def scramble(value: dict[str, Any]) -> dict[str, Any]:
    """The same value written otherwise: names and sets in another order, numbers with exponents and zeros."""
    ((kind, content),) = value.items()
    match kind:
        case "M":
            return {"M": {name: scramble(content[name]) for name in reversed(content)}}
        case "L":
            return {"L": [scramble(element) for element in content]}
        case "SS":
            return {"SS": content[::-1]}
        case "NS":
            return {"NS": [f"{number}.0" for number in reversed(content)]}
        case "N":
            return {"N": f"{Decimal(content):E}" if content != "0" else "-0.00"}
        case _:
            return value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"S": "1"}, {"N": "1"}),
        ({"S": ""}, NULL),
        ({"L": [{"N": "1"}, {"N": "2"}]}, {"L": [{"N": "2"}, {"N": "1"}]}),
        ({"L": []}, {"M": {}}),
        ({"BOOL": False}, {"N": "0"}),
        ({"N": "1"}, {"N": "1.0000000000000000000000000000000000001"}),
    ],
)
def test_what_differs_by_a_hair_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert checksum_item({"a": one}) != checksum_item({"a": other})
    assert checksum_item({}) != checksum_item({"a": one})


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.text() | st.none() | st.binary(), min_size=3, max_size=3))
def test_the_bytes_that_are_sent_are_what_is_checksummed(values: list[Any]) -> None:
    builder = make_builder(attributes={name: {"column": name, "type": "auto"} for name in "abc"})
    try:
        prepared = complete(builder, values, "id", NOW)
    except Reject:
        return
    assert orjson.loads(prepared.data) == prepared.item
    assert prepared.checksum == hashlib.sha256(prepared.data).digest() == checksum_item(prepared.item)


# Sizes


def test_items_are_measured_as_the_service_does() -> None:
    assert measure_item({"id": {"S": "é"}}) == 2 + 2
    assert measure_item({"n": {"N": "12345"}}) == 1 + 4
    assert measure_item({"n": {"N": "-12345"}}) == 1 + 5
    assert measure_item({"n": {"N": "1200000"}}) == 1 + 2
    assert measure_item({"b": {"B": base64.b64encode(b"12345").decode()}}) == 1 + 5
    assert measure_item({"b": {"BOOL": True}, "x": NULL}) == 4
    assert measure_item({"l": {"L": [{"S": "ab"}]}}) == 1 + 3 + 1 + 2
    assert measure_item({"m": {"M": {"ab": {"S": "c"}}}}) == 1 + 3 + 2 + 1 + 1
    assert measure_item({"s": {"SS": ["ab", "c"]}}) == 1 + 3


@given(item=items)
def test_an_item_s_json_is_never_shorter_than_what_is_counted(item: dict[str, Any]) -> None:
    """Which is why only long ones are measured."""
    assert measure_item(item) <= max(len(canonical_json(item)), 2)


def test_an_item_of_400_kb_passes_and_one_byte_more_names_the_column() -> None:
    builder = make_builder(
        attributes={"t": {"column": "title", "type": "string"}, "d": {"column": "blurb", "type": "string"}},
    )
    other = len("thing_id") + 2 + len("t") + len("Emma") + len("d")
    fits = "é" * ((MAX_ITEM_BYTES - other) // 2) + "x" * ((MAX_ITEM_BYTES - other) % 2)
    prepared = complete(builder, ("Emma", fits), "id", NOW)
    assert measure_item(prepared.item) == MAX_ITEM_BYTES
    with pytest.raises(
        Reject, match="the item has 409,601 bytes, most of them in d; DynamoDB takes at most 409,600"
    ) as no:
        complete(builder, ("Emma", fits + "x"), "id", NOW)
    assert no.value.column == "blurb"


def test_write_units_count_the_item_and_each_index_that_holds_it() -> None:
    builder = make_builder(
        attributes={"a": {"column": "a", "type": "string"}, "b": {"column": "b", "type": "string"}},
        indexes={"i": ["a"], "j": ["a", "b"]},
    )
    assert complete(builder, ("x", "y"), "id", NOW).write_units == 3
    assert complete(builder, ("x", None), "id", NOW).write_units == 2
    assert complete(builder, (None, None), "id", NOW).write_units == 1
    exactly = "y" * (1024 - len("thing_ididaxb"))
    assert complete(builder, ("x", exactly), "id", NOW).write_units == 3
    assert complete(builder, ("x", exactly + "y"), "id", NOW).write_units == 6


def test_what_the_application_added_is_kept_beside_ours() -> None:
    builder = make_builder(attributes={"a": {"column": "a", "type": "string"}})
    prepared = complete(builder, ("x",), "id", NOW)
    merged = builder.merge(prepared, {"tags": {"SS": ["b", "a"]}, "n": {"N": "1.0"}})
    assert merged.item == {**prepared.item, "tags": {"SS": ["b", "a"]}, "n": {"N": "1.0"}}
    assert merged.checksum == checksum_item({**merged.item, "tags": {"SS": ["a", "b"]}, "n": {"N": "1"}})
    assert builder.merge(prepared, {}) is prepared
