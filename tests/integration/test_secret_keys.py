"""Secret keys: they are in the tables and in the artifacts that machines read, and nowhere that people look."""

import csv
import io
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from accession.audit import audit_target, open_cached_map, search_conflicts, search_ids, search_rejects
from accession.errors import AccessionError, ConflictError, RefusedError, SourceError, VerificationError
from accession.items import find_mask
from accession.mapping import load_mapping
from accession.run import show_plan, show_summary
from conftest import REPO, Library
from driver import Driver
from sessions import MAPPING, SECRET, TOKENS, write_sessions
from tables import create_tables

COVERED = re.compile(r"^•••[0-9a-f]{10}$")


@pytest.fixture
def make(library: Library, tmp_path: Path) -> Callable[..., Driver]:
    source, mapping = write_sessions(tmp_path, library)
    return lambda **params: Driver(library, source, mapping=mapping, **{"max_rejects": 9, **params})


def edit(driver: Driver, script: str) -> None:
    with closing(sqlite3.connect(driver.source)) as db, db:
        db.executescript(script)


def change_item(driver: Driver, entity: str, token: str) -> None:
    """Change an item as the application does."""
    name = driver.mapping.entities[entity].table(driver.library.environment)
    [item] = [item for item in driver.scan(entity) if token in json.dumps(item)]
    client = driver.library.aws.client("dynamodb")
    client.put_item(TableName=name, Item=item | {"seen": {"S": "by the application"}})


def find_shown(driver: Driver) -> dict[str, str]:
    """What the bucket has for people: neither backups, change sets, ID maps, progress nor lists of problems."""
    kept = re.compile(r"^backups/|/changes/|/id_map/|/progress/|/verification/.*\.jsonl\.gz$|^verify_register-")
    return {path: driver.store.get(path).decode() for path in driver.store.list() if not kept.search(path)}


def expect_covered(driver: Driver, *texts: str) -> None:
    shown = find_shown(driver)
    assert any(path.endswith("manifest.json") for path in shown)
    for where, text in [*shown.items(), *(("a text", text) for text in texts)]:
        assert not SECRET.search(text), where


def fail(error: type[AccessionError], call: Callable[[], Any]) -> str:
    with pytest.raises(error) as raised:
        call()
    return str(raised.value)


def test_what_a_run_leaves_for_people_covers_secret_keys(
    make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "accession")
    driver = make()
    report = driver.run()
    assert report.status == "verified"
    plan = driver.steps.folder.load_plan()
    assert all(entity.samples for entity in plan.entities.values())
    expect_covered(driver, show_plan(plan), show_summary(report), caplog.text)
    assert SECRET.search(str(driver.changes("session"))), "the change set holds them"
    assert sorted(item["token"]["S"] for item in driver.scan("session")) == sorted(
        token for token in TOKENS if token != "tok-h"
    )
    assert audit_target(driver.store).ok


def test_without_secret_the_keys_are_shown(make: Callable[..., Driver], tmp_path: Path) -> None:
    """So the search for them can find some."""
    (tmp_path / "sessions.yaml").write_text(MAPPING.replace("    secret: true\n", ""))
    mapping, driver = load_mapping(tmp_path / "sessions.yaml"), make()
    driver = Driver(driver.library, driver.source, mapping=mapping, max_rejects=9)
    driver.run()
    found = {path.rpartition("/")[2] for path, text in find_shown(driver).items() if SECRET.search(text)}
    assert {"plan.json", "rejects.csv", "report.html"} <= found


def test_a_reject_is_found_again_by_its_digest(make: Callable[..., Driver]) -> None:
    driver = make()
    driver.run()
    rejects = list(csv.DictReader(io.StringIO(find_shown(driver)[driver.steps.folder.path("rejects.csv")])))
    assert [(row["entity"], row["reason"]) for row in rejects] == [
        ("session", "expires: 'soon' is not a number"),
        ("session", "token holds text that is not valid Unicode"),
        ("visit", "token ••• refers to a row of session that was rejected itself"),
        ("event", "token ••• refers to a row of session that was rejected itself"),
        ("event", "token ••• refers to no session"),
    ]
    assert [row["key"] for row in rejects if row["entity"] == "event"] == ["7", "99"]
    assert all(COVERED.match(row["key"]) for row in rejects if row["entity"] != "event")
    assert len({row["key"] for row in rejects}) == 5
    mask = driver.steps.find_mask("session")
    assert rejects[0]["key"] == mask.show("tok-h")
    edit(driver, "UPDATE session SET user = 'other' WHERE token = 'tok-h'")
    second = make()
    second.run()
    again = list(csv.DictReader(io.StringIO(find_shown(second)[second.steps.folder.path("rejects.csv")])))
    assert (again[0]["key"], again[0]["since"]) == (rejects[0]["key"], "remaining")


