"""The draft of one entity: its attributes, indexes and identity, and the questions that only a person can decide."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from accession.column_types import COLUMN_TYPES
from accession.draft.hints import find_polymorphic, find_undeclared, is_named_as_id, looks_secret
from accession.draft.keys import find_key_type
from accession.draft.names import name_index, show_name
from accession.draft.references import Reference, ReferenceFinder, References, Table
from accession.items import MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES
from accession.mapping import MAX_INDEXES

DECIDE = "Decide: "
MAX_INDEX_NAME = 255  # Developer Guide, "Supported data types and naming rules": also the length of a key's name


@dataclass(frozen=True)
class AttributeDraft:
    """One attribute: its keys in the file, and the comments above it."""

    name: str
    settings: Mapping[str, object]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class EntityDraft:
    """One entity as the file will have it. `key_columns` are those that its keys are made of, in the source and in the
    target, and `secret_columns` are those that look like secrets."""

    name: str
    table: str
    key: str | list[str]
    target: str
    target_key: str | Mapping[str, str]
    attributes: tuple[AttributeDraft, ...]
    indexes: Mapping[str, tuple[str, ...]]
    identity: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    references: tuple[Reference, ...]
    key_columns: frozenset[str]
    secret_columns: frozenset[str]
    is_secret: bool = False

    @property
    def questions(self) -> list[str]:
        """What a person must decide, each with its place."""
        placed = [(self.name, note) for note in self.notes]
        placed += [(f"{self.name}.{show_name(one.name)}", note) for one in self.attributes for note in one.notes]
        return [f"{place}: {note.removeprefix(DECIDE)}" for place, note in placed if note.startswith(DECIDE)]


def draft_entity(
    table: Table, target: str, finder: ReferenceFinder, named: Mapping[tuple[str, ...], Table], *, new_ids: bool
) -> EntityDraft:
    """Return the draft of a table's entity. `named` has the tables by the words of their names."""
    return _Drafter(table, finder, named, new_ids=new_ids).draft(target)


