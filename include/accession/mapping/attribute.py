"""One attribute of an entity, as a mapping file has it."""

from collections.abc import Mapping as AnyMapping
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from accession.column_types import (
    COLUMN_TYPES,
    FIRST_SEEN_MARK,
    ColumnType,
    Converter,
    KeyType,
    TypedValue,
    ValueProblem,
)
from accession.mapping.key import Name, Names
from accession.mapping.template import Template, parse_template
from accession.validation import BLOCK, TEXT, FieldFault, StrictModel, explain_unknown, list_words, tell_kind


def _read_default(value: object) -> object:
    """Keep scalars, and make a float the Decimal of its shortest text: no float reaches DynamoDB."""
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("must be a finite number")
    if value is None or isinstance(value, str | int | Decimal):
        return value
    raise ValueError("must be text, a number, true or false; put a date in quotes")


class Reference(StrictModel):
    """What a reference refers to, if its columns are not the parent's key, or the parent's key has two attributes."""

    entity: Name
    by: Name | None = Field(None, description="another unique column of the parent, which the column holds")
    part: Name | None = Field(None, description="attribute of the parent's key that the reference takes")


Referred = Annotated[Annotated[Name, Tag(TEXT)] | Annotated[Reference, Tag(BLOCK)], Discriminator(tell_kind)]


class Attribute(StrictModel):
    """One DynamoDB attribute: a column with its type, a reference to another entity, a template, or a constant."""

    model_config = ConfigDict(extra="allow")  # for the options of its type; `_check` refuses all other keys

    column: Names | None = Field(
        None,
        description="source column, or the columns of a reference to a parent whose key has several; without one the "
        "default is the value",
    )
    type: str | None = Field(None, description="how the column's values are read; not with references")
    references: Referred | None = Field(
        None,
        description="entity whose key takes the place of the old key; or a block with the entity and, if needed, by "
        "and part",
    )
    optional: bool = Field(False, description="a reference may be NULL; otherwise a row with NULL is rejected")
    value: str | None = Field(
        None,
        min_length=1,
        description="template that makes the value, such as TRACK#{TrackId}; left out if a part is NULL",
    )
    default: Annotated[str | int | bool | Decimal | None, BeforeValidator(_read_default)] = Field(
        None,
        description="value for NULL and ''; first_seen in a timestamp: when the row was first seen",
    )
    sensitive: bool = Field(False, description="shown as ••• in logs, reports and errors")

    @classmethod
    def list_keys(cls) -> tuple[str, ...]:
        """Return the keys of an attribute and the options of all types."""
        return tuple(dict.fromkeys((*super().list_keys(), *(o for t in COLUMN_TYPES.values() for o in t.options))))

    @field_validator("type")
    @classmethod
    def _check_type(cls, value: str | None) -> str | None:
        if value is not None and value not in COLUMN_TYPES:
            raise ValueError(explain_unknown(value, COLUMN_TYPES, f"there is no type {value}"))
        return value

    @model_validator(mode="after")
    def _check(self) -> "Attribute":
        self._check_options()
        if self.references:
            if self.column is None or self.type is not None or self.default is not None:
                raise ValueError("a reference has a column, and neither type nor default")
        elif self.type is None:
            raise ValueError(f"type is missing: one of {', '.join(COLUMN_TYPES)}")
        if not self.references and isinstance(self.column, tuple):
            raise FieldFault("column", "only a reference has several columns")
        if not self.references and self.optional:
            raise FieldFault("optional", "only a reference has it; NULL in other columns is a value")
        if self.value is not None:
            self._check_template()
        elif self.column is None and self.default is None:
            raise ValueError("either a column or a default is needed")
        try:
            _ = self.default_value
        except ValueProblem as problem:
            shown = self.default if isinstance(self.default, Decimal) else repr(self.default)
            raise ValueError(f"default: {shown} {problem}") from None
        return self

    def _check_template(self) -> None:
        if self.column is not None or self.default is not None or self.type not in ("string", "number"):
            raise FieldFault("value", "a template has the type string or number, and neither column nor default")
        try:
            template = self.template
        except ValueError as error:
            raise FieldFault("value", str(error)) from None
        if template is not None and not template.placeholders:
            raise FieldFault(
                "value", 'the template names no column: write it as in "USER#{id}"; a constant is a default'
            )

    def _check_options(self) -> None:
        for name, value in (self.model_extra or {}).items():
            owners = [owner.name for owner in COLUMN_TYPES.values() if name in owner.options]
            if not owners:
                raise FieldFault(name, explain_unknown(name, self.list_keys(), "there is no such key"))
            if self.type not in owners:
                raise ValueError(f"{name}: only a {list_words(owners)} has it")
            try:
                COLUMN_TYPES[self.type].check_option(name, value)
            except ValueProblem as problem:
                raise FieldFault(name, str(problem)) from None

    @property
    def column_type(self) -> ColumnType | None:
        """The type's entry in the registry; None for a reference."""
        return COLUMN_TYPES[self.type] if self.type is not None else None

    @cached_property
    def template(self) -> Template | None:
        """The template that makes the value; None if there is none."""
        return parse_template(self.value) if self.value is not None else None

    @property
    def parent(self) -> str | None:
        """The entity that a reference refers to; None for other attributes."""
        return self.references.entity if isinstance(self.references, Reference) else self.references

    @property
    def by(self) -> str | None:
        """The column of the parent that a reference's column holds; None if that is the parent's key."""
        return self.references.by if isinstance(self.references, Reference) else None

    @property
    def part(self) -> str | None:
        """The attribute of the parent's key that a reference takes; None if it has only one."""
        return self.references.part if isinstance(self.references, Reference) else None

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The source columns that are read for the attribute."""
        if self.template is not None:
            return self.template.columns
        return (self.column,) if isinstance(self.column, str) else self.column or ()

    @property
    def options(self) -> AnyMapping[str, Any]:
        """The options of the type that the mapping sets."""
        return self.model_extra or {}

    @cached_property
    def default_value(self) -> TypedValue | None:
        """The typed value for NULL and ''; FIRST_SEEN_MARK for the time of first sight; None without a default."""
        if self.default is None or self.column_type is None:
            return None
        return self.column_type.read_default(self.default)

    @property
    def is_first_seen(self) -> bool:
        """Whether the default is the time at which the row was first seen."""
        return self.default_value is FIRST_SEEN_MARK

    @property
    def key_type(self) -> KeyType | None:
        """The attribute's type as a key; None if its type cannot be one. A reference has that of the parent's key."""
        return self.column_type.key_type if self.column_type else None

    def make_converter(self, timezone: str) -> Converter:
        """Return the function that converts the column's values. `timezone` is the mapping's. Not for references."""
        assert self.column_type is not None
        return self.column_type.bind(self.options, timezone)
