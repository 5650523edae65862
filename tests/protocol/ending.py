"""How a process ends the run: it proves the tables, and writes the record that commits, releases or undoes."""

from protocol.attempts import has_ended
from protocol.layout import (
    AFTER,
    DAG,
    HEAD,
    ITEMS,
    KIND,
    LEFT,
    LOG_SEAL,
    MY_DAG,
    MY_EPOCH,
    MY_LEFT,
    NEWEST,
    OPEN,
    PC,
    TAIL,
    UNKNOWN_DAG,
    Kind,
    Pc,
    Record,
)
from protocol.rules import Setting
from protocol.world import Steps, append, end, is_absent, load, roll_forward, undoes
from protocol.writing import begin_items


def prove(setting: Setting, s: bytearray, b: int) -> Steps:
    items = setting.bounds.items
    if undoes(s, b):
        told = [item for item in items if not s[b + MY_LEFT] >> item & 1]
        if any(s[ITEMS + item] == AFTER for item in told):
            return end(s, b, "reads all items, finds one of the run, and stops")
        if s[b + KIND] == Kind.ROLLBACK and any(not is_absent(s, item) for item in told):
            return end(s, b, "finds items that the application changed, and leaves the target open")
    elif any(is_absent(s, item) for item in items):
        return end(s, b, "reads all items, finds one that was not written, and stops")
    lists = not undoes(s, b) and setting.holds("look_for_newer_attempt") and setting.holds("list_after_proof")
    s[b + PC] = Pc.FIND_ATTEMPTS if lists else Pc.RECORD_LOAD
    s[b + MY_LEFT] = 0
    return [("reads all items: the proof holds", s)]


def find_attempts(setting: Setting, s: bytearray, b: int) -> Steps:
    if not has_ended(s):
        return end(s, b, "finds an attempt that has not ended, and does not commit")
    s[b + PC] = Pc.RECORD_LOAD if setting.holds("list_after_proof") else Pc.PROVE
    return [("finds that the newest attempt has ended", s)]


def find_results(setting: Setting, s: bytearray, b: int) -> Steps:
    if not s[NEWEST] and not s[HEAD]:
        s[b + PC] = Pc.RECORD_LOAD
        return [("finds no mark, so nothing is to be undone", s)]
    s[b + MY_LEFT] = s[LEFT]
    begin_items(setting, s, b)
    return [("lists the attempts and their results", s)]


def find_marks(setting: Setting, s: bytearray, b: int) -> Steps:
    if s[NEWEST]:
        return end(s, b, "finds the mark of an attempt, and leaves the target open")
    takes = not s[b + MY_EPOCH]  # only without the guard list_after_settle, it lists before it takes over
    s[b + PC] = Pc.TAKE_LOAD if takes else Pc.RECORD_LOAD
    return [("finds no mark, so nothing was executed", s)]


def begin_release(setting: Setting, s: bytearray, b: int) -> None:
    """Go to the first request of a report that is to release the target."""
    if not setting.holds("take_over_to_release"):
        dag = s[b + MY_DAG]
        s[b + MY_EPOCH] = s[OPEN] if dag == UNKNOWN_DAG else s[DAG + dag]
        s[b + PC] = Pc.FIND_MARKS
    elif not setting.holds("list_after_settle"):
        s[b + PC] = Pc.FIND_MARKS


def record_load(setting: Setting, s: bytearray, b: int) -> Steps:
    load(s, b, TAIL)
    if s[OPEN] != s[b + MY_EPOCH] and (_carries_epoch(setting, s, b) or not s[OPEN]):
        return end(s, b, "loads state.json, is no longer the owner, and stops")
    s[b + PC] = Pc.RECORD
    return [("loads state.json, still the owner", s)]


def write_record(setting: Setting, s: bytearray, b: int) -> Steps:
    if not s[b + TAIL]:
        s[b + PC] = Pc.RECORD_LOAD
        return [("loses the race for the next record", s)]
    kind = find_record(s, b)
    append(s, kind, s[b + MY_EPOCH] if _carries_epoch(setting, s, b) else 0)
    is_sealing = setting.bounds.seals and kind == Record.COMMIT
    s[LOG_SEAL] = is_sealing and setting.holds("seal_in_commit")
    s[b + PC] = Pc.SEAL_LOAD if is_sealing and not s[LOG_SEAL] else Pc.ROLL
    return [(f"writes the record: {kind.name.lower()}{' and seal' if s[LOG_SEAL] else ''}", s)]


def find_record(s: bytes | bytearray, b: int) -> Record:
    """Return which record a process writes."""
    if undoes(s, b):
        return Record.UNDO
    return Record.RELEASE if s[b + KIND] == Kind.RELEASE else Record.COMMIT


def _carries_epoch(setting: Setting, s: bytearray, b: int) -> bool:
    return setting.holds(f"epoch_on_{find_record(s, b).name.lower()}")


def roll(setting: Setting, s: bytearray, b: int) -> Steps:
    roll_forward(s)
    return end(s, b, "swaps state.json, and ends")


def seal_load(setting: Setting, s: bytearray, b: int) -> Steps:
    load(s, b, TAIL)
    if not s[HEAD]:
        return end(s, b, "finds that its record does not count, and stops")
    s[b + PC] = Pc.SEAL
    return [("loads state.json, to seal the target", s)]


def seal(setting: Setting, s: bytearray, b: int) -> Steps:
    if not s[b + TAIL]:
        s[b + PC] = Pc.SEAL_LOAD
        return [("loses the race for the next record", s)]
    append(s, Record.SEAL, 0)
    s[b + PC] = Pc.ROLL
    return [("writes the record: seal", s)]
