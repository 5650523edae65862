"""The audit page: all runs of a target, and everything about one of them. Read-only; plain HTML that works in a frame.

Every route asks Airflow whether the user may read the DAG, and shows only a target whose address was checked
(target.py).
"""

import base64
import hashlib
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from accession.artifacts import run_path
from accession.audit import audit_target, history, id_map_cache, show_audit
from accession.errors import AccessionError, StoreError, TransientError
from accession.progress import show_seconds
from accession.run import TEMPLATES, describe_report, find_tone, make_environment
from accession_airflow.job import BUCKET_VARIABLE
from accession_airflow.target import AuditTargetDep, NotFoundError, RunName, find_address, index_mappings, list_targets

OURS = Path(__file__).parent / "templates"
RUNS_A_PAGE = 25
LINES_A_PAGE = 50
ARTIFACTS_A_PAGE = 200
FIRST_REJECTS = 10
REFRESH_SECONDS = 5
SCRIPT = (OURS / "frame.js").read_text()
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()}'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

Wanted = Annotated[str, Query(max_length=200)]
Page = Annotated[int, Query(ge=1, le=1_000_000)]


def _show(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    root = request.scope.get("root_path", "")
    shared = {
        "root": root,
        "airflow": root.removesuffix("/accession"),
        "script": SCRIPT,
        "refresh": None,
        "target": None,
    }
    html = make_environment(OURS, TEMPLATES).get_template(template).render(shared | values)
    return HTMLResponse(html, status, HEADERS)


def _link(path: str, **query: Any) -> str:
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


def show_error(request: Request, error: Exception) -> HTMLResponse:
    """What went wrong, in a sentence."""
    status = 404 if isinstance(error, NotFoundError) else 503 if isinstance(error, TransientError) else 502
    if isinstance(error, StoreError) and str(error).startswith("there is no"):
        status = 404
    return _show(request, "message.html", status, title="This cannot be shown", message=str(error))


def show_targets(request: Request, user: GetUserDep) -> Any:
    """All targets of the DAGs that the user may read; the only one is shown at once."""
    may_read = get_auth_manager().is_authorized_dag
    found = [
        (dag_id, bucket, environment)
        for dag_id, mapping in index_mappings().items()
        if may_read(method="GET", details=DagDetails(id=dag_id), user=user)
        for bucket, environment in list_targets(mapping)
    ]
    if len(found) == 1:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/{'/'.join(found[0])}", headers=HEADERS)
    return _show(request, "targets.html", targets=found, variable=BUCKET_VARIABLE)


def find_run(
    request: Request,
    dag_id: Annotated[str, Query(max_length=250)],
    run_id: Annotated[str, Query(max_length=250)],
) -> Any:
    """The tab on a run of Airflow: goes to the page of the run that it made, or undid."""
    mapping = index_mappings().get(dag_id.replace("rollback_", "migrate_", 1))
    if mapping is None:
        return _show(request, "message.html", title="Nothing to audit", message=f"{dag_id} is no DAG of Accession.")
    parts = find_address(mapping, dag_id, run_id)
    if parts is None:
        message = "The run has no backup yet, or failed before it: read the logs of its tasks preflight and backup."
        return _show(request, "message.html", title="Nothing to audit yet", message=message, refresh=REFRESH_SECONDS)
    return RedirectResponse(
        "/".join([request.scope.get("root_path", ""), *(quote(str(part), safe="") for part in parts)]), headers=HEADERS
    )


def show_runs(
    request: Request, target: AuditTargetDep, before: Annotated[int | None, Query(ge=1)] = None
) -> HTMLResponse:
    """The register, newest first."""
    state = history.find_state(target.store)
    last = history.count_records(target.store, state)
    newest = min(before - 1, last) if before else last
    entries = history.list_entries(target.store, newest, RUNS_A_PAGE)
    return _show(
        request,
        "runs.html",
        target=target,
        state=state,
        entries=entries,
        unended=history.list_unended(target.store) if newest == last else [],
        records=last,
        newer=_link("", before=min(newest + RUNS_A_PAGE, last) + 1) if newest < last else None,
        older=_link("", before=newest - RUNS_A_PAGE + 1) if newest > RUNS_A_PAGE else None,
        find_tone=find_tone,
    )


def show_run(request: Request, target: AuditTargetDep, run: RunName) -> HTMLResponse:
    """One run: its verdict, or how far it has come."""
    dossier = history.open_dossier(target.store, target.mapping, run)
    report, state = dossier.report, dossier.state
    is_open = state is not None and state.open is not None and state.open.run == run
    records = history.count_records(target.store, state)
    record = history.find_record(target.store, report, records) if report else None
    return _show(
        request,
        "run.html",
        target=target,
        dossier=dossier,
        manifest=dossier.manifest,
        live=history.watch_run(target.store, target.mapping, dossier) if is_open or not report else None,
        refresh=None if report else REFRESH_SECONDS,
        is_open=is_open,
        is_undone=report is not None and history.was_undone(report, dossier.rollback),
        record=record,
        rejects=list(history.peek_rejects(target.store, run, FIRST_REJECTS)),
        bucket=target.store.bucket,
        folder=target.store.uri(run_path(run)),
        show_seconds=show_seconds,
        **(describe_report(report) if report else {"report": None}),
    )


def show_rows(
    request: Request,
    target: AuditTargetDep,
    run: RunName,
    entity: Wanted = "",
    kind: Annotated[str, Query(pattern="^(rejects|conflicts)$")] = "rejects",
    q: Wanted = "",
    page: Page = 1,
) -> HTMLResponse:
    """Rejects or kept conflicts of an entity, filtered, a page at a time."""
    indexes = {name: history.find_staged_entity(target.store, run, name) for name in target.mapping.order}
    numbers = {
        name: (index.counts.rejected if kind == "rejects" else index.counts.conflicts) if index else 0
        for name, index in indexes.items()
    }
    entity = entity or next((name for name, number in numbers.items() if number), target.mapping.order[0])
    if entity not in indexes:
        raise NotFoundError(f"there is no entity {entity} in the mapping {target.mapping.name}.")
    index, leaf = indexes[entity], id_map_cache.ListPage([], 0)
    if index is not None:
        with id_map_cache.open_map(target.store, target.store.path(index.id_map), index.id_map_sha256) as id_map:
            query = id_map_cache.list_rejects if kind == "rejects" else id_map_cache.list_kept
            leaf = query(id_map, q.strip(), page, LINES_A_PAGE)
    pages = max(-(-leaf.total // LINES_A_PAGE), 1)
    same = {"entity": entity, "kind": kind, "q": q.strip()}
    return _show(
        request,
        "rows.html",
        target=target,
        run=run,
        entity=entity,
        kind=kind,
        wanted=q.strip(),
        numbers=numbers,
        leaf=leaf,
        page=page,
        pages=pages,
        newer=_link("", **same, page=page - 1) if page > 1 else None,
        older=_link("", **same, page=page + 1) if page < pages else None,
    )


def show_ids(request: Request, target: AuditTargetDep, run: RunName, q: Wanted = "") -> HTMLResponse:
    """The ID maps: an old id or a new one, and what it is on the other side."""
    found: list[id_map_cache.FoundEntry] = []
    wanted = q.strip()
    for name in target.mapping.order if wanted else ():
        index = history.find_staged_entity(target.store, run, name)
        if index is not None:
            with id_map_cache.open_map(target.store, target.store.path(index.id_map), index.id_map_sha256) as id_map:
                found += id_map_cache.look_up(id_map, name, wanted)
    return _show(request, "ids.html", target=target, run=run, wanted=wanted, found=found)


def show_artifacts(request: Request, target: AuditTargetDep, run: RunName, page: Page = 1) -> HTMLResponse:
    """Every artifact of a run with its digest, as the register has it."""
    dossier = history.open_dossier(target.store, target.mapping, run)
    records = history.count_records(target.store, dossier.state)
    record = history.find_record(target.store, dossier.report, records) if dossier.report else None
    artifacts = sorted(record.artifacts.items()) if record else []
    first = (page - 1) * ARTIFACTS_A_PAGE
    return _show(
        request,
        "artifacts.html",
        target=target,
        run=run,
        record=record,
        number=len(artifacts),
        artifacts=artifacts[first : first + ARTIFACTS_A_PAGE],
        newer=_link("", page=page - 1) if page > 1 else None,
        older=_link("", page=page + 1) if first + ARTIFACTS_A_PAGE < len(artifacts) else None,
    )


def show_verdict(request: Request, target: AuditTargetDep) -> HTMLResponse:
    """Proves the register and every artifact anew, as `make audit` does; it takes as long as reading them all."""
    started = time.monotonic()
    audit = audit_target(target.store)
    took = show_seconds(time.monotonic() - started)
    return _show(request, "audit.html", target=target, audit=audit, text=show_audit(audit), took=took)


def make_app() -> FastAPI:
    """The pages, below whatever prefix they are mounted."""
    app = FastAPI(
        title="Accession",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_dag("GET"))],
    )
    target, run = "/{dag_id}/{bucket}/{environment}", "/{dag_id}/{bucket}/{environment}/{run}"
    pages = {
        "/": show_targets,
        "/go": find_run,
        target: show_runs,
        f"{target}/audit": show_verdict,
        run: show_run,
        f"{run}/rows": show_rows,
        f"{run}/ids": show_ids,
        f"{run}/artifacts": show_artifacts,
    }
    for path, page in pages.items():
        app.add_api_route(path, page, methods=["GET"], response_model=None)
    app.add_exception_handler(AccessionError, show_error)
    return app
