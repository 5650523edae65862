"""How the policies name tables and indexes: one by one while they are few, else by what their names have in common."""

import re
from collections.abc import Iterable, Mapping, Sequence
from os.path import commonprefix

from accession.errors import RefusedError

MAX_PARAMETER = 4_096  # bytes; AWS CloudFormation User Guide, "Understand CloudFormation quotas"
MAX_POLICY = 6_144  # characters of a managed policy without white space; IAM User Guide, "IAM and AWS STS quotas"
# Of the workers' policy in artifacts.yaml: all but the tables and what depends on names, and the times that it names
# the bucket's objects. A test compares them.
FIXED_CHARACTERS = 1_950
OBJECT_RESOURCES = 14


def find_room(bucket: str, mapping: str, environment: str) -> int:
    """Return the characters that the workers' policy has left for tables and indexes."""
    return MAX_POLICY - FIXED_CHARACTERS - OBJECT_RESOURCES * len(f"{bucket}/{mapping}/{environment}")


def name_resources(arn: str, indexes: Mapping[str, Iterable[str]], room: int) -> tuple[list[str], list[str]]:
    """Return the resources of tables and those of their indexes, which have at most `room` characters together.

    `arn` is what the tables' ARNs begin with; `indexes` has the names of each table's indexes. If there is no room for
    all names, tables whose names begin with one word are named together. Raises RefusedError if there is no room for
    that.
    """
    exact = [f"{arn}/{table}" for table in indexes]
    alike = [f"{arn}/{pattern}" for pattern in _find_patterns(indexes)]
    named = [f"{arn}/{table}/index/{index}" for table, names in indexes.items() for index in names]
    for tables, all_of in ((exact, False), (exact, True), (alike, True)):
        found = [f"{table}/index/*" for table in tables] if all_of and named else named
        found = found or tables  # IAM refuses an empty list
        sizes = [sum(len(resource) + len('"",') for resource in resources) for resources in (tables, found)]
        if sum(sizes) <= room and max(sizes) <= MAX_PARAMETER:
            return tables, found
    raise RefusedError(
        f"The names of the tables begin with {len(alike)} different words, so a policy that names them all is longer "
        "than IAM allows: let the names begin alike."
    )


def _find_patterns(names: Iterable[str]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(re.split(r"[-_.]", name)[0], []).append(name)
    return [_find_pattern(group) for group in groups.values()]


def _find_pattern(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    start = commonprefix(names)  # noqa: RUF071  characters are meant
    end = commonprefix([name[len(start) :][::-1] for name in names])[::-1]  # noqa: RUF071
    return f"{start}*{end}"
