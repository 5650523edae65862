"""The audit pages: all runs of a target, and everything about one of them. Read-only; plain HTML that works in a frame.

Every route asks Airflow whether the user may read the DAG, and shows only a target whose address is checked
(audit_target.py).
"""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from fastapi import Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from accession.artifacts import RunFolder, run_path
from accession.audit import (
    FoundEntry,
    ListPage,
    count_records,
    find_record,
    find_state,
    list_entries,
    list_unended,
    load_run_documents,
    open_cached_map,
    peek_rejects,
    search_conflicts,
    search_ids,
    search_rejects,
    show_audit,
    was_undone,
    watch_run,
)
from accession.errors import AccessionError, NotFoundError, TransientError
from accession.items import KeyMask, find_mask
from accession.progress import show_seconds
from accession.run import describe_report, find_tone
from accession_airflow.audit_target import (
    AuditTarget,
    AuditTargetDep,
    RunName,
    find_address,
    list_targets,
)
from accession_airflow.html_page import HEADERS, find_root, make_link, show_page
from accession_airflow.mappings import index_mappings
from accession_airflow.single_audit import AUDITS

RUNS_A_PAGE = 25
LINES_A_PAGE = 50
ARTIFACTS_A_PAGE = 200
FIRST_REJECTS = 10
REFRESH_SECONDS = 5

Wanted = Annotated[str, Query(max_length=200)]
Page = Annotated[int, Query(ge=1, le=1_000_000)]


def show_error(request: Request, error: Exception) -> HTMLResponse:
    """Show an error's sentence."""
    status = 404 if isinstance(error, NotFoundError) else 503 if isinstance(error, TransientError) else 502
    return show_page(request, "message.html", status, title="This cannot be shown", message=str(error))


def show_targets(request: Request, user: GetUserDep) -> Any:
    """List the targets of all DAGs that the user may read, or go to the only one."""
    may_read = get_auth_manager().is_authorized_dag
    found = [
        (dag_id, bucket, environment)
        for dag_id, mapping in index_mappings().items()
        if may_read(method="GET", details=DagDetails(id=dag_id), user=user)
        for bucket, environment in list_targets(mapping)
    ]
    if len(found) == 1:
        return RedirectResponse(f"{find_root(request)}/{'/'.join(found[0])}", headers=HEADERS)
    return show_page(request, "targets.html", targets=found)


def find_run(
    request: Request,
    dag_id: Annotated[str, Query(max_length=250)],
    run_id: Annotated[str, Query(max_length=250)],
) -> Any:
    """Go from the tab of an Airflow run to the page of the run that it made or undid."""
    mapping = index_mappings().get(dag_id.replace("rollback_", "migrate_", 1))
    if mapping is None:
        return show_page(
            request, "message.html", title="Nothing to audit", message=f"{dag_id} is not a DAG of Accession."
        )
    parts = find_address(mapping, dag_id, run_id)
    if parts is None:
        message = "The run has no backup yet, or failed before it: read the logs of its tasks preflight and backup."
        return show_page(
            request, "message.html", title="Nothing to audit yet", message=message, refresh=REFRESH_SECONDS
        )
    return RedirectResponse(
        "/".join([find_root(request), *(quote(str(part), safe="") for part in parts)]), headers=HEADERS
    )


def show_runs(
    request: Request, target: AuditTargetDep, before: Annotated[int | None, Query(ge=1)] = None
) -> HTMLResponse:
    """List the records of the register, newest first."""
    state = find_state(target.store)
    last = count_records(target.store, state)
    newest = min(before - 1, last) if before else last
    entries = list_entries(target.store, newest, RUNS_A_PAGE)
    return show_page(
        request,
        "runs.html",
        target=target,
        state=state,
        entries=entries,
        unended=list_unended(target.store) if newest == last else [],
        records=last,
        newer=make_link("", before=min(newest + RUNS_A_PAGE, last) + 1) if newest < last else None,
        older=make_link("", before=newest - RUNS_A_PAGE + 1) if newest > RUNS_A_PAGE else None,
        find_tone=find_tone,
    )


