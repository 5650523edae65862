"""Draws the charts of docs/bench from bench.json. Runs in the bench's own environment.

tests/bench/.venv/bin/python tests/bench/chart.py docs/bench
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

NAMES = {
    "put_loop": "put loop",
    "batch_writer": "batch_writer",
    "airflow_hook": "DynamoDBHook",
    "awswrangler": "awswrangler",
    "threads": "16 threads",
    "accession": "Accession",
}
THOUSANDS = StrMethodFormatter("{x:,.0f}")
OURS, OTHERS = "#b5542c", "#8a949e"
STEPS = {"stage": "#5b7f95", "migrate": OURS, "verify": "#7c9a5e"}


def draw_load(result: dict[str, Any], file: Path) -> None:
    """Rows a wall second and a CPU second, medians with the spread of the rounds."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), sharey=True)
    panels = [
        ("10 ms", "rows_per_second", "rows a second, 10 ms a request"),
        ("0 ms", "rows_per_second", "rows a second, 0 ms a request"),
        ("0 ms", "rows_per_cpu_second", "rows a CPU second, 0 ms a request"),
    ]
    for axis, (latency, figure_name, title) in zip(axes, panels, strict=True):
        section = result["load"][latency]
        bars = [section[name][figure_name] for name in NAMES]
        middle = [bar["median"] for bar in bars]
        spread = [[bar["median"] - bar["low"] for bar in bars], [bar["high"] - bar["median"] for bar in bars]]
        colours = [OURS if name == "accession" else OTHERS for name in NAMES]
        axis.barh(list(NAMES.values()), middle, xerr=spread, color=colours, ecolor="#333333", capsize=2)
        for row, value in enumerate(middle):
            axis.annotate(f"{value:,.0f}", (bars[row]["high"], row), (5, 0), textcoords="offset points", va="center")
        axis.set_xlim(0, max(bar["high"] for bar in bars) * 1.25)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        finish(axis, title)
    axes[0].invert_yaxis()
    save(figure, file)


def draw_growth(result: dict[str, Any], file: Path) -> None:
    """CPU time a row and peak memory over the number of rows; the limit found."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
    sizes = sorted(result["growth"], key=int)
    places = [int(size) for size in sizes]
    for step, colour in STEPS.items():
        times = [result["growth"][size]["cpu_us_per_row"][step] for size in sizes]
        peaks = [result["growth"][size]["peak_mib"][f"{step}.user_book"] for size in sizes]
        axes[0].plot(places, times, marker="o", color=colour, label=step)
        axes[1].plot(places, peaks, marker="o", color=colour, label=step)
    for axis, title in zip(axes, ("CPU µs a row, by user_books", "peak memory of a task, MiB"), strict=False):
        axis.set_xscale("log")
        axis.set_xticks(places)
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
        axis.legend(frameon=False, ncols=len(STEPS), loc="upper left")
        finish(axis, title)
    record, limit = result["limit"]["record"], result["limit"]["units"]
    wide = 5
    rates = [
        sum(record["units"][start : start + wide]) / (wide * record["seconds"])
        for start in range(0, len(record["units"]) - wide, wide)
    ]
    times = [number * wide * record["seconds"] for number in range(len(rates))]
    axes[2].plot(times, rates, color=OURS, label="accepted")
    seconds = result["limit"]["seconds"]
    axes[2].step([0, seconds, 2 * seconds, 3 * seconds], [limit, limit, 2 * limit, limit], color="#333333", lw=1,
                 label="the table's limit")  # fmt: skip
    axes[2].set_ylim(0)
    axes[2].yaxis.set_major_formatter(THOUSANDS)
    axes[2].legend(frameon=False, loc="upper right")
    finish(axes[2], "write units a second, over seconds")
    save(figure, file)


def finish(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)
    axis.xaxis.set_major_formatter(THOUSANDS)


def save(figure: Any, file: Path) -> None:
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    numbers = json.loads((folder / "bench.json").read_text())
    draw_load(numbers, folder / "load.png")
    draw_growth(numbers, folder / "growth.png")
