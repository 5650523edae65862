"""The attempts at a part. The names of their objects show their order and which ones ended, so one LIST is enough.

    progress/<entity>/<part>.<step>.<epoch>.<number>.started    written before the first item
    progress/<entity>/<part>.<step>.<epoch>.<number>.json       written after the last one

`step` is migrate or remove. An attempt is numbered within its epoch. Only the newest attempt's result counts. Version
0.1.0 had one attempt, without epoch and number.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

_NAME = re.compile(
    r"progress/(?P<entity>.+)/(?P<part>\d{5,})\.(?P<step>migrate|remove)"
    r"(?:\.(?P<epoch>\d+)\.(?P<number>\d+))?\.(?P<kind>started|json)$"
)


class PartStep(NamedTuple):
    """The subject of an attempt: one part, executed by one step."""

    entity: str
    part: int
    step: str


class Attempt(NamedTuple):
    """One attempt at a part. Attempts sort from the oldest to the newest."""

    epoch: int
    number: int
    at: PartStep
    has_ended: bool = False

    @property
    def name(self) -> str:
        """Return the name of its objects in the folder of the run, without the suffix."""
        numbers = f".{self.epoch}.{self.number}" if self.epoch else ""
        return f"progress/{self.at.entity}/{self.at.part:05d}.{self.at.step}{numbers}"

    @property
    def next(self) -> "Attempt":
        """Return the attempt that would take over from this one in the same epoch."""
        return Attempt(self.epoch, self.number + 1, self.at)


def parse_attempts(paths: Iterable[str]) -> dict[PartStep, list[Attempt]]:
    """Return the attempts at each part that these paths belong to, oldest first."""
    begun: dict[PartStep, dict[tuple[int, int], bool]] = {}
    for path in paths:
        if found := _NAME.search(path):
            at = PartStep(found["entity"], int(found["part"]), found["step"])
            attempts = begun.setdefault(at, {})
            numbers = int(found["epoch"] or 0), int(found["number"] or 0)
            attempts[numbers] = attempts.get(numbers, False) or found["kind"] == "json"
    return {at: [Attempt(*numbers, at, ended) for numbers, ended in sorted(all_.items())] for at, all_ in begun.items()}
