"""OpenLineage's own listener and its file transport: the lineage of a run as a data catalogue gets it."""

import json
from pathlib import Path
from typing import Any

import pytest

from accession.cli.airflow_process import run_dag
from accession.cli.sample import write_sample
from accession.mapping import load_mapping
from conftest import REPO, Library

pytestmark = [pytest.mark.timeout(280), pytest.mark.filterwarnings("ignore")]

MAPPING = load_mapping(REPO / "include/mappings/book_library.yaml")


def run_listened(library: Library, source: Path, events: Path, **conf: Any) -> list[Any]:
    """Run the DAG in a process with the listener on, and return the datasets' events."""
    given = {"source": str(source), "environment": library.environment, "bucket": library.bucket, "max_rejects": 2}
    transport = {"type": "file", "log_file_path": str(events), "append": True}
    ran = run_dag(
        "migrate_book_library",
        given | conf,
        tell=lambda line: None,
        environ={"AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport)},
    )
    assert ran.succeeded, ran.log.read_text()[-4000:]
    found = [json.loads(line) for line in events.read_text().splitlines()]
    assert any(event["job"]["name"] == "migrate_book_library.report" for event in found)  # the listener was on
    return [event for event in found if event["inputs"] or event["outputs"]]


def test_a_catalogue_learns_the_column_from_which_each_attribute_came(library: Library, tmp_path: Path) -> None:
    source = write_sample(tmp_path / "site.db")
    (event,) = run_listened(library, source, tmp_path / "events.jsonl")
    assert event["job"]["name"] == "migrate_book_library.report"

    (file,) = event["inputs"]
    assert (file["namespace"], file["name"]) == ("file", str(source))
    tables = {
        table["name"]: [column["name"] for column in table["fields"]] for table in file["facets"]["schema"]["fields"]
    }
    assert tables == MAPPING.source_tables

    account = f"arn:aws:dynamodb:{library.aws.region}:000000000000"
    found = {dataset["name"]: dataset for dataset in event["outputs"]}
    assert {dataset["namespace"] for dataset in event["outputs"]} == {account}
    assert found.keys() == {f"table/{table}" for table in library.tables.values()}
    for name, entity in MAPPING.entities.items():
        facets = found[f"table/{library.tables[name]}"]["facets"]
        wanted = {entity.target.key: f"{entity.source.table}.{entity.source.key}"} | {
            attribute: f"{entity.source.table}.{about.column}"
            for attribute, about in entity.attributes.items()
            if about.column is not None
        }
        lineage = facets["columnLineage"]["fields"]
        assert {
            attribute: [field["field"] for field in about["inputFields"]] for attribute, about in lineage.items()
        } == {attribute: [column] for attribute, column in wanted.items()}
        inputs = [field for about in lineage.values() for field in about["inputFields"]]
        assert {(field["namespace"], field["name"]) for field in inputs} == {("file", str(source))}
        assert [field["name"] for field in facets["schema"]["fields"]] == [entity.target.key, *entity.attributes]


def test_a_run_that_wrote_nothing_has_no_lineage(library: Library, tmp_path: Path) -> None:
    assert run_listened(library, write_sample(tmp_path / "site.db"), tmp_path / "events.jsonl", dry_run=True) == []
