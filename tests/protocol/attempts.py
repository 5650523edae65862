"""An attempt at the part: its mark, what it finds of earlier attempts, and its result."""

from protocol.layout import (
    ATTEMPT,
    ATTEMPT_SETTLED,
    CLEAN,
    CONFLICT,
    ENDED,
    FIRST,
    FLAG,
    ITEM,
    LEFT,
    MARK_EPOCH,
    MY_EPOCH,
    MY_LEFT,
    NEWEST,
    OBSOLETE,
    PC,
    Pc,
)
from protocol.rules import Setting
from protocol.world import Steps, age_passes, has_settled
from protocol.writing import begin_items


def has_ended(s: bytes | bytearray) -> bool:
    """Tell whether the newest attempt has its result."""
    return bool(s[NEWEST] and s[ENDED] >> (s[NEWEST] - 1) & 1)


def is_done(s: bytes | bytearray) -> bool:
    """Tell whether the newest attempt has its result, and met no conflict."""
    return bool(s[NEWEST] and s[CLEAN] >> (s[NEWEST] - 1) & 1)


def go_to_proof(setting: Setting) -> Pc:
    """Return where a run goes when its part is done."""
    return Pc.PROVE if setting.holds("list_after_proof") else Pc.FIND_ATTEMPTS


def find_done(setting: Setting, s: bytearray, b: int) -> Steps:
    if setting.holds("find_done") and s[MARK_EPOCH] == s[b + MY_EPOCH] and is_done(s):
        s[b + PC] = go_to_proof(setting)
        return [("finds its part done, and keeps the result", s)]
    s[b + PC] = Pc.CLAIM
    return [("does not find its part done", s)]


def claim(setting: Setting, s: bytearray, b: int) -> Steps:
    epoch = s[b + MY_EPOCH]
    s[b + FIRST] = not s[NEWEST]
    if epoch < s[MARK_EPOCH]:
        s[b + ATTEMPT] = OBSOLETE
    else:
        if s[MARK_EPOCH] != epoch:
            s[NEWEST] = s[ENDED] = s[CLEAN] = 0
        s[MARK_EPOCH] = epoch
        s[b + ATTEMPT] = s[NEWEST] = s[NEWEST] + 1
        s[ATTEMPT_SETTLED] = not _find_unended(s, b)
        if setting.holds("withdraw_result"):
            s[LEFT] = 0
        age_passes(s, b)
    s[b + PC] = Pc.LIST
    return [(f"leaves the mark of attempt {epoch}.{s[b + ATTEMPT]}", s)]


def list_attempts(setting: Setting, s: bytearray, b: int) -> Steps:
    """List the attempts after the mark: an earlier one may be done, or may still be alive."""
    is_current = s[MARK_EPOCH] == s[b + MY_EPOCH] and s[b + ATTEMPT] != OBSOLETE
    s[b + FLAG] = bool(is_current and setting.holds("keep_result") and s[CLEAN] & ((1 << (s[b + ATTEMPT] - 1)) - 1))
    if is_current and _find_unended(s, b) and setting.holds("settle_after_newer_attempt"):
        s[b + PC] = Pc.SETTLE_ATTEMPT
        return [("finds an earlier attempt of its epoch that has not ended", s)]
    text = "finds an earlier attempt done" if s[b + FLAG] else "lists the attempts: none to wait for"
    return _go_on(setting, s, b, text)


def settle_attempt(setting: Setting, s: bytearray, b: int) -> Steps:
    if setting.rules.is_bounded and not has_settled(s, b):
        return []
    return _go_on(setting, s, b, "has settled")


def _go_on(setting: Setting, s: bytearray, b: int, text: str) -> Steps:
    if s[b + MY_EPOCH] == s[MARK_EPOCH] and s[b + ATTEMPT] == s[NEWEST]:
        s[ATTEMPT_SETTLED] = 1
    if s[b + FLAG]:
        s[b + FLAG], s[b + PC] = 0, Pc.RESULT
    else:
        begin_items(setting, s, b)
    return [(text, s)]


def _find_unended(s: bytearray, b: int) -> int:
    """Return the earlier attempts of the epoch that have no result."""
    return ((1 << (s[b + ATTEMPT] - 1)) - 1) & ~s[ENDED]


def write_result(setting: Setting, s: bytearray, b: int) -> Steps:
    attempt = s[b + ATTEMPT]
    is_newest = s[b + MY_EPOCH] == s[MARK_EPOCH] and attempt == s[NEWEST]
    if s[b + MY_EPOCH] == s[MARK_EPOCH] and attempt != OBSOLETE:
        s[ENDED] |= 1 << (attempt - 1)
        s[CLEAN] |= (not s[b + CONFLICT]) << (attempt - 1)
    if is_newest or not setting.holds("withdraw_result"):
        s[LEFT] |= s[b + MY_LEFT]
    s[b + PC] = go_to_proof(setting)
    s[b + ATTEMPT] = s[b + FIRST] = s[b + MY_LEFT] = s[b + CONFLICT] = s[b + ITEM] = 0
    return [("writes its result", s)]
