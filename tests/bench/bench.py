"""The bench: every contender in its own process, in turn, several rounds; prints tables and verdicts.

    make bench            40 minutes on two cores; writes docs/bench (numbers, tables, charts) and README's table
    make bench QUICK=1    ten minutes: small numbers, prints only
    bench.py --only large  the rows of 390 KB alone, prints only; --only whole: the whole DAG alone

Exit 1 when a bar is not met.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from judge import Verdict, judge, judge_large
from lab import BENCH_PYTHON, HERE, REPO, Prepared, open_lab
from large import measure_large
from sections import (
    OTHERS,
    measure_account,
    measure_cap,
    measure_growth,
    measure_hot_range,
    measure_limit,
    measure_load,
    measure_ministack,
    measure_verification,
    measure_workers,
    say,
    summarize,
)
from versions import measure_tls
from whole import SPANS, measure_whole

DOCS = REPO / "docs/bench"
PARTIAL = REPO / ".local/bench.json"  # what was measured before a section failed
README = REPO / "README.md"
BLOCK = re.compile(r"(?<=<!-- bench -->\n).*?(?=<!-- /bench -->)", re.DOTALL)  # what the bench writes of it
NAMES = {
    "put_loop": "one put a row (the owner's script)",
    "batch_writer": "boto3 batch_writer",
    "airflow_hook": "Airflow DynamoDBHook.write_batch_data",
    "awswrangler": "awswrangler put_items",
    "threads": "16 threads, batch_write_item",
    "accession": "**Accession**, migrate",
    "ceiling": "what MiniStack takes at all: prepared requests, unsigned",
}
FULL: dict[str, Any] = {
    "rows": 100_000,
    "rounds": 3,
    "verification_rounds": 5,
    "counts": {
        0: dict.fromkeys(OTHERS, 20_000) | {"put_loop": 2_000},
        10: dict.fromkeys(OTHERS, 10_000) | {"put_loop": 500, "threads": 20_000},
    },
    "tls": (100_000, 3),
    "sizes": [50_000, 100_000, 1_000_000],
    "growth_rounds": {50_000: 1, 100_000: 2, 1_000_000: 1},
    "cap": (4_000, 60.0),
    "limit": (10_000, 17.0),
    "ministack": dict.fromkeys(OTHERS, 5_000) | {"put_loop": 500},
    "large": (500, 5_000),
    "whole": (2, 100_000, 1_000_000),
}
QUICK: dict[str, Any] = {
    "rows": 40_000,
    "rounds": 2,
    "verification_rounds": 2,
    "counts": {
        0: dict.fromkeys(OTHERS, 5_000) | {"put_loop": 500},
        10: dict.fromkeys(OTHERS, 2_500) | {"put_loop": 200, "threads": 5_000},
    },
    "tls": (50_000, 2),
    "sizes": [20_000, 40_000, 80_000],
    "growth_rounds": {20_000: 1, 40_000: 1, 80_000: 1},
    "cap": (4_000, 10.0),
    "limit": (4_000, 12.0),
    "ministack": dict.fromkeys(OTHERS, 2_500) | {"put_loop": 200},
    "large": (200, 600),
    "whole": (1, 10_000, 40_000),
}


def run(scale: dict[str, Any]) -> dict[str, Any]:
    """Every section in turn; the numbers."""
    result: dict[str, Any] = {"started_at": datetime.now(UTC).isoformat(), "machine": describe_machine(), "seconds": {}}

    def section(name: str, measure: Callable[[], Any]) -> None:
        say(f"{name} …")
        begun = time.monotonic()
        result[name] = measure()
        result["seconds"][name] = round(time.monotonic() - begun, 1)
        PARTIAL.write_text(json.dumps(result, indent=1) + "\n")

    rows, rounds = scale["rows"], scale["rounds"]
    counts = {latency: {**others, "accession": rows} for latency, others in scale["counts"].items()}
    assert all(set(OTHERS) < set(each) for each in counts.values())
    with open_lab() as lab:
        say(f"preparing {rows:,} user_books …")
        library = lab.prepare("load", rows, rounds)
        staged = library.costs["stage.user_book"]
        result["staging"] = summarize([{**staged, **one} for one in staged["all"]])
        section("load", lambda: measure_load(lab, library, counts, rounds))
        section("tls", lambda: measure_tls(lab, *scale["tls"]))
        section("verification", lambda: measure_verification(lab, library, scale["verification_rounds"]))
        section("ministack", lambda: measure_ministack(lab, library, scale["ministack"], min(rounds, 2)))
        section("cap", lambda: measure_cap(lab, library, *scale["cap"]))
        section("hot range", lambda: measure_hot_range(lab, library))
        section("account", lambda: measure_account(lab, library, 6_000, 16.0))
        section("workers", lambda: measure_workers(lab, library, 0.04, min(rounds, 3)))

        def measure_with_largest(largest: Prepared) -> None:
            section("limit", lambda: measure_limit(lab, largest, *scale["limit"]))

        growth = scale["sizes"], scale["growth_rounds"]
        section("growth", lambda: measure_growth(lab, *growth, measure_with_largest))
        section("large", lambda: measure_large(lab, *scale["large"]))
        section("whole", lambda: measure_whole(lab, *scale["whole"]))
    return result


def describe_machine() -> dict[str, Any]:
    """Where it ran; no names."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), platform.machine())
    cores = sum(line.startswith("processor") for line in info)
    return {"cpu": model, "cores": cores, "python": platform.python_version(), "system": platform.system()}