class _Drafter:
    """Drafts one entity."""

    def __init__(
        self, table: Table, finder: ReferenceFinder, named: Mapping[tuple[str, ...], Table], *, new_ids: bool
    ) -> None:
        self.table, self.schema, self.key = table, table.schema, table.key
        self.finder, self.named, self.new_ids = finder, named, new_ids
        self.references: References = finder.find(table)
        self.polymorphic = find_polymorphic(self.schema.columns)
        parts = [reference.columns for part in self.key.parts if (reference := self.references.found.get(part))]
        self.key_columns = frozenset(self.key.columns).union(*parts)

    def draft(self, target: str) -> EntityDraft:
        attributes = tuple(self._draft_attributes())
        names = [attribute.name for attribute in attributes]
        identity = tuple(self._find_identity(names))
        columns = list(self.key.columns)
        indexes, dropped = self._find_indexes(names)
        return EntityDraft(
            name=self.table.entity,
            table=self.schema.name,
            key="rowid" if not columns else columns[0] if len(columns) == 1 and columns[0] != "rowid" else columns,
            target=target,
            target_key=next(iter(self.key.parts)) if self.key.is_new_id else self.key.parts,
            attributes=attributes,
            indexes=indexes,
            identity=identity,
            notes=tuple(self._list_notes(identity, dropped)),
            references=tuple(self.references.found.values()),
            key_columns=self.key_columns,
            secret_columns=frozenset(self._list_secret_columns()),
        )

    def _draft_attributes(self) -> Iterator[AttributeDraft]:
        hidden = set()
        if self.key.is_new_id and len(self.key.columns) == 1 and len(self.schema.columns) > 1:
            hidden = set(self.key.columns) - self.references.found.keys()  # a new id takes the place of the old one
        hidden |= {name for name in self.key.parts if self.key.is_new_id}
        for name in self.schema.columns:
            if name not in hidden:
                yield AttributeDraft(name, self._make_settings(name), tuple(self._list_column_notes(name)))
        for name, reference in self.references.found.items():
            if name not in self.schema.columns:
                yield AttributeDraft(name, _refer(reference), ())

    def _make_settings(self, name: str) -> dict[str, object]:
        values = self.table.values[name]
        if reference := self.references.found.get(name):
            settings = _refer(reference)
        elif self.key.keeps(name):
            settings = {"column": name, "type": find_key_type(values)}
        else:
            settings = {"column": name, "type": values.choice.name, **values.choice.options}
        if self._is_secret(name) and name not in self.key_columns:  # a key is masked as a whole
            settings["sensitive"] = True
        return settings

    def _is_secret(self, name: str) -> bool:
        return looks_secret(name, self.table.values[name].choice.name)

    def _list_secret_columns(self) -> Iterator[str]:
        for name in filter(self._is_secret, self.schema.columns):
            yield from self.references.found[name].columns if name in self.references.found else (name,)

    def _list_column_notes(self, name: str) -> Iterator[str]:
        values = self.table.values[name]
        yield from self.references.notes.get(name, ())
        if not values.is_sound:
            yield f"{DECIDE}a value is not Unicode, or beyond DynamoDB's numbers: its row will be rejected."
        if values.is_large:
            yield f"{DECIDE}a value has more than the 400 KB of an item: its row will be rejected."
        is_one_value = name in self.references.found or self._is_own_id(name)
        if values.looks_like == "json":
            yield f"{DECIDE}every value is JSON: the type json stores it as nested values."
        elif values.looks_like == "list" and not is_one_value:
            yield f'{DECIDE}it looks like a list: the type string_set with separator: "," stores it as a set.'
        if values.choice.name == "timestamp" and int in values.kinds:
            unit = "milliseconds" if values.choice.options else "seconds"
            yield f"{DECIDE}the numbers are taken for {unit} since 1970."
        if self._is_followed(name):
            return
        kind = self.polymorphic.get(name)
        # A name that is unique without its type, such as a run's, is one of this table's own.
        if kind and not any(name in key and kind not in key for key in self.schema.unique_keys):
            yield f"{DECIDE}with {show_name(kind)} it refers to one of several tables; it is drafted as a plain value."
        elif (parent := find_undeclared(name, self.named)) and not (parent == self.table and self._is_own_id(name)):
            yield self._explain_undeclared(parent)
        elif self.new_ids and is_named_as_id(name) and name not in self.key.columns:
            yield f"{DECIDE}it looks like an old id of another table, and no foreign key says of which."

    def _is_followed(self, name: str) -> bool:
        declared = any(name in foreign_key.columns for foreign_key in self.schema.foreign_keys)
        return declared or name in self.references.found

    def _is_own_id(self, name: str) -> bool:
        return name in self.key.columns or (name,) in self.schema.unique_keys

    def _explain_undeclared(self, parent: Table) -> str:
        if parent.key.is_new_id and parent.key.columns:
            return (
                f"{DECIDE}it looks like an old id of {parent.entity}, which gets new ones: references: {parent.entity}?"
            )
        return f"{DECIDE}it looks like a reference that the schema does not declare: references: {parent.entity}?"

    def _find_identity(self, names: list[str]) -> Iterator[tuple[str, ...]]:
        """Yield what identifies a row with a new id: its unique keys; all columns without a NULL if
        it has no key at all."""
        if not self.key.is_new_id:
            return
        # Of an alternative that holds a NULL, nothing can be said.
        known = tuple(name for name in names if name in self.table.values and not self.table.values[name].has_null)
        for columns in self.schema.unique_keys if self.key.columns else [known or tuple(names)]:
            if all(name in names and self._may_identify(name) for name in columns):
                yield columns

    def _may_identify(self, name: str) -> bool:
        reference = self.references.found.get(name)
        return reference is None or not self.key.columns or self.finder.may_identify(self.table, reference.parent)

    def _find_indexes(self, names: list[str]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
        """Return the indexes, and those for which there is no room: of foreign keys, then UNIQUE, then
        the others."""
        wanted = [one.columns for one in self.schema.foreign_keys]
        wanted += [(name,) for name in self.references.found if name not in self.schema.columns]
        for is_unique in (True, False):
            wanted += [one.columns for one in self.schema.indexes if one.is_unique is is_unique]
        keys = tuple(self.key.parts)
        found: dict[str, tuple[str, ...]] = {}
        dropped = []
        for attributes in dict.fromkeys(wanted):
            if attributes == keys[: len(attributes)] or not 1 <= len(attributes) <= 2:
                continue
            limits = zip(attributes, (MAX_PARTITION_KEY_BYTES, MAX_SORT_KEY_BYTES), strict=False)
            if not all(name in (*names, *keys) and self._may_be_key(name, limit) for name, limit in limits):
                continue
            if len(found) < MAX_INDEXES:
                found[name_index(attributes, found)] = attributes
            else:
                dropped.append(", ".join(attributes))
        return found, dropped

    def _may_be_key(self, name: str, limit: int) -> bool:
        if len(name.encode()) > MAX_INDEX_NAME:
            return False
        if name not in self.table.values:  # a new id, or a template that is short enough
            return True
        values, reference = self.table.values[name], self.references.found.get(name)
        if reference is not None and reference.by:  # the parent's key may be as long as a partition key
            return limit == MAX_PARTITION_KEY_BYTES
        is_key_already = name in self.key.parts or reference is not None
        return values.bytes <= limit and (is_key_already or COLUMN_TYPES[values.choice.name].key_type is not None)

    def _list_notes(self, identity: tuple[tuple[str, ...], ...], dropped: list[str]) -> Iterator[str]:
        if self.key.passed_over:
            yield f"{DECIDE}{self.key.passed_over}, so it is not the key."
        if not self.key.columns:
            yield (
                f"{DECIDE}no usable key is declared, so a row is known by SQLite's rowid, which VACUUM may change, and "
                "by its identity."
            )
        elif self.key.is_new_id and not identity:
            yield (
                f"{DECIDE}no identity: SQLite may give the key of a deleted row to another one, which is then taken "
                "for the same."
            )
        for column, reason in self.schema.unreadable.items():
            yield f"Left out: column {show_name(column)}: {reason}."
        if dropped:
            yield f"Left out, since a table has at most {MAX_INDEXES} indexes: {'; '.join(map(show_name, dropped))}."


def _refer(reference: Reference) -> dict[str, object]:
    columns = list(reference.columns)
    named = {"entity": reference.parent, "by": reference.by, "part": reference.part}
    named = {key: value for key, value in named.items() if value}
    settings: dict[str, object] = {
        "column": columns[0] if len(columns) == 1 else columns,
        "references": reference.parent if len(named) == 1 else named,
    }
    return settings | ({"optional": True} if reference.is_optional else {})
