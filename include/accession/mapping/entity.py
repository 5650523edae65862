"""One entity of a mapping file: its source table, its target table, its attributes, indexes and identity."""

from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, model_validator

from accession.column_types import COLUMN_TYPES
from accession.mapping.attribute import Attribute
from accession.mapping.key import KeyPart, Source, Target
from accession.mapping.template import Template
from accession.validation import FieldFault, StrictModel, collect_faults, explain_unknown, list_words

# Amazon DynamoDB Developer Guide, "Quotas in Amazon DynamoDB": global secondary indexes of a table, unless AWS raised
# the quota for the account.
MAX_INDEXES = 20

NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
NAME_ALLOWED: dict[str, Any] = {"allowed": "letters, digits and _, and must not begin with a digit"}


def _list_key_types() -> list[str]:
    return [column_type.name for column_type in COLUMN_TYPES.values() if column_type.key_type]


class Entity(StrictModel):
    """One kind of thing: its source table, its target table, and how a row becomes an item."""

    name: str = Field(pattern=NAME, json_schema_extra=NAME_ALLOWED, exclude=True)
    source: Source
    target: Target
    attributes: dict[Annotated[str, Field(min_length=1)], Attribute] = Field(default_factory=dict)
    indexes: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="look-ups the application makes: a partition key and at most one sort key, of the attributes "
        "and the table's key; not if the table is under tables",
    )
    identity: tuple[tuple[str, ...], ...] = Field(
        (), description="a row whose alternatives all differ from what was recorded for its key is another thing"
    )

    secret: bool = Field(
        False,
        description="keys of its rows and items are shown as ••• in logs, plans, rejects, reports and pages; needed if "
        "a column of the key is sensitive",
    )

    @model_validator(mode="after")
    def _check(self) -> "Entity":
        self._check_templates()
        collect_faults((self._check_key, self._check_columns, self._check_indexes, self._check_identity))
        return self

    def _check_key(self) -> None:
        if self.new_id is not None and not self.attributes and len(self.key_parts) == 1:
            raise FieldFault("attributes", "must not be empty")
        for part in self.key_parts:
            where = f"target.key.{part.name}"
            declared = self.attributes.get(part.name)
            if declared is None:
                if not (part.is_new_id or part.column or part.template):
                    raise ValueError(
                        explain_unknown(part.name, self.attributes, f"{where}: there is no such attribute")
                    )
            elif part.is_new_id:
                raise ValueError(f"attributes.{part.name}: this is the key, its value is the new id")
            elif part.template is not None or part.column not in (None, part.name):
                raise ValueError(
                    f"{where}: the attribute {part.name} is declared, so this must be keep or {{@{part.name}}}"
                )
            elif declared.default is not None or declared.optional or declared.value is not None:
                raise ValueError(f"attributes.{part.name}: a key has neither default, optional nor value")
            elif not declared.references and declared.key_type is None:
                raise ValueError(f"attributes.{part.name}: a key must be of one type, {list_words(_list_key_types())}")
        if self.source.has_rowid and not self.identity:
            raise ValueError("identity: is needed with the key rowid, since SQLite may give a row another one")
        if self.new_id is None and not any(map(self.list_key_columns, self.key_parts)):
            raise ValueError("target.key: all rows would have one key: make a part of it of source.key, or a new_id")

    @cached_property
    def has_unique_key(self) -> bool:
        """Whether two rows cannot have one key in the target: it has a new id, or each column of the source's key makes
        a part of it alone."""
        alone = set()
        for part in self.key_parts:
            columns = self.list_key_columns(part)
            if len(columns) == 1 and not (part.template and len(part.template.placeholders) > 1):
                alone.add(columns[0].lower())
        return self.new_id is not None or alone >= {column.lower() for column in self.source.keys}

    @cached_property
    def has_fixed_key(self) -> bool:
        """Whether a row keeps its key in the target: it has a new id, or a key made of the source's key alone."""
        if self.new_id is not None:
            return True
        if any(name in self.references for part in self.key_parts for name in self.list_sources(part)):
            return False  # the parent may get another key
        columns = {column.lower() for part in self.key_parts for column in self.list_key_columns(part)}
        return columns <= {column.lower() for column in self.source.keys}

    def list_key_columns(self, part: KeyPart) -> tuple[str, ...]:
        """Return the source columns that a part of the item's key is made of; none for a new id."""
        if part.is_new_id:
            return ()
        if part.name in self.attributes:
            return self.attributes[part.name].columns
        if part.template is not None:
            return self._list_template_columns(part.template)
        return (part.column,) if part.column else ()

    def list_columns(self, name: str) -> tuple[str, ...]:
        """Return the source columns that an attribute is made of."""
        attribute = self.attributes[name]
        return self._list_template_columns(attribute.template) if attribute.template else attribute.columns

    def _list_template_columns(self, template: Template) -> tuple[str, ...]:
        named = (column for name in template.attributes for column in self.attributes[name].columns)
        return tuple(dict.fromkeys((*template.columns, *named)))

    def list_sources(self, part: KeyPart) -> tuple[str, ...]:
        """Return the attributes that a part of the key is made of."""
        if part.name in self.attributes:
            return (part.name,)
        return part.template.attributes if part.template else ()

    def _check_templates(self) -> None:
        """Refuse placeholders of attributes that do not exist, or that a text cannot have."""
        templates = {f"attributes.{name}": a.template for name, a in self.attributes.items() if a.template}
        templates |= {f"target.key.{part.name}": part.template for part in self.key_parts if part.template}
        for where, template in templates.items():
            for name in template.attributes:
                self._expect_attribute(where, name)
                named = self.attributes[name]
                if named.template is not None or not (named.references or named.key_type in ("S", "N")):
                    raise ValueError(
                        f"{where}: {{@{name}}} must be a reference, or an attribute that is text or a number"
                    )

    def _check_columns(self) -> None:
        spelled = {column.lower(): column for column in self.columns}
        for column in self.columns:
            if spelled[column.lower()] != column:  # one of them might be marked sensitive
                raise ValueError(f"attributes: {column} and {spelled[column.lower()]} are one column; spell it one way")
        self.expect_masked(self.sensitive_columns)

    def expect_masked(self, sensitive: Iterable[str]) -> None:
        """Raise ValueError if any of these columns is in the key, and the key is not masked."""
        keys = {column.lower(): "source.key" for column in self.source.keys}
        for part in self.key_parts:
            keys |= {column.lower(): f"target.key.{part.name}" for column in self.list_key_columns(part)}
        for column in sensitive:
            if column.lower() in keys and not self.secret:  # SQLite ignores the case of a column's name
                raise ValueError(
                    f"{keys[column.lower()]}: {column} cannot be sensitive and the key, since rejects, plans, reports "
                    "and pages name rows by it; set secret: true on the entity, which masks its keys, or choose "
                    "another key"
                )

    def _check_indexes(self) -> None:
        if len(self.indexes) > MAX_INDEXES:
            raise FieldFault(
                "indexes",
                f"{len(self.indexes)} indexes are listed, and a DynamoDB table has at most {MAX_INDEXES}; "
                "remove those that no look-up needs",
            )
        for index, names in self.indexes.items():
            if not 1 <= len(names) <= 2:
                raise ValueError(f"indexes.{index}: a partition key and at most one sort key")
            for name in names:
                if name in self.target.keys:
                    continue
                self._expect_attribute(f"indexes.{index}", name)
                self.check_index_key(f"indexes.{index}", name)

    def check_index_key(self, where: str, name: str) -> None:
        """Raise ValueError if an attribute cannot be a key of an index. `where` is the place that names it."""
        attribute = self.attributes[name]
        if attribute.default == "":
            raise ValueError(f"{where}: {name} cannot be '' by default: an index key is never empty")
        if not attribute.references and attribute.key_type is None:
            raise ValueError(f"{where}: {name} must be of one type, {list_words(_list_key_types())}")

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
    def key_parts(self) -> tuple[KeyPart, ...]:
        """What the attributes of the item's key are made of, the partition key first."""
        return tuple(self.target.parts.values())

    @cached_property
    def new_id(self) -> str | None:
        """The attribute of the key that takes a new id; None if the key is made of the row's values alone."""
        return next((part.name for part in self.key_parts if part.is_new_id), None)

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Source columns that are read for attributes and for the item's key, each once."""
        columns = [column for attribute in self.attributes.values() for column in attribute.columns]
        for part in self.key_parts:
            columns += self.list_key_columns(part)
        return tuple(dict.fromkeys(columns))

    @cached_property
    def references(self) -> dict[str, str]:
        """Attribute name → referenced entity."""
        return {name: a.parent for name, a in self.attributes.items() if a.parent}

    @cached_property
    def key_parents(self) -> tuple[str, ...]:
        """The entities whose keys are in this one's key or identity."""
        names = {name for part in self.key_parts for name in self.list_sources(part)}
        names.update(name for alternative in self.identity for name in alternative)
        templates = [self.attributes[name].template for name in names if name in self.attributes]
        names.update(name for template in templates if template for name in template.attributes)
        return tuple(parent for name, parent in self.references.items() if name in names)

    @cached_property
    def sensitive_columns(self) -> frozenset[str]:
        """Source columns that this entity itself says to mask: those of sensitive attributes, and of a secret key."""
        columns = {column for a in self.attributes.values() if a.sensitive for column in a.columns}
        if self.secret:
            columns.update(self.source.keys, *map(self.list_key_columns, self.key_parts))
        return frozenset(columns)

    @property
    def origin(self) -> str:
        """Return where the rows come from, as people read it: the source's table, or "query of invoice"."""
        return self.source.table or f"query of {self.name}"

    def may_have(self, name: str) -> bool:
        """Tell whether items may have an attribute from the mapping; a key of an index may be another entity's."""
        return name in self.attributes or name in self.target.keys

    def table(self, environment: str) -> str:
        """Return the name of this entity's DynamoDB table in `environment`."""
        return self.target.table.replace("{environment}", environment)
