"""A state of the model: bytes, the target first and then the processes, sorted so that their order means nothing.

Three items stand for a change set: one that is put, one that is updated, one that is deleted. The values of an item:

    value  put                        update                    delete
    0      absent                     as before                 present
    1      as put                     as after                  absent
    2      edited                     one attribute set back    edited
    3      deleted after its part     edited                    an attribute was added
           was done

0 is what the run found, 1 is what it wants, and all else is the application's work.
"""

from enum import IntEnum

# The target: its state.json, its register, its items, the marks and results of the attempts, and the network
OPEN, ORIGIN, EPOCH, HEAD, SEALED, LOG, LOG_EPOCH, LOG_SEAL = range(8)
ITEMS = 8  # put, update, delete
PUT, UPDATE, DELETE = range(3)
REVERTED = 11  # the application set the updated item back to what it was before the run
NEWEST, MARK_EPOCH = 12, 13  # the newest attempt: its number and its epoch
ENDED, CLEAN = 14, 15  # one bit for each attempt of that epoch: it has a result, and one without conflicts
LEFT = 16  # the items that the results say were left alone
NET, NET_ITEM, NET_EPOCH, NET_ATTEMPT, NET_OLD = range(17, 22)  # a write that was sent and is applied late
DAG = 22  # the epochs that the first run and the resumed run handed to their tasks
# What the model knows and no process does
HIDDEN = 24
SETTLED, ATTEMPT_SETTLED, FAULT = range(24, 27)
# What may still happen
LOSSES, EDITS, STARTS = range(27, 30)
HEADER = 30

# A process
KIND, PC, MY_EPOCH, MY_DAG, ATTEMPT, ITEM, ETAG, TAIL, PASS, MY_LEFT, FIRST, FLAG, CONFLICT = range(13)
WIDTH = 13

BEFORE, AFTER, EDITED, ADDED = range(4)
DELETED = ADDED  # of the put item
UNKNOWN_DAG = 2  # of a report whose open_run died before it could tell its epoch
OBSOLETE = 99  # number of an attempt in an epoch that is over: nobody counts it


class Net(IntEnum):
    """A write that is under way."""

    NONE = 0
    BLIND = 1  # a put without a condition
    CONDITIONAL = 2
    UNDO = 3


class Kind(IntEnum):
    """What a process is."""

    GONE = 0
    OPEN = 1
    RESUME = 2
    RETRY = 3
    RELEASE = 4
    ROLLBACK = 5
    UNDO = 6
    COMMIT = 7


TITLES = {
    Kind.OPEN: "run",
    Kind.RESUME: "resume",
    Kind.RETRY: "retry",
    Kind.RELEASE: "report",
    Kind.ROLLBACK: "automatic rollback",
    Kind.UNDO: "undo",
    Kind.COMMIT: "committing report",
}


class Pc(IntEnum):
    """Where a process is: the request that it makes next."""

    OPEN_LOAD = 1
    OPEN_SWAP = 2
    TAKE_LOAD = 3
    TAKE_SWAP = 4
    SETTLE = 5
    FIND_DONE = 6
    CLAIM = 7
    LIST = 8
    SETTLE_ATTEMPT = 9
    READ = 10
    CHECK = 11
    CHECK_MARK = 12
    SEND = 13
    WAIT = 14
    LOOK = 15
    PUT_BACK = 16
    RESULT = 17
    PROVE = 18
    FIND_ATTEMPTS = 19
    FIND_RESULTS = 20
    FIND_MARKS = 21
    RECORD_LOAD = 22
    RECORD = 23
    ROLL = 24
    SEAL_LOAD = 25
    SEAL = 26


class Record(IntEnum):
    """What a record of the register says."""

    NONE = 0
    COMMIT = 1
    RELEASE = 2
    UNDO = 3
    SEAL = 4


class Fault(IntEnum):
    """An invariant that broke."""

    NONE = 0
    OVERWRITTEN = 1
    PUT_AGAIN = 2
    AFTER_TAKE_OVER = 3
    AFTER_NEWER_ATTEMPT = 4
    WHILE_CLOSED = 5
    UNPROVED_HEAD = 6
    LEFTOVER = 7
    SEALED_WITHOUT_HEAD = 8
    FOREIGN_TAKE_OVER = 9
    NO_WAY_OUT = 10


FAULTS = {
    Fault.OVERWRITTEN: "A write of the application is overwritten.",
    Fault.PUT_AGAIN: "An item that the application deleted after its part was done is put again.",
    Fault.AFTER_TAKE_OVER: "A writer of an older epoch writes after the target was taken over and settled.",
    Fault.AFTER_NEWER_ATTEMPT: "An older attempt writes after a newer one took its part over and settled.",
    Fault.WHILE_CLOSED: "A writer writes while nobody owns the target.",
    Fault.UNPROVED_HEAD: "The head of the register is a run that is not in the tables.",
    Fault.LEFTOVER: "The target is closed as if the run had never been, and an item of the run is left.",
    Fault.SEALED_WITHOUT_HEAD: "The target is sealed while it is open, or after its run was undone.",
    Fault.FOREIGN_TAKE_OVER: "A failed DAG run undoes or releases what another one has taken over.",
    Fault.NO_WAY_OUT: "The target is open and no undo can close it.",
}
