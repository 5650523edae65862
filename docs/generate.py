"""Write docs/params.md, mapping.md and ownership.md, and two tables, from the models and tests: `make docs`.

    python docs/generate.py            write all
    python docs/generate.py --check    exit 1 if one of them is stale

Texts come from the models' own descriptions, so a new param or key is documented where it is declared.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

os.environ.pop("ACCESSION_ENVIRONMENT", None)  # it is a param's default, and the documents are the same everywhere
sys.path.append(str(Path(__file__).parents[1] / "tests"))  # the model of ownership is a test

from pydantic import BaseModel

from accession.column_types import COLUMN_TYPES
from accession.deployment import Deployment
from accession.mapping import MAPPINGS, Attribute, Entity, Mapping
from accession.params import MigrateParams, RollbackParams
from attacks import write_table
from protocol.document import write_ownership

DOCS = Path(__file__).parent
HOME_LIBRARY = MAPPINGS / "book_library.yaml"
NOTICE = "<!-- Written by `make docs` from {source}. Change it there, then run `make docs`. -->"
SHOWN_PATTERN = 45  # characters; longer patterns say less than the description

# What the models do not say yet. A description in the model wins.
NOTES = {
    "Mapping.name": "Name of the mapping, and of its file without `.yaml`.",
    "Mapping.timezone": "Time zone of date texts without an offset, as in the IANA database.",
    "Mapping.schedule": "Schedule of the DAG: a cron expression or a preset such as `@daily`. Without one, the DAG "
    "runs when it is triggered.",
    "Mapping.entities": "Entities by name.",
    "Entity.source": "Where the rows come from.",
    "Entity.target": "Where the items go.",
    "Entity.attributes": "Attributes of the item by name.",
    "Target.table": "DynamoDB table. `{environment}` is replaced by the run's environment.",
}

# What a key takes, where its type alone would say "text".
KINDS = {
    "Attribute.type": "[column type](#column-types)",
    "Attribute.default": "as the type says",
    "Attribute.references": "name of an entity, or a block",
    "Attribute.column": "text, or a list",
    "Source.key": "text, or a list",
    "Target.key": "text, or by attribute",
}

KEYS_AND_REFERENCES = """
## Keys and references

A table that keeps its keys, and a junction whose items are found by both of its columns:

```yaml
  album:
    source: {table: album, key: code}
    target: {table: "Albums-{environment}", key: {pk: "ALBUM#{code}"}}
    attributes:
      artist: {column: artist_id, references: artist, optional: true}
  track:
    source: {table: track, key: [album, nr]}
    target: {table: "Tracks-{environment}", key: {album: keep, sk: "TRACK#{nr:04}"}}
    attributes:
      album: {column: album, references: album}
      label: {value: "{title} of {@album}", type: string}
```

- **A key** with `new_id` takes a UUID made of the entity and the row's key. `keep` and `{column: c}` take the column's
  value: a number if the source declares the column as an integer, else text, unless an attribute of that name gives the
  type. Other texts are templates.
- **A template** has `{column}` for the value as SQLite holds it, an integer or text; `{column:010}` for a whole number
  filled up to ten digits; `{@attribute}` for the converted value of an attribute; `{{` and `}}` for braces. A row is
  rejected if a part of its key is NULL, a real number or a BLOB. In a `value`, a NULL part leaves the attribute out.
- **Each column of `source.key`** must be in a part of the item's key alone, or the key must have a `new_id`, so that no
  two rows can have one key. All columns of the item's key must be in `source.key`, so a row keeps its key for as long
  as it exists.
- **A reference** holds the key of the parent's item, with its type. If the parent's source key has several columns,
  `column` lists as many. `references: {entity: artist, by: name}` finds the parent by another unique column. If the key
  of the parent's items has two attributes, `part` says which of them the reference takes.
- **A reference finds its parent as SQLite's own foreign key does:** by the affinity of the parent's column, and by the
  collation of its unique index. Where case is ignored, `abc` finds `ABC`, and the item holds the parent's spelling.
- **A collation that only the application has,** such as Anki's `unicase`, is not known here. Tables whose schema names
  it are compared byte by byte, its indexes are not checked, and the report says so. A `where` that needs it is refused.
