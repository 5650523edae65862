"""Who owns a target: its state, its register, its fence."""

from accession.target.fence import Fence, settle
from accession.target.ownership import expect_open, open_target, refuse_if_taken, reopen_head, take_over
from accession.target.seal import seal_target, unseal_target
from accession.target.state import (
    NO_HASH,
    PATH,
    LogRecord,
    Seal,
    State,
    append_record,
    create_state,
    expect_state,
    load_state,
    log_path,
    parse_state,
    roll_forward,
)

__all__ = [
    "NO_HASH",
    "PATH",
    "Fence",
    "LogRecord",
    "Seal",
    "State",
    "append_record",
    "create_state",
    "expect_open",
    "expect_state",
    "load_state",
    "log_path",
    "open_target",
    "parse_state",
    "refuse_if_taken",
    "reopen_head",
    "roll_forward",
    "seal_target",
    "settle",
    "take_over",
    "unseal_target",
]
