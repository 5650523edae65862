"""The mapping file: what goes where."""

from accession.mapping.attribute import Attribute
from accession.mapping.entity import Entity
from accession.mapping.key import KeyPart
from accession.mapping.load import MAPPINGS, check_mappings, find_mappings, load_mapping
from accession.mapping.model import Mapping
from accession.mapping.template import Placeholder, Template

__all__ = [
    "MAPPINGS",
    "Attribute",
    "Entity",
    "KeyPart",
    "Mapping",
    "Placeholder",
    "Template",
    "check_mappings",
    "find_mappings",
    "load_mapping",
]