- **NULL in a reference** is a reject. With `optional: true` it is a DynamoDB NULL, and left out of index keys.
- **A secret key** stays out of logs, XComs, plans, rejects, reports and pages if its entity has `secret: true`. They
  show ••• and a digest, by which [the row is found](operations.md#refused). References to it are masked as well, and a
  key that is made of one needs `secret: true` too. Tables, backups, change sets, ID maps, the writers' results and the
  full lists of problems hold it.
- **A row id** (`rowid`) is not the row's own: SQLite gives it to another row after a delete, and VACUUM may renumber
  all. `identity` tells whether a row is still the same. If over 10 % of the rows are not, the run is refused before any
  write, unless the param `allow_renumbered` is set.
- **With kept keys** a deleted row that comes back has its old key again. A new id is never given twice.
"""

QUERIES = """
## Queries and conditions

SQL says which rows there are, and what shape they have: joins, filters, computed values, embedded children.

```yaml
  invoice:
    source:
      key: id
      query: |
        SELECT i.id, i.total, c.name AS customer,
               (SELECT json_group_array(json_object('track', l.track, 'price', l.price))
                  FROM (SELECT * FROM line ORDER BY id) l WHERE l.invoice = i.id) AS lines
          FROM invoice i JOIN customer c ON c.id = i.customer
    target: {table: "Invoices-{environment}", key: {id: keep}}
    attributes:
      customer: {column: customer, type: string}
      lines: {column: lines, type: json}
  sale:
    source: {table: line, key: id, where: "invoice IN (SELECT id FROM invoice WHERE paid)"}
    target: {table: "Sales-{environment}", key: sale_id}
    attributes: {track: {column: track, type: string}}
```

- **A query** is one SELECT without a semicolon. Each run executes it on the backup, and keeps its rows on the worker's
  disk, in SQLite's temporary folder (`SQLITE_TMPDIR` or `TMPDIR`). An edited child changes the item that it is embedded
  in, and no other. The rows that two runs find are compared by the key, which may be computed. A row whose key is NULL,
  or occurred before, is a reject.
- **Its columns** have names of their own: `expression AS name`. The key, and a column that references find rows by,
  have the affinity of the table's column or the CAST that they are; other values stay as they are. Collations are
  lost: texts are compared byte by byte. The types of attributes come from the mapping.
- **Order what has an order**, as the lines above: SQLite promises no order of what an aggregate collects, or of the
  rows that a LIMIT takes.
- **`where`** is a condition on each row of a table.
- **Both may only read the source**, and must find the same in every run on the same source. `random()` and its like,
  `CURRENT_TIMESTAMP`, and a date function without a date, with `'now'`, `'localtime'` or `'utc'` are refused, in views
  of the source too. So are PRAGMA functions and the functions of full-text search, except MATCH.
"""


def write_params() -> str:
    """Return docs/params.md."""
    lines = [
        "# Params",
        "",
        NOTICE.format(source="include/accession/params.py"),
        "",
        "Params of the two DAGs that each mapping has. In Airflow, the trigger form shows them under their titles. On "
        "the command line they go into `CONF`, as in `CONF='{\"max_rejects\": 2}'`. A param that does not exist is "
        "refused.",
    ]
    for dag, model in (("migrate", MigrateParams), ("rollback", RollbackParams)):
        lines += ["", f"## {dag}_&lt;mapping&gt;", ""]
        schema = model.model_json_schema()
        rows = [
            (
                f"`{name}`",
                field.get("title", ""),
                _describe_kind(field),
                _show_default(field),
                field.get("description", ""),
            )
            for name, field in schema["properties"].items()
        ]
        lines += _make_table(("param", "title in the form", "takes", "default", "what it does"), rows)
        old_names: dict[str, str] = getattr(model, "old_names", {})
        if old_names:
            named = ", ".join(f"`{old}` for `{new}`" for old, new in old_names.items())
            lines += ["", f"Old names are accepted with a warning for one version: {named}."]
    return "\n".join([*lines, ""])


def write_mapping() -> str:
    """Return docs/mapping.md."""
    lines = [
        "# Mapping files",
        "",
        NOTICE.format(source="include/accession/mapping"),
        "",
        "A mapping file says what goes where. Each file `include/mappings/<name>.yaml` makes two DAGs, "
        "`migrate_<name>` and `rollback_<name>`. The file is checked when it is loaded; an error names the file, the "
        "entity and the key. Unknown keys are errors.",
        "",
        "The home library's mapping:",
        "",
        "```yaml",
        HOME_LIBRARY.read_text().rstrip("\n"),
        "```",
    ]
    for title, model, hidden in (
        ("The file", Mapping, {"sha256"}),
        ("Entity", Entity, {"name"}),
        ("Source", Entity.model_fields["source"].annotation, set[str]()),
        ("Target", Entity.model_fields["target"].annotation, set[str]()),
        ("Attribute", Attribute, set[str]()),
    ):
        assert isinstance(model, type) and issubclass(model, BaseModel)
        lines += ["", f"## {title}", ""]
        if model is not Mapping and model.__doc__:
            lines += [model.__doc__.strip(), ""]
        lines += _make_table(("key", "takes", "default", "what it says"), _list_keys(model, hidden))
    lines += [
        "",
        "A column type may have options, which are keys of the attribute too.",
        *(KEYS_AND_REFERENCES.rstrip("\n") + "\n" + QUERIES.rstrip("\n")).split("\n"),
        "",
        "## Column types",
        "",
        "A value that cannot be what its type says is a reject.",
        "",
    ]
    lines += _make_table(("type", "index key", "default", "what it does"), _list_types())
    lines += [
        "",
        "SQL NULL becomes a DynamoDB NULL, and an empty text stays empty. A `default` of the attribute replaces both. "
        "In index keys both are left out, since DynamoDB refuses them there; the report counts such items as "
        "adjusted.",
    ]
    return "\n".join([*lines, ""])


def write_settings() -> list[str]:
    """Return the table of the settings in docs/deployment.md."""
    rows = [
        (f"`{name}`", _describe_setting(field), _show_setting(field), field["description"])
        for name, field in Deployment.model_json_schema()["properties"].items()
    ]
    return _make_table(("option", "takes", "default", "what it does"), rows)


def _describe_setting(field: dict[str, Any]) -> str:
    return "list" if field.get("type") == "array" else _describe_kind(field)


def _show_setting(field: dict[str, Any]) -> str:
    default = field.get("default")
    return f"`{', '.join(default)}`" if isinstance(default, list) and default else _show_default(field)


def replace_table(path: Path, name: str, lines: list[str]) -> str:
    """Return a document with the lines between its two marks of that name replaced."""
    begin, end = f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text().partition(begin)
    return "\n".join([f"{before}{begin}", "", *lines, "", f"{end}{rest.partition(end)[2]}"])


def _list_keys(model: type[BaseModel], hidden: set[str]) -> Iterator[tuple[str, ...]]:
    schema = model.model_json_schema()
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        if name in hidden:
            continue
        description = model.model_fields[name].description or NOTES.get(f"{model.__name__}.{name}")
        if not description:
            raise SystemExit(f"{model.__name__}.{name} has no description: give its Field one.")
        default = "required" if name in required else _show_default(field)
        kind = KINDS.get(f"{model.__name__}.{name}") or _describe_kind(field)
        yield f"`{name}`", kind, default, _make_sentence(description)


def _list_types() -> Iterator[tuple[str, ...]]:
    for name, column_type in COLUMN_TYPES.items():
        default = column_type.default.takes if column_type.default else "none"
        options = [
            f"Option `{option}`, {known.doc}: "
            f"{', '.join(f'`{choice}`' for choice in known.choices) or 'text'}; by default `{known.default}`."
            for option, known in column_type.options.items()
        ]
        yield f"`{name}`", column_type.key_type or "no", default, " ".join([column_type.doc, *options])


def _describe_kind(field: dict[str, Any]) -> str:
    """Return what a field takes, in a few words."""
    kinds = [kind for kind in field.get("anyOf", [field]) if kind.get("type") != "null"]
    return " or ".join(dict.fromkeys(_describe_one(kind) for kind in kinds))


def _describe_one(kind: dict[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rsplit("/", 1)[1]
        return f"[{name.lower()}](#{name.lower()})"
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    match kind.get("type"):
        case "boolean":
            return "true or false"
        case "integer" | "number" as number:
            low, high = kind.get("minimum"), kind.get("maximum")
            bounds = f", {low:,} to {high:,}" if low is not None and high is not None else ""
            return f"{number}{bounds}"
        case "array":
            return f"list of {_describe_kind(kind['items'])}" if "items" in kind else "list"
        case "object":
            return f"by name, {_describe_kind(kind['additionalProperties'])}"
        case _:
            pattern = kind.get("pattern", "")
            return f"text like `{pattern}`" if 0 < len(pattern) <= SHOWN_PATTERN else "text"


def _show_default(field: dict[str, Any]) -> str:
    default = field.get("default")
    if default in (None, "", []):
        return "none"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _make_sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


def _make_table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    return ["| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in line) + " |" for line in lines]


def main() -> int:
    """Write the documents; with --check, compare them instead. Return 1 if one is stale."""
    documents = {
        DOCS / "params.md": write_params(),
        DOCS / "mapping.md": write_mapping(),
        DOCS / "ownership.md": write_ownership(NOTICE.format(source="tests/protocol")),
    }
    for path, name, lines in (
        (DOCS / "deployment.md", "settings", write_settings()),
        (DOCS.parent / "SECURITY.md", "attacks", write_table()),
    ):
        documents[path] = replace_table(path, name, lines)
    stale = [path for path, text in documents.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(DOCS.parent)} is stale: run `make docs`.", file=sys.stderr)
        return 1 if stale else 0
    for path in stale:
        path.write_text(documents[path])
        print(f"wrote {path.relative_to(DOCS.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
