"""What is in the bucket, read without the library: state, register, change sets, ID maps, proofs."""

import gzip
import sqlite3
from contextlib import closing
from typing import Any

import orjson

from simulation.s3 import S3

PREFIX = "bucket/shelf/sim/"
STATE = "state.json"


class Evidence:
    """The artifacts of the one target."""

    def __init__(self, service: S3) -> None:
        self._service = service
        self._changes: dict[str, dict[str, list[dict[str, Any]]]] = {}

    def get(self, path: str) -> bytes | None:
        found = self._service.objects.get(PREFIX + path)
        return found.data if found else None

    def load(self, path: str) -> Any:
        data = self.get(path)
        return orjson.loads(data) if data is not None else None

    def find_paths(self, path: str) -> list[str]:
        return [key.removeprefix(PREFIX) for key in self._service.find_keys(PREFIX + path, "")]

    @property
    def state(self) -> dict[str, Any]:
        """The content of state.json; its defaults if there is none."""
        return self.load(STATE) or {"head": None, "open": None, "epoch": 0, "sealed": None}

    @property
    def open_run(self) -> str | None:
        opened = self.state["open"]
        return opened["run"] if opened else None

    def manifest(self, run: str) -> Any:
        return self.load(f"runs/{run}/manifest.json")

    def find_lineage(self) -> list[str]:
        """Return the committed runs, the last one first."""
        runs, run = [], self.state["head"]
        while run is not None:
            runs.append(run)
            run = self.manifest(run)["parent"]
        return runs

    def find_changes(self, run: str, key: str) -> list[dict[str, Any]]:
        """Return the lines of a run's change set that are about an item. It is complete once there is a plan."""
        if run not in self._changes:
            changes: dict[str, list[dict[str, Any]]] = {}
            for path in self.find_paths(f"runs/{run}/changes/"):
                if path.endswith(".jsonl.gz"):
                    for line in gzip.decompress(self.get(path) or b"").splitlines():
                        change = orjson.loads(line)
                        changes.setdefault(change["key"], []).append(change)
            self._changes[run] = changes
        return self._changes[run].get(key, [])

    def find_part(self, run: str, entity: str, number: int) -> list[dict[str, Any]]:
        """Return the lines of one part of a change set."""
        staged = self.load(f"runs/{run}/changes/{entity}/index.json")
        (part,) = [one for one in staged["parts"] if one["part"] == number]
        name = part["name"] or f"{number:05d}.jsonl.gz"
        data = gzip.decompress(self.get(f"runs/{run}/changes/{entity}/{name}") or b"")
        return [orjson.loads(line) for line in data.splitlines()]

    def read_id_map(self, run: str, entity: str) -> list[dict[str, Any]]:
        """Return the entries of an ID map."""
        staged = self.load(f"runs/{run}/changes/{entity}/index.json")
        path = ("bucket/" + staged["id_map"].partition("bucket/")[2]).removeprefix(PREFIX)
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(self.get(path) or b"")
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM id_map")]

    def read_problems(self, run: str, entity: str) -> set[str]:
        """Return the keys that the proof lists as other than the source says."""
        proof = self.load(f"runs/{run}/verification/{entity}.json")
        if proof is None:
            return set()
        lines = gzip.decompress(self.get(proof["problems"]) or b"").splitlines()
        return {orjson.loads(line)["key"] for line in lines} | {conflict["key"] for conflict in proof["conflicts"]}
