"""Conditional writes: update, delete and put requests whose conditions protect the application's work. Pure.

An expression holds at most 300 operators and 4 KB (Developer Guide, "Quotas in Amazon DynamoDB"): `#1 = :a1 AND` is two
operators, `(#1 = :b1 OR #1 = :a1) AND` is four. So conditions are put on so many attributes, in the order of names.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from accession.items import ItemKey, KeySchema, TypedItem

DELETE_CONDITIONS = 140
UPDATE_CONDITIONS = 70

Request = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Update:
    """Change an item from `before` to `after`, in the attributes in which they differ and no other."""

    operation: ClassVar = "UpdateItem"
    key: ItemKey
    before: TypedItem
    after: TypedItem

    def build(self, schema: KeySchema) -> Request:
        """Set what differs, remove what `after` lacks; if the item exists and each of those is as before or after."""
        names, values = {"#k": schema.names[0]}, {}
        changed = sorted(
            name
            for name in self.before.keys() | self.after.keys()
            if name not in schema.names and self.before.get(name) != self.after.get(name)
        )
        conditions, puts, removes = ["attribute_exists(#k)"], [], []
        for number, name in enumerate(changed):
            names[f"#{number}"] = name
            if name in self.after:
                values[f":a{number}"] = self.after[name]
                puts.append(f"#{number} = :a{number}")
            else:
                removes.append(f"#{number}")
            if number < UPDATE_CONDITIONS:
                if name in self.before:
                    values[f":b{number}"] = self.before[name]
                is_undone = _holds(number, "b", name in self.before)
                is_done = _holds(number, "a", name in self.after)
                conditions.append(f"({is_undone} OR {is_done})")
        clauses = [f"{verb} {', '.join(parts)}" for verb, parts in (("SET", puts), ("REMOVE", removes)) if parts]
        request = {"Key": schema.write(self.key), **_condition(conditions, names, values)}
        return request | {"UpdateExpression": " ".join(clauses)} if clauses else request


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an item that is as `before` says."""

    operation: ClassVar = "DeleteItem"
    key: ItemKey
    before: TypedItem

    def build(self, schema: KeySchema) -> Request:
        """Delete; if the item exists and equals `before` in all that `before` holds."""
        names, values, conditions = {"#k": schema.names[0]}, {}, ["attribute_exists(#k)"]
        for number, name in enumerate(sorted(self.before)[:DELETE_CONDITIONS]):
            names[f"#{number}"], values[f":b{number}"] = name, self.before[name]
            conditions.append(_holds(number, "b", True))
        return {"Key": schema.write(self.key), **_condition(conditions, names, values)}


@dataclass(frozen=True, slots=True)
class PutAbsent:
    """Put an item if its key is free."""

    operation: ClassVar = "PutItem"
    key: ItemKey
    item: TypedItem

    def build(self, schema: KeySchema) -> Request:
        """Put; if there is no item with that key."""
        return {"Item": self.item, **_condition(["attribute_not_exists(#k)"], {"#k": schema.names[0]}, {})}


ConditionalWrite = Update | Delete | PutAbsent


def _holds(number: int, image: str, present: bool) -> str:
    return f"#{number} = :{image}{number}" if present else f"attribute_not_exists(#{number})"


def _condition(conditions: list[str], names: dict[str, str], values: TypedItem) -> Request:
    request: Request = {"ConditionExpression": " AND ".join(conditions), "ExpressionAttributeNames": names}
    return request | {"ExpressionAttributeValues": values} if values else request
