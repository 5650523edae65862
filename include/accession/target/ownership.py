"""Who owns a target: one run at a time, in one epoch.

A run takes the target before its first write and gives it up when it is committed or its undo is proved. Resume and
undo raise the epoch, wait until every writer of an older one has stopped (`settle`), and only then act.
"""

import logging

from accession.artifacts import Store
from accession.aws import REQUEST_TIMEOUT_SECONDS
from accession.commands import show_commands
from accession.errors import RefusedError
from accession.target.state import Open, State, change_state, load_state

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # how often a writer reads the state; an undo or resume waits at least that long
SETTLE_SECONDS = CHECK_SECONDS + REQUEST_TIMEOUT_SECONDS  # after which a writer of an older epoch has stopped


def open_target(store: Store, run: str, parent: str | None) -> State:
    """Take the target for `run`, staged on top of `parent`. Repeatable for the run that owns it.

    Raises RefusedError when another run owns it, the head moved since, or it is sealed.
    """

    def change(state: State) -> State:
        refuse_if_taken(store, state, run)
        if state.head != parent:
            raise RefusedError(
                f"run {run} was staged on {parent or 'an empty target'}, but {state.head or 'an undo'} came since: "
                "nothing was written; trigger a new run."
            )
        if state.open is not None:
            return state
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return change_state(store, change)


def refuse_if_taken(store: Store, state: State, run: str | None = None) -> None:
    """Raises RefusedError when the target is sealed or open by another run than `run`; prints what helps."""
    if state.sealed is not None:
        raise RefusedError(
            f"the target {store.mapping}/{store.environment} was sealed by {state.sealed.by} on {state.sealed.at[:10]} "
            f"({state.sealed.reason}): it belongs to the application now. To write again, give unseal a reason."
        )
    if state.open is not None and state.open.run != run:
        raise RefusedError(
            f"the target {store.mapping}/{store.environment} is open by run {state.open.run}, which has not ended. "
            f"If it is still at work, wait. If it died, finish it or undo it:\n"
            f"{show_commands(store.environment, state.open.run, store.mapping)}"
        )


def expect_open(store: Store, run: str) -> None:
    """Raises RefusedError unless `run` has the target open: a task of an ended run was cleared."""
    state = load_state(store)
    if state is None or state.open is None or state.open.run != run:
        raise RefusedError(
            f"run {run} does not have the target {store.mapping}/{store.environment} open, so this task has nothing to "
            "do: to write its change set again clear open_run with its downstream tasks, or trigger a new run."
        )


def take_over(store: Store, run: str) -> State:
    """Raise the epoch of a run that owns the target, so that its earlier writers stop.

    The caller must then wait CHECK_SECONDS plus the longest request before it acts. Raises RefusedError when `run` does
    not own the target.
    """

    def change(state: State) -> State:
        if state.open is None or state.open.run != run:
            owner = f"run {state.open.run} owns it" if state.open else "nobody owns it"
            raise RefusedError(f"run {run} does not have the target {store.mapping}/{store.environment} open: {owner}.")
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return change_state(store, change)


def reopen_head(store: Store, run: str) -> State:
    """Take the target for the undo of its last committed run. Repeatable. Raises RefusedError naming what stands on
    it."""

    def change(state: State) -> State:
        if state.open is None and state.head != run and state.sealed is None:
            raise RefusedError(
                f"run {run} cannot be undone: "
                + (f"run {state.head} stands on it; undo that one first." if state.head else "nothing is left to undo.")
            )
        refuse_if_taken(store, state, run)
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return change_state(store, change)
