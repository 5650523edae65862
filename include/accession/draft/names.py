"""The names that a draft gives: of entities, DynamoDB tables, attributes and indexes. They are legal and unique."""

import re
import unicodedata
from collections.abc import Container

CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# Developer Guide, "Supported data types and naming rules": a table's name has 3 to 255 characters. It has the words of
# the mapping's name, those of the entity, and an environment of at most 64.
MAX_WORDS = 80


def split_words(name: str) -> list[str]:
    """Return the words of a name in lower case, as ASCII: "OrderItems" and "order items" are order, items."""
    folded = CAMEL.sub("_", name).casefold()
    plain = unicodedata.normalize("NFKD", folded).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", plain)


def show_name(name: str) -> str:
    """Return a name as a sentence or a comment may have it: on one line, whatever is in it."""
    return name if name.isprintable() and name else ascii(name)


def name_entity(table: str, taken: Container[str]) -> str:
    """Return the name of a table's entity."""
    name = "_".join(split_words(table))[:MAX_WORDS].strip("_") or "entity"
    return make_unique(name if name[0].isalpha() else f"table_{name}", taken)


def name_target(mapping: str, entity: str, taken: Container[str]) -> str:
    """Return the name of an entity's DynamoDB table, without the environment.

    The letters and digits alone are unique, since they are the table's name in a template. So order_2 and order2, which
    have the same, are told apart by a number.
    """
    return make_unique(f"{_join_capitals(mapping)[:MAX_WORDS]}-{_join_capitals(entity)}", taken, joint="")


def name_index(attributes: tuple[str, ...], taken: Container[str]) -> str:
    """Return the name of an index over attributes."""
    legal = re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join(attributes))[:200]
    return make_unique(f"{legal}-index", taken)


def make_unique(name: str, taken: Container[str], joint: str = "_") -> str:
    """Return the name, with a number behind `joint` if it is taken."""
    found, number = name, 1
    while found in taken:
        number += 1
        found = f"{name}{joint}{number}"
    return found


def _join_capitals(name: str) -> str:
    return "".join(word.capitalize() for word in split_words(name)) or "Tables"
