"""Runs one step of a migration as its Airflow task runs it, in a process of its own, and prints what it cost as JSON.

    python tests/bench/steps.py '{"step": "stage", "name": "user", …}'

The calls are those of plugins/accession_airflow/tasks.py, with the clients of aws.py; Airflow itself is imported, as in
a worker, but no scheduler takes part.
"""

import json
import sys
from pathlib import Path
from typing import Any

from measure import measured

from accession.artifacts.change_set import load_staged_entity
from accession.artifacts.manifest import load_manifest
from accession.artifacts.store import Store
from accession.cli.sample import write_sample
from accession.dynamodb.client import DynamoDB
from accession.mapping.load import MAPPINGS, load_mapping
from accession.params import MigrateParams
from accession.run.backup import start_run
from accession.run.migrate import migrate_part
from accession.run.plan import make_plan
from accession.run.share import Share
from accession.run.stage import stage_entity
from accession.run.verify import verify_entity
from accession.target.fence import Fence
from accession.target.ownership import open_target
from accession_airflow.aws import connect_dynamodb, connect_s3

MAPPING = load_mapping(MAPPINGS / "book_library.yaml")


def run(step: str, bucket: str, environment: str, **given: Any) -> dict[str, Any]:
    store = Store(connect_s3(), bucket, MAPPING.name, environment)
    share = Share(store, given["run"], given["cap"]) if given.get("cap") else None
    fence = Fence(store, given["run"], given["epoch"]).check if given.get("epoch") is not None else None
    dynamodb = DynamoDB(connect_dynamodb(), check=fence, write_units_per_second=share)
    function = {"backup": backup, "stage": stage, "plan": plan, "open": open_run, "migrate": migrate, "verify": verify}
    with measured() as cost:
        result = function[step](store, dynamodb, given)
    return result | cost | {"throttled": dynamodb.throttled}


def backup(store: Store, _: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    params = MigrateParams(source=given["source"], environment=store.environment, bucket=store.bucket)
    source = Path(given["source"])
    return {"run": start_run(store, MAPPING, params, source, str(source), "make bench", "bench").run}


def stage(store: Store, dynamodb: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    manifest = load_manifest(store, given["run"])
    index = stage_entity(store, MAPPING, manifest, given["name"], given.get("id_maps", {}), dynamodb)
    return {"id_map": index.id_map, "rows": index.counts.source_rows, "parts": len(index.parts)}


def plan(store: Store, _: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    made = make_plan(store, MAPPING, load_manifest(store, given["run"]))
    return {"rows": made.writes, "write_units": made.write_units, "refused": made.refused}


def open_run(store: Store, _: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    opened = open_target(store, given["run"], None).open
    assert opened
    return {"epoch": opened.epoch}


def migrate(store: Store, dynamodb: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    manifest = load_manifest(store, given["run"])
    parts = given.get("parts") or [part.part for part in load_staged_entity(store, given["run"], given["name"]).parts]
    done = [migrate_part(store, MAPPING, manifest, given["name"], part, dynamodb) for part in parts]
    return {"rows": sum(part.written for part in done), "write_units": dynamodb.consumed_write_units}


def verify(store: Store, dynamodb: DynamoDB, given: dict[str, Any]) -> dict[str, Any]:
    proof = verify_entity(store, MAPPING, load_manifest(store, given["run"]), given["name"], dynamodb)
    return {"rows": proof.verified}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if request["step"] == "sample":
        write_sample(Path(request.pop("path")), **{name: request[name] for name in request if name != "step"})
        print("{}")
    else:
        print(json.dumps(run(**request)))