def show(result: dict[str, Any], verdicts: list[Verdict]) -> str:
    """The tables, as Markdown."""
    lines = []
    for latency, section in result["load"].items():
        lines += [
            f"**Load, {latency} a request**", "",
            "| contender | rows/s | spread | rows per CPU second | spread | peak memory | exact |",
            "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
        ]  # fmt: skip
        for name, one in section.items():
            wall, cpu, memory = one["rows_per_second"], one["rows_per_cpu_second"], one["peak_mib"]["median"]
            lines.append(
                f"| {NAMES[name]} | {wall['median']:,.0f} | {wall['low']:,.0f} to {wall['high']:,.0f} | "
                f"{cpu['median']:,.0f} | {cpu['low']:,.0f} to {cpu['high']:,.0f} | {memory:,.0f} MiB | "
                f"{'yes' if one['exact'] else '**no: disqualified**'} |"
            )
        lines.append("")
    lines += _show_tls(result["tls"]) if result.get("tls") else []
    lines += [
        "**Load, MiniStack as the target**", "",
        "| contender | rows/s | spread | of what MiniStack takes | exact |", "| --- | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    ceiling = result["ministack"]["ceiling"]["rows_per_second"]["median"]
    for name, one in result["ministack"].items():
        wall = one["rows_per_second"]
        lines.append(
            f"| {NAMES[name]} | {wall['median']:,.0f} | {wall['low']:,.0f} to {wall['high']:,.0f} | "
            f"{wall['median'] / ceiling:.0%} | {'yes' if one['exact'] else '**no: disqualified**'} |"
        )
    lines += [
        "",
        "**More workers** (40 ms a request)",
        "",
        "| processes | rows/s | speed-up |",
        "| ---: | ---: | ---: |",
    ]
    single = result["workers"]["1"]["median"]
    for number, rate in result["workers"].items():
        lines.append(f"| {number} | {rate['median']:,.0f} | {rate['median'] / single:.2f} |")
    lines += [
        "", "**Growth** (CPU µs a row; peak memory of the user_book tasks)", "",
        "| user_books | stage | migrate | verify | stage | migrate | verify |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for rows, one in result["growth"].items():
        times = " | ".join(f"{one['cpu_us_per_row'][step]:.1f}" for step in ("stage", "migrate", "verify"))
        peaks = " | ".join(f"{one['peak_mib'][f'{step}.user_book']:.0f} MiB" for step in ("stage", "migrate", "verify"))
        lines.append(f"| {int(rows):,} | {times} | {peaks} |")
    lines += [
        "",
        *([*_show_large(result["large"]), ""] if result.get("large") else []),
        *_show_whole(result["whole"], result["growth"]),
        "",
        *_show_bars(verdicts),
    ]
    return "\n".join(lines) + "\n"


def _show_bars(verdicts: list[Verdict]) -> list[str]:
    lines = ["**Bars**", "", "| bar | reached | verdict |", "| --- | --- | --- |"]
    return lines + [f"| {v.bar} | {v.reached} | {'met' if v.met else '**not met**'} |" for v in verdicts]


def _show_large(section: dict[str, Any]) -> list[str]:
    """Peak memory and seconds of each step, for both numbers of rows."""
    few, many = section.values()
    lines = [
        "**Rows of 390 KB** (peak memory of a step, MiB; seconds)", "",
        f"| step | {' | '.join(f'{int(rows):,} rows' for rows in section)} | ratio | "
        f"{' | '.join(f'{int(rows):,} rows' for rows in section)} |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    for step, peak in many["peak_mib"].items():
        seconds = f"{few['seconds'][step]:.1f} s | {many['seconds'][step]:.1f} s"
        before = few["peak_mib"][step]
        lines.append(f"| {step} | {before:,.0f} | {peak:,.0f} | {peak / before:.2f} | {seconds} |")
    return lines


def _show_tls(sections: dict[str, Any]) -> list[str]:
    """Both versions at each latency, and the share of the old one's CPU time that a row costs now."""
    lines = [
        "**Writing over TLS, beside version 0.1.0**", "",
        "| a request | version | CPU µs a row | of 0.1.0 | rows/s | memory over its start | exact |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]  # fmt: skip
    for latency, section in sections.items():
        for name, one in section.items():
            speed, old = one["rows_per_cpu_second"]["median"], section["0.1.0"]["rows_per_cpu_second"]["median"]
            lines.append(
                f"| {latency} | {NAMES.get(name, name)} | {1e6 / speed:.2f} | {old / speed:.0%} | "
                f"{one['rows_per_second']['median']:,.0f} | {one['growth_mib']['high']:.0f} MiB | "
                f"{'yes' if one['exact'] else '**no**'} |"
            )
    return [*lines, ""]


def _show_whole(whole: dict[str, Any], growth: dict[str, Any]) -> list[str]:
    """Seconds a step, a column a run; beside the last, the same steps as `growth` measured them."""
    lines = ["**The whole DAG** (seconds; of a step the sum of its tasks, their number in brackets)", ""]

    def add(name: str, cells: list[str]) -> None:
        lines.append(f"| {name} | {' | '.join(cells)} |")

    def show_step(step: dict[str, float] | None) -> str:
        if step is None:
            return ""
        return f"{step['seconds']:.1f}" + (f" ({step['tasks']})" if step["tasks"] > 1 else "")

    runs = list(whole.values())
    add("step", [f"{name}: {run['rows']:,} rows" for name, run in whole.items()])
    add("---", ["---:"] * len(runs))
    for name in SPANS:
        add(name, [show_step(run["steps"].get(name)) for run in runs])
    add("sum", [f"{sum(step['seconds'] for step in run['steps'].values()):.1f}" for run in runs])
    add("some task at work", [f"{run['busy']:.1f}" if "busy" in run else "" for run in runs])
    largest = max(growth, key=int)
    alone = sum(growth[largest]["seconds"].values())
    add("the same steps without Airflow, one after the other", [*[""] * (len(runs) - 1), f"{alone:.1f}"])
    add("**wall**", [f"**{run['wall']:.1f}**" for run in runs])
    return lines


def show_load(result: dict[str, Any]) -> str:
    """The table of the README."""
    fast, slow = result["load"]["0 ms"], result["load"]["10 ms"]
    lines = [
        "| rows into DynamoDB | rows/s, 10 ms a request | rows/s, 0 ms | rows per CPU second, 0 ms |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name in (*OTHERS, "accession"):
        cells = (slow[name]["rows_per_second"], fast[name]["rows_per_second"], fast[name]["rows_per_cpu_second"])
        medians = [f"{cell['median']:,.0f}" for cell in cells]
        lines.append(f"| {NAMES[name]} | {' | '.join(medians)} |")
    machine = result["machine"]
    lines += ["", f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {result['ended_at'][:10]}."]
    return "\n".join(lines) + "\n"


def run_large(few: int, many: int) -> int:
    """The rows of 390 KB alone."""
    with open_lab() as lab:
        section = measure_large(lab, few, many)
    verdicts = judge_large(section)
    print("\n".join([*_show_large(section), "", *_show_bars(verdicts)]))
    return 0 if all(verdict.met for verdict in verdicts) else 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=["large", "whole"])
    given = parser.parse_args()
    quick, scale = given.quick, QUICK if given.quick else FULL
    if given.only == "whole":
        with open_lab() as lab:
            print(json.dumps(measure_whole(lab, *scale["whole"]), indent=1))
        return 0
    if given.only:
        return run_large(*scale["large"])
    result = run(scale)
    verdicts = judge(result)
    result["bars"] = [vars(verdict) for verdict in verdicts]
    result["ended_at"] = datetime.now(UTC).isoformat()
    table = show(result, verdicts)
    print(table)
    if not quick:
        DOCS.mkdir(parents=True, exist_ok=True)
        (DOCS / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
        (DOCS / "table.md").write_text(table)
        README.write_text(BLOCK.sub(lambda _: show_load(result), README.read_text()))
        subprocess.run([str(BENCH_PYTHON), str(HERE / "chart.py"), str(DOCS)], check=True)
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
