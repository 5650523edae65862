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
from accession.host import Host
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.params import MigrateParams
from accession.run import Outcome, Run
from accession_airflow.aws import connect_dynamodb, connect_s3

ALONE = Host(sleep=lambda _: None)  # no other writer is alive, so none is waited for


def run(
    step: str, bucket: str, environment: str, mapping: str = str(MAPPINGS / "book_library.yaml"), **given: Any
) -> dict[str, Any]:
    loaded = load_mapping(Path(mapping))
    store = Store(connect_s3(), bucket, loaded.name, environment, ALONE)
    if step == "backup":
        with measured() as cost:
            result = backup(store, loaded, given)
        return result | cost
    steps = Run.load(store, loaded, given["run"], DynamoDB(connect_dynamodb()))
    steps = replace(steps, manifest=steps.manifest.model_copy(update={"params": cap_params(steps, given.get("cap"))}))
    function = {"stage": stage, "plan": plan, "open": open_run, "migrate": migrate, "verify": verify, "report": report,
                "undo": undo}  # fmt: skip
    with measured() as cost:
        result = function[step](steps, given)
    return result | cost


def cap_params(steps: Run, cap: int | None) -> dict[str, Any]:
    return {**steps.manifest.params, "write_units_per_second": cap}


def backup(store: Store, mapping: Mapping, given: dict[str, Any]) -> dict[str, Any]:
    params = MigrateParams(source=given["source"], environment=store.environment, bucket=store.bucket)
    source = Path(given["source"])
    about = {"source_name": str(source), "by": "make bench", "airflow_run_id": "bench"}
    return {"run": Run.backup(store, mapping, params, DynamoDB(connect_dynamodb()), source, **about).name}


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
    done = [steps.migrate(given["name"], part, given["epoch"]) for part in parts]
    return {
        "rows": sum(part.written for part in done),
        "write_units": sum(part.write_units for part in done),
        "throttled": sum(part.throttled for part in done),
    }


def verify(steps: Run, given: dict[str, Any]) -> dict[str, Any]:
    return {"rows": steps.verify(given["name"]).verified}


def report(steps: Run, given: dict[str, Any]) -> dict[str, Any]:
    return {"status": steps.report(Outcome(is_verified=True, epoch=given["epoch"])).status}


def undo(steps: Run, _: dict[str, Any]) -> dict[str, Any]:
    undone = steps.undo("make bench")
    return {"rows": sum(one.restored + one.deleted for one in undone.entities.values())}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])
    if request["step"] == "sample":
        write_sample(Path(request.pop("path")), **{name: request[name] for name in request if name != "step"})
        print("{}")
    else:
        print(json.dumps(run(**request)))
