"""The mapping file: what goes where."""

from accession.mapping.load import MAPPINGS, find_mappings, load_mapping, load_mappings
from accession.mapping.model import Attribute, Entity, Mapping

__all__ = ["MAPPINGS", "Attribute", "Entity", "Mapping", "find_mappings", "load_mapping", "load_mappings"]
