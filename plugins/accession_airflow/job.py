"""The job of a task: everything that it works with, opened from Airflow's context, and how its errors reach people.

Heavy imports are inside the functions, because Airflow parses the DAG file again and again.
"""

import getpass
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from accession.errors import AccessionError, ParamsError
from accession.mapping import MAPPINGS, Mapping, load_mapping
from accession.params import MigrateParams, RollbackParams, check_params, drop_defaults

if TYPE_CHECKING:
    from accession.artifacts import Store
    from accession.dynamodb import DynamoDB
    from accession.run import Run

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)

BUCKET_VARIABLE = "ACCESSION_BUCKET"
SOURCE_VARIABLE = "ACCESSION_SOURCE"


@dataclass(frozen=True)
class Job:
    """Everything that a task works with."""

    mapping: Mapping
    params: Any
    store: "Store"
    s3: Any

    def connect(self) -> "DynamoDB":
        """Return a connection to DynamoDB for reading, by the Airflow connection."""
        from accession.dynamodb import DynamoDB
        from accession_airflow.aws import connect_dynamodb

        return DynamoDB(connect_dynamodb())

    def load_run(self, run: str) -> "Run":
        """Return a run by its name. If the task's run resumes it, the params of now replace its own."""
        from accession.run import Run

        params = self.params if isinstance(self.params, MigrateParams) and self.params.resume else None
        return Run.load(self.store, self.mapping, run, self.connect(), params)

    @property
    def source(self) -> str:
        """Return the source that the params or the deployment name. Raises ParamsError if neither does."""
        source: str = self.params.source or os.environ.get(SOURCE_VARIABLE, "")
        if not source:
            raise ParamsError(f"Param source: give the SQLite file, or set {SOURCE_VARIABLE} on the workers.")
        return source

    @contextmanager
    def fetch_source(self) -> Iterator[Path | None]:
        """Yield the source as a local file, or None for a resumed run, which reads its backup."""
        from accession.artifacts import fetch_object

        if isinstance(self.params, MigrateParams) and self.params.resume:
            yield None
            return
        if not self.source.startswith("s3://"):
            yield Path(self.source)
            return
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            yield fetch_object(self.s3, self.source, Path(folder) / "source.db")


def body(function: Callable[Concatenate[Job, Any, P], R]) -> Callable[Concatenate[str, Any, P], R]:
    """Wrap the body of a task, so that its error is one line in the log and reaches the report."""

    @wraps(function)
    def call(mapping_name: str, context: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(_open_job(mapping_name, context), context, *args, **kwargs)
        except AccessionError as error:
            logger.error("%s", error)  # noqa: TRY400  the sentence, not the trace
            context["ti"].xcom_push(key="error", value={"message": str(error), "kind": type(error).__name__})
            raise error.with_traceback(None) from None

    return call


def merge_params(context: Any) -> dict[str, Any]:
    """Return the params of a task's run: the DAG's defaults, and over them what the run was given."""
    return {**context["params"], **(context["dag_run"].conf or {})}


def _open_job(mapping_name: str, context: Any) -> Job:
    from accession.artifacts import RunFolder, Store
    from accession_airflow.aws import connect_s3

    given = merge_params(context)
    model = RollbackParams if context["dag"].dag_id.startswith("rollback_") else MigrateParams
    params: Any = check_params(model, drop_defaults(model, given))
    bucket = params.bucket or os.environ.get(BUCKET_VARIABLE)
    if not bucket:
        raise ParamsError(
            f"Param bucket: give the artifacts bucket that make deploy printed, or set {BUCKET_VARIABLE} on the "
            "workers."
        )
    s3 = connect_s3()
    mapping = load_mapping(MAPPINGS / f"{mapping_name}.yaml")
    store = Store(s3, bucket, mapping.name, params.environment)
    if isinstance(params, MigrateParams) and params.resume:
        params = MigrateParams(**RunFolder(store, params.resume).load_manifest().params).resume_with(params)
    return Job(mapping, params, store, s3)


def find_actor(context: Any) -> str:
    """Return who triggered the run: a user of Airflow, or of this machine if there is no Airflow to log in to."""
    run = context["dag_run"]
    name = getattr(run, "triggering_user_name", None)
    if name == "dag_test":
        return f"{getpass.getuser()} (airflow dags test)"
    return name or f"airflow ({run.run_type})"
