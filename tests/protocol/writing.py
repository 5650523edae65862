"""How a writer writes its items: the run forwards, an undo backwards."""

from protocol.layout import (
    ADDED,
    AFTER,
    ATTEMPT,
    BEFORE,
    CONFLICT,
    DELETE,
    EDITED,
    FAULT,
    FIRST,
    FLAG,
    ITEM,
    ITEMS,
    LOSSES,
    MARK_EPOCH,
    MY_EPOCH,
    MY_LEFT,
    NET,
    NET_ATTEMPT,
    NET_EPOCH,
    NET_ITEM,
    NET_OLD,
    NEWEST,
    OPEN,
    PASS,
    PC,
    PUT,
    UPDATE,
    Fault,
    Net,
    Pc,
)
from protocol.rules import Setting
from protocol.world import Steps, end, is_absent, roll_forward, undoes, write

NAMES = ("the put item", "the updated item", "the deleted item")


def begin_items(setting: Setting, s: bytearray, b: int) -> None:
    """Go to the first item."""
    s[b + ITEM] = setting.bounds.items[-1 if undoes(s, b) else 0]
    _approach(setting, s, b)


def _approach(setting: Setting, s: bytearray, b: int) -> None:
    """Go to an item. Only the puts of a first attempt are not read before."""
    is_blind = s[b + ITEM] == PUT and (s[b + FIRST] or not setting.holds("read_before_write"))
    if is_blind and not undoes(s, b):
        _prepare(setting, s, b)
    else:
        s[b + PC] = Pc.READ


def _prepare(setting: Setting, s: bytearray, b: int) -> None:
    """Go to the first guard before the request."""
    if setting.holds("check_state"):
        s[b + PC] = Pc.CHECK
    elif setting.holds("check_newer_attempt") and not undoes(s, b):
        s[b + PC] = Pc.CHECK_MARK
    else:
        s[b + PC] = Pc.SEND


def read(setting: Setting, s: bytearray, b: int) -> Steps:
    item, value = s[b + ITEM], s[ITEMS + s[b + ITEM]]
    is_before = is_absent(s, item)
    if undoes(s, b) and s[b + MY_LEFT] >> item & 1:
        return _next(setting, s, b, f"leaves {NAMES[item]}, which was not written")
    if is_before if undoes(s, b) else value == AFTER:
        return _next(setting, s, b, f"finds {NAMES[item]} done")
    if not (value == AFTER if undoes(s, b) else is_before):
        text = f"reads {NAMES[item]}, which the application changed"
        return _conflict(setting, s, b, text, is_written=False)
    _prepare(setting, s, b)
    return [(f"reads {NAMES[item]}", s)]


def check(setting: Setting, s: bytearray, b: int) -> Steps:
    roll_forward(s)
    if s[OPEN] != s[b + MY_EPOCH]:
        return end(s, b, "checks state.json, is no longer the owner, and stops")
    s[b + PASS] = setting.holds("check_last")
    s[b + PC] = Pc.CHECK_MARK if setting.holds("check_newer_attempt") and not undoes(s, b) else Pc.SEND
    return [("checks state.json: still the owner", s)]


def check_mark(setting: Setting, s: bytearray, b: int) -> Steps:
    if s[MARK_EPOCH] == s[b + MY_EPOCH] and s[NEWEST] > s[b + ATTEMPT]:
        return end(s, b, "finds the mark of a newer attempt, and stops")
    s[b + PASS] = s[b + PASS] or setting.holds("check_last")
    s[b + PC] = Pc.SEND
    return [("finds no mark of a newer attempt", s)]


def send(setting: Setting, s: bytearray, b: int) -> Steps:
    """Send a write. It is applied, or lost, or its answer is lost, or it is slow and the connection breaks."""
    item, before = s[b + ITEM], bytes(s)
    is_put = item == PUT and not undoes(s, b)
    text, done = _apply(setting, s, b)
    steps = [(text, done)]
    is_split = done[b + PC] == Pc.PUT_BACK  # the answer alone knows what to put back
    if before[LOSSES] and not is_split:
        for text, basis in (
            (f"writes {NAMES[item]}, and the answer is lost", done),
            (f"sends {NAMES[item]}, and it is lost", before),
        ):
            steps.append((text, _lose(setting, basis, b, item, is_put)))
        if not before[NET]:
            slow = _lose(setting, before, b, item, is_put)
            slow[NET] = Net.UNDO if undoes(before, b) else Net.BLIND if is_put and not before[b + FLAG] else 2
            slow[NET_ITEM], slow[NET_EPOCH], slow[NET_ATTEMPT] = item, before[b + MY_EPOCH], before[b + ATTEMPT]
            slow[NET_OLD] = before[b + PASS] == 2
            if not is_put and setting.holds("wait_before_resend"):
                slow[b + PC] = Pc.WAIT
            steps.append((f"sends {NAMES[item]}, which is slow, and the connection breaks", slow))
    if done[b + PC] == Pc.SEND:  # the write succeeded or is done
        _next(setting, done, b, "")
    return steps


