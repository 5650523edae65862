"""The application on top of the tables: it creates, edits, deletes, adds attributes, and takes an edit back."""

from typing import Any

from simulation.dynamodb import DynamoDBService, Table
from simulation.expressions import Item
from simulation.world import World

NAME = "application"


class Application:
    """Writes to items at any moment. It reads an item just before it writes it, so it loses nothing itself."""

    def __init__(self, world: World, service: DynamoDBService) -> None:
        self._world, self._service = world, service
        self._number = 0
        self._edits: list[tuple[str, str, str, Any, Any]] = []  # table, key, attribute, value before, value after
        self.is_active = True

    def meddle(self, when: str, table: str, keys: list[str]) -> None:
        """Write to an item of a request, just before or after it is applied, or else to any."""
        if self.is_active and (found := self._service.tables.get(table)):
            near = [key for key in keys if key in found.items]
            self.act(found, near if near and self._world.chance(0.8) else list(found.items))

    def act_anywhere(self) -> None:
        """Write to any item."""
        if self.is_active:
            table = self._world.random.choice(list(self._service.tables.values()))
            self.act(table, list(table.items))

    def act(self, table: Table, keys: list[str]) -> None:
        chance, number = self._world.random, self._next()
        acts = ["edit", "edit", "add", "delete", "revert", "create"]
        act = chance.choice(acts)
        if act == "create":
            key = f"application-{number}"
            return self._write(table, key, {table.key[0]: {"S": key}, "note": {"S": f"created {number}"}}, act)
        if act == "revert":
            return self.revert()
        if not keys:
            return None
        key = chance.choice(sorted(keys))
        item = table.items[key]
        if act == "delete":
            return self._write(table, key, None, act)
        ours = [name for name in item if name not in table.key and name != "note" and not name.endswith("_id")]
        name = "note" if act == "add" or not ours else chance.choice(sorted(ours))
        value = {"N": str(1000 + number)} if "N" in item.get(name, {}) else {"S": f"application {number}"}
        self._edits.append((table.name, key, name, item.get(name), value))
        return self._write(table, key, {**item, name: value}, f"{act} {name}")

    def take_back(self) -> None:
        """Take all edits back, as far as the items still have them."""
        while self._edits:
            self.revert()

    def revert(self) -> None:
        """Take the last edit back that its item still has."""
        while self._edits:
            name, key, attribute, before, after = self._edits.pop()
            table = self._service.tables[name]
            item = table.items.get(key)
            if item is not None and item.get(attribute) == after:
                reverted = {**item, attribute: before}
                if before is None:
                    del reverted[attribute]
                return self._write(table, key, reverted, f"revert {attribute}")
        return None

    def _write(self, table: Table, key: str, item: Item | None, what: str) -> None:
        self._world.counts["application writes"] += 1
        self._world.note(NAME, f"{what} {table.name} {key[:14]}")
        self._service.put(table, key, item, NAME)

    def _next(self) -> int:
        self._number += 1
        return self._number
