"""Conditional writes as DynamoDB wants them said: update, delete and put requests whose conditions protect the
application's work. Pure.

An expression holds at most 300 operators and 4 KB (Developer Guide, "Quotas in Amazon DynamoDB"): `#1 = :a1 AND` is two
operators, `(#1 = :b1 OR #1 = :a1) AND` is four. So conditions are put on so many attributes, in the order of names.
"""

from typing import Any

DELETE_CONDITIONS = 140
UPDATE_CONDITIONS = 70

Request = dict[str, Any]
Item = dict[str, Any]


def build_update(key_name: str, key: str, before: Item, after: Item) -> Request:
    """Set what differs, remove what `after` lacks; if the item is there and each of those is as before or as after."""
    changed = sorted(
        name for name in before.keys() | after.keys() if name != key_name and before.get(name) != after.get(name)
    )
    names, values = {"#k": key_name}, {}
    conditions, puts, removes = ["attribute_exists(#k)"], [], []
    for number, name in enumerate(changed):
        names[f"#{number}"] = name
        if name in after:
            values[f":a{number}"] = after[name]
            puts.append(f"#{number} = :a{number}")
        else:
            removes.append(f"#{number}")
        if number < UPDATE_CONDITIONS:
            if name in before:
                values[f":b{number}"] = before[name]
            is_undone = _holds(number, "b", name in before)
            is_done = _holds(number, "a", name in after)
            conditions.append(f"({is_undone} OR {is_done})")
    clauses = [f"{verb} {', '.join(parts)}" for verb, parts in (("SET", puts), ("REMOVE", removes)) if parts]
    request = {"Key": {key_name: {"S": key}}, **_condition(conditions, names, values)}
    return request | {"UpdateExpression": " ".join(clauses)} if clauses else request


def build_delete(key_name: str, key: str, before: Item) -> Request:
    """Delete; if the item is there and equals `before` in all that `before` holds."""
    names, values, conditions = {"#k": key_name}, {}, ["attribute_exists(#k)"]
    for number, name in enumerate(sorted(before)[:DELETE_CONDITIONS]):
        names[f"#{number}"], values[f":b{number}"] = name, before[name]
        conditions.append(_holds(number, "b", True))
    return {"Key": {key_name: {"S": key}}, **_condition(conditions, names, values)}


def build_put(key_name: str, item: Item) -> Request:
    """Put; if nothing is there."""
    return {"Item": item, **_condition(["attribute_not_exists(#k)"], {"#k": key_name}, {})}


def _holds(number: int, image: str, present: bool) -> str:
    return f"#{number} = :{image}{number}" if present else f"attribute_not_exists(#{number})"


def _condition(conditions: list[str], names: dict[str, str], values: Item) -> Request:
    request: Request = {"ConditionExpression": " AND ".join(conditions), "ExpressionAttributeNames": names}
    return request | {"ExpressionAttributeValues": values} if values else request
