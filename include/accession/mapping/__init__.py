"""The mapping file: what goes where."""

from accession.mapping.attribute import Attribute
from accession.mapping.entity import MAX_INDEXES, NAME, NAME_ALLOWED, Entity
from accession.mapping.key import KeyPart
from accession.mapping.load import (
    MAPPINGS,
    VARIABLE,
    check_mappings,
    find_line,
    find_mappings,
    load_mapping,
    name_folder,
)
from accession.mapping.model import MAX_REFERENCES, Mapping
from accession.mapping.table import Index, Projection, TableIndex, TargetTable
from accession.mapping.template import Placeholder, Template

__all__ = [
    "MAPPINGS",
    "MAX_INDEXES",
    "MAX_REFERENCES",
    "NAME",
    "NAME_ALLOWED",
    "VARIABLE",
    "Attribute",
    "Entity",
    "Index",
    "KeyPart",
    "Mapping",
    "Placeholder",
    "Projection",
    "TableIndex",
    "TargetTable",
    "Template",
    "check_mappings",
    "find_line",
    "find_mappings",
    "load_mapping",
    "name_folder",
]
