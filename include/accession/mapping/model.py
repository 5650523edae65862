"""The models of a mapping file: entities, their attributes, references and indexes. Validated when they are made."""

from collections.abc import Mapping as AnyMapping
from decimal import Decimal
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from accession.column_types import (
    COLUMN_TYPES,
    FIRST_SEEN_MARK,
    ColumnType,
    Converter,
    KeyType,
    TypedValue,
    ValueProblem,
)
from accession.validation import FieldFault, StrictModel, explain_unknown, list_words

# sqlite.org "Limits": ten databases at once; one of them is the ID map of the last run.
MAX_PARENTS = 9
# Amazon DynamoDB Developer Guide, "Quotas in Amazon DynamoDB": global secondary indexes of a table, unless AWS raised
# the quota for the account.
MAX_INDEXES = 20

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
NAME_ALLOWED: dict[str, Any] = {"allowed": "letters, digits and _, and must not begin with a digit"}


def _read_default(value: object) -> object:
    """Keep scalars, and make a float the Decimal of its shortest text: no float reaches DynamoDB."""
    if isinstance(value, float):
        value = Decimal(repr(value))
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError("must be a finite number")
    if value is None or isinstance(value, str | int | Decimal):
        return value
    raise ValueError("must be text, a number, true or false; put a date in quotes")


class Attribute(StrictModel):
    """One DynamoDB attribute: a column with its type, a reference to another entity, or a constant."""

    model_config = ConfigDict(extra="allow")  # for the options of its type; `_check` refuses all other keys

    column: str | None = Field(None, min_length=1, description="source column; without one the default is the value")
    type: str | None = Field(None, description="how the column's values are read; not with references")
    references: str | None = Field(None, description="entity whose new id takes the place of the old key")
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
        if self.column is None and self.default is None:
            raise ValueError("either a column or a default is needed")
        try:
            _ = self.default_value
        except ValueProblem as problem:
            shown = self.default if isinstance(self.default, Decimal) else repr(self.default)
            raise ValueError(f"default: {shown} {problem}") from None
        return self

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
        """The attribute's type as an index key; None if its type cannot be one. A new id is a text."""
        return self.column_type.key_type if self.column_type else "S"

    def make_converter(self, timezone: str) -> Converter:
        """Return the function that converts the column's values. `timezone` is the mapping's. Not for references."""
        assert self.column_type is not None
        return self.column_type.bind(self.options, timezone)


class Source(StrictModel):
    """The SQLite table an entity comes from."""

    table: str = Field(min_length=1)
    key: str = Field(min_length=1, description="column that identifies a row: unique, integer or text")


class Target(StrictModel):
    """The DynamoDB table an entity goes to."""

    table: str = Field(
        pattern=r"^[A-Za-z0-9_.-]*(\{environment\})?[A-Za-z0-9_.-]*$",
        min_length=3,
        json_schema_extra={"allowed": "letters, digits, _, . and -, with {environment} at most once"},
    )
    key: str = Field(min_length=1, max_length=255, description="partition key: the attribute that takes the new UUID")


