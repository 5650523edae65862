"""Conditional writes: update, delete and put requests whose conditions protect the application's work. Pure.

An expression holds at most 300 operators and 4 KB (Developer Guide, "Quotas in Amazon DynamoDB"): `#1 = :b1 AND` is two
operators, and an update says it twice, of the values before and after. That bounds the number of attributes in a
condition. They are taken in the order of their names.
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
        """Set what differs and remove what `after` lacks, if the item exists and all of these attributes are as before,
        or all are as after.

        In a mixture, the application has changed one of them back after us.
        """
        names, values = {"#k": schema.names[0]}, {}
        changed = sorted(
            name
            for name in self.before.keys() | self.after.keys()
            if name not in schema.names and self.before.get(name) != self.after.get(name)
        )
        undone, done, puts, removes = [], [], [], []
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
                undone.append(_holds(number, "b", name in self.before))
                done.append(_holds(number, "a", name in self.after))
        conditions = ["attribute_exists(#k)"]
        if changed:
            conditions.append(f"({' AND '.join(undone)} OR {' AND '.join(done)})")
        clauses = [f"{verb} {', '.join(parts)}" for verb, parts in (("SET", puts), ("REMOVE", removes)) if parts]
        request = {"Key": schema.write(self.key), **_condition(conditions, names, values)}
        return request | {"UpdateExpression": " ".join(clauses)} if clauses else request


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an item that is as `before` says. DynamoDB answers with what it removed."""

    operation: ClassVar = "DeleteItem"
    key: ItemKey
    before: TypedItem

    def build(self, schema: KeySchema) -> Request:
        """Delete; if the item exists and equals `before` in all that `before` holds."""
        names, values, conditions = {"#k": schema.names[0]}, {}, ["attribute_exists(#k)"]
        for number, name in enumerate(sorted(self.before)[:DELETE_CONDITIONS]):
            names[f"#{number}"], values[f":b{number}"] = name, self.before[name]
            conditions.append(_holds(number, "b", True))
        return {"Key": schema.write(self.key), "ReturnValues": "ALL_OLD", **_condition(conditions, names, values)}


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
