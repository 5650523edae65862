"""A second auditor of stored targets, written from docs/format.md alone, as a test of that page.

It was written by somebody who had seen nothing else of the project, and found one thing wrong (`writes` of a plan) and
a dozen unclear, which the page says now. Comments and docstrings name its rules.
"""

import gzip
import hashlib
import json
import os
import re
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

Json = Any

ZEROS = "0" * 64
LONGEST_LINE = 16 * 1024 * 1024
DIGEST = re.compile(r"[0-9a-f]{64}")
DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
NAMED = re.compile(  # rule 2: objects that have a digest, or its first 16 digits, in their name
    r"backups/(?P<db>[0-9a-f]{64})\.db|verify_register-(?P<py>[0-9a-f]{64})\.py"
    r"|runs/[^/]+/(changes/[^/]+/[0-9]{5,}-(?P<part>[0-9a-f]{16})\.jsonl\.gz"
    r"|id_map/[^/]+-(?P<map>[0-9a-f]{16})\.db|verification/[^/]+-(?P<list>[0-9a-f]{16})\.jsonl\.gz)"
)
ATTEMPT = re.compile(
    r"(runs/(?P<run>[^/]+)/progress/[^/]+/[0-9]{5,}\.[a-z_]+)(\.([0-9]+)\.([0-9]+))?\.(?P<what>started|json)"
)
STAGED = re.compile(r"runs/[^/]+/(manifest\.json|plan\.json|rejects\.csv|(id_map|changes)/.*)", re.DOTALL)

OPERATIONS = ("put", "update", "delete", "reject", "conflict")
COUNTS = (
    *("source_rows", "put", "updated", "deleted", "rejected", "unchanged", "conflicts", "kept_back", "adjusted"),
    *("write_units", "put_bytes", "read_units", "reread_units"),
)
FIELDS = {  # without those that are new
    "state": "namespace head open epoch log_tail sealed check",
    "record": "sequence previous at by note action run epoch status artifacts head sealed closed",
    "manifest": "run mapping environment namespace parent unchanged params mapping_sha256 transform_version"
    " airflow_run_id triggered_by source snapshot started_at ended_at",
    "index": "entity table counts rejects records_changed identity attributes id_map id_map_sha256 parts started_at"
    " ended_at",
    "line": "op key old_key units checksum before item",
    "plan": "run entities writes rejected conflicts write_units read_units price_usd seconds records_changed refused"
    " started_at ended_at",
    "report": "run mapping environment parent snapshot airflow_run_id triggered_by started_at ended_at status reason"
    " is_open entities rejects id_maps write_units price_usd steps seconds approved_by source_changed_during_run"
    " source_rows_now artifacts",
}


class Entry(NamedTuple):
    """A row of an ID map."""

    old_key: int | str
    generation: int
    first_seen: Json
    state: str
    written: int
    checksum: bytes


Map = tuple[dict[str, Entry], int]  # the entries by new_id, and the number of rejects


def need(holds: object) -> None:
    if not holds:
        raise ValueError


def is_a(value: Json, *types: type) -> bool:
    return type(value) in types  # a truth value is no number


def has(value: Json, names: str) -> bool:
    return isinstance(value, dict) and value.keys() >= set(names.split())


def is_digest(value: Json) -> bool:
    return isinstance(value, str) and DIGEST.fullmatch(value) is not None


def refuse(constant: str) -> Json:
    raise ValueError(constant)


def loads(raw: bytes, kind: str = "") -> Json:
    value = json.loads(raw.decode("utf-8"), parse_constant=refuse)
    need(not kind or has(value, FIELDS[kind]))
    return value


def json_lines(path: Path, kind: str = "") -> Iterator[Json]:
    with gzip.open(path) as file:
        while line := file.readline(LONGEST_LINE):
            need(len(line) < LONGEST_LINE)
            yield loads(line, kind)


