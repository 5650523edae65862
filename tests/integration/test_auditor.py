"""The auditor that each run puts into the bucket: sound targets, altered ones, forged ones, and table exports."""

import ast
import gzip
import hashlib
import json
import re
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest

from accession.artifacts import parse_attempts
from accession.audit import audit_target
from accession.errors import StoreError
from alterations import KINDS, FolderStore, alter, sign_again, write_state
from conftest import LocalAws, make_library
from driver import Driver
from histories import KEYS, History
from second_auditor import find_damage
from verify_register import NAMED, STAGED, Target

REPO = Path(__file__).parents[2]
AUDITOR = REPO / "include/verify_register.py"
ALTERATIONS = 27
BOUNDED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_AS, (512 * 1024 * 1024,) * 2)
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Sample(NamedTuple):
    """A downloaded target, the exports of its tables, and all that its state.json was before."""

    folder: Path
    exports: dict[str, Path]
    older_states: list[bytes]


@pytest.fixture(scope="module")
def both(aws: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sample]:
    """A target after a run that was written twice, one that was undone, and a seal; and after two more: the first lost
    the target to its resume, the second left it open."""
    place = tmp_path_factory.mktemp("lived")
    history = History(make_library(aws), place, seed=4)
    samples = {}
    for name, events in {
        "lived": ("write_twice", "undo_open", "add_item", "seal"),
        "left_open": ("seal", "lose_target", "die_open"),
    }.items():
        for event in events:
            getattr(history, event)()
        folder = place / name
        samples[name] = Sample(
            history.download(folder), history.export(place / f"{name}-export"), history.list_states()
        )
    return samples


@pytest.fixture(scope="module")
def lived(both: dict[str, Sample]) -> Sample:
    return both["lived"]


