"""What a piece of work costs the process that does it: wall and CPU seconds, and memory."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MIB = 1024 * 1024


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fills the dict at the end: `wall` and `cpu` (all threads) in seconds; `rss_start` and `rss_peak` in bytes.

    Peak memory is the kernel's high-water mark, set back at the start, so that imports and set-up do not count in it.
    (`ru_maxrss` would hand down the parent's.)
    """
    result: dict[str, Any] = {"rss_start": read_memory("VmRSS")}
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    wall, cpu = time.perf_counter(), time.process_time()
    yield result
    result["wall"], result["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
    result["rss_peak"] = read_memory("VmHWM")


def read_memory(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1]) * 1024
