"""The targets that the audit pages may show. Every address is checked against the mappings and Airflow's runs.

A part of an address reaches S3 only after this check: the mapping is one of ours, the rest match their patterns, and
the bucket is one that the deployment allows. An API server without settings takes the buckets that tasks have used,
since the workers allowed them. A bucket that a run was only asked to use does not count.
"""

import logging
import re
import time
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from airflow.models.dagrun import DagRun
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi import Depends, Path
from sqlalchemy import select

from accession.artifacts import Store, list_environments
from accession.errors import AccessError, NotFoundError, StoreError, TransientError
from accession.mapping import Mapping
from accession.names import BUCKET, ENVIRONMENT, RUN
from accession.permissions import allows_bucket, list_buckets
from accession_airflow.aws import connect_s3
from accession_airflow.mappings import index_mappings
from accession_airflow.settings import read_deployment

logger = logging.getLogger(__name__)

CLIENT_SECONDS = 300  # the Airflow connection is read again after this


class AuditTarget(NamedTuple):
    """A target whose address is checked."""

    dag_id: str
    mapping: Mapping
    store: Store

    @property
    def path(self) -> str:
        """The path of its pages, below the plugin's prefix."""
        return f"/{self.dag_id}/{self.store.bucket}/{self.store.environment}"


def find_target(
    dag_id: Annotated[str, Path(max_length=250)],
    bucket: Annotated[str, Path(pattern=BUCKET)],
    environment: Annotated[str, Path(pattern=ENVIRONMENT)],
) -> AuditTarget:
    """Return the target of an address. Raises NotFoundError if it may not be shown."""
    mapping = index_mappings().get(dag_id)
    if mapping is None or not _allows(mapping, bucket):
        raise NotFoundError(f"There is no target {dag_id} in bucket {bucket}: see the list of targets.")
    return AuditTarget(dag_id, mapping, _make_store(bucket, mapping.name, environment, _count_period()))


AuditTargetDep = Annotated[AuditTarget, Depends(find_target)]
RunName = Annotated[str, Path(pattern=RUN)]


def list_targets(mapping: Mapping) -> Iterator[tuple[str, str]]:
    """Yield bucket and environment of each target of a mapping."""
    client = _make_client(_count_period())
    for bucket in _find_buckets(mapping):
        try:
            environments = list_environments(client, bucket, mapping.name)
        except (AccessError, StoreError, TransientError) as error:  # of a bucket that some run named
            logger.warning("Bucket %s is left out of the targets: %s", bucket, error)
            continue
        yield from ((bucket, environment) for environment in environments if re.fullmatch(ENVIRONMENT, environment))


def find_address(mapping: Mapping, dag_id: str, run_id: str) -> list[str] | None:
    """Return the address of the run that a run of Airflow made or undid; None if it made none yet. Unchecked."""
    deployment = read_deployment()
    with create_session() as session:
        conf = session.scalar(select(DagRun.conf).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)) or {}

        def find(key: str) -> Any:
            query = XComModel.get_many(run_id=run_id, dag_ids=dag_id, task_ids=("backup", "check"), key=key)
            found = session.scalars(query).first()
            return None if found is None else XComModel.deserialize_value(found)

        run, target = find("run") or conf.get("run") or conf.get("resume"), find("target") or {}
    if not run:
        return None
    environment = target.get("environment") or conf.get("environment") or deployment.environment
    bucket = target.get("bucket") or conf.get("bucket") or deployment.bucket or ""
    return [f"migrate_{mapping.name}", bucket, environment, run]


def _allows(mapping: Mapping, bucket: str) -> bool:
    deployment = read_deployment()
    if deployment.bucket or deployment.allowed_buckets:
        return allows_bucket(deployment, bucket)
    return bucket in _find_used(mapping)


def _find_buckets(mapping: Mapping) -> list[str]:
    """Return the buckets that may be read: those that the settings name, and those that tasks have used."""
    used = [bucket for bucket in _find_used(mapping) if _allows(mapping, bucket)]
    return list(dict.fromkeys([*list_buckets(read_deployment()), *used]))


def _find_used(mapping: Mapping) -> list[str]:
    """Return the buckets that tasks of the DAGs have used lately. The tasks push them, once a worker allowed them."""
    dags = (f"migrate_{mapping.name}", f"rollback_{mapping.name}")
    query = (
        select(XComModel)
        .where(XComModel.dag_id.in_(dags), XComModel.task_id.in_(("backup", "check")), XComModel.key == "target")
        .order_by(XComModel.dag_run_id.desc())
        .limit(500)
    )
    with create_session() as session:
        targets = [XComModel.deserialize_value(found) for found in session.scalars(query)]
    buckets = [target.get("bucket") for target in targets if isinstance(target, dict)]
    return [bucket for bucket in dict.fromkeys(buckets) if isinstance(bucket, str) and re.fullmatch(BUCKET, bucket)]


def _count_period() -> int:
    return int(time.time() / CLIENT_SECONDS)


@lru_cache(maxsize=2)
def _make_client(_period: int) -> Any:
    return connect_s3()


@lru_cache(maxsize=64)
def _make_store(bucket: str, mapping: str, environment: str, period: int) -> Store:
    return Store(_make_client(period), bucket, mapping, environment)
