"""What goes wrong in one world: how often, and how badly. Each seed draws a climate of its own.

Most seeds have only some kinds of faults, so that rare meetings of two of them are not drowned by the others (swarm
testing: Groce et al., "Swarm Testing", ISSTA 2012).
"""

import random
from dataclasses import dataclass, fields, replace

REASONS = (
    "TableWriteKeyRangeThroughputExceeded",
    "TableReadKeyRangeThroughputExceeded",
    "TableWriteProvisionedThroughputExceeded",
    "TableReadProvisionedThroughputExceeded",
    "TableWriteAccountLimitExceeded",
    "TableReadAccountLimitExceeded",
    "TableWriteMaxOnDemandThroughputExceeded",
    "TableReadMaxOnDemandThroughputExceeded",
    "IndexWriteKeyRangeThroughputExceeded",
    "IndexWriteProvisionedThroughputExceeded",
    "IndexWriteAccountLimitExceeded",
    "IndexWriteMaxOnDemandThroughputExceeded",
)
"""DynamoDB API reference, "ThrottlingReason"."""


@dataclass(frozen=True)
class Climate:
    """Probabilities per request, unless it says otherwise; 0 everywhere is a calm world."""

    crash: float = 0.0  # per task attempt: it ends, before or after one of its requests
    freeze: float = 0.0  # per task attempt: it stands still, before or after one of its requests
    lost_request: float = 0.0  # the connection drops before the service has it
    lost_answer: float = 0.0  # the connection drops after the service did it
    late: float = 0.0  # the request arrives slowly, and nothing answers it
    dropped: float = 0.0  # the connection drops at once, and the service does the request seconds later
    error: float = 0.0  # 500, done or not
    throttle: float = 0.0  # by DynamoDB, with reasons or without
    partial: float = 0.0  # a batch is taken in part
    conflict: float = 0.0  # 409 of S3, for a conditional write
    slow: float = 0.0  # an answer takes seconds
    slow_credentials: float = 0.0  # seconds or minutes pass before a connection is ready: STS or IMDS is tried again
    lag: float = 0.0  # probability that an index lags by minutes after a write
    application: float = 0.0  # the application writes at the same time, to an item of the request if it can
    clear: float = 0.0  # per DAG run, and per freeze: a person clears or fails it in the middle
    skew: float = 0.0  # per process: its time of day is wrong
    remap: float = 0.0  # per DAG run: another version of the mapping is deployed in the middle
    interference: float = 0.0  # per DAG run, and per freeze: another installation meddles
    edits: float = 0.0  # per DAG run: the source is edited in the middle
    pages: float = 0.0  # a page of a list or scan is short
    regret: float = 0.0  # per decision of a person: the application takes its edits back before it
    # Only in climates that are asked for:
    keep: float = 0.0  # per DAG run: its target stays open if it fails
    stall: float = 0.0  # per mark, report and record: the process stands still just before it writes it


RATES = {
    "crash": (0.02, 0.4),
    "freeze": (0.02, 0.3),
    "lost_request": (0.002, 0.1),
    "lost_answer": (0.002, 0.2),
    "late": (0.002, 0.05),
    "dropped": (0.002, 0.05),
    "error": (0.002, 0.1),
    "throttle": (0.005, 0.2),
    "partial": (0.02, 0.5),
    "conflict": (0.005, 0.2),
    "slow": (0.005, 0.1),
    "slow_credentials": (0.005, 0.1),
    "lag": (0.05, 0.9),
    "application": (0.03, 0.6),
    "clear": (0.2, 1.0),
    "skew": (0.2, 1.0),
    "remap": (0.2, 1.0),
    "interference": (0.2, 1.0),
    "edits": (0.2, 1.0),
    "pages": (0.1, 0.9),
    "regret": (0.2, 1.0),
}


def draw_climate(chance: random.Random) -> Climate:
    """Draw which faults a world has, and how often."""
    share = chance.choice((0.2, 0.4, 0.7))
    rates = {
        field.name: low * (high / low) ** chance.random()
        for field in fields(Climate)
        if field.name in RATES
        for low, high in [RATES[field.name]]
        if chance.random() < share
    }
    return replace(Climate(), **rates)


CALM = Climate()
