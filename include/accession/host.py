"""The clocks and the randomness that a process takes from its machine. A test or a simulation passes in its own."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass(frozen=True)
class Host:
    """The clocks and the randomness of a machine.

    `now` is the time of day, in UTC. `monotonic` and `sleep` are in seconds. `chance` makes names and secrets, so its
    default is the operating system's own source of randomness.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: random.Random = field(default_factory=random.SystemRandom)

    def timestamp(self) -> str:
        """Return the time of day in ISO 8601, in UTC, with microseconds."""
        return self.now().isoformat()

    def token(self, size: int) -> str:
        """Return a new random name, of two hexadecimal digits for each of its `size` bytes."""
        return self.chance.randbytes(size).hex()


HOST = Host()