def show_run(request: Request, target: AuditTargetDep, run: RunName) -> HTMLResponse:
    """Show a run: its verdict, or how far it has come."""
    documents = load_run_documents(target.store, target.mapping, run)
    report, is_open = documents.report, documents.is_open
    return show_page(
        request,
        "run.html",
        target=target,
        documents=documents,
        manifest=documents.manifest,
        progress=watch_run(target.store, target.mapping, documents) if is_open or not report else None,
        refresh=None if report else REFRESH_SECONDS,
        is_open=is_open,
        is_undone=report is not None and was_undone(report, documents.rollback),
        record=find_record(target.store, documents),
        rejects=list(peek_rejects(target.store, run, FIRST_REJECTS)),
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
    """List the rejects or the kept conflicts of an entity, filtered, a page at a time."""
    found = {name: RunFolder(target.store, run).find_staged(name) for name in target.mapping.order}
    counts = {
        name: (staged.counts.rejected if kind == "rejects" else staged.counts.conflicts) if staged else 0
        for name, staged in found.items()
    }
    entity = entity or next((name for name, count in counts.items() if count), target.mapping.order[0])
    if entity not in found:
        raise NotFoundError(f"There is no entity {entity} in mapping {target.mapping.name}: choose one of the list.")
    staged, listed = found[entity], ListPage([], 0)
    if staged is not None:
        with open_cached_map(target.store, target.store.path(staged.id_map), staged.id_map_sha256) as id_map:
            search = search_rejects if kind == "rejects" else search_conflicts
            listed = search(id_map, _find_mask(target, run, entity), q.strip(), page, LINES_A_PAGE)
    pages = max(-(-listed.total // LINES_A_PAGE), 1)
    same = {"entity": entity, "kind": kind, "q": q.strip()}
    return show_page(
        request,
        "rows.html",
        target=target,
        run=run,
        entity=entity,
        kind=kind,
        wanted=q.strip(),
        counts=counts,
        listed=listed,
        page=page,
        pages=pages,
        newer=make_link("", **same, page=page - 1) if page > 1 else None,
        older=make_link("", **same, page=page + 1) if page < pages else None,
    )


def show_ids(request: Request, target: AuditTargetDep, run: RunName, q: Wanted = "") -> HTMLResponse:
    """Look up an old id or a new one in the ID maps."""
    found: list[FoundEntry] = []
    wanted = q.strip()
    for name in target.mapping.order if wanted else ():
        staged = RunFolder(target.store, run).find_staged(name)
        if staged is not None:
            with open_cached_map(target.store, target.store.path(staged.id_map), staged.id_map_sha256) as id_map:
                found += search_ids(id_map, _find_mask(target, run, name), name, wanted)
    return show_page(request, "ids.html", target=target, run=run, wanted=wanted, found=found)


def _find_mask(target: AuditTarget, run: str, entity: str) -> KeyMask:
    return find_mask(target.mapping, entity, RunFolder(target.store, run).load_manifest().namespace)


def show_artifacts(request: Request, target: AuditTargetDep, run: RunName, page: Page = 1) -> HTMLResponse:
    """List every artifact of a run with its digest, as the register has them."""
    record = find_record(target.store, load_run_documents(target.store, target.mapping, run))
    artifacts = sorted(record.artifacts.items()) if record else []
    first = (page - 1) * ARTIFACTS_A_PAGE
    return show_page(
        request,
        "artifacts.html",
        target=target,
        run=run,
        record=record,
        count=len(artifacts),
        artifacts=artifacts[first : first + ARTIFACTS_A_PAGE],
        newer=make_link("", page=page - 1) if page > 1 else None,
        older=make_link("", page=page + 1) if first + ARTIFACTS_A_PAGE < len(artifacts) else None,
    )


def show_verdict(request: Request, target: AuditTargetDep) -> HTMLResponse:
    """Check the register and every artifact, as `make audit` does. It takes as long as reading them all.

    One audit at a time is made in this process, and its result is shown for a minute.
    """
    done = AUDITS.make(target.store)
    if done is None:
        message = "Another audit is being made. This page asks again by itself."
        return show_page(
            request, "message.html", title="An audit is under way", message=message, refresh=REFRESH_SECONDS
        )
    return show_page(
        request, "audit.html", target=target, audit=done.audit, text=show_audit(done.audit), took=done.took, at=done.at
    )


def make_app() -> FastAPI:
    """Make the app of all pages. It works below any prefix."""
    app = FastAPI(
        title="Accession",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(requires_access_dag("GET"))],
    )
    target, run = "/{dag_id}/{bucket}/{environment}", "/{dag_id}/{bucket}/{environment}/{run}"
    pages: dict[str, Callable[..., Any]] = {
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
