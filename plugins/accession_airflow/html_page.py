"""Render the audit pages: templates, security headers and links. Plain HTML that works in Airflow's frame."""

import base64
import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse

from accession.run import TEMPLATES, make_environment

PAGES = Path(__file__).parent / "templates"
SCRIPT = (PAGES / "frame.js").read_text()
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


def show_page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a template. All values are escaped; the only script is our own."""
    root = find_root(request)
    shared = {
        "root": root,
        "airflow": root.removesuffix("/accession"),
        "script": SCRIPT,
        "refresh": None,
        "target": None,
    }
    html = make_environment(PAGES, TEMPLATES).get_template(template).render(shared | values)
    return HTMLResponse(html, status, HEADERS)


def find_root(request: Request) -> str:
    """Return the prefix below which Airflow serves the pages."""
    root: str = request.scope.get("root_path", "")
    return root


def make_link(path: str, **query: Any) -> str:
    """Return a relative link. Empty values are left out of the query."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path