def number(text: Json) -> str:
    """Return the canonical form of a number."""
    need(DECIMAL.fullmatch(text))
    sign, digits, exponent = Decimal(text).as_tuple()
    kept = "".join(map(str, digits)).rstrip("0")
    if not kept:
        return "0"
    exponent = int(exponent) + len(digits) - len(kept)
    first = exponent + len(kept) - 1
    minus = "-" if sign else ""
    if not -38 <= first <= 38:
        return f"{minus}{kept[0]}{'.' if kept[1:] else ''}{kept[1:]}E{first:+d}"
    if exponent >= 0:
        return minus + kept + "0" * exponent
    return f"{minus}{kept[: first + 1]}.{kept[first + 1 :]}" if first >= 0 else f"{minus}0.{'0' * (-first - 1)}{kept}"


def normal(value: Json) -> Json:
    ((kind, content),) = value.items()
    if kind == "N":
        return {kind: number(content)}
    if kind == "NS":
        return {kind: sorted(map(number, content))}
    if kind in ("SS", "BS"):
        return {kind: sorted(content)}
    if kind == "M":
        return {kind: {name: normal(each) for name, each in content.items()}}
    return {kind: list(map(normal, content))} if kind == "L" else value


def canonical(item: Json) -> bytes:
    """Return the canonical JSON of an item in typed JSON."""
    contents = {name: normal(value) for name, value in item.items()}
    return json.dumps(contents, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def key_text(item: Json, names: list[str], types: list[str]) -> str:
    contents = [normal(item[name])[kind] for name, kind in zip(names, types, strict=True)]
    return str(contents[0]) if len(types) == 1 else json.dumps(contents, ensure_ascii=False, separators=(",", ":"))


def record_path(sequence: int) -> str:
    return f"log/{sequence:08d}.json"


def path_of(address: str) -> str:
    return address.split("/", 5)[5]  # s3://<bucket>/<mapping>/<environment>/<path>


def run_of(path: str) -> str | None:
    names = path.split("/", 2)
    return names[1] if len(names) == 3 and names[0] == "runs" else None


def part_name(part: Json) -> str:
    return part.get("name") or f"{part['part']:05d}.jsonl.gz"


def read_state(raw: bytes) -> Json:
    state = loads(raw, "state")
    need(hashlib.sha256(raw.replace(state["check"].encode(), b"", 1)).hexdigest() == state["check"])
    uuid.UUID(state["namespace"])
    tail, owner, sealed = state["log_tail"], state["open"], state["sealed"]
    need(is_a(state["head"], str, type(None)) and is_a(state["epoch"], int) and is_a(tail["sequence"], int))
    need(is_digest(tail["sha256"]) and (tail["sequence"] > 0 or (tail["sequence"], tail["sha256"]) == (0, ZEROS)))
    need((sealed is None or has(sealed, "reason by at")) and (owner is None or is_a(owner["run"], str)))
    need(owner is None or owner["epoch"] == state["epoch"])
    return state


def read_record(raw: bytes) -> Json:
    record = loads(raw, "record")
    need(is_a(record["sequence"], int) and is_digest(record["previous"]) and is_a(record["closed"], bool))
    need(is_a(record["run"], str, type(None)) and is_a(record["epoch"], int, type(None)))
    need(is_a(record["head"], str, type(None)) and all(map(is_digest, record["artifacts"].values())))
    return record


def read_manifest(raw: bytes) -> Json:
    manifest = loads(raw, "manifest")
    need(has(manifest["params"], "on_conflict") and is_a(manifest["unchanged"], bool))
    need(has(manifest["snapshot"], "sha256 uri bytes rows foreign_key_violations"))
    need(is_a(manifest["parent"], str, type(None)))
    uuid.UUID(manifest["namespace"])
    return manifest


def read_index(raw: bytes) -> Json:
    index = loads(raw, "index")
    need(is_a(index["entity"], str) and is_a(path_of(index["id_map"]), str) and is_digest(index["id_map_sha256"]))
    need(has(index["rejects"], "new remaining resolved"))
    need(all(is_a(index["counts"][name], int, float) for name in COUNTS))
    for part in index["parts"]:
        need(is_digest(part["sha256"]) and is_a(part_name(part), str))
        need(part.keys() >= {"part", *OPERATIONS})
    if "key" in index:
        names, types = index["key"]["names"], index["key"]["types"]
        need(0 < len(names) == len(types) and all(is_a(each, str) for each in [*names, *types]))
    return index


def read_line(line: Json) -> Json:
    """Return a line of a part, with `size`, that of its item."""
    op, key, item = line["op"], line["key"], line["item"]
    need(op in OPERATIONS and (op == "put" or "reason" in line) and is_a(line["units"], int))
    need(is_a(key, str) or (key is None and op == "reject"))
    need(is_a(line["old_key"], int, str) or (op == "reject" and is_a(line["old_key"], float, type(None))))
    text = canonical(item) if op in ("put", "update") else None
    need(line["checksum"] == (None if text is None else hashlib.sha256(text).hexdigest()))  # rule 5
    return line | {"size": len(text or b""), "item": item is not None, "before": None}


def read_map(path: Path) -> Map:
    entries: dict[str, Entry] = {}
    pairs: set[tuple[int | str, int]] = set()
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        for count, row in enumerate(
            connection.execute(
                "SELECT new_id, old_key, generation, first_seen, state, written, checksum, entry, latest, identity,"
                " row_checksum FROM id_map"
            ),
            1,
        ):
            entry = entries[row[0]] = Entry(*row[1:7])
            pairs.add((entry.old_key, entry.generation))
            need(count == len(entries) == len(pairs))  # both are unique
            need(is_a(row[0], str) and is_a(entry.old_key, int, str) and is_a(entry.generation, int))
            need(entry.state in ("live", "kept_conflict", "kept_delete", "held_reject", "tombstone"))
            need(entry.written in (0, 1) and is_a(entry.checksum, bytes) and len(entry.checksum) == 32)
        query = "SELECT count(*) FROM (SELECT old_key, source_column, reason, held FROM rejects)"
        return entries, int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def belongs(entry: Entry, line: Json) -> bool:
    """Rule 5: whether an entry and its line belong together."""
    if line is None:
        return entry.state in ("live", "kept_delete", "tombstone") and entry.written == 0
    kept = "kept_conflict" if line["item"] else "kept_delete"
    states = {"put": "live", "update": "live", "delete": "tombstone", "reject": "held_reject", "conflict": kept}
    return (
        (type(entry.old_key), entry.old_key) == (type(line["old_key"]), line["old_key"])
        and (entry.state, entry.written) == (states[line["op"]], int(line["op"] in ("put", "update", "delete")))
        and line["checksum"] in (None, entry.checksum.hex())
    )


class Auditor:
    """The rules, in an order in which each knows what is damaged by the ones that it builds upon."""

    def __init__(self, folder: Path) -> None:
        paths = [Path(root, name) for root, _, names in os.walk(folder) for name in names]
        self.objects = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
        self.damaged: set[str] = set()
        self.digests: dict[str, str] = {}
        self.state: Json = None
        self.records: dict[int, Json] = {}
        self.last: dict[str | None, Json] = {}  # the last record of each run
        self.whole = True
        self.head: str | None = None
        self.owner: str | None = None
        self.manifests: dict[str, Json] = {}
        self.indexes: dict[tuple[str, str], Json] = {}
        self.reports: dict[str, Json] = {}

    @contextmanager
    def blame(self, path: str) -> Iterator[None]:
        """Whatever cannot be read as the page says is damage of that object."""
        try:
            yield
        except Exception:  # noqa: BLE001
            self.damaged.add(path)

    def digest(self, path: str) -> str:
        if path not in self.digests:
            with self.blame(path), self.objects[path].open("rb") as file:
                self.digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        return self.digests.get(path, "")

    def read(self, path: str, reader: Callable[[bytes], Json]) -> Json:
        """Return the content of an object, or None if it is damaged or not there."""
        if path in self.objects and path not in self.damaged:
            with self.blame(path):
                return reader(self.objects[path].read_bytes())
        return None

    def read_map(self, path: str) -> Map | None:
        if path in self.objects and path not in self.damaged:
            with self.blame(path):
                return read_map(self.objects[path])
        return None

    def chain(self) -> None:
        """Rule 1, and the state that a reader has in memory."""
        found = [path[4:-5] for path in self.objects if path.startswith("log/")]
        existing = {int(name) for name in found if name.isdecimal() and record_path(int(name)) in self.objects}
        start, tail, want = max(existing, default=0), -1, None
        self.state = state = self.read("state.json", read_state)
        if state is None:
            self.damaged.add("state.json")
        else:
            start = tail = state["log_tail"]["sequence"]
            try:
                start += (
                    loads(self.objects[record_path(tail + 1)].read_bytes())["previous"] == state["log_tail"]["sha256"]
                )
            except Exception:  # noqa: BLE001
                start = tail  # what comes after the tail, if anything, does not follow it
        numbers = {number for number in existing if 0 < number <= start}
        gap = start - len(numbers) > 100_000  # an absurd number: name the ends of gaps only
        for sequence in sorted(numbers | ({start} - {0}) if gap else range(1, start + 1), reverse=True):
            if sequence == tail:
                want = state["log_tail"]["sha256"]
            record, want = self.follow(sequence, want), None
            if record is not None:
                self.records[sequence] = record
                want = None if gap else record["previous"]
        self.whole = len(self.records) == start
        self.last = {record["run"]: record for _, record in sorted(self.records.items())}
        self.damaged |= {path for path in self.objects if path.startswith("log/")} - set(map(record_path, numbers))
        if state is None:
            return
        self.head, owner = state["head"], state["open"]
        self.owner = owner and owner["run"]
        ahead = self.records.get(tail + 1)
        owns = (
            ahead is not None and owner is not None and (owner["run"], owner["epoch"]) == (ahead["run"], ahead["epoch"])
        )
        if ahead is not None and (owns or ahead["epoch"] is None):
            self.head = ahead["head"]
            self.owner = None if ahead["closed"] and self.owner == ahead["run"] else self.owner

    def follow(self, sequence: int, want: str | None) -> Json:
        """Return a record, or None if it is damaged."""
        path = record_path(sequence)
        if path not in self.objects or want not in (None, self.digest(path)):
            self.damaged.add(path)
        record = self.read(path, read_record)
        if record is None or record["sequence"] != sequence or (sequence == 1 and record["previous"] != ZEROS):
            self.damaged.add(path)
        return None if path in self.damaged else record

    def check_objects(self) -> None:
        """Rules 2 and 3."""
        listed: dict[str, str] = {}
        starts: dict[str, datetime] = {}
        for _, record in sorted(self.records.items()):
            listed |= record["artifacts"]
            for path in record["artifacts"]:
                try:
                    start = datetime.strptime(record["run"][:16] + "+0000", "%Y%m%dT%H%M%SZ%z")
                    starts[path] = max(start, starts.get(path, start))
                except (TypeError, ValueError):
                    continue  # no name of a run
        ages: dict[str, tuple[str, tuple[int, int]]] = {}
        newest: dict[str, tuple[int, int]] = {}
        for path in self.objects.keys() | listed:
            if match := ATTEMPT.fullmatch(path):
                attempt, age = match[1], (int(match[4] or -1), int(match[5] or -1))
                ages[path] = attempt, age
                newest[attempt] = max(age, newest.get(attempt, age))
        for path in self.objects.keys() - {"state.json"}:
            run, named = run_of(path), NAMED.fullmatch(path)
            open_one = run is not None and run == self.owner and not STAGED.fullmatch(path)
            if path.startswith(("log/", "probe/")):
                continue
            if path in listed and not open_one:
                sound = self.digest(path) == listed[path]
            elif named:
                sound = self.digest(path).startswith(next(filter(None, named.groupdict().values())))
            else:
                sound = (
                    open_one
                    or (path in ages and ages[path][1] < newest[ages[path][0]])
                    or (run is not None and run not in self.last and f"runs/{run}/manifest.json" in self.objects)
                    or (not self.whole and path.startswith(("runs/", "backups/")))
                )
            if not sound:
                self.damaged.add(path)
        now = datetime.now(UTC)
        for path in listed.keys() - self.objects.keys():
            if not path.startswith("backups/") or starts.get(path, now) > now - timedelta(days=30):
                self.damaged.add(path)

    def read_runs(self) -> None:
        """Rule 4, and the documents that the next rules need."""
        for path in self.objects:
            run, rest = run_of(path), path.split("/")[2:]
            if run is None:
                continue
            if rest == ["manifest.json"] and (manifest := self.read(path, read_manifest)):
                if manifest["run"] != run or (self.state and manifest["namespace"] != self.state["namespace"]):
                    self.damaged.add(path)
                else:
                    self.manifests[run] = manifest
            elif len(rest) == 3 and (rest[0], rest[2]) == ("changes", "index.json"):
                if index := self.read(path, read_index):
                    self.indexes[run, rest[1]] = index
            elif rest == ["report.json"] and (report := self.read(path, lambda raw: loads(raw, "report"))):
                self.reports[run] = report

    def line_of(self, run: str | None) -> Iterator[str]:
        """Yield a run, its parent and so on, up to the first whose manifest is damaged or not there."""
        seen: set[str] = set()
        while run is not None and run not in seen:
            yield run
            seen.add(run)
            run = self.manifests[run]["parent"] if run in self.manifests else None

    def check_changes(self) -> None:
        """Rules 5 and 6, for parents first."""
        pairs = [pair for pair in self.indexes if pair[0] in self.manifests]
        for pair in pairs:
            path = path_of(self.indexes[pair]["id_map"])
            if self.digest(path) != self.indexes[pair]["id_map_sha256"]:
                self.damaged.add(path)
        for run, entity in sorted(pairs, key=lambda pair: (len([*self.line_of(pair[0])]), pair)):
            with self.blame(f"runs/{run}/changes/{entity}/index.json"):
                self.check_index(self.manifests[run], self.indexes[run, entity], f"runs/{run}/changes/{entity}/")

    def check_index(self, manifest: Json, index: Json, folder: str) -> None:
        map_path = path_of(index["id_map"])
        own = self.read_map(map_path)
        head_index = self.indexes.get((manifest["parent"], folder.split("/")[3]))
        head = self.read_map(path_of(head_index["id_map"])) if head_index else None
        lines: list[Json] | None = [] if manifest["unchanged"] else None
        if not manifest["unchanged"] and own and (head or not head_index):
            lines = self.part_lines(folder, index["parts"])
            if lines is not None and not any(path.startswith(folder) for path in self.damaged):
                with self.blame(map_path):
                    made_with = uuid.UUID(manifest["namespace"]), index["entity"], index.get("kept", False)
                    self.check_map(own[0], head[0] if head else {}, lines, *made_with)
        if lines is None or map_path in self.damaged:
            return
        counts, parts = index["counts"], index["parts"]  # rule 6
        pairs = {"put": "put", "updated": "update", "deleted": "delete", "rejected": "reject", "conflicts": "conflict"}
        for count, op in pairs.items():
            skip = count == "conflicts" and manifest["params"]["on_conflict"] == "overwrite"
            skip |= count == "rejected" and manifest["unchanged"]
            need(skip or counts[count] == sum(part[op] for part in parts))
        if lines is not None:
            need(counts["write_units"] == sum(line["units"] for line in lines))
            need(counts["put_bytes"] == sum(line["size"] for line in lines if line["op"] == "put"))
        if own and map_path not in self.damaged:
            states = Counter(entry.state for entry in own[0].values())
            rows, kept = states["live"] + states["kept_conflict"], states["kept_conflict"] + states["kept_delete"]
            need(counts["source_rows"] == rows + own[1])
            # The page says both of an unchanged run: 0 (Index), and this number (rule 6)
            need(counts["kept_back"] == kept or (manifest["unchanged"] and counts["kept_back"] == 0))
            if lines is not None:
                less = [line for line in lines if line["item"] and line["op"] in ("put", "update", "conflict")]
                need(counts["unchanged"] == rows - len(less))

    def part_lines(self, folder: str, parts: list[Json]) -> list[Json] | None:
        """Rule 5 for parts: return their lines, or None if one is damaged."""
        lines: list[Json] = []
        keys: set[str] = set()
        paths = [folder + part_name(part) for part in parts]
        for path, part in zip(paths, parts, strict=True):
            with self.blame(path):
                need(self.digest(path) == part["sha256"])
                mine = [read_line(line) for line in json_lines(self.objects[path], "line")]
                need(all(sum(line["op"] == op for line in mine) == part[op] for op in OPERATIONS))
                for key in [line["key"] for line in mine if line["key"] is not None]:
                    need(key not in keys)
                    keys.add(key)
                lines += mine
        return lines if self.damaged.isdisjoint(paths) else None

    def check_map(
        self,
        own: dict[str, Entry],
        head: dict[str, Entry],
        lines: list[Json],
        namespace: uuid.UUID,
        entity: str,
        kept: bool,
    ) -> None:
        """Rule 5: an ID map, its lines, the head's map, and ids."""
        by_key = {line["key"]: line for line in lines if line["key"] is not None}
        need(by_key.keys() <= own.keys())
        for new_id, before in head.items():
            if kept and before.state == "tombstone":
                continue
            now = own[new_id]
            goes_back = before.state == "kept_delete" and now.generation > before.generation
            need(now[:3] == before[:3] or (kept and (now.old_key != before.old_key or goes_back)))
        for new_id, entry in own.items():
            need(belongs(entry, by_key.get(new_id)))
            made = str(uuid.uuid5(namespace, f"{entity}/{entry.old_key}/{entry.generation}"))
            need(kept or made == new_id or (new_id.startswith("[") and made in json.loads(new_id)))

    def check_plans_and_reports(self) -> None:
        """Rules 7 and 8."""
        for path in self.objects:
            run = run_of(path)
            if path != f"runs/{run}/plan.json" or not (plan := self.read(path, lambda raw: loads(raw, "plan"))):
                continue
            with self.blame(path):
                for entity, each in plan["entities"].items():
                    need(has(each, "table counts rejects kept_back samples"))
                    if (run, entity) in self.indexes and f"runs/{run}/changes/{entity}/index.json" not in self.damaged:
                        counts = self.indexes[str(run), entity]["counts"]
                        need(all(each["counts"][name] == counts[name] for name in COUNTS))
                sums = {name: sum(each["counts"][name] for each in plan["entities"].values()) for name in COUNTS}
                need(plan["writes"] == sums["put"] + sums["updated"] + sums["deleted"])
                need(all(plan[name] == sums[name] for name in ("rejected", "conflicts", "write_units")))
        for run, report in self.reports.items():
            own, record = (f"runs/{run}/report.json", f"runs/{run}/report.html"), self.last.get(run)
            if run != self.owner and record is not None and record["action"] == "run":
                artifacts = {path: digest for path, digest in record["artifacts"].items() if path not in own}
                with self.blame(own[0]):
                    need((report["run"], report["status"], report["artifacts"]) == (run, record["status"], artifacts))

    def check_state(self) -> None:
        """Rule 9."""
        need(all(record["epoch"] is None or record["epoch"] <= self.state["epoch"] for record in self.records.values()))
        if self.owner in self.manifests:
            need(self.head in (self.owner, self.manifests[self.owner]["parent"]))
        if not self.whole:
            return
        may_be: list[tuple[Json, Json]] = []
        for sequence in range(self.state["log_tail"]["sequence"], 0, -1):
            record = self.records[sequence]
            may_be.append((record["head"], record["sealed"]))
            if record["epoch"] in (None, self.state["epoch"]):
                break
        else:
            may_be.append((None, None))
        need((self.state["head"], self.state["sealed"]) in may_be)
        for path in self.objects.keys() - self.damaged:
            if (mark := ATTEMPT.fullmatch(path)) and mark["what"] == "started":
                need(mark["run"] == self.owner or mark["run"] in self.last)
        for run, report in self.reports.items():
            if report["is_open"] and f"runs/{run}/report.json" not in self.damaged:
                need(run == self.owner or self.last.get(run, {}).get("status") == "undone")

    def key_of(self, entity: str) -> tuple[list[str], list[str]]:
        """Return names and types of the key attributes."""
        same: list[set[str]] = []
        for run in self.line_of(self.head):
            index = self.indexes.get((run, entity))
            if index and "key" in index:
                return index["key"]["names"], index["key"]["types"]
            for part in index["parts"] if index else ():
                path = f"runs/{run}/changes/{entity}/{part_name(part)}"
                same += [
                    {name for name, value in line["item"].items() if value == {"S": line["key"]}}
                    for line in (json_lines(self.objects[path]) if path not in self.damaged else ())
                    if line["item"] is not None
                ]
        names = set.intersection(*same)
        need(len(names) == 1)
        return [*names], ["S"]

    def problems(self, entity: str) -> set[str] | None:
        """Return the keys in the list of problems of the last proof; None if that cannot be read."""
        for run in self.line_of(self.head):
            path = f"runs/{run}/verification/{entity}.json"
            proof = self.read(path, loads)
            if path in self.damaged:
                return None
            if proof is not None:
                listed = proof.get("problems") or f"runs/{run}/verification/{entity}.jsonl.gz"
                if listed not in self.objects and listed not in self.damaged:
                    return {problem["key"] for problem in proof["listed"]}
                with self.blame(listed):
                    need(listed not in self.damaged)
                    return {problem["key"] for problem in json_lines(self.objects[listed])}
                return None
            if run not in self.manifests:
                return None
        return set()

    def check_export(self, entity: str, folder: Path) -> None:
        """Rule 10. With what is damaged, nothing is compared: it has a finding of its own."""
        path = f"runs/{self.head}/changes/{entity}/index.json"
        if self.state is None or not self.damaged.isdisjoint({"state.json", path}):
            return
        own = self.read_map(path_of(self.indexes[str(self.head), entity]["id_map"]))  # no head or index is a finding
        listed = self.problems(entity)
        if own is None or listed is None:
            return
        key = self.key_of(entity)
        exempt = listed | {new_id for new_id, entry in own[0].items() if entry.state not in ("live", "tombstone")}
        live = {new_id: entry.checksum for new_id, entry in own[0].items() if entry.state == "live"}
        seen: set[str] = set()
        for file in folder.rglob("*.json.gz"):
            for line in json_lines(file):
                text = key_text(line["Item"], *key)
                checksum = hashlib.sha256(canonical(line["Item"])).digest()
                need(text not in seen and (text in exempt or live.get(text) == checksum))
                seen.add(text)
        need(folder.is_dir() and live.keys() <= seen | exempt)


def find_damage(folder: Path, exports: dict[str, Path] | None = None) -> set[str]:
    """Return the paths of all damaged objects of a downloaded target; `export of <entity>` for an export."""
    auditor = Auditor(folder)
    auditor.chain()
    auditor.check_objects()
    auditor.read_runs()
    auditor.check_changes()
    auditor.check_plans_and_reports()
    with auditor.blame("state.json"):
        auditor.check_state()
    for entity, export in (exports or {}).items():
        with auditor.blame(f"export of {entity}"):
            auditor.check_export(entity, export)
    return auditor.damaged