class Entity(StrictModel):
    """One kind of thing: its source table, its target table, and how a row becomes an item."""

    name: str = Field(pattern=NAME, json_schema_extra=NAME_ALLOWED, exclude=True)
    source: Source
    target: Target
    attributes: dict[Annotated[str, Field(min_length=1)], Attribute] = Field(min_length=1)
    indexes: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="look-ups the application makes")
    identity: tuple[tuple[str, ...], ...] = Field(
        (), description="a row whose alternatives all differ from what was recorded for its key is another thing"
    )

    @model_validator(mode="after")
    def _check(self) -> "Entity":
        self._check_columns()
        self._check_indexes()
        self._check_identity()
        return self

    def _check_columns(self) -> None:
        if self.target.key in self.attributes:
            raise ValueError(f"attributes.{self.target.key}: this is the key, its value is the new id")
        spelled = {column.lower(): column for column in self.columns}
        for column in self.columns:
            if spelled[column.lower()] != column:  # one of them might be marked sensitive
                raise ValueError(f"attributes: {column} and {spelled[column.lower()]} are one column; spell it one way")
        for column in self.sensitive_columns:
            if column.lower() == self.source.key.lower():  # SQLite ignores the case of a column's name
                raise ValueError(
                    f"source.key: {column} cannot be sensitive and the key: ids are made from the key, and the ID map, "
                    "rejects and reports name rows by it; choose another key"
                )

    def _check_indexes(self) -> None:
        if len(self.indexes) > MAX_INDEXES:
            raise FieldFault(
                "indexes",
                f"{len(self.indexes)} indexes are listed, and a DynamoDB table has at most {MAX_INDEXES}; "
                "remove those that no look-up needs",
            )
        key_types = [column_type.name for column_type in COLUMN_TYPES.values() if column_type.key_type]
        for index, names in self.indexes.items():
            if not 1 <= len(names) <= 2:
                raise ValueError(f"indexes.{index}: a partition key and at most one sort key")
            for name in names:
                self._expect_attribute(f"indexes.{index}", name)
                if self.attributes[name].default == "":
                    raise ValueError(f"indexes.{index}: {name} cannot be '' by default: an index key is never empty")
                if self.attributes[name].key_type is None:
                    raise ValueError(f"indexes.{index}: {name} must be of one type, {list_words(key_types)}")

    def _check_identity(self) -> None:
        for alternative in self.identity:
            if not alternative:
                raise ValueError("identity: an alternative names at least one attribute")
            for name in alternative:
                self._expect_attribute("identity", name)
                if self.attributes[name].is_first_seen:
                    raise ValueError(f"identity: {name} may be the time of the run, which does not identify the row")

    def _expect_attribute(self, where: str, name: str) -> None:
        if name not in self.attributes:
            problem = f"{where}: {name} is not an attribute of this entity"
            raise ValueError(explain_unknown(name, self.attributes, problem))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Source columns that are read, without the key, each once."""
        return tuple(dict.fromkeys(a.column for a in self.attributes.values() if a.column is not None))

    @cached_property
    def references(self) -> dict[str, str]:
        """Attribute name → referenced entity."""
        return {name: a.references for name, a in self.attributes.items() if a.references}

    @cached_property
    def sensitive_columns(self) -> frozenset[str]:
        """Source columns whose values are masked, wherever they are used."""
        return frozenset(a.column for a in self.attributes.values() if a.sensitive and a.column is not None)

    def is_sensitive(self, name: str) -> bool:
        """Whether an attribute's value is masked: it or another attribute from its column is marked sensitive."""
        attribute = self.attributes[name]
        return attribute.sensitive or attribute.column in self.sensitive_columns

    @cached_property
    def index_keys(self) -> frozenset[str]:
        """The attributes that are keys of any index."""
        return frozenset(name for names in self.indexes.values() for name in names)

    def table(self, environment: str) -> str:
        """Return the name of this entity's DynamoDB table in `environment`."""
        return self.target.table.replace("{environment}", environment)


class Mapping(StrictModel):
    """One mapping file."""

    name: str = Field(pattern=NAME, json_schema_extra=NAME_ALLOWED)
    timezone: str = "UTC"
    schedule: str | None = None
    entities: dict[str, Entity]
    sha256: str = Field(exclude=True, description="of the file's bytes; goes into the audit")

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is not a time zone of the IANA database, such as Europe/Oslo") from None
        return value

    @model_validator(mode="after")
    def _check(self) -> "Mapping":
        if not self.entities:
            raise ValueError("entities: at least one is needed")
        for name, entity in self.entities.items():
            for attribute, parent in entity.references.items():
                if parent not in self.entities:
                    where = f"entities.{name}.attributes.{attribute}"
                    raise ValueError(explain_unknown(parent, self.entities, f"{where}: there is no entity {parent}"))
        for name, parents in self.parents.items():
            if len(parents) > MAX_PARENTS:
                raise ValueError(
                    f"entities.{name}: refers to {len(parents)} entities, and at most {MAX_PARENTS} are possible"
                )
        tables = [entity.target.table for entity in self.entities.values()]
        for table in tables:
            if tables.count(table) > 1:
                raise ValueError(f"entities: the table {table} is the target of more than one")
        try:
            _ = self.order
        except CycleError as error:
            raise ValueError(f"entities: the references run in a circle: {' → '.join(error.args[1])}") from None
        return self

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Entity names, parents before their children, otherwise as in the file."""
        return tuple(TopologicalSorter(self.parents).static_order())

    @cached_property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Entity → the entities it refers to, each once."""
        return {n: tuple(dict.fromkeys(e.references.values())) for n, e in self.entities.items()}

    @cached_property
    def source_tables(self) -> dict[str, list[str]]:
        """Source table → columns that are read, for the check of the source."""
        tables: dict[str, dict[str, None]] = {}
        for entity in self.entities.values():
            columns = tables.setdefault(entity.source.table, {})
            columns.update(dict.fromkeys((entity.source.key, *entity.columns)))
        return {table: list(columns) for table, columns in tables.items()}
