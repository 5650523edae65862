"""The ownership of a target: its state, its register, its fence."""

from accession.target.fence import Fence, settle
from accession.target.ownership import expect_open, open_target, refuse_if_taken, reopen_head, take_over
from accession.target.register import (
    append_record,
    create_state,
    expect_state,
    explain_loss,
    find_last_record,
    load_state,
    log_path,
)
from accession.target.seal import make_seal, unseal_target
from accession.target.state import NO_HASH, PATH, LogRecord, Seal, State, parse_state, roll_forward

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
    "explain_loss",
    "find_last_record",
    "load_state",
    "log_path",
    "make_seal",
    "open_target",
    "parse_state",
    "refuse_if_taken",
    "reopen_head",
    "roll_forward",
    "settle",
    "take_over",
    "unseal_target",
]
