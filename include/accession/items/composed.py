"""Attributes that templates make of a row's values. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from accession.column_types import COLUMN_TYPES, NULL, KeyType, TypedValue, ValueProblem
from accession.items.typed_json import TypedItem


class Absent(Exception):
    """A part of a template is NULL, or its whole text is empty. The message says which."""

    def __init__(self, columns: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.columns = columns


class BadPart(Exception):
    """A template cannot take a value. The message completes "<values of columns> …"; it never contains a value."""

    def __init__(self, columns: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.columns = columns


@dataclass(frozen=True, slots=True)
class Place:
    """A placeholder: the value at `position` in the row, or (None) the converted value of the attribute `name`.

    `columns` are those that the value comes from; an integer is filled up to `width` digits.
    """

    name: str
    position: int | None
    columns: tuple[str, ...]
    width: int


@dataclass(frozen=True, slots=True)
class Composed:
    """An attribute made by a template of literal texts and places. A key, or a key of an index, is never empty."""

    name: str
    pieces: tuple[str | Place, ...]
    kind: KeyType
    is_key: bool
    is_index_key: bool

    def compose(self, item: TypedItem, row: Sequence[Any]) -> TypedValue:
        """Return the value. Raises Absent or BadPart."""
        texts = []
        columns: tuple[str, ...] = ()
        for piece in self.pieces:
            if isinstance(piece, str):
                texts.append(piece)
                continue
            columns += piece.columns
            value = _read(piece, item, row)
            if value is None:
                raise Absent(piece.columns, f"{piece.name} is NULL")
            try:
                texts.append(format_part(value, piece.width))
            except ValueProblem as problem:
                raise BadPart(piece.columns, str(problem)) from None
        text = "".join(texts)
        if not text and (self.is_key or self.is_index_key):
            raise Absent(columns, f"{self.name} is empty")
        try:
            return {"S": text} if self.kind == "S" else COLUMN_TYPES["number"].convert(text)
        except ValueProblem as problem:
            raise BadPart(columns, f"makes a text that {problem}") from None


def _read(place: Place, item: TypedItem, row: Sequence[Any]) -> Any:
    if place.position is not None:
        return row[place.position]
    value = item.get(place.name, NULL)
    return None if value == NULL else next(iter(value.values()))


def format_part(value: Any, width: int) -> str:
    """Return a value as a placeholder shows it, an integer filled up to `width` digits. Raises ValueProblem."""
    if type(value) not in (int, str):
        raise ValueProblem("is neither an integer nor text, so a template cannot take it")
    if not width:
        return str(value)
    text = str(value)
    if not (text.isascii() and text.isdecimal()) or len(text.lstrip("0")) > width:
        raise ValueProblem(f"is not a whole number from 0 with at most {width} digits")
    return f"{int(text):0{width}}"
