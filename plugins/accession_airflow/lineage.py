"""Tell OpenLineage where the items of a run came from, if the deployment has the OpenLineage provider.

The source is one dataset, the SQLite file, with its tables and the mapping's queries as nested fields: `user.email` is
a column. Each table that the run changed is a dataset, named by its ARN, with the source column of each attribute.
OpenLineage's naming rules have no DynamoDB; the names are made as those of AWS Glue are.
"""

import logging
from typing import TYPE_CHECKING, Any

from accession.errors import AccessionError

if TYPE_CHECKING:
    from accession.artifacts import Manifest, Report
    from accession.dynamodb import DynamoDB
    from accession.mapping import Entity, Mapping

logger = logging.getLogger(__name__)


def emit_lineage(mapping: "Mapping", manifest: "Manifest", report: "Report", dynamodb: "DynamoDB") -> None:
    """Send the lineage of a committed run as an event of the running task. Without OpenLineage nothing is done.

    An event that cannot be made or sent is logged and fails nothing: the run is committed.
    """
    try:
        from airflow.providers.openlineage.api import emit_dataset_lineage, is_openlineage_active
    except ImportError:  # the provider is an option; 2.20 is the version that we tested
        return
    changed = [name for name, entity in report.entities.items() if entity.put or entity.updated or entity.deleted]
    if report.status != "verified" or not changed or not is_openlineage_active():
        return
    source = _describe_source(mapping, manifest.source)
    try:
        arns = {name: dynamodb.describe_table(report.entities[name].table).arn for name in changed}
    except AccessionError as error:
        logger.warning("OpenLineage is not told of this run. %s", error)
        return
    outputs = [_describe_table(mapping.entities[name], arn, source) for name, arn in arns.items()]
    emit_dataset_lineage(inputs=[source], outputs=outputs)


def _describe_source(mapping: "Mapping", place: str) -> Any:
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import schema_dataset

    field = schema_dataset.SchemaDatasetFacetFields
    fields = [
        field(name=table, type="table", fields=[field(name=column) for column in columns])
        for table, columns in mapping.source_tables.items()
    ]
    fields += [
        field(name=mapping.entities[name].origin, type="query", fields=[field(name=column) for column in columns])
        for name, columns in mapping.query_columns.items()
    ]
    bucket, _, key = place.removeprefix("s3://").partition("/")
    namespace, name = (f"s3://{bucket}", key) if place.startswith("s3://") else ("file", place)
    return Dataset(namespace, name, facets={"schema": schema_dataset.SchemaDatasetFacet(fields=fields)})


def _describe_table(entity: "Entity", arn: str, source: Any) -> Any:
    from openlineage.client.event_v2 import Dataset
    from openlineage.client.facet_v2 import column_lineage_dataset, schema_dataset

    columns = {part.name: entity.list_key_columns(part) or entity.source.keys for part in entity.key_parts}
    columns |= {name: named for name in entity.attributes if (named := entity.list_columns(name))}
    kinds = {part.name: f"new id of {entity.name}" if part.is_new_id else "key" for part in entity.key_parts}
    kinds |= {name: a.type or f"key of {a.parent}" for name, a in entity.attributes.items()}
    field = column_lineage_dataset.InputField
    lineage = {
        name: column_lineage_dataset.Fields(
            [field(source.namespace, source.name, f"{entity.origin}.{column}") for column in named]
        )
        for name, named in columns.items()
    }
    account, _, table = arn.rpartition(":")
    return Dataset(
        account,
        table,
        facets={
            "schema": schema_dataset.SchemaDatasetFacet(
                fields=[schema_dataset.SchemaDatasetFacetFields(name=name, type=kind) for name, kind in kinds.items()]
            ),
            "columnLineage": column_lineage_dataset.ColumnLineageDatasetFacet(fields=lineage),
        },
    )
