"""Writing over TLS, beside version 0.1.0: its own writer, taken from the history, in turns with ours."""

import io
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from lab import REPO, Lab
from sections import say, summarize

RELEASE = "0303e8e"  # version 0.1.0
TABLE = "WritingOverTls"


def measure_tls(lab: Lab, rows: int, rounds: int) -> dict[str, Any] | None:
    """Both versions round after round, at 0 and 10 ms a request. None if the history does not hold the old one."""
    old = unpack_release(lab.scratch)
    if old is None:
        say(f"  {RELEASE} is not in this clone: skipped")
        return None
    lab.tell(
        "CreateTable",
        TableName=TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )
    found: dict[str, Any] = {}
    for latency in (0, 10):
        tries: dict[str, list[dict[str, Any]]] = {"0.1.0": [], "accession": []}
        for number in range(rounds):
            for name, folder in (("0.1.0", old), ("accession", REPO / "include")):
                tries[name].append(write(lab, folder, rows, latency / 1000))
                last = tries[name][-1]
                say(
                    f"  {latency} ms, round {number + 1}, {name}: {last['rows'] / last['wall']:,.0f} rows/s, "
                    f"{1e6 * last['cpu'] / last['rows']:.2f} CPU µs a row, exact: {last['exact']}"
                )
        found[f"{latency} ms"] = {name: summarize(each) for name, each in tries.items()}
    lab.tell("StandIn.Empty", table=TABLE)
    return found


def write(lab: Lab, library: Path, rows: int, latency: float) -> dict[str, Any]:
    """One version once. `exact` is whether the server holds all the items and each was sent once."""
    lab.tell("StandIn.Empty", table=TABLE)
    before = lab.tell("StandIn.Set", latency=latency, units=0)["cpu"]
    result = lab.finish(
        lab.start("writer.py", lab.tls, str(lab.certificate), TABLE, str(rows), environ={"PYTHONPATH": str(library)})
    )
    result["server_cpu"] = lab.tell("StandIn.Set", latency=0)["cpu"] - before
    report = lab.tell("StandIn.Report", table=TABLE)
    result["exact"] = (report["items"], report["sent"], result["rows"]) == (rows, rows, rows)
    return result


def unpack_release(folder: Path) -> Path | None:
    """Unpack the library of version 0.1.0, and return what PYTHONPATH names; None if the history does not hold it."""
    command = ["git", "-C", str(REPO), "archive", RELEASE, "include"]
    archive = subprocess.run(command, capture_output=True, check=False)
    if archive.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder / RELEASE, filter="data")
    return folder / RELEASE / "include"
