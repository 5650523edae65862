"""The mapping file: what goes where."""

from accession.mapping.attribute import Attribute
from accession.mapping.entity import Entity
from accession.mapping.key import KeyPart
from accession.mapping.load import MAPPINGS, VARIABLE, check_mappings, find_line, find_mappings, load_mapping
from accession.mapping.model import Mapping
from accession.mapping.table import Index, Projection, TableIndex, TargetTable
from accession.mapping.template import Placeholder, Template

__all__ = [
    "MAPPINGS",
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
]
