"""Verify a target of Accession from its downloaded bucket alone: the register, every object, and what they add up to.

    python verify_register.py FOLDER [--export ENTITY=DIR]…

FOLDER is a downloaded target (it holds state.json) or a bucket of targets (<mapping>/<environment>/state.json). DIR is
a full table export in DynamoDB JSON, to compare with the ID map of the last committed run. Read-only. Exit 0: sound. 1:
findings, a line each: object, colon, sentence. 2: nothing to verify. Needs Python 3.11 alone. Rules: docs/format.md.
"""

import argparse
import gzip
import hashlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

Json = dict[str, Any]
RECORD = {"action", "run", "epoch", "status", "previous", "head", "sealed", "closed", "artifacts"}
SUMS = ("put", "updated", "deleted", "rejected", "conflicts", "write_units")
STAGED = r"runs/[^/]+/(?:manifest\.json|id_map/.*|changes/.*|plan\.json|rejects\.csv)"
NAMED = r"(?:backups/|verify_register-|runs/.+/(?:changes|id_map|verification)/.+-)(\w{16,})\.(?:db|py|jsonl\.gz)"
ATTEMPT = r"(runs/[^/]+/progress/[^/]+/\d{5,}\.(?:migrate|remove))(?:\.(\d+)\.(\d+))?\.(?:started|json)"
STATES = {"put": "live", "update": "live", "delete": "tombstone", "reject": "held_reject"}  # operation: of its entry
MISFITS = """SELECT key, 'differs from the change set' FROM line LEFT JOIN id_map m ON m.new_id = key WHERE key NOTNULL
    AND (m.old_key IS NOT line.old_key OR m.state != line.state OR m.written != line.written OR checksum != sha256)
UNION ALL SELECT new_id, 'has no line in the change set' FROM id_map m LEFT JOIN line ON key = new_id
    WHERE key IS NULL AND (m.written OR m.state IN ('kept_conflict', 'held_reject'))
UNION ALL SELECT h.new_id, 'is not that of the head' FROM head.id_map h LEFT JOIN main.id_map m USING (new_id)
    WHERE (m.old_key, m.generation, m.first_seen) IS NOT (h.old_key, h.generation, h.first_seen) AND h.state != ?1
    AND (?1 = '' OR m.old_key ISNULL OR m.old_key IS h.old_key AND (h.state != ?2 OR m.generation <= h.generation))"""
TOTALS = """SELECT (SELECT count(*) FROM main.rejects), count(*) FILTER (WHERE state IN ('live', 'kept_conflict')),
    count(*) FILTER (WHERE state IN ('kept_conflict', 'kept_delete')) FROM main.id_map"""


def canonical(value: Json) -> Json:
    """Return the one form of a typed value, of which checksums are made."""
    ((kind, content),) = value.items()
    if kind == "N":
        number = Context(prec=200).normalize(Decimal(content))
        return {kind: "0" if not number else f"{number:f}" if abs(number.adjusted()) <= 38 else str(number)}
    if kind == "M":
        return {kind: {name: canonical(field) for name, field in content.items()}}
    if kind == "L":
        return {kind: [canonical(element) for element in content]}
    content = [canonical({"N": number})["N"] for number in content] if kind == "NS" else content
    return {kind: sorted(content) if kind in ("NS", "SS", "BS") else content}


