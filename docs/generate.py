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
from accession.mapping import MAPPINGS, Attribute, Entity, Mapping, TableIndex, TargetTable
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
    "Mapping.tables": "by name, [table](#table)",
    "TargetTable.key": "by attribute, `string` or `number`",
    "TargetTable.indexes": "by name, [index](#index)",
    "TableIndex.key": "list",
    "TableIndex.project": "text, or a list",
}

DRAFT = """
## Draft a mapping

`make draft SOURCE=/path/to/shop.db NAME=shop` reads a database and writes `shop.yaml` into `include/mappings`, or into
the folder that `ACCESSION_MAPPINGS` or `OUT` names. It prints what it drafted, what a person must decide, and the next
commands. The database is read as of one moment, with the rows in its WAL, and is not changed. The draft loads as it
is, and edits are yours.

- **Keys stay as they are.** The key of a table is its primary key, else the shortest UNIQUE key that is NOT NULL, else
  the `rowid`, with a new id and an identity. Two columns become the two attributes of the item's key; of three and
  more, the sort key is a template of all but the first. A key is passed over if a row of the source could not be found
  by it: a NULL, an empty text, a BLOB, a real number.
- **Declared foreign keys are references.** They are `optional` if they may be NULL. Some cannot be followed, such as
  one to a view or to a missing table: its columns are drafted as plain values, and a comment says why.
- **Types follow from the declared type and from all stored values.** A date or a time is drafted if every value is one,
  and no type is drafted that rejects a stored value. A column of mixed values is `auto`, which changes nothing. If no
  type takes a value, such as a text that is not Unicode, a comment says so.
- **Indexes** follow from foreign keys and from indexes of one or two columns, up to 20 for a table.
- **Columns that are named like secrets** or personal data are `sensitive`, and an entity whose key is one is `secret`.
- **Comments that begin with `Decide`** are for a person: a table without a key, a key that looks like a secret, a
  column that looks like a reference, a text that looks like a list or like JSON, rows that refer to nothing.
- **Left out** are views, virtual tables with the tables that they keep their content in, what SQLite cannot read, and
  tables that have neither a rowid nor a key that a row of theirs could be found by. The file says why.
- **`NEW_IDS=1`** gives new ids to integer keys, as the home library has them. An undeclared reference would then keep
  the old id, so each column that looks like one is asked about.

If the file exists, nothing is written: `make draft` says which tables and columns the database has and the file has
not, and the other way round. It exits 0 if they agree, and 1 if not.
"""

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
  type. Other texts are templates. If a key has a `new_id` and another part, and that part changes, so does the new id.
- **A template** has `{column}` for the value as SQLite holds it, an integer or text; `{column:010}` for a whole number
  filled up to ten digits; `{@attribute}` for the converted value of an attribute; `{{` and `}}` for braces. A row is
  rejected if a part of its key is NULL, a real number or a BLOB. In a `value`, a NULL part leaves the attribute out.
- **Two rows with one key** are both rejected, and each reject names the other row. In later runs the item that is there
  keeps its key, and the newcomer is rejected until the key is free. A key that one row gives up and another takes in
  the same run is one update. Two rows cannot have one key if each column of `source.key` makes a part of it alone, or
  if the key has a `new_id`. Otherwise staging reads the rows twice.
- **A key may be made of other columns** than those of `source.key`. When such a column changes, the item with the old
  key is deleted and one with the new key is put.
- **A reference** holds the key of the parent's item, with its type. If the parent's source key has several columns,
  `column` lists as many. `references: {entity: artist, by: name}` finds the parent by another unique column. If the key
  of the parent's items has two attributes, `part` says which of them the reference takes.
- **Circles of references** are possible, also from a row to itself, if no key or `identity` in the circle is made of
  such a reference. Entities in a circle are staged by one task. If one of their rows is rejected, so are those that
  refer to it, around the whole circle.
- **Entities may share a table** if their keys have the same attributes. Keys of two entities cannot be the same if a
  part of them begins or ends with different texts, as in `ARTIST#{id}` and `ALBUM#{id}`. Otherwise the entities are
  staged by one task, and rows with one key are rejected as above. A shared table is proved once, as a whole.