def test_the_program_of_the_operations_page_finds_the_row_of_a_digest(
    make: Callable[..., Driver], tmp_path: Path
) -> None:
    driver = make()
    driver.run()
    [program] = re.findall(r"```python\n(.*?)```", (REPO / "docs/operations.md").read_text(), re.DOTALL)
    (tmp_path / "find_key.py").write_text(program)
    for entity, token, wanted in (("session", TOKENS[7], "rejects"), ("lock", TOKENS[2], "id_map")):
        index = driver.index(entity)
        file = driver.store.download(driver.store.path(index.id_map), tmp_path / f"{entity}.db")
        digest = driver.steps.find_mask(entity).show(token).removeprefix("•••")
        command = [sys.executable, str(tmp_path / "find_key.py"), str(file), str(driver.manifest.namespace), digest]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout == f"{wanted} {token}\n"


def test_conflicts_and_drift_are_listed_without_the_keys(
    make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    make().run()
    edit(make(), "UPDATE session SET expires = expires + 100 WHERE token IN ('tok-b', 'tok-c', 'tok-d');"
                 "DELETE FROM visit WHERE token = 'tok-f'; UPDATE lock SET held = 0 WHERE token = 'tok-c'")  # fmt: skip
    for entity in ("session", "visit", "lock"):
        change_item(make(), entity, "tok-b" if entity != "lock" else '{"N": "1"}')
    refused = make()
    message = fail(RefusedError, refused.run)
    expect_covered(refused, message, show_plan(refused.steps.folder.load_plan()), caplog.text)
    kept = make(on_conflict="keep")
    kept.preflight()
    kept.stage_all()
    kept.plan()
    change_item(kept, "session", "tok-c")  # which the writer meets
    kept.open()
    kept.migrate_all()
    proofs = [kept.verify(name) for name in kept.mapping.order]
    report = kept.end()
    assert report.totals["conflicts"] == 2
    listed = [problem for proof in proofs for problem in proof.listed]
    assert {problem.kind for problem in listed} == {"held", "drifted"}
    assert all(COVERED.match(problem.key) and COVERED.match(str(problem.old_key)) for problem in listed)
    expect_covered(kept, str(proofs), show_plan(kept.steps.folder.load_plan()), caplog.text)
    assert "left as it is" in caplog.text


def test_errors_do_not_name_secret_keys(make: Callable[..., Driver], caplog: pytest.LogCaptureFixture) -> None:
    driver = make()
    driver.preflight()
    driver.stage_all()
    driver.plan()
    driver.open()
    driver.migrate_all()
    client, table = driver.library.aws.client("dynamodb"), f"Sessions-{driver.library.environment}"
    change_item(driver, "session", "tok-d")
    client.delete_item(TableName=table, Key={"token": {"S": "tok-e"}})
    failed = fail(VerificationError, lambda: driver.verify("session"))
    assert re.search(r"1 mismatched, 1 missing|1 missing, 1 mismatched", failed)
    for name in ("visit", "lock", "event"):
        driver.verify(name)
    driver.end(is_verified=False, failure=failed)
    conflict = fail(ConflictError, driver.undo)
    assert re.search(r"The first is •••[0-9a-f]{10} in Sessions-", conflict)
    rollback = driver.steps.folder.find_rollback()
    assert rollback is not None and rollback.conflicts
    assert all(COVERED.match(one["key"]) and COVERED.match(one["old_key"]) for one in rollback.conflicts)
    driver.undo(accept_conflicts=True)
    expect_covered(driver, failed, conflict, caplog.text)


def test_a_writer_that_meets_conflicts_does_not_name_them(
    make: Callable[..., Driver], caplog: pytest.LogCaptureFixture
) -> None:
    make().run()
    edit(make(), "UPDATE session SET expires = 50 WHERE token = 'tok-b'")
    driver = make()
    driver.stage_all()
    driver.plan()
    change_item(driver, "session", "tok-b")
    driver.open()
    message = fail(RefusedError, driver.migrate_all)
    assert re.search(r"the first is •••[0-9a-f]{10}\.", message)
    expect_covered(driver, message, caplog.text)


def test_items_that_are_gone_are_not_named(make: Callable[..., Driver]) -> None:
    edit(make(), "UPDATE session SET expires = 7 WHERE token = 'tok-h'; DELETE FROM session WHERE user = 'x';"
                 "DELETE FROM event WHERE id = 99;")  # fmt: skip
    make().run()
    driver = make()
    client = driver.library.aws.client("dynamodb")
    for item in driver.scan("session"):
        client.delete_item(TableName=f"Sessions-{driver.library.environment}", Key={"token": item["token"]})
    message = fail(RefusedError, driver.run)
    assert re.search(r"are gone, the first is •••[0-9a-f]{10}, and nothing changed", message)


def test_two_keys_that_read_alike_are_refused_without_them(library: Library, tmp_path: Path) -> None:
    source, file = tmp_path / "site.db", tmp_path / "mapping.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript("CREATE TABLE lock (token PRIMARY KEY, held); INSERT INTO lock VALUES ('4711', 1), (4711, 2);")
    file.write_text("name: locks\nentities:\n" + MAPPING[MAPPING.index("  lock:") : MAPPING.index("  event:")])
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    driver = Driver(library, source, mapping=mapping)
    driver.start()
    message = fail(SourceError, lambda: driver.stage("lock"))
    assert re.search(r"The first such key is •••[0-9a-f]{10}\.", message)
    assert "4711" not in message


def test_entities_that_share_a_table_cover_the_keys_of_the_secret_one(library: Library, tmp_path: Path) -> None:
    source, file = tmp_path / "site.db", tmp_path / "mapping.yaml"
    with closing(sqlite3.connect(source)) as db, db:
        db.executescript(
            """CREATE TABLE token (id INTEGER PRIMARY KEY, token TEXT);
            CREATE TABLE page (id INTEGER PRIMARY KEY, path TEXT);
            INSERT INTO token VALUES (1, 'tok-a'), (2, 'tok-b'), (3, 'tok-b');
            INSERT INTO page VALUES (7, 'home'), (8, 'about'), (9, 'tok-a');"""
        )
    table = '{table: "Shared-{environment}", key: {pk: "{%s}"}}'
    file.write_text(
        "name: shared\nentities:\n"
        f"  page: {{source: {{table: page, key: id}}, target: {table % 'path'}}}\n"
        f"  token: {{source: {{table: token, key: id}}, target: {table % 'token'}, secret: true}}\n"
    )
    mapping = load_mapping(file)
    create_tables(library.aws.client("dynamodb"), mapping, source, library.environment)
    driver = Driver(library, source, mapping=mapping, max_rejects=9)
    driver.stage_all()
    driver.plan()
    shown = driver.steps.find_mask("token").show
    assert driver.rejects("token") == {
        1: f"id: its key {shown('tok-a')} is also that of page {shown(9)}",
        2: f"id: its key {shown('tok-b')} is also that of token {shown(3)}",
        3: f"id: its key {shown('tok-b')} is also that of token {shown(2)}",
    }
    assert driver.rejects("page") == {9: f"id: its key {shown('tok-a')} is also that of token {shown(1)}"}
    driver.open()
    driver.migrate_all()
    client, name = library.aws.client("dynamodb"), f"Shared-{library.environment}"
    client.put_item(TableName=name, Item={"pk": {"S": "tok-unknown"}})
    client.delete_item(TableName=name, Key={"pk": {"S": "home"}})
    message = fail(VerificationError, lambda: driver.verify("page"))
    assert f"{shown('tok-unknown')} (not ours)" in message
    assert "home (written by this run, and not there)" in message
    expect_covered(driver, message)


def test_the_searches_of_the_audit_pages_take_digests_and_no_pieces_of_keys(make: Callable[..., Driver]) -> None:
    make().run()
    edit(make(), "UPDATE session SET expires = 50 WHERE token = 'tok-b'")
    change_item(make(), "session", '"user1"')
    driver = make(on_conflict="keep")
    driver.run()
    mask, staged = find_mask(driver.mapping, "session", driver.manifest.namespace), driver.index("session")
    with open_cached_map(driver.store, driver.store.path(staged.id_map), staged.id_map_sha256) as id_map:
        assert search_rejects(id_map, mask, "", 1, 50).total == 2
        assert search_rejects(id_map, mask, "tok-", 1, 50).lines == []
        [reject] = search_rejects(id_map, mask, "soon", 1, 50).lines
        assert search_rejects(id_map, mask, reject.old_key, 1, 50).lines == [reject]
        [conflict] = search_conflicts(id_map, mask, "", 1, 50).lines
        assert conflict.old_key == conflict.column == mask.show("tok-b")
        assert search_conflicts(id_map, mask, "tok-", 1, 50).lines == []
        for wanted in (mask.show("tok-d"), mask.show("tok-d").removeprefix("•••")):
            [entry] = search_ids(id_map, mask, "session", wanted)
            assert (entry.old_key, entry.new_id) == (mask.show("tok-d"), mask.show("tok-d"))
        assert search_ids(id_map, mask, "session", "tok-d") == []
