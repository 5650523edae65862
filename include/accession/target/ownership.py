"""Take and check the ownership of a target: one run owns it at a time, in one epoch.

A run takes the target before its first write. It gives the target up when it is committed, or when its undo is proved.
Resume and undo raise the epoch, wait until every writer of an older epoch has stopped (`settle`), and only then act.
"""

import logging

from accession.artifacts import Store
from accession.aws import REQUEST_TIMEOUT_SECONDS
from accession.commands import show_commands
from accession.errors import FencedError, RefusedError
from accession.target.register import change_state, explain_loss, load_state
from accession.target.state import Open, State

logger = logging.getLogger(__name__)

CHECK_SECONDS = 5.0  # how often a writer reads the state; a resume or undo waits at least that long
SETTLE_SECONDS = CHECK_SECONDS + REQUEST_TIMEOUT_SECONDS  # by then every writer of an older epoch has stopped


def open_target(store: Store, run: str, parent: str | None, seen: State | None = None) -> State:
    """Take the target for `run`, which was staged on `parent`. Safe to repeat until somebody takes the run over.

    `seen` is the state that the caller looked at when it began. Raises RefusedError if another run, or a resume or undo
    of this one, owns the target, its head has moved since, or it is sealed; FencedError if somebody opened and closed
    the target since `seen`.
    """

    def change(state: State) -> State:
        refuse_if_taken(store, state, run)
        if state.head != parent:
            raise RefusedError(
                f"Run {run} was staged on {parent or 'an empty target'}, but {state.head or 'an undo'} came since: "
                "nothing was written. Trigger a new run."
            )
        if state.open is not None and state.open.origin is not None:
            raise RefusedError(
                f"A resume or undo of run {run} took the target {store.mapping}/{store.environment} (epoch "
                f"{state.open.epoch}) and has not ended. If it is still at work, wait. If it died, finish the run or "
                f"undo it:\n{show_commands(store.environment, run, store.mapping)}"
            )
        if state.open is not None:
            return state
        if seen is not None and state.epoch != seen.epoch:
            raise FencedError(
                f"The target {store.mapping}/{store.environment} was opened and closed while this task stood still: "
                "nothing was written. To write the change set, clear this task with its downstream tasks."
            )
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch), "epoch": epoch})

    return change_state(store, change)


def refuse_if_taken(store: Store, state: State, run: str | None = None) -> None:
    """Raise RefusedError if the target is sealed, or if a run other than `run` has it open."""
    if state.sealed is not None:
        raise RefusedError(
            f"The target {store.mapping}/{store.environment} was sealed by {state.sealed.by} on {state.sealed.at[:10]} "
            f"({state.sealed.reason}): it belongs to the application now. To write again, give unseal a reason."
        )
    if state.open is not None and state.open.run != run:
        raise RefusedError(
            f"Run {state.open.run} has the target {store.mapping}/{store.environment} open and has not ended. "
            "If it is still at work, wait. If it died, finish it or undo it:\n"
            f"{show_commands(store.environment, state.open.run, store.mapping)}"
        )


def expect_open(store: Store, run: str, epoch: int | None = None) -> None:
    """Raise RefusedError unless `run` has the target open. It has not if a task of an ended run was cleared.

    With `epoch`, raises FencedError unless the target is open in that epoch.
    """
    state = load_state(store)
    if epoch is not None and (state is None or not state.is_open_in(run, epoch)):
        raise explain_loss(run, epoch)
    if state is None or state.open is None or state.open.run != run:
        raise RefusedError(
            f"Run {run} does not have the target {store.mapping}/{store.environment} open, so this task has nothing to "
            "do. To write its change set again, clear open_run with its downstream tasks; or trigger a new run."
        )


def take_over(store: Store, run: str, origin: int | None = None) -> State:
    """Raise the epoch of the run that owns the target, so that its earlier writers stop.

    `origin` is the epoch that the caller's DAG run was given. If it is set, only that epoch is taken over, or one that
    an earlier attempt of the same call took. The caller must wait (`settle`) before it acts. Raises RefusedError if
    `run` does not own the target, or owns it in the epoch of somebody else.
    """

    def change(state: State) -> State:
        if state.open is None or state.open.run != run:
            owner = f"run {state.open.run} owns it" if state.open else "nobody owns it"
            raise RefusedError(f"Run {run} does not have the target {store.mapping}/{store.environment} open: {owner}.")
        if origin is not None and origin not in (state.open.epoch, state.open.origin):
            raise RefusedError(
                f"Another resume or undo of run {run} took the target {store.mapping}/{store.environment} (epoch "
                f"{state.open.epoch}, not {origin}), so this DAG run leaves it alone. See the log of that one."
            )
        epoch = state.epoch + 1
        opened = Open(run=run, epoch=epoch, origin=epoch if origin is None else origin)
        return state.model_copy(update={"open": opened, "epoch": epoch})

    return change_state(store, change)


def reopen_head(store: Store, run: str) -> State:
    """Take the target to undo its last committed run. Safe to repeat.

    Raises RefusedError if `run` is not the head of the target: it names the run that must be undone first.
    """

    def change(state: State) -> State:
        if state.open is None and state.head != run and state.sealed is None:
            raise RefusedError(
                f"Run {run} cannot be undone: "
                + (f"run {state.head} stands on it; undo that one first." if state.head else "nothing is left to undo.")
            )
        refuse_if_taken(store, state, run)
        epoch = state.epoch + 1
        return state.model_copy(update={"open": Open(run=run, epoch=epoch, origin=epoch), "epoch": epoch})

    return change_state(store, change)
