"""The job of a task: everything that it works with, opened from Airflow's context, and how its errors reach people.

Heavy imports are inside the functions, because Airflow parses the DAG file again and again.
"""

import getpass
import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from accession.conf import check_params, drop_defaults, restore_params
from accession.deployment import SECTION, Deployment
from accession.errors import AccessionError, ParamsError, RefusedError
from accession.mapping import Mapping, load_mapping
from accession.params import MigrateParams, RollbackParams
from accession.permissions import expect_allowed, expect_app_url, expect_restore, expect_source
from accession_airflow.settings import read_deployment

if TYPE_CHECKING:
    from accession.artifacts import Store
    from accession.dynamodb import DynamoDB
    from accession.run import Run

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """Everything that a task works with."""

    mapping: Mapping
    params: Any
    store: "Store"
    deployment: Deployment

    def connect(self) -> "DynamoDB":
        """Return a connection to DynamoDB for reading, by the Airflow connection."""
        from accession_airflow.aws import open_dynamodb

        return open_dynamodb()

    def load_run(self, run: str) -> "Run":
        """Return a run by its name. If the task's run resumes it, the params of now replace its own."""
        from accession.run import Run

        params = self.params if isinstance(self.params, MigrateParams) and self.params.resume else None
        return Run.load(self.store, self.mapping, run, self.connect(), params)

    @property
    def source(self) -> str:
        """Return the source that the params or the deployment name. Raises ParamsError if neither does."""
        source: str = self.params.source or self.deployment.source or ""
        if not source:
            raise ParamsError(f"Param source: give the SQLite file, or set [{SECTION}] source.")
        return source

    @contextmanager
    def fetch_source(self) -> Iterator[Path | None]:
        """Yield the source as a local file, or None for a resumed run, which reads its backup."""
        from accession.run import fetch_source

        if isinstance(self.params, MigrateParams) and self.params.resume:
            yield None
            return
        if not self.source.startswith("s3://"):
            file = Path(self.source).resolve()
            expect_source(self.deployment, str(file))  # of the very file that is opened, wherever a link led before
            yield file
            return
        with tempfile.TemporaryDirectory(prefix="accession-") as folder:
            is_checkpointed = self.params.source_is_checkpointed
            yield fetch_source(self.store.client, self.source, Path(folder), is_checkpointed=is_checkpointed)

    def find_app_url(self, run: "Run") -> str | None:
        """Return the URL that a run requests after its writes. Raises RefusedError if it is not allowed (any more)."""
        url = run.params.app_url
        if url:
            expect_app_url(self.deployment, url)
        return url

    def find_place(self, run: "Run") -> str | None:
        """Return the place to which the backup of a run is restored, if the params name one.

        Raises RefusedError if it is not allowed.
        """
        place: str | None = self.params.restore_to
        if place:
            expect_restore(self.deployment, place, run.manifest.source)
        return place


def body(function: Callable[Concatenate[Job, Any, P], R]) -> Callable[Concatenate[Path, Any, P], R]:
    """Wrap the body of a task, so that it takes a mapping's file, and its error is one line that reaches the report."""

    @wraps(function)
    def call(mapping_file: Path, context: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with explaining(context):
            return function(_open_job(mapping_file, context), context, *args, **kwargs)

    return call


@contextmanager
def explaining(context: Any) -> Iterator[None]:
    """Log one of our errors as one line, and push it to where the report finds it."""
    try:
        yield
    except AccessionError as error:
        logger.error("%s", error)  # noqa: TRY400  the sentence, not the trace
        context["ti"].xcom_push(key="error", value={"message": str(error), "kind": type(error).__name__})
        raise error.with_traceback(None) from None


def merge_params(context: Any) -> dict[str, Any]:
    """Return the params of a task's run: the DAG's defaults, and over them what the run was given."""
    return {**context["params"], **(context["dag_run"].conf or {})}


def read_params(dag_id: str, context: Any) -> tuple[Deployment, Any]:
    """Return the settings of the deployment and the params of a task's run, checked against them.

    Raises ConfigurationError, ParamsError, or RefusedError if a param is outside of what the deployment allows.
    """
    deployment = read_deployment()
    model = RollbackParams if dag_id.startswith("rollback_") else MigrateParams
    given = {"environment": deployment.environment} | merge_params(context)
    params: Any = check_params(model, drop_defaults(model, given))
    _expect_allowed(deployment, params, context)
    return deployment, params


def _open_job(mapping_file: Path, context: Any) -> Job:
    from accession.artifacts import RunFolder
    from accession_airflow.aws import open_store

    deployment, params = read_params(context["dag"].dag_id, context)
    bucket = params.bucket or deployment.bucket
    if not bucket:
        raise ParamsError(
            f"Param bucket: give the artifacts bucket that make deploy printed, or set [{SECTION}] bucket."
        )
    mapping = load_mapping(mapping_file)
    store = open_store(bucket, mapping, params.environment)
    if isinstance(params, MigrateParams) and params.resume:
        staged = RunFolder(store, params.resume).load_manifest()
        params = restore_params(staged.run, staged.params).resume_with(params)
        _expect_allowed(deployment, params, context)
    return Job(mapping, params, store, deployment)


def _expect_allowed(deployment: Deployment, params: Any, context: Any) -> None:
    try:
        expect_allowed(deployment, params)
    except RefusedError:
        logger.warning("%s asked for something that this deployment does not allow.", find_actor(context))
        raise


def find_actor(context: Any) -> str:
    """Return who triggered the run: a user of Airflow, or of this machine if there is no Airflow to log in to."""
    run = context["dag_run"]
    name = getattr(run, "triggering_user_name", None)
    if name == "dag_test":
        return f"{getpass.getuser()} (airflow dags test)"
    return name or f"airflow ({run.run_type})"
