"""What the bench measures, a function a section; each returns plain numbers for bench.json."""

import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import boto3
import orjson
from boto3.dynamodb.types import TypeDeserializer
from lab import Lab, Prepared

from accession.run.comparison import SEGMENTS

OTHERS = ("put_loop", "batch_writer", "airflow_hook", "awswrangler", "threads")
BENCH_VENV = {"awswrangler"}
IN_FLIGHT = 16


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# 1. The load, side by side


def write_items(lab: Lab, library: Prepared, counts: set[int]) -> dict[int, str]:
    """The same items for the others as a file; the checksum of the first so many of them."""
    expected, total = {}, 0
    deserialize = TypeDeserializer().deserialize
    with (lab.scratch / "items.jsonl").open("wb") as file:
        for number, item in enumerate(lab.read_items(library), 1):
            data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
            total += int.from_bytes(hashlib.blake2b(data, digest_size=16).digest())
            file.write(orjson.dumps({n: deserialize(v) for n, v in item.items()}, default=int) + b"\n")
            if number in counts:
                expected[number] = f"{total % 2**128:032x}"
    return expected


def measure_load(lab: Lab, library: Prepared, latencies: dict[int, dict[str, int]], rounds: int) -> dict[str, Any]:
    """Every contender in turn, round after round, at each latency; rows per contender as `latencies` says."""
    expected = write_items(lab, library, {count for counts in latencies.values() for count in counts.values()})
    sections: dict[str, Any] = {}
    for latency, counts in latencies.items():
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
        for number in range(rounds):
            for name, count in counts.items():
                results[name].append(run_contender(lab, library, name, count, latency / 1000, expected[count]))
                last = results[name][-1]
                say(
                    f"  {latency} ms, round {number + 1}, {name}: {last['rows'] / last['wall']:,.0f} rows/s, "
                    f"{last['rows'] / last['cpu']:,.0f} rows/CPU s, exact: {last['exact']}"
                )
        sections[f"{latency} ms"] = {name: summarize(tries) for name, tries in results.items()}
    return sections


def run_contender(
    lab: Lab, library: Prepared, name: str, count: int, latency: float, expected: str | None
) -> dict[str, Any]:
    """One contender once. `exact` is whether the server holds precisely the items it should."""
    table = lab.table(library.environment)
    lab.tell("StandIn.Empty", table=table)
    before = lab.tell("StandIn.Set", latency=latency, units=0)["cpu"]
    if name == "accession":
        lab.forget_progress(library)
        result = lab.step(library, step="migrate", name="user_book")
    else:
        path = str(lab.scratch / "items.jsonl")
        child = lab.start("contenders.py", name, path, table, str(count), bench=name in BENCH_VENV)
        result = lab.finish(child)
    result["server_cpu"] = lab.tell("StandIn.Set", latency=0)["cpu"] - before
    report = lab.tell("StandIn.Report", table=table)
    result["exact"] = report["items"] == count and report["checksum"] == expected and result["rows"] == count
    return result


