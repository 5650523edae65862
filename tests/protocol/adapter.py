"""Make a trace of the model out of recorded requests to S3 and DynamoDB."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from protocol.trace import APPLICATION, Event

STATE = "state.json"
WRITES = {"PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"}


class Request(NamedTuple):
    """One recorded request, in the order in which the services applied them.

    `key` is the path of an object below the prefix of the target, or the key of an item; a batch is one request for
    each of its items. `body` is the parsed object. `changed`: the object or item is another one after the request.
    """

    process: str
    operation: str
    key: str
    body: Any = None
    changed: bool = True


class View(NamedTuple):
    """What a trace is about: a run, the attempts at one part, and one item of each kind.

    `part` is as in the names of the marks: `progress/<entity>/<part>.<step>`. `items` gives the model's name of each
    item's key. `kinds` gives what each process is, as in a start event; processes that are not in it are left out.
    """

    run: str
    part: str
    items: Mapping[str, str]
    kinds: Mapping[str, str]


def make_trace(requests: Iterable[Request], view: View) -> Iterator[Event]:
    """Yield the events of a trace. A process starts with its first request of any kind.

    The epochs of the run are numbered from 1 in their order, as in the model, which has no other run.
    """
    begun = set()
    epochs: dict[int, int] = {}
    for request in requests:
        process = request.process
        if process in view.kinds and process not in begun:
            begun.add(process)
            yield Event(process, "start", view.kinds[process])
        if not request.changed or not (process in begun or process == APPLICATION):
            continue
        if request.operation in WRITES:
            if request.key in view.items:
                edit = "delete" if request.operation == "DeleteItem" else "edit"
                yield Event(process, edit if process == APPLICATION else "write", view.items[request.key])
        elif request.operation == "PutObject" and request.key == STATE:
            opened = request.body["open"]
            if opened and opened["run"] == view.run and opened["epoch"] not in epochs:
                epoch = epochs[opened["epoch"]] = len(epochs) + 1
                yield Event(process, "take" if opened.get("origin") else "open", str(epoch))
        elif request.operation == "PutObject":
            yield from _read_object(request, view, epochs)


def _read_object(request: Request, view: View, epochs: Mapping[int, int]) -> Iterator[Event]:
    marks = f"runs/{view.run}/{view.part}."
    if request.key.startswith(marks):
        epoch, number, kind = request.key.removeprefix(marks).split(".")
        yield Event(request.process, "mark" if kind == "started" else "result", f"{epochs[int(epoch)]}.{number}")
    elif request.key.startswith("log/") and request.body["run"] == view.run and request.body["closed"]:
        is_commit = request.body["action"] == "run" and request.body["head"] == view.run
        kind = "undo" if request.body["action"] == "undo" else "commit" if is_commit else "release"
        yield Event(request.process, "record", kind)
