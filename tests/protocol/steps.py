"""What a process can do next: one S3 or DynamoDB request at a time, with each way in which it can go."""

from collections.abc import Callable

from protocol import attempts, ending, taking, writing
from protocol.layout import PC, Pc
from protocol.rules import Setting
from protocol.world import Steps

_STEPS: dict[int, Callable[[Setting, bytearray, int], Steps]] = {
    Pc.OPEN_LOAD: taking.open_load,
    Pc.OPEN_SWAP: taking.open_swap,
    Pc.TAKE_LOAD: taking.take_load,
    Pc.TAKE_SWAP: taking.take_swap,
    Pc.SETTLE: taking.settle,
    Pc.FIND_DONE: attempts.find_done,
    Pc.CLAIM: attempts.claim,
    Pc.LIST: attempts.list_attempts,
    Pc.SETTLE_ATTEMPT: attempts.settle_attempt,
    Pc.READ: writing.read,
    Pc.CHECK: writing.check,
    Pc.CHECK_MARK: writing.check_mark,
    Pc.SEND: writing.send,
    Pc.WAIT: writing.wait,
    Pc.LOOK: writing.look,
    Pc.PUT_BACK: writing.put_back,
    Pc.RESULT: attempts.write_result,
    Pc.PROVE: ending.prove,
    Pc.FIND_ATTEMPTS: ending.find_attempts,
    Pc.FIND_RESULTS: ending.find_results,
    Pc.FIND_MARKS: ending.find_marks,
    Pc.RECORD_LOAD: ending.record_load,
    Pc.RECORD: ending.write_record,
    Pc.ROLL: ending.roll,
    Pc.SEAL_LOAD: ending.seal_load,
    Pc.SEAL: ending.seal,
}


def step(setting: Setting, state: bytes | bytearray, base: int) -> Steps:
    """Return each thing that the process at `base` can do next, and the state after it."""
    return _STEPS[state[base + PC]](setting, bytearray(state), base)
