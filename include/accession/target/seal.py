"""The seal: it marks a target that was handed over to the application."""

from accession.artifacts import Store
from accession.target.register import append_record, load_state
from accession.target.state import LogRecord, Seal


def make_seal(store: Store, reason: str, by: str) -> Seal:
    """Return a seal with the present time. The record that commits a run sets it, so that commit and seal are one."""
    return Seal(reason=reason, by=by, at=store.host.now().isoformat(timespec="seconds"))


def unseal_target(store: Store, reason: str, by: str) -> LogRecord | None:
    """Let runs write again. Return None, and record nothing, if the target was not sealed."""
    state = load_state(store)
    if state is None or state.sealed is None:
        return None
    return append_record(
        store, action="unseal", by=by, status="unsealed", note=reason, change=lambda state: {"sealed": None}
    )
