"""Begin an attempt at a part: every earlier attempt has stopped before this one writes."""

import logging

from accession.artifacts import Attempt, Execution, PartStep, RunFolder
from accession.dynamodb import Limit
from accession.target import expect_open, settle

logger = logging.getLogger(__name__)


def find_done(folder: RunFolder, at: PartStep, epoch: int) -> Execution | None:
    """Return the result of a part that was executed in this epoch and met no conflict, or None.

    Such a part needs no further attempt, which would write again what the application has deleted since.
    """
    attempts = folder.list_attempts(at).get(at, [])
    if not attempts or attempts[-1].epoch != epoch or not attempts[-1].has_ended:
        return None
    execution = folder.load_execution(attempts[-1])
    return None if execution.conflicts else execution


def begin_attempt(folder: RunFolder, at: PartStep, epoch: int) -> tuple[Attempt, bool]:
    """Take a part over from all earlier attempts. Return the new attempt, and whether it is the first one.

    Its mark makes earlier results obsolete, and stops earlier writers through their fence. An earlier attempt of the
    same epoch that has not ended may still be alive: this waits until its last request has ended (`settle`). Attempts
    of older epochs were waited for when the epoch was raised.
    """
    store = folder.store
    mark = f"{store.host.timestamp()} {store.host.token(8)}".encode()
    number = 1 + max((one.number for one in folder.list_attempts(at).get(at, []) if one.epoch == epoch), default=0)
    while not store.claim(folder.path_of_mark(attempt := Attempt(epoch, number, at)), mark):
        number += 1
    earlier = [one for one in folder.list_attempts(at)[at] if one < attempt]
    if any(one.epoch == epoch and not one.has_ended for one in earlier):
        logger.info("%s part %d: an earlier attempt has not ended", at.entity, at.part)
        settle(store.host)
    return attempt, not earlier


def find_limit(folder: RunFolder, at: PartStep, epoch: int) -> Limit | None:
    """Return the limit of the table that another part of this epoch found, for this one to begin with.

    Each task has its own rate. Without this, each part would find the limit again, through hundreds of throttles.
    """
    for other, attempts in sorted(folder.list_attempts(at.entity).items(), reverse=True):
        if other != at and other.step == at.step and attempts[-1].epoch == epoch and attempts[-1].has_ended:
            found = folder.load_execution(attempts[-1]).limit
            return Limit(found.units_per_second, found.seconds) if found else None
    return None


def keep_result(folder: RunFolder, attempt: Attempt) -> Execution | None:
    """Store the result of an earlier attempt of the same epoch as this one's, if it met no conflict, and return it.

    The result was written after `find_done` looked. Another execution would write again what the application has
    deleted since. Raises FencedError if the target is not open for this epoch any more.
    """
    for one in reversed(folder.list_attempts(attempt.at)[attempt.at]):
        if one.epoch == attempt.epoch and one < attempt and one.has_ended:
            execution = folder.load_execution(one)
            if not execution.conflicts:
                expect_open(folder.store, folder.run, attempt.epoch)  # the mark may be late, and the run over by now
                nothing = {"write_units": 0.0, "read_units": 0.0, "throttled": 0}
                kept = execution.model_copy(update=nothing)
                folder.store.claim(folder.path_of_execution(attempt), kept.dump())
                return kept
    return None
