"""Keys in a mapping file: which columns identify a row, and what the key of its item is made of."""

import difflib
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from accession.mapping.template import Template, parse_template
from accession.validation import BLOCK, LIST, TEXT, FieldFault, StrictModel, tell_kind

Name = Annotated[str, Field(min_length=1)]
Names = Annotated[
    Annotated[Name, Tag(TEXT)] | Annotated[tuple[Name, ...], Field(min_length=1), Tag(LIST)], Discriminator(tell_kind)
]

ROWID = "rowid"
NEW_ID = "new_id"
KEEP = "keep"


class Source(StrictModel):
    """The SQLite table, or the query on several, that an entity comes from."""

    table: str | None = Field(None, min_length=1, description="SQLite table or view; either this or a query is needed")
    query: str | None = Field(
        None, min_length=1, description="SELECT that makes the rows, in place of a table: for joins, embedded children"
    )
    key: Names = Field(
        description="column that identifies a row: unique, integer or text; or a list of columns; or rowid, for a "
        "table without a key, which needs an identity"
    )
    where: str | None = Field(
        None, min_length=1, description="SQL condition on the table's columns: which rows to take"
    )

    @field_validator("key")
    @classmethod
    def _check_key(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, tuple) and len({column.lower() for column in value}) < len(value):
            raise ValueError("a column is listed twice")
        return value

    @model_validator(mode="after")
    def _check(self) -> "Source":
        if self.query is None and self.table is None:
            raise FieldFault("table", "this key is missing; name a table, or give a query")
        if self.query is not None:
            if self.table is not None:
                raise FieldFault("query", "a source has a table or a query, not both")
            if self.where is not None:
                raise FieldFault("where", "only a table has it; write the condition into the query")
            if self.has_rowid:
                raise FieldFault("key", "a query has no rowid; name columns of the query that identify a row")
        return self

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the columns of the key."""
        return (self.key,) if isinstance(self.key, str) else self.key

    @property
    def has_rowid(self) -> bool:
        """Tell whether SQLite's own number of the row is the key."""
        return self.key == ROWID

    @property
    def key_name(self) -> str:
        """Return the key as messages name it."""
        return ", ".join(self.keys)


class KeptColumn(StrictModel):
    """The column whose value becomes a part of the key."""

    column: Name


@dataclass(frozen=True)
class KeyPart:
    """One attribute of an item's key: a new id, a column's value, a template, or (nothing of these) an attribute that
    the mapping declares."""

    name: str
    is_new_id: bool = False
    column: str | None = None
    template: Template | None = None

    @property
    def start(self) -> str:
        """Return the literal text that all values begin with."""
        return self.template.start if self.template else ""

    @property
    def end(self) -> str:
        """Return the literal text that all values end with."""
        return self.template.end if self.template else ""


AttributeName = Annotated[str, Field(min_length=1, max_length=255)]
Made = Annotated[Annotated[Name, Tag(TEXT)] | Annotated[KeptColumn, Tag(BLOCK)], Discriminator(tell_kind)]
MadeKey = Annotated[
    Annotated[AttributeName, Tag(TEXT)]
    | Annotated[dict[AttributeName, Made], Field(min_length=1, max_length=2), Tag(BLOCK)],
    Discriminator(tell_kind),
]


class Target(StrictModel):
    """The DynamoDB table an entity goes to."""

    table: str = Field(
        pattern=r"^[A-Za-z0-9_.-]*(\{environment\})?[A-Za-z0-9_.-]*$",
        min_length=3,
        json_schema_extra={"allowed": "letters, digits, _, . and -, with {environment} at most once"},
    )
    key: MadeKey = Field(
        description="partition key: the attribute that takes the new UUID; or one or two attributes, the partition key "
        "first, each with new_id, keep (the column of that name), {column: c} or a template"
    )

    @field_validator("key")
    @classmethod
    def _check_key(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for name, made in value.items():
                if isinstance(made, str) and made not in (NEW_ID, KEEP):
                    try:
                        template = parse_template(made)
                    except ValueError as error:
                        raise ValueError(f"{name}: {error}; or one of {NEW_ID}, {KEEP} or {{column: …}}") from None
                    if not template.placeholders and (near := difflib.get_close_matches(made, (NEW_ID, KEEP), n=1)):
                        raise ValueError(f"{name}: {made} would be the key of all items; did you mean {near[0]}?")
        return value

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the names of the key's attributes, the partition key first."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)

    @cached_property
    def parts(self) -> dict[str, KeyPart]:
        """Return what each attribute of the key is made of, by name."""
        if isinstance(self.key, str):
            return {self.key: KeyPart(self.key, is_new_id=True)}
        return {name: _read_part(name, made) for name, made in self.key.items()}

    def find_part(self, name: str | None) -> KeyPart:
        """Return what an attribute of the key is made of; None means the first."""
        return self.parts[name or self.keys[0]]


def _read_part(name: str, made: str | KeptColumn) -> KeyPart:
    if isinstance(made, KeptColumn):
        return KeyPart(name, column=made.column)
    if made == NEW_ID:
        return KeyPart(name, is_new_id=True)
    if made == KEEP:
        return KeyPart(name, column=name)
    template = parse_template(made)
    return KeyPart(name) if template.text == f"{{@{name}}}" else KeyPart(name, template=template)