def _lose(setting: Setting, basis: bytes | bytearray, b: int, item: int, is_put: bool) -> bytearray:
    """Go on after a lost answer: look, or send again after the guards."""
    lost = bytearray(basis)
    lost[LOSSES] -= 1
    lost[b + ITEM], lost[b + PASS] = item, 0
    if is_put and setting.holds("look_before_resend"):
        lost[b + PC] = Pc.LOOK
    else:
        _prepare(setting, lost, b)
    return lost


def _apply(setting: Setting, s: bytearray, b: int) -> tuple[str, bytearray]:
    """Apply the request of a process. Its place stays SEND if the write is done."""
    item, value, is_undo = s[b + ITEM], s[ITEMS + s[b + ITEM]], undoes(s, b)
    wanted, found = (BEFORE, AFTER) if is_undo else (AFTER, BEFORE)
    attempt = 0 if is_undo else s[b + ATTEMPT]
    text = f"{'undoes' if is_undo else 'writes'} {NAMES[item]}"
    if value == wanted or (is_undo and is_absent(s, item)):
        return f"{text}, which is done already", s
    is_blind = item == PUT and not is_undo and not s[b + FLAG]
    is_mixed = item == UPDATE and value == EDITED and not setting.holds("hold_whole_update")
    if value == found or is_blind or is_mixed or (not is_undo and is_absent(s, item)):
        if is_mixed:
            s[FAULT] = Fault.OVERWRITTEN
        write(s, item, wanted, s[b + MY_EPOCH], attempt)
        return text, s
    if item == DELETE and not is_undo and value == ADDED:
        write(s, item, wanted, s[b + MY_EPOCH], attempt)
        if setting.holds("compare_deleted"):
            s[b + PC] = Pc.PUT_BACK
            return "deletes the deleted item, and the answer shows what the application added", s
        s[FAULT] = Fault.OVERWRITTEN
        return text, s
    s[b + PC] = Pc.READ  # the condition does not hold: the item is read again, and is a conflict
    s[b + PASS] = 0
    return f"sends {NAMES[item]}, and the condition does not hold", s


def is_own_in_flight(s: bytes | bytearray, b: int) -> bool:
    """Tell whether the slow request is one of this process."""
    return bool(s[NET]) and (s[NET_EPOCH], s[NET_ATTEMPT]) == (s[b + MY_EPOCH], s[b + ATTEMPT])


def wait(setting: Setting, s: bytearray, b: int) -> Steps:
    if setting.rules.is_bounded and is_own_in_flight(s, b):
        return []
    _prepare(setting, s, b)
    return [("has waited until the request must have ended", s)]


def look(setting: Setting, s: bytearray, b: int) -> Steps:
    if setting.rules.is_bounded and setting.holds("wait_before_look") and is_own_in_flight(s, b):
        return []
    if s[ITEMS + PUT] == AFTER:
        return _next(setting, s, b, "looks: the put item is there")
    if not is_absent(s, PUT):
        return _conflict(setting, s, b, "looks: the application changed the put item", is_written=True)
    s[b + FLAG] = setting.holds("absent_after_look")
    _prepare(setting, s, b)
    return [("looks: the put item is absent", s)]


def put_back(setting: Setting, s: bytearray, b: int) -> Steps:
    if s[ITEMS + DELETE] == AFTER:
        s[ITEMS + DELETE] = ADDED
    text = "puts the deleted item back, since the application added to it"
    return _conflict(setting, s, b, text, is_written=True)


def _conflict(setting: Setting, s: bytearray, b: int, text: str, *, is_written: bool) -> Steps:
    """Note a conflict. An item that no attempt can have written needs no undo."""
    item = s[b + ITEM]
    is_ours = item == DELETE or (item == UPDATE and s[ITEMS + item] == EDITED)
    if not undoes(s, b):
        s[b + CONFLICT] = 1
        if item != PUT and not (is_ours and (is_written or not s[b + FIRST])):
            s[b + MY_LEFT] |= 1 << item
    return _next(setting, s, b, text)


def _next(setting: Setting, s: bytearray, b: int, text: str) -> Steps:
    """Go to the next item, or to the end of the work."""
    s[b + PASS] = s[b + FLAG] = 0
    items = setting.bounds.items[::-1] if undoes(s, b) else setting.bounds.items
    place = items.index(s[b + ITEM]) + 1
    if place == len(items):
        s[b + ITEM] = 0
        s[b + PC] = Pc.PROVE if undoes(s, b) else Pc.RESULT
    else:
        s[b + ITEM] = items[place]
        _approach(setting, s, b)
    return [(text, s)]
