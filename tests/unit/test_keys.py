"""Keys: from an item to its text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accession.items import ItemKey, KeySchema, find_key_schemas
from accession.mapping import MAPPINGS, load_mapping

UUID = KeySchema(("user_id",))
PAIR = KeySchema(("pk", "sk"), ("S", "N"))


def test_a_single_string_key_is_its_own_text() -> None:
    item = {"user_id": {"S": "b1"}, "name": {"S": "Ann"}}
    assert UUID.read(item) == "b1"
    assert UUID.write(UUID.read(item)) == {"user_id": {"S": "b1"}}


@pytest.mark.parametrize("text", ["1", "1E0", "1.0", "001"])
def test_equal_numbers_make_equal_keys(text: str) -> None:
    assert PAIR.read({"pk": {"S": "A"}, "sk": {"N": text}}) == '["A","1"]'


@given(st.text(), st.integers(-(10**37), 10**37))
def test_a_key_of_two_attributes_comes_back(partition: str, sort: int) -> None:
    item = {"pk": {"S": partition}, "sk": {"N": str(sort)}, "more": {"NULL": True}}
    assert PAIR.write(PAIR.read(item)) == {"pk": item["pk"], "sk": item["sk"]}


@given(st.lists(st.tuples(st.text(), st.integers()), unique=True))
def test_distinct_keys_have_distinct_texts(pairs: list[tuple[str, int]]) -> None:
    items = [{"pk": {"S": partition}, "sk": {"N": str(sort % 10**37)}} for partition, sort in pairs]
    assert len(set(PAIR.read_all(items))) == len({(item["pk"]["S"], item["sk"]["N"]) for item in items})


def test_an_entity_says_its_table_and_key() -> None:
    mapping = load_mapping(MAPPINGS / "book_library.yaml")
    assert find_key_schemas(mapping, {})["user"] == UUID
    assert mapping.entities["user"].table("dev") == "BookLibrary-Users-dev"


@pytest.mark.parametrize(("schema", "key"), [(UUID, "b1"), (PAIR, '["A","1"]')])
def test_a_key_is_added_to_an_item(schema: KeySchema, key: str) -> None:
    item = {"name": {"S": "Ann"}}
    schema.add_to(item, ItemKey(key))
    assert item == {"name": {"S": "Ann"}, **schema.write(ItemKey(key))}
    assert schema.read(item) == key