def summarize(tries: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, and the lowest and highest of the rounds."""

    def spread(values: list[float]) -> dict[str, float]:
        return {"median": statistics.median(values), "low": min(values), "high": max(values)}

    return {
        "rows": tries[0]["rows"],
        "rows_per_second": spread([one["rows"] / one["wall"] for one in tries]),
        "rows_per_cpu_second": spread([one["rows"] / one["cpu"] for one in tries]),
        "peak_mib": spread([one["rss_peak"] / 2**20 for one in tries]),
        "growth_mib": spread([(one["rss_peak"] - one["rss_start"]) / 2**20 for one in tries]),
        "server_busy": max(one.get("server_cpu", 0.0) / one["wall"] for one in tries),
        "exact": all(one.get("exact", True) for one in tries),
    }


# 2. Verification beside a scan that compares nothing


def measure_verification(lab: Lab, library: Prepared, rounds: int) -> dict[str, Any]:
    """The target holds the library; both read all of it."""
    run_contender(lab, library, "accession", library.rows, 0.0, None)
    table = lab.table(library.environment)
    tries: dict[str, list[dict[str, Any]]] = {"scan": [], "accession": []}
    for _ in range(rounds):
        lab.tell("StandIn.Pages", table=table, segments=1, limit=0)
        tries["scan"].append(lab.finish(lab.start("contenders.py", "scan", "/dev/null", table, str(library.rows))))
        lab.tell("StandIn.Pages", table=table, segments=SEGMENTS, limit=0)
        tries["accession"].append(lab.step(library, step="verify", name="user_book"))
    return {name: summarize(results) for name, results in tries.items()}


# 3. Flat and linear


def measure_growth(
    lab: Lab, sizes: list[int], rounds: dict[int, int], with_largest: Callable[[Prepared], None]
) -> dict[str, Any]:
    """Stage, migrate and verify libraries of each size; `with_largest` gets the last one before it goes."""
    sizes_found: dict[str, Any] = {}
    for rows in sizes:
        environment = f"r{rows}"
        library = lab.prepare(environment, rows, rounds[rows])
        tasks: dict[str, list[dict[str, Any]]] = {"stage": [library.costs["stage.user_book"]]}
        peaks = {name: cost["rss_peak"] for name, cost in library.costs.items() if "rss_peak" in cost}
        seconds = {name: cost["wall"] for name, cost in library.costs.items()}
        lab.tell("StandIn.Set", latency=0, units=0)
        for _ in range(rounds[rows]):
            lab.forget_progress(library)
            for name in ("user", "book", "user_book"):
                table = lab.table(environment, name)
                lab.tell("StandIn.Empty", table=table)
                done = lab.step(library, step="migrate", name=name)
                peaks[f"migrate.{name}"] = max(done["rss_peak"], peaks.get(f"migrate.{name}", 0))
                lab.tell("StandIn.Pages", table=table, segments=SEGMENTS, limit=0)
                proof = lab.step(library, step="verify", name=name)
                seconds |= {f"migrate.{name}": done["wall"], f"verify.{name}": proof["wall"]}
                peaks[f"verify.{name}"] = max(proof["rss_peak"], peaks.get(f"verify.{name}", 0))
            tasks.setdefault("migrate", []).append(done)
            tasks.setdefault("verify", []).append(proof)
        if rows == sizes[-1]:
            with_largest(library)
        for name in ("user", "book", "user_book"):
            lab.tell("StandIn.Empty", table=lab.table(environment, name))
        empty_bucket(lab, environment)
        stage_tries = tasks["stage"][0]["all"]
        sizes_found[str(rows)] = {
            "wall_us_per_row": {
                "stage": 1e6 * statistics.median(one["wall"] for one in stage_tries) / rows,
                **{n: 1e6 * statistics.median(one["wall"] for one in tasks[n]) / rows for n in ("migrate", "verify")},
            },
            "cpu_us_per_row": {
                "stage": 1e6 * statistics.median(one["cpu"] for one in stage_tries) / rows,
                **{n: 1e6 * statistics.median(one["cpu"] for one in tasks[n]) / rows for n in ("migrate", "verify")},
            },
            "peak_mib": {name: peak / 2**20 for name, peak in peaks.items()},
            "seconds": seconds,
        }
        say(f"  {rows:,} rows: {json.dumps(sizes_found[str(rows)]['cpu_us_per_row'])}")
    return sizes_found


def empty_bucket(lab: Lab, environment: str) -> None:
    """Give MiniStack's memory back."""
    store = lab.store(environment)
    for path in list(store.list()):
        lab.s3.delete_object(Bucket=store.bucket, Key=store.prefix + path)


# 4. Throughput control


def measure_cap(lab: Lab, library: Prepared, cap: int, seconds: float) -> dict[str, Any]:
    """Two tasks at once under one cap, each item charged three units, as user_book's two indexes make it."""
    lab.forget_progress(library)
    lab.tell("StandIn.Empty", table=lab.table(library.environment))
    lab.tell("StandIn.Set", latency=0.01, units=1e9, stored=1e9, charge=3)
    parts = split_parts(lab, library, 2)
    children = [lab.begin(library, step="migrate", name="user_book", parts=some, cap=cap) for some in parts]
    record = watch(lab, children, seconds + 8)
    units = record["units"]
    per_slot = record["seconds"]
    first = int(2 / per_slot)  # after the second task has come up as well
    last = min(len(units), first + int(seconds / per_slot))
    measured = units[first:last]
    rate = sum(measured) / (len(measured) * per_slot)
    return {"cap": cap, "seconds": len(measured) * per_slot, "measured": rate, "tasks": 2, "units": units}


def measure_limit(lab: Lab, library: Prepared, units: int, seconds: float) -> dict[str, Any]:
    """A table that takes `units` a second, then twice as many, then as before."""
    lab.forget_progress(library)
    lab.tell("StandIn.Empty", table=lab.table(library.environment))
    lab.tell("StandIn.Set", latency=0.01, units=units, stored=0.0, charge=3)
    child = lab.begin(library, step="migrate", name="user_book")
    while not lab.tell("StandIn.Record")["requests"]:
        time.sleep(0.05)
    # A second's worth is saved up, as in a table that is hardly used; what gathered while the task came up is gone.
    changes = [lab.tell("StandIn.Set", units=units, stored=units)["now"]]
    for limit in (2 * units, units):
        time.sleep(seconds)
        changes.append(lab.tell("StandIn.Set", units=limit)["now"])
    time.sleep(seconds)
    changes.append(lab.tell("StandIn.Set", units=units)["now"])
    record = lab.tell("StandIn.Record")
    child.kill()
    child.communicate()
    phases = [judge_phase(record, start, end, limit)
              for (start, end), limit in zip(pairwise(changes), (units, 2 * units, units), strict=True)]  # fmt: skip
    return {"units": units, "seconds": seconds, "phases": phases, "record": record}


def measure_account(lab: Lab, library: Prepared, units: int, seconds: float) -> dict[str, Any]:
    """All tables of the account together take `units`."""
    lab.forget_progress(library)
    lab.tell("StandIn.Empty", table=lab.table(library.environment))
    lab.tell("StandIn.Set", latency=0.01, units=units, stored=units, charge=3, reason="TableWriteAccountLimitExceeded")
    record = watch(lab, [lab.begin(library, step="migrate", name="user_book")], seconds)
    lab.tell("StandIn.Set", reason=TABLE_REASON)
    end = record["start"] + len(record["units"]) * record["seconds"]
    return judge_phase(record, record["start"], end, units)


HOT_CAP, HOT_SHARE = 1_000, 0.01


def measure_hot_range(lab: Lab, library: Prepared) -> dict[str, Any]:
    """One part under a cap, a hundredth of whose items are of a hot key range, which takes a quarter of what would come
    to it: how long the others took, and how long they had to."""
    lab.forget_progress(library)
    lab.tell("StandIn.Empty", table=lab.table(library.environment))
    hot_units = HOT_CAP * HOT_SHARE / 4
    lab.tell("StandIn.Set", latency=0.01, units=1e9, stored=1e9, charge=1, hot=HOT_SHARE, hot_units=hot_units)
    others = lab.folder(library).load_staged("user_book").parts[0].writes * (1 - HOT_SHARE)
    ideal = others / HOT_CAP
    child = lab.begin(library, step="migrate", name="user_book", parts=[0], cap=HOT_CAP)
    record = watch(lab, [child], 2 * ideal)
    lab.tell("StandIn.Set", hot=0.0)
    written = list(accumulate(record["units"]))
    took = next((slot for slot, units in enumerate(written) if units >= others), len(written)) * record["seconds"]
    return {"cap": HOT_CAP, "share": HOT_SHARE, "ideal": ideal, "took": took, "refused": sum(record["refused"])}


TABLE_REASON = "TableWriteMaxOnDemandThroughputExceeded"
SETTLED_SECONDS = 10.0  # the bar: found again within this time


def judge_phase(record: dict[str, Any], start: float, end: float, limit: float) -> dict[str, Any]:
    """Share of the limit used and of requests throttled, from 10 s after a change, and over the whole phase."""
    slot = record["seconds"]

    def share(since: float) -> tuple[float, float]:
        chosen = slice(round((since - record["start"]) / slot), round((end - record["start"]) / slot))
        asked, refused = sum(record["requests"][chosen]), sum(record["refused"][chosen])
        return sum(record["units"][chosen]) / ((end - since) * limit), refused / max(asked, 1)

    used, throttled = share(start)
    settled_used, settled_throttled = share(min(start + SETTLED_SECONDS, end - 2))
    return {"limit": limit, "used": used, "throttled": throttled, "settled_used": settled_used,
            "settled_throttled": settled_throttled}  # fmt: skip


def watch(lab: Lab, children: list[Any], seconds: float) -> dict[str, Any]:
    """Let children work so long from the first request on, then stop them; what the server recorded."""
    while not lab.tell("StandIn.Record")["requests"]:
        time.sleep(0.05)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and all(child.poll() is None for child in children):
        time.sleep(0.2)
    record = lab.tell("StandIn.Record")
    for child in children:
        child.kill()
        child.communicate()
    return record


def split_parts(lab: Lab, library: Prepared, number: int) -> list[list[int]]:
    """The parts of user_book, dealt out."""
    parts = [part.part for part in lab.folder(library).load_staged("user_book").parts]
    return [parts[start::number] for start in range(number)]


# 5. More workers


def measure_workers(lab: Lab, library: Prepared, latency: float, rounds: int) -> dict[str, Any]:
    """The same change set by 1, 2 and 4 processes; wall time from the first to the last request, at the server."""
    table = lab.table(library.environment)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for number in (1, 2, 4):
            lab.forget_progress(library)
            lab.tell("StandIn.Empty", table=table)
            lab.tell("StandIn.Set", latency=latency, units=1e9, stored=1e9, charge=1)
            children = [
                lab.begin(library, step="migrate", name="user_book", parts=some)
                for some in split_parts(lab, library, number)
            ]
            rows = sum(lab.finish(child)["rows"] for child in children)
            record = lab.tell("StandIn.Record")
            found.setdefault(str(number), []).append(rows / (len(record["units"]) * record["seconds"]))
    lab.tell("StandIn.Set", latency=0, units=0)
    return {number: {"median": statistics.median(rates), "low": min(rates), "high": max(rates)}
            for number, rates in found.items()}  # fmt: skip


# 6. MiniStack as the target, beside what it can take at all


def measure_ministack(lab: Lab, library: Prepared, counts: dict[str, int], rounds: int) -> dict[str, Any]:
    """The same contenders into the emulator; `ceiling` is prepared requests, unsigned, over sixteen connections."""
    target = boto3.client("dynamodb", endpoint_url=lab.s3_endpoint)
    ours = next(iter(lab.folder(library).load_staged("user_book").parts)).writes
    counts = counts | {"ceiling": ours, "accession": ours}
    expected = write_items(lab, library, set(counts.values()))
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in counts}
    for _ in range(rounds):
        for name, count in counts.items():
            lab.create_tables(library.environment, target)
            environ = {"AWS_ENDPOINT_URL_DYNAMODB": lab.s3_endpoint}
            if name == "accession":
                lab.forget_progress(library)
                child = lab.begin(library, step="migrate", name="user_book", parts=[0], environ=environ)
            else:
                load = (str(lab.scratch / "items.jsonl"), lab.table(library.environment), str(count))
                if name == "ceiling":
                    child = lab.start("ceiling.py", lab.s3_endpoint, *load)
                else:
                    child = lab.start("contenders.py", name, *load, bench=name in BENCH_VENV, environ=environ)
            result = lab.finish(child)
            found, checksum = read_checksum(target, lab.table(library.environment))
            result["exact"] = (found, checksum, result["rows"]) == (count, expected[count], count)
            results[name].append(result)
            say(f"  MiniStack, {name}: {result['rows'] / result['wall']:,.0f} rows/s, exact: {result['exact']}")
    lab.drop_tables(library.environment, target)
    return {name: summarize(tries) for name, tries in results.items()}


def read_checksum(client: Any, table: str) -> tuple[int, str]:
    """How many items a table holds, and their checksum as the stand-in makes it."""
    number = total = 0
    for page in client.get_paginator("scan").paginate(TableName=table, ConsistentRead=True):
        for item in page["Items"]:
            number += 1
            data = orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
            total += int.from_bytes(hashlib.blake2b(data, digest_size=16).digest())
    return number, f"{total % 2**128:032x}"
