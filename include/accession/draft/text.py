"""The text of a drafted mapping: a file that is pleasant to read and to edit, with an attribute on each line."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping

import yaml

from accession.draft.entity import EntityDraft
from accession.draft.names import show_name

WIDTH = 120
HEAD = """\
# Drafted by `make draft` from {source}. It is yours to edit: a second draft says what the schema has and this file has
# not, and overwrites nothing. What only a person can decide is marked with "Decide".
name: {name}
timezone: UTC        # of date texts without an offset
schedule: null       # cron expression or preset (@daily); null: only when triggered

entities:
"""


def write_text(name: str, source: str, entities: Iterable[EntityDraft], left_out: Mapping[str, str]) -> str:
    """Return the text of a mapping file. `left_out` has the tables that are not in it, with the reason."""
    lines = []
    for entity in entities:
        lines += [*_write_entity(entity), ""]
    for sentence in list_left_out(left_out):
        lines += _comment(sentence, "  ")
    head = HEAD.format(source=show_name(source), name=_flow(name))
    return head + "\n".join(lines).rstrip("\n") + "\n"


def list_left_out(left_out: Mapping[str, str]) -> list[str]:
    """Return a sentence for each reason for which tables are left out."""
    tables: dict[str, list[str]] = {}
    for table, reason in left_out.items():
        tables.setdefault(reason, []).append(show_name(table))
    return [f"Left out, as {reason}: {', '.join(names)}." for reason, names in tables.items()]


def _write_entity(entity: EntityDraft) -> Iterator[str]:
    yield f"  {_flow(entity.name)}:"
    for note in entity.notes:
        yield from _comment(note, "    ")
    yield f"    source: {_flow({'table': entity.table, 'key': entity.key})}"
    yield f"    target: {_flow({'table': entity.target, 'key': entity.target_key})}"
    if entity.is_secret:
        yield "    secret: true"
    yield "    attributes:"
    for attribute in entity.attributes:
        for note in attribute.notes:
            yield from _comment(note, "      ")
        yield f"      {_flow(attribute.name)}: {_flow(attribute.settings)}"
    if entity.indexes:
        yield "    indexes:"
        for index, attributes in entity.indexes.items():
            yield f"      {_flow(index)}: {_flow(attributes)}"
    if entity.identity:
        yield "    identity:"
        for alternative in entity.identity:
            yield f"      - {_flow(alternative)}"


def _flow(value: object) -> str:
    """Return a value in YAML's flow style, on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(one)}' for key, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_flow, value))}]"
    style = '"' if isinstance(value, str) and not value.isprintable() else None  # with escapes, on one line
    # A list of one, since a scalar is written in another way if it stands alone.
    text = yaml.safe_dump([value], default_style=style, default_flow_style=True, allow_unicode=True, width=float("inf"))
    text = text.strip().removeprefix("[").removesuffix("]")
    # Double quotes, as people write them, if nothing in them would be an escape.
    if text.startswith("'") and not set(str(value)) & {'"', "\\"}:
        return f'"{value}"'
    return text


def _comment(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_on_hyphens=False,
        break_long_words=False,
    )
