"""Batches are bounded in number and in bytes, and lose nothing."""

import pytest

from accession.artifacts import Change
from accession.run.batches import READ_BYTES, READ_KEYS, measure_change, split_reads


@pytest.mark.parametrize("count", [0, 1, READ_KEYS - 1, READ_KEYS, READ_KEYS + 1])
@pytest.mark.parametrize("size", [1, 400_000])
def test_a_read_is_bounded_in_keys_and_bytes(count: int, size: int) -> None:
    batches = list(split_reads(range(count), lambda _: size))
    assert [thing for batch in batches for thing in batch] == list(range(count))
    assert all(0 < len(batch) <= READ_KEYS for batch in batches)
    assert all(len(batch) * size < READ_BYTES + size for batch in batches)


def test_an_item_is_expected_to_be_as_large_as_the_larger_side_of_its_change() -> None:
    small, large = {"id": {"S": "x"}}, {"id": {"S": "x"}, "text": {"S": "x" * 1000}}
    assert measure_change(Change("put", None, 1, item=large)) == 1000 + 4 + 3
    assert measure_change(Change("update", None, 1, before=large, item=small)) == 1000 + 4 + 3
    assert measure_change(Change("delete", None, 1, before=small)) == 3
