"""A database that nobody mapped: draft, migrate, run again, edit and undo, by the draft as it was written.

The tables are compared with SQL on the source, by code that shares nothing with the draft and the transforms: an item
is its row, for keys and references are kept.
"""

import base64
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target
from accession.draft import compare_schema, draft_mapping
from accession.mapping import load_mapping
from conftest import Library
from driver import Driver
from fixtures.blog import write_blog
from fixtures.tracker import write_tracker
from tables import create_tables, edit, later, scan_all

TIMES = {"applied", "last_login", "date_joined", "expire_date", "published"}
FLAGS = {"is_superuser", "done"}
# Table → what stands in the items for a column, or beside the columns, in SQL.
MADE = {
    "blog_comment": {"author_name": "(SELECT id FROM auth_user WHERE username = author_name)"},
    "step": {"nr_position": "nr || '#' || position"},
    "needs": {"nr_other_project_other_nr": "nr || '#' || other_project || '#' || other_nr"},
    "task_label": {"nr_label": "nr || '#' || label"},
}
NEW_IDS = {"worklog": "worklog_id", "attachment": "attachment_id"}


def draft(library: Library, folder: Path, write: Callable[[Path], Path], *, new_ids: bool = False) -> Driver:
    """Draft the mapping of a database, make its tables, and return the driver of the first run."""
    source, file = write(folder / "own.db"), folder / "own.yaml"
    file.write_text(draft_mapping(source, "own", new_ids=new_ids).text, encoding="utf-8")
    mapping = load_mapping(file)
    assert compare_schema(source, mapping) == []
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    return Driver(library, source, mapping=mapping)


@pytest.fixture(params=[write_blog, write_tracker], ids=["blog", "tracker"])
def own(request: pytest.FixtureRequest, library: Library, tmp_path: Path) -> Iterator[Driver]:
    yield draft(library, tmp_path, request.param)


def read_table(driver: Driver, name: str) -> list[str]:
    """The items that a table must hold: each row, without what an index leaves out."""
    entity = driver.mapping.entities[name]
    description = driver.library.aws.client("dynamodb").describe_table(
        TableName=entity.table(driver.library.environment)
    )["Table"]
    indexed = {
        key["AttributeName"] for index in description.get("GlobalSecondaryIndexes", ()) for key in index["KeySchema"]
    }
    table = entity.source.table
    with closing(sqlite3.connect(driver.source)) as db:
        columns = {row[1]: f'"{row[1]}"' for row in db.execute(f'PRAGMA table_xinfo("{table}")')}
        columns |= {name: f"strftime('%Y-%m-%dT%H:%M:%S', {name}) || iif(instr({name}, '.'), substr({name}, 20), '') "
                          "|| '+00:00'" for name in TIMES & columns.keys()}  # fmt: skip
        columns |= MADE.get(str(table), {})
        rows = db.execute(f'SELECT {", ".join(columns.values())} FROM "{table}"').fetchall()
    items = []
    for row in rows:
        item = dict(zip(columns, row, strict=True))
        item = {name: bool(value) if name in FLAGS else value for name, value in item.items()}
        items.append(
            {name: show(value) for name, value in item.items() if value not in (None, "") or name not in indexed}
        )
    return sorted(json.dumps(item, sort_keys=True) for item in items)


def show(value: Any) -> Any:
    """A value of SQLite in DynamoDB's typed JSON."""
    match value:
        case None:
            return {"NULL": True}
        case bool():
            return {"BOOL": value}
        case str():
            return {"S": value}
        case bytes():
            return {"B": base64.b64encode(value).decode()}
        case _:
            return {"N": str(Decimal(str(value)).normalize() + 0)}


def scan_table(driver: Driver, name: str) -> list[str]:
    """The items of a table, without new ids."""
    items = []
    for item in driver.scan(name):
        item.pop(NEW_IDS.get(name, ""), None)
        items.append({name: show(Decimal(value["N"])) if "N" in value else read(value) for name, value in item.items()})
    return sorted(json.dumps(item, sort_keys=True) for item in items)


def read(value: dict[str, Any]) -> dict[str, Any]:
    return {"B": base64.b64encode(value["B"]).decode()} if isinstance(value.get("B"), bytes) else value


def expect_source(driver: Driver) -> None:
    """Compare every table with the source."""
    for name in driver.mapping.entities:
        assert scan_table(driver, name) == read_table(driver, name), name


def test_a_database_that_nobody_mapped_is_migrated_by_its_draft(own: Driver) -> None:
    assert own.run().status == "verified"
    expect_source(own)
    assert not any(own.rejects(name) for name in own.mapping.entities)
    assert later(own).run().status == "unchanged"
    assert audit_target(own.store).ok


def test_an_edited_row_is_one_item_and_its_undo_leaves_nothing(own: Driver) -> None:
    own.run()
    before = scan_all(own)
    is_blog = "blog_post" in own.mapping.entities
    table = "blog_post" if is_blog else "task"
    edit(own, f"UPDATE {table} SET title = 'edited' WHERE rowid = 30" if is_blog else
              f"UPDATE {table} SET title = 'edited', assignee = NULL WHERE project = 'P/2' AND nr = 3")  # fmt: skip
    second = later(own)
    assert second.run().status == "verified"
    expect_source(second)
    counts = {name: second.index(name).counts for name in own.mapping.entities}
    written = {name: count.put + count.updated + count.deleted for name, count in counts.items()}
    assert {name: number for name, number in written.items() if number} == {table: 1}
    second.undo()
    assert scan_all(own) == before
    own.undo()
    assert not any(own.scan(name) for name in own.mapping.entities)


def test_references_follow_new_ids(library: Library, tmp_path: Path) -> None:
    own = draft(library, tmp_path, write_blog, new_ids=True)
    assert own.run().status == "verified"
    assert not any(own.rejects(name) for name in own.mapping.entities)
    assert later(own).run().status == "unchanged"
    users = {item["auth_user_id"]["S"]: item for item in own.scan("auth_user")}
    permissions = {item["auth_permission_id"]["S"]: item for item in own.scan("auth_permission")}
    groups = {item["auth_group_id"]["S"]: item for item in own.scan("auth_group")}
    with closing(sqlite3.connect(own.source)) as db:
        posts = "SELECT slug, username FROM blog_post LEFT JOIN auth_user u ON u.id = author_id"
        assert sorted(db.execute(posts).fetchall(), key=str) == sorted(
            ((item["slug"]["S"], users[item["author_id"]["S"]]["username"]["S"] if "author_id" in item else None)
             for item in own.scan("blog_post")), key=str,
        )  # fmt: skip
        granted = """SELECT g.name, codename FROM auth_group_permissions JOIN auth_group g ON g.id = group_id
            JOIN auth_permission p ON p.id = permission_id"""
        assert sorted(db.execute(granted)) == sorted(
            (groups[item["group_id"]["S"]]["name"]["S"], permissions[item["permission_id"]["S"]]["codename"]["S"])
            for item in own.scan("auth_group_permissions")
        )
    own.undo()
    assert not any(own.scan(name) for name in own.mapping.entities)
