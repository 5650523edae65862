"""Write docs/ownership.md: the rules of ownership, and what happens without each of them."""

from collections.abc import Iterator

from protocol.bounds import LONG, NEEDED, QUICK, UNBOUNDED, Whole
from protocol.explorer import Exploration, Explorer, Line
from protocol.layout import FAULTS, Fault
from protocol.rules import GUARDS, SPARE, Bounds, Rules

INTRODUCTION = """\
One run owns a target at a time, in one epoch. The rules below say who may write, when a writer must stop, and when a
target may be closed. The module `include/accession/target/ownership.py` and its neighbours follow them.

The rules are also a small model, `tests/protocol`. A program explores every history of it within bounds and looks for
one that breaks an invariant. A history has a run with its tasks, resumes, undos, automatic rollbacks and reports, and
the application, which writes to the same items. This page is made by that program, so each history on it was found by
it, and is a shortest one.

In a history, *run* is `open_run` and the tasks after it as one process, *retry* is a task that is started again,
*report* is a report that releases, *committing report* one that commits. The numbers are the epoch and the attempt:
*retry 1.2* is the second attempt of epoch 1. What stands on one line is done by one process without a break.
"""

RULES = """\
**Take.** `open_run` opens a closed target in a new epoch. If the run is open already, `open_run` goes on in that epoch,
unless somebody took over since it was opened. A resume, an undo, an automatic rollback and a report that releases take
over: they raise the epoch and wait for the settle time. Whoever takes over is noted as `origin`: the new epoch, or for
an automatic rollback and a report the epoch of their DAG run. They take over only what their own DAG run opened or
took.

**Write.** Before each request that writes, a writer checks `state.json` and the mark of a newer attempt, and sends the
request at once. An attempt leaves a mark, lists the attempts, and waits for the settle time if an earlier one of its
epoch has not ended. If an earlier one of its epoch has a result without conflicts, it stores that result as its own.
An attempt that is not the first reads every item before it writes it. Updates and deletes have a condition always, and
a delete that removed more than it may puts the item back.

**Repeat.** If the answer to a request is lost, the writer first waits until the request must have ended, unless an HTTP
status told that it has. Then a put is looked at, and put again only if it is absent; an update or a delete is sent
again under its condition.

**End.** A run commits if its proof holds and the newest attempt at each part has its result, which it lists after the
proof. A report that would release the target takes over, lists the marks again, and releases only if there is none.
An undo closes the target if no item of the run is left. A record that closes the target carries the epoch, and counts
only while the target is open in that epoch.
"""

ASSUMPTION = """\
A request ends within the settle time after the fence was asked: DynamoDB has applied it by then, or never applies it.
Nothing else bounds time. A process may stand still at any point, for as long as it likes, and then go on, except
between the fence's answer and the request: a process that stands still there and wakes later than the settle time
sends a request that nothing can stop. A writer asks the fence every few seconds, and the settle time has these seconds
in it; the writers of the model ask before each request. This is what happens without the assumption:
"""

LIMITS = """\
- If the application deletes an item that was put, or sets an updated item back to what it was before the run, this
  cannot be told from an item that the run has not written. It is written again if the part is executed again: by a
  resume, or by an attempt after one that did not end or met conflicts. It is not written again in the epoch in which
  its part ended without conflicts.
- If the answer to a delete is lost, or the process dies before it puts the item back, and the application added an
  attribute between the read and the delete, that attribute is lost.
- An attempt that starts between a run's last look at the attempts and its commit may still write an updated item that
  the application had changed and set back to what it was. The item is then as the run wants it, and an undo restores
  it.
- The application is not expected to make an item under a key that the run is about to put.
- A report whose `open_run` died before it could tell its epoch takes over only if nobody did before. If it dies in
  turn, the next one leaves the target open, for a resume or an undo.
- The model has one run, one part, at most one slow request at a time, and three items. In the code puts and updates
  belong to one attempt, and deletes to another. The report of the model always takes over to release; the real one
  looks for marks before, and takes over only if there is none.
"""

EXPLORED = """\
The invariants hold in every history within these bounds. There is no bound on crashes: a process that never acts again
is as good as crashed, and every process may stop at any point. A loss is a write that is lost, or whose answer is lost,
or that is applied late. An edit is a write of the application. Unless a row says otherwise, the change set puts an
item, updates one and deletes one.
"""

TRACES = """\
`tests/protocol/adapter.py` makes a trace of the model out of recorded requests to S3 and DynamoDB, and
`tests/protocol/acceptor.py` tells whether the model allows it. A trace has the steps that change something: who takes
the target, leaves a mark, writes an item, writes a result or a record. What a process reads, and how long it waits, is
left open, so a trace is accepted if there is any way to it that obeys the rules. The format is in
`tests/protocol/trace.py`.

`tests/simulation/test_traces.py` records simulated runs, with crashes, freezes, resumes and undos, and lets the model
accept each: one trace for each part of each run, with one item of each kind, until another run takes the target. A
trace of more than twelve processes is left out.
"""


def write_ownership(notice: str) -> str:
    """Return docs/ownership.md. It takes a few seconds: every guard is taken away and the protocol explored."""
    return "\n".join([*_list_lines(notice), ""])


def _list_lines(notice: str) -> Iterator[str]:
    yield from ("# Ownership of a target", "", notice, "", INTRODUCTION, "## Rules", "", RULES)
    yield from ("## Invariants", "", "None of this happens:", "", *(f"- {text}" for text in FAULTS.values()), "")
    yield from ("## Assumption", "", ASSUMPTION, *_tell(_break(Rules(is_bounded=False), *UNBOUNDED)), "")
    yield from ("## Limits", "", LIMITS, "## What was explored", "")
    yield EXPLORED
    yield from ("| bounds | states | explored by |", "| --- | ---: | --- |")
    yield from _list_bounds(QUICK, "`make test`")
    yield from _list_bounds(LONG, "`make explore`")
    yield from ("", "## Guards", "", "Each guard is needed: without it, this happens.", "")
    for guard, text in GUARDS.items():
        found = _break(Rules(without=frozenset({guard})), *NEEDED[guard])
        yield from (f"### {guard}", "", text, "", f"Without it: {FAULTS[found.fault]}", "", *_tell(found), "")
    yield from ("## Spare guards", "", "No history within the bounds needs these. They stay.", "")
    yield from (f"- `{guard}`: {text}" for guard, text in SPARE.items())
    yield from ("", "## Traces of real runs", "")
    yield TRACES.rstrip("\n")


def _list_bounds(wholes: dict[str, Whole], command: str) -> Iterator[str]:
    for text, whole in wholes.items():
        yield f"| {text} | {whole.states:,} | {command} |"


def _break(rules: Rules, bounds: Bounds, fault: Fault) -> Exploration:
    found = Explorer(rules, bounds).explore()
    if found.fault != fault:
        raise ValueError(f"Without {', '.join(rules.without)} the model breaks {found.fault.name}, not {fault.name}.")
    return found


def _tell(found: Exploration) -> Iterator[str]:
    """Yield a numbered line for each turn of a process."""
    turns: list[list[Line]] = []
    for line in found.trace:
        goes_on = turns and not line.is_new and line.who.startswith(turns[-1][-1].who)
        if goes_on:
            turns[-1].append(line)
        else:
            turns.append([line])
    for number, turn in enumerate(turns, 1):
        yield f"{number}. **{turn[-1].who}** {'; '.join(line.text for line in turn)}."