def canonical_json(item: Json) -> bytes:
    return json.dumps(canonical({"M": item})["M"], ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


class Target:
    """One target in a folder, and what was found in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        self.findings, self.damaged = list[str](), set[str]()  # what has a finding is not looked into any more
        self.records, self.key_names = dict[int, Json](), dict[str, set[str]]()
        self.state, self.listed, self.ends = Json(), Json(), Json()
        self.last, self.tail, self.head, self.open = 0, "", "", ""

    def expect(self, holds: object, path: str, sentence: str) -> None:
        if not holds:
            self.findings.append(f"{path}: {sentence}")
            self.damaged.add(path)

    def compare(self, path: str, found: Json, wanted: Json, source: str) -> None:
        wrong = [name for name, value in wanted.items() if found.get(name) != value]
        self.expect(not wrong, path, f"Its {', '.join(wrong)} cannot be derived from {source}.")

    def attempt(self, path: str, read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except Exception as error:  # noqa: BLE001  whatever an altered object does to its reader is a finding
            self.expect(False, path, f"It is not as docs/format.md describes it ({type(error).__name__}).")

    def digest(self, path: str) -> str:
        if path not in self.files:
            return "missing"
        with (self.folder / path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def load(self, path: str) -> Json:
        """Return a JSON object; an empty one if it is missing or damaged."""
        is_sound = path in self.files and path not in self.damaged
        return self.attempt(path, lambda: dict(json.loads((self.folder / path).read_bytes()))) or {} if is_sound else {}

    def read_lines(self, path: str, longest: int = 16 * 1024 * 1024) -> Iterator[Json]:
        with gzip.open(self.folder / path) as file:
            while line := file.readline(longest):  # a gigabyte of one letter is a megabyte of gzip
                if len(line) == longest:
                    return self.expect(False, path, f"It has a line of {longest:,} bytes or more.")
                yield json.loads(line)

    def locate(self, index: Json) -> str:
        return str(index["id_map"].split("/", 5)[5])  # s3://<bucket>/<mapping>/<environment>/<path>

    def map_uri(self, index: Json) -> str:
        return f"{(self.folder / self.locate(index)).resolve().as_uri()}?mode=ro&immutable=1"

    def verify(self, exports: dict[str, Path]) -> None:
        self.attempt("state.json", self.follow_chain)
        self.check_objects()
        for path in sorted(path for path in self.files if re.fullmatch(r"runs/[^/]+/manifest\.json", path)):
            if manifest := self.load(path):
                self.attempt(path, self.check_run, path.removesuffix("manifest.json"), manifest)
        if self.state and len(self.records) == self.last:
            self.attempt("state.json", self.check_state)
        for entity, folder in exports.items():
            self.attempt(f"export of {entity}", self.check_export, entity, folder)

    def follow_chain(self) -> None:
        """Follow the hash chain backwards from state.json. A record just behind it counts: its writer died."""
        data = self.attempt("state.json", (self.folder / "state.json").read_bytes) or b""
        check = str(self.load("state.json").get("check"))
        is_sound = hashlib.sha256(data.replace(check.encode(), b"", 1)).hexdigest() == check
        self.expect(is_sound or not data, "state.json", "It does not match its own check.")
        self.state = state = self.load("state.json")
        log = {int(name[1]): path for path in self.files if (name := re.fullmatch(r"log/(\d{8})\.json", path))}
        self.last, expected = max(log, default=0), None
        if state:
            self.last, self.tail = state["log_tail"]["sequence"], state["log_tail"]["sha256"]
            if self.load(path := log.get(self.last + 1, "")).get("previous") == self.tail:
                self.last, self.tail = self.last + 1, self.digest(path)
            expected = self.tail
        for number in range(self.last, 0, -1):
            found = self.digest(path := f"log/{number:08d}.json")
            self.expect(found == (expected or found) != "missing", path, f"It is {found}, and was {expected}.")
            is_record = (record := self.load(path)).keys() >= RECORD and record["sequence"] == number
            self.expect(is_record or path in self.damaged, path, f"It is not record {number}.")
            self.records |= {number: record} if path not in self.damaged else {}
            expected = record["previous"] if path not in self.damaged else None
        self.expect(expected in (None, "0" * 64), "log/00000001.json", "It follows a record that does not exist.")
        for path in sorted(self.files - {path for number, path in log.items() if 0 < number <= self.last}):
            self.expect(not path.startswith("log/"), path, "The register does not reach it.")
        self.records = dict(sorted(self.records.items()))
        self.listed = {path: digest for record in self.records.values() for path, digest in record["artifacts"].items()}
        self.ends = {record["run"]: record for record in self.records.values() if record["run"]}
        owner, self.head = state.get("open") or {}, state.get("head") or ""
        self.open, ahead = owner.get("run", ""), self.records.get(state["log_tail"]["sequence"] + 1) if state else None
        if ahead and (ahead["epoch"] is None or (ahead["run"], ahead["epoch"]) == (self.open, owner.get("epoch"))):
            self.head = ahead["head"] or ""
            self.open = "" if ahead["closed"] and ahead["run"] == self.open else self.open

    def check_objects(self) -> None:
        """Compare every object with the last record that lists it, or with the digest in its name."""
        is_blind, names = len(self.records) < self.last, (re.fullmatch(ATTEMPT, path) for path in self.files)
        attempts = [(name[1], int(name[2] or 0), int(name[3] or 0), name[0]) for name in names if name]
        newest = {part: number for part, *number, _ in sorted(attempts)}
        overtaken = {path for part, *number, path in attempts if number != newest[part]}
        for path in sorted(path for path in self.files if path != "state.json" and not path.startswith("log/")):
            run = path.split("/")[1] if re.match("runs/[^/]+/", path) else ""
            may_change = run and run == self.open and not re.fullmatch(STAGED, path)
            is_unended = run and run not in self.ends and f"runs/{run}/manifest.json" in self.files
            named, found, listed = re.fullmatch(NAMED, path), self.digest(path), self.listed.get(path)
            if wanted := (listed if not may_change else None) or (named and named[1]):
                self.expect(found.startswith(wanted), path, f"Its SHA-256 is {found}, and was {wanted}.")
            elif not (may_change or is_unended or path in overtaken or path.startswith("probe/")):
                self.expect(is_blind and path.startswith(("runs/", "backups/")), path, "No record lists it.")
        cutoff = f"{datetime.now(UTC) - timedelta(days=30):%Y%m%dT%H%M%SZ}"
        for path in sorted(self.listed.keys() - self.files):
            made = max(str(record["run"]) for record in self.records.values() if path in record["artifacts"])
            self.expect(path.startswith("backups/") and made < cutoff, path, f"It is missing, was {self.listed[path]}.")

    def check_run(self, base: str, manifest: Json) -> None:
        """Compare the documents of a run with each other, with its record, its change set and its ID maps."""
        run, end = base.split("/")[1], self.ends.get(base.split("/")[1], {})
        wanted = {"run": run, "namespace": self.state.get("namespace", manifest["namespace"])}
        self.compare(f"{base}manifest.json", manifest, wanted, "its folder and state.json")
        paths = [p for p in sorted(self.files) if re.fullmatch(rf"{base}changes/[^/]+/index\.json", p) and self.load(p)]
        for path in paths if f"{base}manifest.json" not in self.damaged else ():
            self.attempt(path, self.check_entity, base, path.split("/")[3], self.load(path), manifest)
        if plan := self.load(path := f"{base}plan.json"):
            planned = {entity: share["counts"] for entity, share in plan["entities"].items()}
            indexes = {path.split("/")[3]: index["counts"] for path in paths if (index := self.load(path))}
            self.compare(path, planned, indexes, "the change sets")
            sums = {name: sum(counts[name] for counts in planned.values()) for name in SUMS}
            sums["writes"] = sums.pop("put") + sums.pop("updated") + sums.pop("deleted")
            self.compare(path, plan, sums, "the counts of its entities")
        if run != self.open and end.get("action") == "run" and (report := self.load(path := f"{base}report.json")):
            artifacts = {p: digest for p, digest in end["artifacts"].items() if not p.startswith(f"{base}report.")}
            self.compare(path, report, {"run": run, "status": end["status"], "artifacts": artifacts}, "its record")

    def check_entity(self, base: str, entity: str, index: Json, manifest: Json) -> None:
        """Add up the parts of an entity. Compare the sums with its ID map, and the map with that of the head."""
        base, place, sums = f"{base}changes/{entity}/", self.locate(index), Counter[str]()
        head = self.load(f"runs/{manifest['parent']}/changes/{entity}/index.json") or index
        self.expect(self.digest(place) == index["id_map_sha256"], place, "It is not the ID map that index.json names.")
        if manifest["unchanged"] or {place, self.locate(head)} & self.damaged:
            return
        with closing(sqlite3.connect(self.map_uri(index), uri=True)) as db:
            db.execute("ATTACH ? AS head", (self.map_uri(head),))
            db.execute("CREATE TEMP TABLE line (key PRIMARY KEY, old_key, state, written, sha256)")
            for part in index["parts"]:
                path = base + (part.get("name") or f"{part['part']:05d}.jsonl.gz")
                sums.update(self.attempt(path, self.add_lines, db, path, part, entity))
            if any(path.startswith(base) for path in self.damaged):
                return
            for key, misfit in db.execute(MISFITS, ("tombstone" if index.get("kept") else "", "kept_delete")):
                self.expect(False, place, f"Its entry {key} {misfit}.")
            for old_key, generation, key in db.execute("SELECT old_key, generation, new_id FROM main.id_map"):
                made = {str(uuid5(UUID(manifest["namespace"]), f"{entity}/{old_key}/{generation}")), index.get("kept")}
                self.expect(made & {True, *key.split('"')}, place, f"Its entry {key} is not the id of {old_key}.")
            rejects, rows, kept = db.execute(TOTALS).fetchone()
        wanted = {"put": sums["put"], "updated": sums["update"], "deleted": sums["delete"], "rejected": sums["reject"]}
        wanted |= {"source_rows": rows + rejects, "write_units": sums["units"], "put_bytes": sums["bytes"]}
        wanted |= {"unchanged": rows - sums["put"] - sums["update"] - sums["kept"], "kept_back": kept}
        wanted |= {"conflicts": sums["conflict"]} if manifest["params"]["on_conflict"] != "overwrite" else {}
        self.compare(f"{base}index.json", index["counts"], {} if place in self.damaged else wanted, "parts and ID map")

    def add_lines(self, db: sqlite3.Connection, path: str, part: Json, entity: str) -> Counter[str]:
        """Check each line of a part, put it into the table `line`, and return the sums."""
        sums = Counter[str]()
        self.expect(self.digest(path) == part["sha256"], path, "It is not the part that index.json names.")
        for line in self.read_lines(path) if path not in self.damaged else ():
            op, key, item, units = line["op"], line["key"], line["item"], line["units"]
            data = canonical_json(item) if op in ("put", "update") else b""
            digest = hashlib.sha256(data).digest() if data else None
            self.expect((digest and digest.hex()) == line["checksum"], path, f"The checksum of {key} is another one.")
            state = STATES.get(op) or ("kept_conflict" if item else "kept_delete")
            values = (key, line["old_key"], state, op in ("put", "update", "delete"), digest)
            db.execute("INSERT INTO line VALUES (?,?,?,?,?)", values)
            sums.update({op: 1, "units": units, "bytes": len(data) * (op == "put"), "kept": state == "kept_conflict"})
            if names := {name for name, value in (item or {}).items() if value == {"S": key}}:
                self.key_names[entity] = self.key_names.get(entity, names) & names
        wanted = {op: sums[op] for op in (*STATES, "conflict") if path not in self.damaged}
        self.compare(path, part, wanted, "its lines")
        return sums

    def check_state(self) -> None:
        """Compare the state with the records and with what the runs have left."""
        holds, first = False, dict.fromkeys(("head", "sealed", "epoch"))
        for number in range(self.state["log_tail"]["sequence"], -1, -1):
            record = self.records.get(number, first)
            holds |= (record["head"], record["sealed"]) == (self.state["head"], self.state["sealed"])
            if record["epoch"] in (None, self.state["epoch"]):  # one of an earlier epoch may not have counted
                break
        holds &= all((record["epoch"] or 0) <= self.state["epoch"] for record in self.records.values())
        holds &= not (m := self.load(f"runs/{self.open}/manifest.json")) or self.head in (self.open, m["parent"] or "")
        self.expect(holds, "state.json", "Its head, its seal or its epoch does not follow from the records.")
        ended = [run for run, end in self.ends.items() if end["status"] != "undone"]
        left = {run for run in ended if self.load(f"runs/{run}/report.json").get("is_open")}
        begun = {path.split("/")[1] for path in self.files if re.fullmatch(r"runs/[^/]+/progress/.+\.started", path)}
        for run in sorted((left | (begun - self.ends.keys())) - {self.open}):
            self.expect(False, "state.json", f"Run {run} wrote and has not ended, and the target is not open for it.")

    def check_export(self, entity: str, folder: Path) -> None:
        """Compare the items of a table export with the ID map of the head."""
        index, run, proof = self.load(f"runs/{self.head}/changes/{entity}/index.json"), self.head, Json()
        if not index:
            return self.expect(False, f"export of {entity}", "No committed run has this entity.")
        while run and not (proof := self.load(f"runs/{run}/verification/{entity}.json")):
            run = self.load(f"runs/{run}/manifest.json")["parent"]
        problems, path = dict[str, str](), proof.get("problems") or f"runs/{run}/verification/{entity}.jsonl.gz"
        known, live = {one["key"] for one in (self.read_lines(path) if proof else ())}, dict[str, Any]()
        key = index.get("key") or {"names": [*self.key_names[entity]], "types": ["S"]}
        mates = [self.load(p) for p in self.files if re.fullmatch(rf"runs/{self.head}/changes/[^/]+/index\.json", p)]
        query = "SELECT new_id, iif(state = 'live', checksum, NULL) FROM id_map WHERE state != 'tombstone'"
        for mate in (mate for mate in mates if mate["table"] == index["table"]):  # they share it
            with closing(sqlite3.connect(self.map_uri(mate), uri=True)) as db:
                live |= dict(db.execute(query))
        for item in (line["Item"] for f in folder.rglob("*.json.gz") for line in self.read_lines(str(f.resolve()))):
            texts = [canonical(item[name])[kind] for name, kind in zip(key["names"], key["types"], strict=True)]
            name = texts[0] if len(texts) == 1 else json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
            wanted = live.pop(name, b"")
            if wanted not in (None, hashlib.sha256(canonical_json(item)).digest()) and name not in known:
                problems[name] = "different" if wanted else "not ours"
        problems |= dict.fromkeys(sorted({key for key, checksum in live.items() if checksum} - known), "missing")
        self.expect(not problems, f"export of {entity}", f"{len(problems):,} differ: {sorted(problems.items())[:3]}.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--export", action="append", default=[], metavar="ENTITY=DIR")
    given = parser.parse_args()
    exports = {entity: Path(folder) for entity, _, folder in (export.partition("=") for export in given.export)}
    places = [place + name for place in ("", "*/*/") for name in ("state.json", "log", "runs")]
    targets = [Target(folder) for folder in sorted({path.parent for p in places for path in given.folder.glob(p)})]
    if not targets or (exports and len(targets) > 1):
        parser.error("FOLDER must hold a target, and only one if exports are given.")
    for target in targets:
        target.verify(exports)
        verdict = f"{target.folder}: {len(target.findings)} findings; the last record is {target.tail}"
        print(*target.findings, verdict, sep="\n")
    return int(any(target.findings for target in targets))


if __name__ == "__main__":
    raise SystemExit(main())
