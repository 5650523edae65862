"""The CloudFormation template of a mapping's tables. Pure: the mapping and the types of its keys decide everything."""

import re
from collections.abc import Mapping as AnyMapping
from typing import Any

import yaml

from accession.commands import HOME_LIBRARY
from accession.errors import RefusedError
from accession.items import KeySchema, find_attribute_type
from accession.mapping import Index, Mapping

# AWS CloudFormation User Guide, "Understand CloudFormation quotas".
MAX_RESOURCES = 500
MAX_OUTPUTS = 200

PLACE = "{environment}"
ENVIRONMENT = {
    "Type": "String",
    "Description": "The last part of every table's name, such as dev or prod.",
    "AllowedPattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$",
    "ConstraintDescription": "letters, digits, '_' and '-'; at most 64 characters.",
}
# The home library's template is the one of 0.1.0, so that its stacks see no change.
INTRODUCTIONS = {
    HOME_LIBRARY: "The three tables of the home library, for those whose application has not made them already."
}
QUALITIES = (
    "On demand, encrypted, restorable to any second of the last 35 days, protected from deletion, and kept when the "
    "stack is deleted."
)


class _Call(str):
    """The argument of one of CloudFormation's functions; a subclass is named like its function."""


class _Sub(_Call):
    """A text in which CloudFormation replaces ${Environment}."""


class _Ref(_Call):
    """A reference to a resource."""


class _Dumper(yaml.SafeDumper):
    """Writes calls with their short tags, and values that occur twice in full."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_call(self, data: _Call) -> yaml.Node:
        return self.represent_scalar(f"!{type(data).__name__[1:]}", str(data))


for _call in (_Sub, _Ref):
    _Dumper.add_representer(_call, _Dumper.represent_call)


def write_template(mapping: Mapping, schemas: AnyMapping[str, KeySchema], environment: str = "") -> str:
    """Return the template of a mapping's tables, as YAML. `schemas` has the key of each entity's table.

    `environment` becomes the default of the parameter Environment. The logical id of a table depends on its own name
    and that of the mapping alone, so that tables can be added. Raises RefusedError if the tables do not fit a stack.
    """
    resources: dict[str, Any] = {}
    named: dict[str, str] = {}
    for table, mates in mapping.mates.items():
        logical_id = _make_logical_id(mapping.name, table)
        if logical_id in named:
            raise RefusedError(
                f"Tables {named[logical_id]} and {table} would both be {logical_id} in the template: rename one of "
                "them by more than its signs and case."
            )
        named[logical_id] = table
        resources[logical_id] = {
            "Type": "AWS::DynamoDB::Table",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "TableName": _Sub(table.replace(PLACE, "${Environment}")) if PLACE in table else table,
                "BillingMode": "PAY_PER_REQUEST",
                "DeletionProtectionEnabled": True,
                **define_keys(mapping, mates[0].name, schemas),
                "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True},
                "SSESpecification": {"SSEEnabled": True},
            },
        }
    if len(resources) > MAX_RESOURCES:
        raise RefusedError(
            f"Mapping {mapping.name} has {len(resources)} tables, and a CloudFormation stack has at most "
            f"{MAX_RESOURCES} resources: divide the mapping."
        )
    introduction = INTRODUCTIONS.get(mapping.name, f"The tables of {mapping.name}.")
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"{introduction} {QUALITIES}",
        "Parameters": {"Environment": ENVIRONMENT | ({"Default": environment} if environment else {})},
        "Resources": resources,
        "Outputs": {logical_id: {"Value": _Ref(logical_id)} for logical_id in resources},
    }
    if not has_environment(mapping):
        del template["Parameters"]
    if len(resources) > MAX_OUTPUTS:
        del template["Outputs"]
    return yaml.dump(template, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


def has_environment(mapping: Mapping) -> bool:
    """Tell whether the template has the parameter Environment: whether a table's name has it."""
    return any(PLACE in entity.target.table for entity in mapping.entities.values())


def define_keys(mapping: Mapping, name: str, schemas: AnyMapping[str, KeySchema]) -> dict[str, Any]:
    """Return the properties of an entity's table that say its key and its indexes, as CreateTable takes them too."""
    key = schemas[name]
    types = dict(zip(key.names, key.types, strict=True))
    mates = mapping.mates[mapping.entities[name].target.table]
    for index in mapping.indexes[name]:
        for attribute in index.names:
            for entity in mates:
                if attribute in entity.attributes and attribute not in types:
                    types[attribute] = find_attribute_type(entity, attribute, schemas) or "S"
    indexes = [
        {
            "IndexName": index.name,
            "KeySchema": _list_keys(index.partition, index.sort),
            "Projection": _project(index),
        }
        for index in mapping.indexes[name]
    ]
    return {
        "AttributeDefinitions": [{"AttributeName": one, "AttributeType": kind} for one, kind in types.items()],
        "KeySchema": _list_keys(key.names[:1], key.names[1:]),
        **({"GlobalSecondaryIndexes": indexes} if indexes else {}),
    }


def _list_keys(partition: tuple[str, ...], sort: tuple[str, ...]) -> list[dict[str, str]]:
    return [
        {"AttributeName": name, "KeyType": kind} for names, kind in ((partition, "HASH"), (sort, "RANGE"))
        for name in names
    ]  # fmt: skip


def _project(index: Index) -> dict[str, Any]:
    if isinstance(index.projection, tuple):
        return {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(index.projection)}
    return {"ProjectionType": {"all": "ALL", "keys": "KEYS_ONLY"}[index.projection]}


def _make_logical_id(mapping: str, table: str) -> str:
    """Return a table's letters and digits without the mapping's name at their beginning: BookLibrary-Users → Users."""
    letters = re.sub(r"[^A-Za-z0-9]", "", table.replace(PLACE, ""))
    own = mapping.replace("_", "")
    rest = letters[len(own) :] if letters.lower().startswith(own.lower()) else letters
    return f"Table{rest}" if rest in ("", "Environment") else rest
