"""The rules of what a run may read, write and request, by the settings of its deployment.

Only paths on disk are looked at, to resolve symlinks and `..`: two paths are compared as the files that they are.
"""

import os
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from accession.database_file import SIDE_FILES
from accession.deployment import SECTION, Deployment
from accession.errors import RefusedError
from accession.params import MigrateParams, RollbackParams


def expect_allowed(deployment: Deployment, params: MigrateParams | RollbackParams) -> None:
    """Raise RefusedError if a param is outside of what the deployment allows. A param that is empty is allowed.

    The source of a resumed run is not read, and the place of a restore depends on the run: see `expect_restore`.
    """
    _expect_name("bucket", params.bucket, _list_bucket_patterns(deployment), "allowed_buckets")
    if deployment.allowed_environments:
        known = (deployment.environment, *deployment.allowed_environments)
        _expect_name("environment", params.environment, known, "allowed_environments")
    if isinstance(params, MigrateParams):
        if params.source and not params.resume:
            expect_source(deployment, params.source)
        if params.app_url:
            expect_app_url(deployment, params.app_url)


def allows_bucket(deployment: Deployment, bucket: str) -> bool:
    """Tell whether the artifacts of a run may be in that bucket."""
    return _matches(bucket, _list_bucket_patterns(deployment))


def list_buckets(deployment: Deployment) -> list[str]:
    """Return the buckets that the settings name in full."""
    return list(dict.fromkeys(bucket for bucket in _list_bucket_patterns(deployment) if "*" not in bucket))


def _list_bucket_patterns(deployment: Deployment) -> list[str]:
    """Return the patterns of the buckets that a run may name."""
    return [*([deployment.bucket] if deployment.bucket else []), *deployment.allowed_buckets]


def expect_source(deployment: Deployment, source: str) -> None:
    """Raise RefusedError if a run may not read that source."""
    if not is_within(source, _list_source_places(deployment)):
        raise RefusedError(
            f"Param source: this deployment does not allow {source}. Choose a source that [{SECTION}] allowed_sources "
            "covers, or ask whoever runs Airflow to add it."
        )


def expect_app_url(deployment: Deployment, url: str) -> None:
    """Raise RefusedError if a run may not request that URL. The message has neither its user nor its query."""
    if not any(_is_below_url(url, allowed) for allowed in deployment.allowed_app_urls):
        parts = urlsplit(url)
        raise RefusedError(
            f"Param app_url: this deployment does not allow {parts.scheme}://{parts.netloc.rpartition('@')[2]}. Leave "
            f"it empty, or ask whoever runs Airflow to add its beginning to [{SECTION}] allowed_app_urls."
        )


def expect_restore(deployment: Deployment, place: str, own_source: str) -> None:
    """Raise RefusedError if the backup of a run that read `own_source` may not be restored to `place`.

    Its own source must still be one that a run may read: what the manifest says is not taken on trust.
    """
    is_own = _resolve(place) is not None and _resolve(place) == _resolve(own_source)
    may_replace_own = is_own and is_within(place, _list_source_places(deployment))
    if place.endswith(SIDE_FILES) or not (may_replace_own or is_within(place, deployment.allowed_restores)):
        raise RefusedError(
            f"Param restore_to: this deployment does not allow {place}. A backup goes back to the source of its run "
            f"({own_source}) or to a place that [{SECTION}] allowed_restores covers."
        )


def is_within(place: str, allowed: Iterable[str]) -> bool:
    """Tell whether a path or s3:// address is one of `allowed`, or below one of them."""
    resolved = _resolve(place)
    return resolved is not None and any(
        found is not None and (resolved == found or resolved.startswith(f"{found.rstrip('/')}/"))
        for found in map(_resolve, allowed)
    )


def _list_source_places(deployment: Deployment) -> tuple[str, ...]:
    """Return the places from which a run may read: the configured ones, and the configured source itself."""
    source = deployment.source
    if not source or deployment.allowed_sources:
        return (*deployment.allowed_sources, *([source] if source else []))
    folder = source.rpartition("/")[0] if source.startswith("s3://") else str(PurePath(os.path.realpath(source)).parent)
    is_root = folder.count("/") < 3 if folder.startswith("s3://") else folder == "/"
    return (source,) if is_root else (source, folder)


def _resolve(place: str) -> str | None:
    """Return the file that a path leads to, or an s3:// address as it is; None if that is uncertain.

    S3 takes `..` in a key as it stands, but what is between us and S3 may not.
    """
    if place.startswith("s3://"):
        parts = place.removeprefix("s3://").split("/")
        return None if not parts[0] or {".", ".."} & set(parts) or not place.isprintable() else place
    try:
        return os.path.realpath(place)
    except (OSError, ValueError):  # a loop of symlinks, a NUL
        return None


def _expect_name(param: str, name: str | None, known: Iterable[str], option: str) -> None:
    if name and not _matches(name, known):
        raise RefusedError(
            f"Param {param}: this deployment does not allow {name}. Leave it empty, or ask whoever runs Airflow to add "
            f"it to [{SECTION}] {option}."
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def is_exempt(deployment: Deployment, environment: str, *, is_in_each_table: bool) -> bool:
    """Tell whether nobody is asked about runs in an environment.

    `is_in_each_table` tells whether each table of the mapping has the environment in its name. If not, the name of an
    environment does not say what is written to, and only `*` exempts it.
    """
    exempt = deployment.environments_without_approval
    return "*" in exempt or (is_in_each_table and _matches(environment, exempt))


def _is_below_url(url: str, allowed: str) -> bool:
    asked, known = urlsplit(url), urlsplit(allowed)
    try:
        same = (asked.scheme, asked.hostname, asked.port) == (known.scheme, known.hostname, known.port)
    except ValueError:  # a port that is not a number
        return False
    path = unquote(unquote(asked.path))
    if not same or "@" in asked.netloc or "\\" in url or ".." in path.split("/"):
        return False
    root = known.path.rstrip("/")
    return asked.path == known.path or asked.path.startswith(f"{root}/") or (not root and not asked.path)
