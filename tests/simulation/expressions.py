"""The expressions of DynamoDB that the library writes: conditions, updates, key conditions, projections.

The grammar is a part of the Developer Guide's, "Condition and filter expressions, operators, and functions".
"""

import re
from decimal import Decimal
from typing import Any

Item = dict[str, dict[str, Any]]

TOKEN = re.compile(r"\s*(attribute_exists|attribute_not_exists|AND|OR|NOT|<>|[(),=]|[#:]?[A-Za-z0-9_]+)")


class InvalidExpressionError(Exception):
    """The expression is not of our grammar."""


def tokenize(text: str) -> list[str]:
    """Split an expression into words and signs."""
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise InvalidExpressionError(text[at:])
        tokens.append(match[1])
        at = match.end()
    return tokens


def normalize(value: Any) -> Any:
    """Return an attribute value as DynamoDB stores it: numbers without superfluous zeros."""
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    match kind:
        case "N":
            return {"N": show_number(Decimal(content))}
        case "NS":
            return {"NS": sorted(show_number(Decimal(one)) for one in content)}
        case "SS" | "BS":
            return {kind: sorted(content)}
        case "L":
            return {"L": [normalize(one) for one in content]}
        case "M":
            return {"M": {name: normalize(one) for name, one in content.items()}}
    return value


def show_number(number: Decimal) -> str:
    """Return a number in plain digits."""
    text = format(number.normalize(), "f")
    return "0" if Decimal(text) == 0 else text


class Condition:
    """Evaluates one condition on one item, which is None if there is none."""

    def __init__(self, text: str, names: dict[str, str], values: Item, item: Item | None) -> None:
        self._tokens, self._at = tokenize(text), 0
        self._names, self._values, self._item = names, values, item or {}

    def holds(self) -> bool:
        """Return whether the condition holds. Raises InvalidExpressionError."""
        result = self._either()
        if self._at != len(self._tokens):
            raise InvalidExpressionError(self._tokens[self._at])
        return result

    def _next(self) -> str:
        if self._at == len(self._tokens):
            raise InvalidExpressionError("the expression ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _is(self, token: str) -> bool:
        if self._at < len(self._tokens) and self._tokens[self._at] == token:
            self._at += 1
            return True
        return False

    def _either(self) -> bool:
        result = self._both()
        while self._is("OR"):
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._one()
        while self._is("AND"):
            result = self._one() and result
        return result

    def _one(self) -> bool:
        if self._is("NOT"):
            return not self._one()
        if self._is("("):
            result = self._either()
            self._expect(")")
            return result
        word = self._next()
        if word in ("attribute_exists", "attribute_not_exists"):
            self._expect("(")
            is_there = self._name(self._next()) in self._item
            self._expect(")")
            return is_there == (word == "attribute_exists")
        left = self._operand(word)
        sign = self._next()
        if sign not in ("=", "<>"):
            raise InvalidExpressionError(sign)
        right = self._operand(self._next())
        is_equal = left is not None and normalize(left) == normalize(right)
        return is_equal == (sign == "=")

    def _expect(self, token: str) -> None:
        if not self._is(token):
            raise InvalidExpressionError(f"{token} is missing")

    def _name(self, word: str) -> str:
        return self._names[word] if word.startswith("#") else word

    def _operand(self, word: str) -> Any:
        return self._values[word] if word.startswith(":") else self._item.get(self._name(word))


def update(text: str, names: dict[str, str], values: Item, item: Item) -> Item:
    """Return the item that `SET … REMOVE …` makes of an item."""
    after = dict(item)
    for verb, clause in re.findall(r"(SET|REMOVE) (.*?)(?= SET | REMOVE |$)", text):
        for part in clause.split(","):
            name, _, value = (word.strip() for word in part.partition("="))
            name = names.get(name, name)
            if verb == "SET":
                after[name] = normalize(values[value])
            else:
                after.pop(name, None)
    return after