@pytest.fixture(scope="module")
def left_open(both: dict[str, Sample]) -> Sample:
    return both["left_open"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The bucket that version 0.1.0 left behind, and an export of its tables after the committed run."""
    place = tmp_path_factory.mktemp("old")
    fixture = REPO / "tests/fixtures/v0_1_0"
    with tarfile.open(fixture / "bucket.tar.gz") as archive:
        archive.extractall(place, filter="data")
    tables = {"user": "Users", "book": "Books", "user_book": "UserBooks"}
    items = json.loads((fixture / "after_first.json").read_text())
    for entity, name in tables.items():
        (place / entity).mkdir()
        with gzip.open(place / entity / "a.json.gz", "wt") as lines:
            lines.writelines(json.dumps({"Item": item}) + "\n" for item in items[f"BookLibrary-{name}-v010"])
    return Sample(place / "bucket/book_library/v010", {entity: place / entity for entity in tables}, [])


@pytest.fixture(params=["lived", "left_open", "old"])
def sample(request: pytest.FixtureRequest) -> Sample:
    found: Sample = request.getfixturevalue(request.param)
    return found


def verify(folder: Path, exports: dict[str, Path] | None = None) -> Target:
    target = Target(folder)
    target.verify(exports or {})
    return target


@cache
def verify_sound(folder: Path) -> Target:
    """Return what the auditor says of a sample, which does not change."""
    return verify(folder)


def copy(sample: Sample, place: Path) -> Path:
    return Path(shutil.copytree(sample.folder, place / "copy"))


def test_a_sound_target_is_sound_for_every_auditor(sample: Sample) -> None:
    assert verify(sample.folder).findings == []
    assert find_damage(sample.folder) == set()
    assert audit_target(FolderStore(sample.folder)).ok


def test_the_auditor_needs_nothing_but_python(sample: Sample) -> None:
    """It runs isolated, without site-packages, and exits as its verdict says."""
    imports = {
        alias.name
        for node in ast.walk(ast.parse(AUDITOR.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    assert imports <= sys.stdlib_module_names
    assert len(AUDITOR.read_text().splitlines()) <= 300
    command = [sys.executable, "-I", "-S", str(AUDITOR)]
    done = subprocess.run([*command, str(sample.folder.parents[1])], capture_output=True, text=True, check=False)
    assert (done.returncode, ": 0 findings" in done.stdout, done.stderr) == (0, True, "")


def test_findings_are_lines_and_the_exit_status(old: Sample, tmp_path: Path) -> None:
    folder = copy(old, tmp_path)
    plan = next(folder.glob("runs/*/plan.json"))
    plan.write_bytes(plan.read_bytes().replace(b'"writes": 20', b'"writes": 21'))
    command = [sys.executable, "-I", "-S", str(AUDITOR)]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    path = plan.relative_to(folder).as_posix()
    assert done.stdout.startswith(f"{path}: Its SHA-256 is {hashlib.sha256(plan.read_bytes()).hexdigest()}, and was ")
    assert subprocess.run([*command, str(tmp_path / "copy/log")], capture_output=True, check=False).returncode == 2


def test_a_part_that_unpacks_to_a_gigabyte_is_a_finding_and_not_a_load(old: Sample, tmp_path: Path) -> None:
    """Somebody who may write to the bucket can sign it again, so that no digest tells."""
    folder = copy(old, tmp_path)
    part = next(folder.glob("runs/*/changes/book/00000.jsonl.gz"))
    with gzip.open(part, "ab", compresslevel=1) as stream:
        stream.write(b'{"op": "')
        for _ in range(1024):
            stream.write(bytes(1024 * 1024))
    sign_again(folder)
    command = [sys.executable, "-I", "-S", "-c", BOUNDED, str(AUDITOR), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    path = part.relative_to(folder).as_posix()
    assert (done.returncode, done.stderr) == (1, "")
    assert [line for line in done.stdout.splitlines() if line.startswith(path)] == [
        f"{path}: It has a line of 16,777,216 bytes or more."
    ]
    assert path in find_damage(folder)


@pytest.mark.parametrize("seed", range(ALTERATIONS))
def test_every_alteration_is_found_by_both_auditors(
    lived: Sample, left_open: Sample, old: Sample, seed: int, tmp_path: Path
) -> None:
    """The second auditor is written from docs/format.md. 3,000 seeds on 154 other histories were tried once."""
    chance = Random(seed)
    sample, kind = chance.choice([lived, left_open, old]), KINDS[seed % len(KINDS)]
    sound = verify_sound(sample.folder)
    folder = copy(sample, tmp_path)
    changed = alter(folder, kind, chance, sample.older_states)
    target = verify(folder)
    assert target.damaged == find_damage(folder)
    if kind != "roll back" and not all(is_unvouched(sound, path) for path in changed):
        assert target.findings, (kind, changed)
        assert not audit_target(FolderStore(folder)).ok


def test_an_older_state_is_found_unless_it_means_the_same(left_open: Sample, tmp_path: Path) -> None:
    """Found by putting each earlier version back: an undo did not count any more, a run that wrote was forgotten."""
    folder, sound = copy(left_open, tmp_path), verify_sound(left_open.folder)
    meanings = set()
    for data in left_open.older_states:
        (folder / "state.json").write_bytes(data)
        target = verify(folder)
        assert target.damaged == find_damage(folder)
        is_same = (target.head, target.open, target.last) == (sound.head, sound.open, sound.last)
        assert is_same or (target.findings and not audit_target(FolderStore(folder)).ok), data
        meanings.add(is_same)
    assert False in meanings


@pytest.mark.parametrize(("attempt", "is_found"), [("1.0", False), ("9.1", True)])
def test_what_an_attempt_left_is_a_finding_unless_a_newer_one_left_something(
    lived: Sample, attempt: str, is_found: bool, tmp_path: Path
) -> None:
    folder = copy(lived, tmp_path)
    mark = next(folder.glob("runs/*/progress/user/00000.migrate.1.1.started"))
    added = mark.with_name(f"00000.migrate.{attempt}.started")
    added.write_bytes(mark.read_bytes())
    found = {added.relative_to(folder).as_posix()} if is_found else set()
    assert verify(folder).damaged == found
    assert find_damage(folder) == found
    assert {problem.path for problem in audit_target(FolderStore(folder)).problems} == found


def is_unvouched(target: Target, path: str) -> bool:
    """Tell whether no record vouches for an object, as docs/format.md lists under "What cannot be detected"."""
    run = path.split("/")[1] if path.startswith("runs/") and path.count("/") > 1 else ""
    if path in target.listed:
        return run == target.open and not re.fullmatch(STAGED, path)
    is_unended = f"runs/{run}/manifest.json" in target.files and (run == target.open or run not in target.ends)
    attempts = parse_attempts(other for other in target.files if run and other.startswith(f"runs/{run}/"))
    overtaken = {f"runs/{run}/{attempt.name}" for newest in attempts.values() for attempt in newest[:-1]}
    is_named = bool(re.fullmatch(NAMED, path)) or path.rpartition(".")[0] in overtaken
    return is_named or path.startswith("probe/") or (run != "" and is_unended)


def edit_json(folder: Path, pattern: str, edit: Callable[[Any], Any]) -> None:
    """Change the first document that a pattern finds. `edit` changes it in place."""
    file = sorted(folder.glob(pattern))[0]
    document = json.loads(file.read_bytes())
    edit(document)
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False))


def edit_lines(folder: Path, edit: Callable[[list[Any]], Any]) -> None:
    """Change the lines of the part that put the users."""
    file = sorted(folder.glob("runs/*/changes/user/0*.gz"))[0]
    lines = [json.loads(line) for line in gzip.decompress(file.read_bytes()).splitlines()]
    edit(lines)
    file.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines), mtime=0))


def edit_map(folder: Path, run: int, sql: str) -> None:
    """Change the users' ID map of a run, by its number."""
    with closing(sqlite3.connect(sorted(folder.glob("runs/*/id_map/user[.-]*db"))[run])) as db, db:
        db.execute(sql)


def edit_state(folder: Path, **changes: Any) -> None:
    """Change fields of the state, and its check with them."""
    write_state(folder, json.loads((folder / "state.json").read_bytes()) | changes)


def leave_out(lines: list[Any]) -> None:
    del lines[0]


def set_item(lines: list[Any]) -> None:
    lines[0]["item"]["email"] = {"S": "somebody@example.org"}


def set_item_and_checksum(lines: list[Any]) -> None:
    set_item(lines)
    text = json.dumps(lines[0]["item"], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    lines[0]["checksum"] = hashlib.sha256(text.encode()).hexdigest()


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a line is left out": (lambda f: edit_lines(f, leave_out), "changes/user/0"),
    "an item is changed": (lambda f: edit_lines(f, set_item), "changes/user/0"),
    "an item and its checksum": (lambda f: edit_lines(f, set_item_and_checksum), "id_map/user"),
    "the checksum of an entry": (lambda f: edit_map(f, 0, "UPDATE id_map SET checksum = zeroblob(32)"), "id_map/user"),
    "the state of an entry": (lambda f: edit_map(f, 0, "UPDATE id_map SET state = 'tombstone'"), "id_map/user"),
    "an entry of the head is gone": (lambda f: edit_map(f, 1, "DELETE FROM id_map WHERE NOT written"), "id_map/user"),
    "a first sight": (lambda f: edit_map(f, 1, "UPDATE id_map SET first_seen = '2000'"), "id_map/user"),
    "an old key": (lambda f: edit_map(f, 0, "UPDATE id_map SET old_key = old_key + 100"), "id_map/user"),
    "a reject is gone": (
        lambda f: edit_json(f, "runs/*/changes/user_book/index.json", lambda i: i["counts"].update(rejected=0)),
        "changes/user_book/index.json",
    ),
    "the counts of a part": (
        lambda f: edit_json(f, "runs/*/changes/user/index.json", lambda i: i["parts"][0].update(put=4)),
        "changes/user/0",
    ),
    "the rows of the source": (
        lambda f: edit_json(f, "runs/*/changes/user/index.json", lambda i: i["counts"].update(source_rows=4)),
        "changes/user/index.json",
    ),
    "the writes of a plan": (lambda f: edit_json(f, "runs/*/plan.json", lambda p: p.update(writes=1)), "plan.json"),
    "the units of a plan": (lambda f: edit_json(f, "runs/*/plan.json", lambda p: p.update(write_units=1)), "plan.json"),
    "the status of a report": (
        lambda f: edit_json(f, "runs/*/report.json", lambda r: r.update(status="unchanged")),
        "report.json",
    ),
    "another namespace": (
        lambda f: edit_json(f, "runs/*/manifest.json", lambda m: m.update(namespace=m["namespace"][::-1])),
        "manifest.json",
    ),
    "another head": (lambda f: edit_state(f, head=None), "state.json"),
    "a seal": (lambda f: edit_state(f, sealed={"reason": "cutover", "by": "me", "at": "now"}), "state.json"),
    "the owner is gone": (lambda f: edit_state(f, open=None), "state.json"),
    "an earlier epoch": (lambda f: edit_state(f, epoch=0), "state.json"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_with_right_digests_contradicts_itself(old: Sample, name: str, tmp_path: Path) -> None:
    """Whoever makes all hashes right again has what the objects say about each other against him."""
    folder = copy(old, tmp_path)
    forge, named = FORGERIES[name]
    forge(folder)
    sign_again(folder)
    target = verify(folder)
    assert any(named in path for path in target.damaged), target.findings
    assert target.damaged == find_damage(folder)


def test_an_export_equals_the_map_of_the_head(lived: Sample, old: Sample) -> None:
    """The application's own item is in the list of the proof that vouches for the head."""
    for sample in (lived, old):
        assert verify(sample.folder, sample.exports).findings == []
        assert find_damage(sample.folder, sample.exports) == set()
    assert b"theirs-" in gzip.decompress((lived.exports["book"] / "data/a.json.gz").read_bytes())


@pytest.mark.parametrize("kind", ["different", "missing", "not ours"])
def test_an_item_of_an_export_that_differs_is_found(lived: Sample, kind: str, tmp_path: Path) -> None:
    lines = gzip.decompress((lived.exports["user"] / "data/a.json.gz").read_bytes()).splitlines()
    items = [json.loads(line)["Item"] for line in lines]
    first = items[0][KEYS["user"]]["S"]
    if kind == "different":
        items[0]["email"] = {"S": "somebody@example.org"}
    elif kind == "missing":
        del items[0]
    else:
        first = "theirs"
        items.append({KEYS["user"]: {"S": first}})
    text = "".join(json.dumps({"Item": item}) + "\n" for item in items)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(text.encode()))
    findings = verify(lived.folder, {"user": tmp_path}).findings
    assert findings == [f"export of user: 1 differ: {[(first, kind)]}."]


def test_a_run_puts_the_auditor_beside_the_register(lived: Sample) -> None:
    """Its name is its digest, the manifest names it, and the record of the run vouches for it."""
    digest = hashlib.sha256(AUDITOR.read_bytes()).hexdigest()
    assert (lived.folder / f"verify_register-{digest}.py").read_bytes() == AUDITOR.read_bytes()
    for manifest in lived.folder.glob("runs/*/manifest.json"):
        assert json.loads(manifest.read_bytes())["auditor_sha256"] == digest
    record = json.loads((lived.folder / "log/00000001.json").read_bytes())
    assert record["artifacts"][f"verify_register-{digest}.py"] == digest


def test_another_object_under_the_name_of_the_auditor_stops_the_run(library: Any, tmp_path: Path) -> None:
    driver = Driver(library, History(library, tmp_path, seed=0).source)
    name = f"verify_register-{hashlib.sha256(AUDITOR.read_bytes()).hexdigest()}.py"
    driver.store.put(name, b"print('sound')")
    with pytest.raises(StoreError, match=f"{name} is damaged: remove it"):
        driver.start()


def test_make_audit_finds_an_auditor_that_is_altered_or_gone(lived: Sample, tmp_path: Path) -> None:
    folder = copy(lived, tmp_path)
    (auditor,) = folder.glob("verify_register-*.py")
    auditor.write_bytes(b"print('sound')")
    assert (audit_target(FolderStore(folder)).first_problem or "").startswith(f"{auditor.name} is altered")
    auditor.unlink()
    assert (audit_target(FolderStore(folder)).first_problem or "").startswith(f"{auditor.name} is missing")


def test_the_page_names_every_column_of_the_rejects(lived: Sample) -> None:
    (described,) = re.findall(r"^`rejects.csv` has .*?\n\n", (REPO / "docs/format.md").read_text(), re.M | re.S)
    columns = next(lived.folder.glob("runs/*/rejects.csv")).read_text().splitlines()[0].split(",")
    assert [column for column in columns if f"`{column}`" not in described] == []
    assert "since" in columns