- **A reference finds its parent as SQLite's own foreign key does:** by the affinity of the parent's column, and by the
  collation of its unique index. Where case is ignored, `abc` finds `ABC`, and the item holds the parent's spelling.
- **A collation that only the application has,** such as Anki's `unicase`, is not known here. Tables whose schema names
  it are compared byte by byte, its indexes are not checked, and the report says so. A `where` that needs it is refused.
  Indexes that need a function of the application are not checked either, and the log says so.
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
               (SELECT json_group_array(json_object('track', track, 'price', price))
                  FROM (SELECT * FROM line WHERE invoice = i.id ORDER BY id)) AS lines
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
  rows that a LIMIT takes. The condition stands beside the ORDER BY: outside of the parentheses, it may be met through
  an index that has another order. `make lint-mapping` finds this.
- **Numbers in JSON**: SQLite writes a REAL with 15 digits into it.
- **`where`** is a condition on each row of a table.
- **Both may only read the source**, and must find the same in every run on the same source. `random()` and its like,
  `CURRENT_TIMESTAMP`, and a date function without a date, with `'now'`, `'localtime'` or `'utc'` are refused, in views
  of the source too. So are PRAGMA functions and the functions of full-text search, except MATCH.
"""

TABLES = """
## Tables

An entity lists the indexes of its table as above. A table whose indexes need more is listed under `tables`, then with
all its indexes:

```yaml
tables:
  "Shop-{environment}":
    key: {pk: string, sk: string}
    indexes:
      gsi1: {key: [gsi1pk, sk], project: keys}
      place: {key: [country, [state, city]], project: [name]}
```

- **The key** has the names that `target.key` has, in its order. Its types hold whatever the source declares, so a kept
  integer may be text, and the other way round.
- **An index binds all entities of its table**, whoever lists it: those that have an attribute of its key make it of one
  type.
- **A part of an index's key** may have up to four attributes: `place` is asked for a country, for a country and a
  state, or for all three. Its attributes together are as long as a key may be: 2,048 bytes for a partition key,
  1,024 for a sort key.
- **An item that lacks a key of an index** is not in the index. NULL and '' are left out of its keys.
- **`project`** says what the index holds beside the keys. Write units count the size of that. Proof looks items up
  through each index and recognises them by their own key, which every index holds.
- **The type of an index key** is that of its attribute. For a table under `tables` it must follow from the mapping: a
  reference has the type of the parent's key, so declare that key under `attributes` of the parent, or the parent's
  table under `tables`.
- `make deploy MAPPING=<name> ENVIRONMENT=dev` [makes the tables](deployment.md#tables) by this, and
  `make template MAPPING=<name>` prints the CloudFormation template.
"""

LINT = """
## Check a mapping against a source

`make lint-mapping MAPPING=shop SOURCE=shop.db` checks a mapping against a SQLite file, without Airflow and without AWS.
It finds all faults at once, each with its line in the file: tables and columns that do not exist, keys that repeat, SQL
that is refused, and SQL whose result depends on the order in which SQLite reads rows (it executes that twice, once with
`PRAGMA reverse_unordered_selects`). If there are none, it reads every row as a first run into empty tables would, and
says how many rows of each entity that run would reject, and why.

It exits with 1 if the mapping is wrong, and with 0 if at most rows would be rejected.
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
        "entity and the key. Unknown keys are errors. [Mapping files by example](mapping-tour.md) shows eight of them "
        "with the items that they make.",
        "",
        "The home library's mapping:",
        "",
        "```yaml",
        HOME_LIBRARY.read_text().rstrip("\n"),
        "```",
        *DRAFT.rstrip("\n").split("\n"),
    ]
    for title, model, hidden in (
        ("The file", Mapping, {"sha256"}),
        ("Table", TargetTable, set[str]()),
        ("Index", TableIndex, set[str]()),
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
        *"\n".join(part.rstrip("\n") for part in (KEYS_AND_REFERENCES, QUERIES, TABLES, LINT)).split("\n"),
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
