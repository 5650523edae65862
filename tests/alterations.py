"""Alterations of a downloaded target, and a store that reads one from a folder."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from accession.artifacts import Store
from accession.artifacts.store import Found

KINDS = ("byte", "field", "remove", "add", "swap", "truncate", "rename", "drop a record", "roll back")


class FolderStore(Store):
    """The objects of a downloaded target. It only reads."""

    def __init__(self, folder: Path) -> None:
        super().__init__(None, "bucket", "book_library", "downloaded")
        self.folder = folder

    def find(self, path: str) -> Found | None:
        file = self.folder / path
        return Found(file.read_bytes(), "") if file.is_file() else None

    def hash(self, path: str) -> str | None:
        found = self.find(path)
        return found and hashlib.sha256(found.data).hexdigest()

    def list(self, path: str = "") -> Iterator[str]:
        yield from (name for name in list_objects(self.folder) if name.startswith(path))


def list_objects(folder: Path) -> list[str]:
    """Return the paths of all objects, as S3 sorts them."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def alter(folder: Path, kind: str, chance: Random, older_states: list[bytes]) -> set[str]:
    """Alter a target as `kind` says, and return the paths of what became other than it was."""
    before = {path: (folder / path).read_bytes() for path in list_objects(folder)}
    path = chance.choice(list(before))
    file, data = folder / path, before[path]
    match kind:
        case "byte" if data:
            where = chance.randrange(len(data))
            file.write_bytes(data[:where] + bytes([data[where] ^ chance.randint(1, 255)]) + data[where + 1 :])
        case "field":
            path = chance.choice([name for name in before if name.endswith(".json")])
            document = json.loads(before[path])
            change_field(document, chance)
            (folder / path).write_text(json.dumps(document, indent=2, ensure_ascii=False))
        case "remove":
            file.unlink()
        case "add":
            names = ["note.txt", "log/00000099.json", "backups/a.db", "runs/x/y", f"{path}.old", f"{path}~"]
            name = chance.choice(names)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        case "swap":
            other = chance.choice(list(before))
            file.write_bytes(before[other])
            (folder / other).write_bytes(data)
        case "truncate":
            file.write_bytes(data[: chance.randint(0, max(0, len(data) - 1))])
        case "rename":
            file.rename(folder / f"{path}.bak")
        case "drop a record":
            records = [name for name in before if name.startswith("log/")]
            if records:
                (folder / chance.choice(records)).unlink()
        case "roll back" if older_states:
            (folder / "state.json").write_bytes(chance.choice(older_states))
    after = {path: (folder / path).read_bytes() for path in list_objects(folder)}
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def change_field(document: Any, chance: Random) -> None:
    """Change one value anywhere in a document."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(child, dict | list) and child:
                walk(child)
            else:
                places.append((value, key))

    walk(document)
    parent, key = chance.choice(places)
    old = parent[key]
    values: list[Any] = [None, 0, 7, "", "other", True, False, [], {}, "20260101T000000Z-00000000"]
    parent[key] = chance.choice([value for value in values if (type(value), value) != (type(old), old)])


def sign_again(folder: Path) -> None:
    """Make all digests of an altered target right again, as a forger would who can write to the bucket.

    Only what the objects say about each other still tells that they were altered.
    """

    def rewrite(file: Path, document: Any) -> str:
        data = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=file.parent.name == "log").encode()
        if json.loads(file.read_bytes()) != document:
            file.write_bytes(data)
        return hash_object(file)

    for file in folder.glob("runs/*/changes/*/index.json"):
        index = json.loads(file.read_bytes())
        index["id_map_sha256"] = hash_object(folder / index["id_map"].split("/", 5)[5])
        for part in index["parts"]:
            part["sha256"] = hash_object(file.parent / (part.get("name") or f"{part['part']:05d}.jsonl.gz"))
        rewrite(file, index)
    previous, records = "0" * 64, sorted(folder.glob("log/*.json"))
    for file in records:
        record = json.loads(file.read_bytes())
        for path in record["artifacts"]:
            report = folder / path
            if report.name == "report.json":
                base = path.removesuffix(".json")
                listed = {p: hash_object(folder / p) for p in record["artifacts"] if not p.startswith(base)}
                rewrite(report, json.loads(report.read_bytes()) | {"artifacts": listed})
        record["artifacts"] = {path: hash_object(folder / path) for path in record["artifacts"]}
        previous = rewrite(file, record | {"previous": previous})
    state = json.loads((folder / "state.json").read_bytes())
    write_state(folder, state | {"log_tail": {"sequence": len(records), "sha256": previous}})


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write a state with the right check."""
    bare = json.dumps(state | {"check": ""}, indent=2, ensure_ascii=False, sort_keys=True)
    check = hashlib.sha256(bare.encode()).hexdigest()
    (folder / "state.json").write_text(bare.replace('"check": ""', f'"check": "{check}"', 1))


def hash_object(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()
