"""The seal: it marks a target that was handed over to the application."""

from datetime import UTC, datetime
from typing import Any

from accession.artifacts import Store
from accession.target.state import LogRecord, Seal, State, append_record, load_state


def seal_target(store: Store, reason: str, by: str) -> LogRecord:
    """Hand the target over to the application: later runs refuse to write. Safe to repeat."""

    def change(state: State) -> dict[str, Any]:
        return {"sealed": Seal(reason=reason, by=by, at=datetime.now(UTC).isoformat(timespec="seconds"))}

    return append_record(store, action="seal", by=by, status="sealed", note=reason, change=change)


def unseal_target(store: Store, reason: str, by: str) -> LogRecord | None:
    """Let runs write again. Return None, and record nothing, if the target was not sealed."""
    state = load_state(store)
    if state is None or state.sealed is None:
        return None
    return append_record(
        store, action="unseal", by=by, status="unsealed", note=reason, change=lambda state: {"sealed": None}
    )
