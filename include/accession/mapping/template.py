"""Templates: texts with places for the values of a row, as in "PLAYLIST#{PlaylistId}" or "TRACK#{TrackId:010}"."""

import re
from dataclasses import dataclass
from functools import cached_property

PIECE = re.compile(r"\{\{|\}\}|\{(?P<mark>@?)(?P<name>[^{}:@]+)(?::0(?P<width>[1-9][0-9]?))?\}|[{}]|[^{}]+")


@dataclass(frozen=True)
class Placeholder:
    """A place in a template: for a column's value as SQLite holds it, or for the converted value of an attribute.

    `width` is the number of digits that an integer is filled up to, 0 if it stands as it is.
    """

    name: str
    of_attribute: bool = False
    width: int = 0


@dataclass(frozen=True)
class Template:
    """A template, parsed: its literal texts and its placeholders, in their order."""

    text: str
    pieces: tuple[str | Placeholder, ...]

    @cached_property
    def placeholders(self) -> tuple[Placeholder, ...]:
        """Return the placeholders."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Placeholder))

    @property
    def start(self) -> str:
        """Return the literal text that all values begin with."""
        return piece if self.pieces and isinstance(piece := self.pieces[0], str) else ""

    @property
    def end(self) -> str:
        """Return the literal text that all values end with."""
        return piece if self.pieces and isinstance(piece := self.pieces[-1], str) else ""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that are named, each once."""
        return tuple(dict.fromkeys(place.name for place in self.placeholders if not place.of_attribute))

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Return the attributes that are named, each once."""
        return tuple(dict.fromkeys(place.name for place in self.placeholders if place.of_attribute))


def parse_template(text: str) -> Template:
    """Parse `{column}`, `{column:010}` and `{@attribute}`; `{{` and `}}` stand for braces. Raises ValueError."""
    pieces: list[str | Placeholder] = []
    for match in PIECE.finditer(text):
        if match["name"]:
            pieces.append(Placeholder(match["name"], bool(match["mark"]), int(match["width"] or 0)))
        elif match[0] in ("{", "}"):
            raise ValueError(
                f"the template has a {match[0]} that belongs to no placeholder: write {{column}}, {{column:010}} or "
                "{@attribute}, and {{ or }} for a brace"
            )
        else:
            pieces.append({"{{": "{", "}}": "}"}.get(match[0], match[0]))
    return Template(text, tuple(pieces))
