"""The models of a mapping file: entities, their attributes, references and indexes. Validated when they are made."""

from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

FIRST_SEEN = "first_seen"

# A default is a value that SQLite could hold (sqlite.org "Datatypes In SQLite": 64 bits with a sign).
MAX_INTEGER = 2**63 - 1
# sqlite.org "Limits": ten databases at once, of which one is the ID map of the last run.
MAX_PARENTS = 9

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
Name = str
Type = Literal["string", "number", "boolean", "binary", "timestamp", "json", "auto"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Attribute(_Strict):
    """One DynamoDB attribute: a column with its type, a reference to another entity, or a value of its own."""

    column: str | None = Field(None, min_length=1, description="source column; without one the default is the value")
    type: Type | None = Field(None, description="how the column's values are read; not with references")
    references: str | None = Field(None, description="entity whose new id takes the place of the old key")
    default: str | int | bool | None = Field(
        None, description="value for NULL and ''; first_seen in a timestamp: when the row was first seen"
    )
    numbers: Literal["epoch_seconds", "epoch_milliseconds", "julian_day"] = Field(
        "epoch_seconds", description="what a bare number means in a timestamp"
    )
    sensitive: bool = Field(False, description="shown as ••• in logs, reports and errors")

    @model_validator(mode="after")
    def _check(self) -> "Attribute":
        if self.references:
            if self.column is None or self.type is not None or self.default is not None:
                raise ValueError("a reference has a column, and neither type nor default")
        elif self.type is None:
            raise ValueError("type is missing: one of string, number, boolean, binary, timestamp, json, auto")
        if self.column is None and self.default is None:
            raise ValueError("either a column or a default is needed")
        if "numbers" in self.model_fields_set and self.type != "timestamp":
            raise ValueError("numbers: only a timestamp has it")
        if self.default is not None and not self._default_fits():
            raise ValueError(f"default: {self.default!r} cannot be the default of a {self.type or 'reference'}")
        return self

    def _default_fits(self) -> bool:
        match self.type:
            case "timestamp":
                return self.default == FIRST_SEEN
            case "string":
                return isinstance(self.default, str)
            case "number":
                return type(self.default) is int and abs(self.default) <= MAX_INTEGER
            case "boolean":
                return isinstance(self.default, bool)
            case _:
                return False

    @property
    def is_first_seen(self) -> bool:
        return self.type == "timestamp" and self.default == FIRST_SEEN


class Source(_Strict):
    """The SQLite table an entity comes from."""

    table: str = Field(min_length=1)
    key: str = Field(min_length=1, description="column that identifies a row: unique, integer or text")


class Target(_Strict):
    """The DynamoDB table an entity goes to."""

    table: str = Field(pattern=r"^[A-Za-z0-9_.-]*(\{environment\})?[A-Za-z0-9_.-]*$", min_length=3)
    key: str = Field(min_length=1, max_length=255, description="partition key: the attribute that takes the new UUID")


class Entity(_Strict):
    """One kind of thing: a source table, a target table and what lies between."""

    name: str = Field(pattern=NAME)
    source: Source
    target: Target
    attributes: dict[Annotated[str, Field(min_length=1)], Attribute] = Field(min_length=1)
    indexes: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="look-ups the application makes")
    identity: tuple[tuple[str, ...], ...] = Field(
        (), description="a row whose alternatives all differ from what was recorded for its key is another thing"
    )

    @model_validator(mode="after")
    def _check(self) -> "Entity":
        if self.target.key in self.attributes:
            raise ValueError(f"attributes.{self.target.key}: this is the key, its value is the new id")
        spelled = {column.lower(): column for column in self.columns}
        for column in self.columns:
            if spelled[column.lower()] != column:  # one of them might be marked sensitive
                raise ValueError(f"attributes: {column} and {spelled[column.lower()]} are one column; spell it one way")
        for column in self.sensitive_columns:
            if column.lower() == self.source.key.lower():  # SQLite takes a column's name in any case
                raise ValueError(
                    f"source.key: {column} cannot be sensitive and the key, as ids are made from it, and the ID map, "
                    "rejects and reports name rows by it; choose another key"
                )
        for index, names in self.indexes.items():
            if not 1 <= len(names) <= 2:
                raise ValueError(f"indexes.{index}: a partition key and at most one sort key")
            for name in names:
                self._attribute(f"indexes.{index}", name)
                if self.attributes[name].default == "":
                    raise ValueError(f"indexes.{index}: {name} cannot be '' by default, which an index key never is")
                if self.attributes[name].type in ("boolean", "json", "auto"):
                    raise ValueError(
                        f"indexes.{index}: {name} must be of one type, string, number, binary or timestamp"
                    )
        for alternative in self.identity:
            if not alternative:
                raise ValueError("identity: an alternative names at least one attribute")
            for name in alternative:
                self._attribute("identity", name)
                if self.attributes[name].is_first_seen:
                    raise ValueError(f"identity: {name} may be the time of the run, which says nothing about the row")
        return self

    def _attribute(self, where: str, name: str) -> None:
        if name not in self.attributes:
            raise ValueError(f"{where}: {name} is not an attribute of this entity")

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
        """Whether an attribute's value is masked: its own mark, or another's that comes from its column."""
        attribute = self.attributes[name]
        return attribute.sensitive or attribute.column in self.sensitive_columns

    @cached_property
    def index_keys(self) -> frozenset[str]:
        return frozenset(name for names in self.indexes.values() for name in names)

    def table(self, environment: str) -> str:
        """The DynamoDB table of this entity in `environment`."""
        return self.target.table.replace("{environment}", environment)


class Mapping(_Strict):
    """One mapping file."""

    name: str = Field(pattern=NAME)
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
                    raise ValueError(f"entities.{name}.attributes.{attribute}: there is no entity {parent}")
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
