"""Conditional writes keep to DynamoDB's limits of an expression, however many attributes they are about."""

import re

import pytest

from accession.dynamodb import Delete, Update
from accession.items import ItemKey, KeySchema, TypedItem

SCHEMA = KeySchema(("id",))


def make_item(count: int, value: str) -> TypedItem:
    return {"id": {"S": "x"}} | {f"attribute{number}": {"S": value} for number in range(count)}


def count_operators(expression: str) -> int:
    """Comparisons, logical operators and functions (Developer Guide, "Quotas in Amazon DynamoDB")."""
    return len(re.findall(r"=|\bAND\b|\bOR\b|attribute_(?:not_)?exists", expression))


@pytest.mark.parametrize("count", [0, 1, 69, 70, 71, 140, 141, 400])
def test_a_condition_has_at_most_300_operators_and_4_kb(count: int) -> None:
    one, other = make_item(count, "one"), make_item(count, "other")
    for write in (
        Update(ItemKey("x"), one, other),
        Update(ItemKey("x"), one, make_item(0, "")),
        Update(ItemKey("x"), make_item(0, ""), one),
        Delete(ItemKey("x"), one),
    ):
        condition = write.build(SCHEMA)["ConditionExpression"]
        assert min(count, 70) <= count_operators(condition) <= 300
        assert len(condition) <= 4096
