"""Runs one step of a migration as its Airflow task runs it, in a process of its own, and prints what it cost as JSON.

    python tests/bench/steps.py '{"step": "stage", "name": "user", …}'

The calls are those of plugins/accession_airflow/tasks.py, with the clients of aws.py; Airflow itself is imported, as in
a worker, but no scheduler takes part.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from measure import measured

from accession.artifacts import Store
from accession.cli.sample import write_sample
from accession.dynamodb import DynamoDB
from accession.mapping import MAPPINGS, load_mapping
from accession.params import MigrateParams
from accession.run import Run
from accession.run.migrate import migrate_part
from accession_airflow.aws import connect_dynamodb, connect_s3

MAPPING = load_mapping(MAPPINGS / "book_library.yaml")


def run(step: str, bucket: str, environment: str, **given: Any) -> dict[str, Any]:
    store = Store(connect_s3(), bucket, MAPPING.name, environment)
    if step == "backup":
        with measured() as cost:
            result = backup(store, given)
        return result | cost
    steps = Run.load(store, MAPPING, given["run"], DynamoDB(connect_dynamodb()))
    steps = replace(steps, manifest=steps.manifest.model_copy(update={"params": cap_params(steps, given.get("cap"))}))
    function = {"stage": stage, "plan": plan, "open": open_run, "migrate": migrate, "verify": verify}
    with measured() as cost:
        result = function[step](steps, given)
    return result | cost


def cap_params(steps: Run, cap: int | None) -> dict[str, Any]:
    return {**steps.manifest.params, "write_units_per_second": cap}


def backup(store: Store, given: dict[str, Any]) -> dict[str, Any]:
    params = MigrateParams(source=given["source"], environment=store.environment, bucket=store.bucket)
    source = Path(given["source"])
    about = {"source_name": str(source), "by": "make bench", "airflow_run_id": "bench"}
    return {"run": Run.backup(store, MAPPING, params, DynamoDB(connect_dynamodb()), source, **about).name}


def stage(steps: Run, given: dict[str, Any]) -> dict[str, Any]:
    staged = steps.stage(given["name"], given.get("id_maps", {}))
    return {"id_map": staged.id_map, "rows": staged.counts.source_rows, "parts": len(staged.parts)}


def plan(steps: Run, _: dict[str, Any]) -> dict[str, Any]:
    made = steps.plan()
    return {"rows": made.writes, "write_units": made.write_units, "refused": made.refused}


def open_run(steps: Run, _: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": steps.open_run().epoch}


def migrate(steps: Run, given: dict[str, Any]) -> dict[str, Any]:
    parts = given.get("parts") or [part.part for part in steps.folder.load_staged(given["name"]).parts]
    dynamodb = steps.connect_writer(given["epoch"])
    done = [migrate_part(steps, given["name"], part, dynamodb) for part in parts]
    units = dynamodb.consumed_write_units
    return {"rows": sum(part.written for part in done), "write_units": units, "throttled": dynamodb.throttled}


def verify(steps: Run, given: dict[str, Any]) -> dict[str, Any]:
    return {"rows": steps.verify(given["name"]).verified}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if request["step"] == "sample":
        write_sample(Path(request.pop("path")), **{name: request[name] for name in request if name != "step"})
        print("{}")
    else:
        print(json.dumps(run(**request)))
