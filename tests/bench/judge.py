"""The bars of the bench and their verdicts."""

from dataclasses import dataclass
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """A bar, what was reached, and whether that is enough."""

    bar: str
    reached: str
    met: bool


def judge(result: Result) -> list[Verdict]:
    """Every bar, in the order of the bench."""
    return [
        *_judge_load(result),
        *_judge_tls(result),
        *_judge_steps(result),
        *_judge_growth(result),
        *judge_large(result.get("large") or {}),
        *_judge_control(result),
    ]


def _ratio(result: Result, latency: str, other: str, figure: str) -> float:
    section = result["load"][latency]
    ours, theirs = section["accession"][figure]["median"], section[other][figure]["median"]
    return float(ours / theirs)


def _judge_load(result: Result) -> list[Verdict]:
    hook = _ratio(result, "10 ms", "airflow_hook", "rows_per_second")
    loop = _ratio(result, "10 ms", "put_loop", "rows_per_second")
    writer = _ratio(result, "0 ms", "batch_writer", "rows_per_cpu_second")
    sections = result["load"] | {"MiniStack": result["ministack"]}
    exact = [f"{name} at {place}" for place, section in sections.items() for name, one in section.items()
             if not one["exact"]]  # fmt: skip
    busiest = max(one["server_busy"] for section in result["load"].values() for one in section.values())
    return [
        Verdict("10 ms: at least 10 times DynamoDBHook.write_batch_data", f"{hook:.1f} times", hook >= 10),
        Verdict("10 ms: at least 150 times the put loop", f"{loop:.0f} times", loop >= 150),
        Verdict("0 ms: at least 4 times fewer CPU seconds a row than batch_writer", f"{writer:.1f} times", writer >= 4),
        Verdict("nobody lost or changed an item", ", ".join(exact) or "all exact", not exact),
        Verdict("the stand-in is not what is measured: below 70 % of a core", f"{busiest:.0%}", busiest < 0.7),
    ]


def _judge_tls(result: Result) -> list[Verdict]:
    """None for a run without 0.1.0 in its history."""
    verdicts = []
    for latency, section in (result.get("tls") or {}).items():
        old, ours = section["0.1.0"], section["accession"]
        share = old["rows_per_cpu_second"]["median"] / ours["rows_per_cpu_second"]["median"]
        growth, exact = ours["growth_mib"]["high"], all(one["exact"] for one in section.values())
        verdicts += [
            Verdict(f"{latency} over TLS: a row costs at most half the CPU time that it cost in 0.1.0", f"{share:.0%}",
                    share <= 0.5),
            Verdict(f"{latency} over TLS: memory grows by at most 32 MiB, and every item is sent once",
                    f"{growth:.0f} MiB, {'exact' if exact else 'not exact'}", growth <= 32 and exact),
        ]  # fmt: skip
    return verdicts


def _judge_steps(result: Result) -> list[Verdict]:
    staged = result["staging"]["rows_per_cpu_second"]["median"]
    writer = result["load"]["0 ms"]["batch_writer"]["rows_per_cpu_second"]["median"]
    ours, scan = (result["verification"][name]["rows_per_cpu_second"]["median"] for name in ("accession", "scan"))
    return [
        Verdict("staging: a user_book row costs at most a third of the CPU time of batch_writer's writing",
                f"{writer / staged:.0%}, {staged:,.0f} rows a CPU second", staged >= 3 * writer),
        Verdict("verification: at least 4 times fewer CPU seconds than a boto3 scan", f"{ours / scan:.1f} times",
                ours / scan >= 4),
    ]  # fmt: skip


def _judge_growth(result: Result) -> list[Verdict]:
    growth = result["growth"]
    small, middle, large = sorted(growth, key=int)
    worst = max(growth[large]["peak_mib"], key=lambda n: growth[large]["peak_mib"][n] / growth[small]["peak_mib"][n])
    memory = growth[large]["peak_mib"][worst] / growth[small]["peak_mib"][worst]
    verdicts = [
        Verdict(f"memory: any task on {int(large):,} rows at most 1.2 times that on {int(small):,}",
                f"{memory:.2f} times ({worst})", memory <= 1.2),
    ]  # fmt: skip
    for step in ("stage", "migrate", "verify"):
        ratio = growth[large]["wall_us_per_row"][step] / growth[middle]["wall_us_per_row"][step]
        cpu = growth[large]["cpu_us_per_row"][step] / growth[middle]["cpu_us_per_row"][step]
        verdicts.append(
            Verdict(f"{step}: time a row on {int(large):,} within 15 % of that on {int(middle):,}",
                    f"{ratio - 1:+.0%} wall, {cpu - 1:+.0%} CPU", ratio <= 1.15)
        )  # fmt: skip
    return verdicts


def judge_large(section: Result) -> list[Verdict]:
    """The bars of the rows of 390 KB. None for a run that was recorded without them."""
    if not section:
        return []
    few, many = section
    peaks, exact = section[many]["peak_mib"], all(one["exact"] for one in section.values())
    ratios = {step: peak / section[few]["peak_mib"][step] for step, peak in peaks.items()}
    worst = max(ratios, key=lambda step: ratios[step])
    what = "migrated, edited, migrated again and undone"
    return [
        Verdict(f"memory: any step on {int(many):,} rows of 390 KB at most 1.2 times that on {int(few):,}",
                f"{ratios[worst]:.2f} times ({worst}); at most {max(peaks.values()):,.0f} MiB", ratios[worst] <= 1.2),
        Verdict(f"{int(many):,} rows of 390 KB {what}: every item as it should be", "exact" if exact else "not exact",
                exact),
    ]  # fmt: skip


def _judge_control(result: Result) -> list[Verdict]:
    cap = result["cap"]
    off = cap["measured"] / cap["cap"] - 1
    verdicts = [
        Verdict(f"a cap of {cap['cap']:,} units/s shared by {cap['tasks']} tasks: within 5 % in {cap['seconds']:.0f} s",
                f"{off:+.1%}", abs(off) <= 0.05)
    ]  # fmt: skip
    names = ("found", "found again within 10 s of doubling", "found again within 10 s of halving")
    for name, phase in zip(names, result["limit"]["phases"], strict=True):
        met = phase["settled_used"] >= 0.92 and phase["settled_throttled"] < 0.05
        verdicts.append(
            Verdict(f"a limit of {phase['limit']:,.0f} units/s {name}: 92 % used, below 5 % throttled",
                    f"{phase['settled_used']:.1%} used, {phase['settled_throttled']:.1%} throttled", met)
        )  # fmt: skip
    account, hot = result["account"], result["hot range"]
    met = account["settled_used"] >= 0.92 and account["settled_throttled"] < 0.05
    return [
        *verdicts,
        Verdict(f"an account's limit of {account['limit']:,.0f} units/s: 92 % used, below 5 % throttled",
                f"{account['settled_used']:.1%} used, {account['settled_throttled']:.1%} throttled", met),
        Verdict("a hot key range: all other items within 20 % of the time that the cap leaves them",
                f"{hot['took']:.1f} s for {hot['ideal']:.1f} s", hot["took"] <= 1.2 * hot["ideal"]),
    ]  # fmt: skip
