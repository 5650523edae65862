"""Play many seeds on all cores, or one seed with its trace: what `make simulate` calls."""

import argparse
import logging
import multiprocessing
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from functools import partial

from simulation.faults import CALM, Climate
from simulation.mutants import Mutant, list_mutants
from simulation.scenario import GROUNDS, Result, lay_ground, simulate

SHOWN = 12  # seeds listed for each rule
EVERY_SECONDS = 10.0
MUTANT_SEEDS = 300
WORKERS = int(os.environ.get("WORKERS", os.cpu_count() or 1))


def play(seed: int, climate: Climate | None = None) -> Result:
    """Play one seed, and drop the trace of a good one."""
    try:
        result = simulate(seed, climate)
    except Exception as error:
        raise RuntimeError(f"seed {seed}") from error
    return result if result.violations else Result(seed, [], [], result.counts, result.climate, result.seconds)


def play_all(seeds: Iterable[int], workers: int, climate: Climate | None = None) -> Iterator[Result]:
    """Play seeds in so many processes, and yield their results as they end."""
    with multiprocessing.get_context("fork").Pool(workers, maxtasksperchild=400) as pool:
        yield from pool.imap_unordered(partial(play, climate=climate), seeds, chunksize=5)


def find_rules(result: Result) -> list[str]:
    """Return the rules that a seed broke."""
    return list(dict.fromkeys(violation.partition(":")[0] for violation in result.violations))


def report(results: Iterable[Result], total: int) -> int:
    """Print the progress and the sum of many seeds. Return how many broke a rule."""
    begun = shown = time.monotonic()
    counts: Counter[str] = Counter()
    broken: dict[str, list[int]] = defaultdict(list)
    examples: dict[str, str] = {}
    done = failed = 0
    simulated = 0.0
    for result in results:
        done += 1
        failed += bool(result.violations)
        counts.update(result.counts)
        simulated += result.seconds
        for rule in find_rules(result):
            broken[rule].append(result.seed)
            examples.setdefault(rule, f"{result.seed}: {next(v for v in result.violations if v.startswith(rule))}")
        if result.violations:
            print(f"seed {result.seed}: {result.violations[0]}", flush=True)
        if time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            speed = done / (shown - begun)
            print(f"{done:,} of {total:,} seeds, {speed:.0f}/s, {failed:,} broke a rule", flush=True)
    seconds = time.monotonic() - begun
    print(f"\n{done:,} seeds in {seconds:,.0f} s: {simulated / 3600:,.0f} hours of simulated time")
    for name, number in sorted(counts.items()):
        print(f"  {number:12,} {name}")
    for rule, seeds in sorted(broken.items(), key=lambda entry: -len(entry[1])):
        listed = " ".join(map(str, sorted(seeds)[:SHOWN]))
        print(f"\n{rule}: {len(seeds):,} seeds: {listed}{' …' if len(seeds) > SHOWN else ''}\n  {examples[rule]}")
    print(f"\n{failed:,} seeds broke a rule." if failed else "\nNo seed broke a rule.")
    return failed


def hunt(name: str) -> tuple[Mutant, int, str]:
    """Play a mutant until a seed breaks a rule. Return the mutant, the seeds played, and the rule or nothing."""
    (mutant,) = [one for one in list_mutants() if one.name == name]
    for seed in range(MUTANT_SEEDS):
        with mutant.applied():
            found = find_rules(simulate(seed, mutant.climate))
        # A seed that breaks the same rule without the mutant shows nothing.
        if found and (new := [rule for rule in found if rule not in find_rules(simulate(seed, mutant.climate))]):
            return Mutant(mutant.name, mutant.rule, mutant.target, None), seed + 1, new[0]
    return Mutant(mutant.name, mutant.rule, mutant.target, None), MUTANT_SEEDS, ""


def find_mutants(names: list[str]) -> int:
    """Play each mutant, and print the table. Return how many were not found."""
    missed = 0
    print("| mutant | the rule that it breaks | seeds | what shows it |\n| --- | --- | --- | --- |", flush=True)
    wanted = [mutant.name for mutant in list_mutants() if not names or mutant.name in names]
    with multiprocessing.get_context("fork").Pool(WORKERS, maxtasksperchild=1) as pool:
        for mutant, seeds, rule in pool.imap(hunt, wanted, chunksize=1):
            missed += not rule
            shown = f"{seeds} | {rule}" if rule else f"over {seeds} | not found"
            print(f"| {mutant.name} | {mutant.rule} | {shown} |", flush=True)
    return missed


def read_climate(text: str) -> Climate:
    """Read a climate from the command line."""
    if text == "calm":
        return CALM
    return Climate(**{name: float(rate) for name, _, rate in (one.partition("=") for one in text.split(","))})


def main() -> int:
    """Read the command line, and play."""
    parser = argparse.ArgumentParser(prog="simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to play")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="play this one alone, and print its trace")
    parser.add_argument("--climate", type=read_climate, help="rates for all seeds, as freeze=0.5,crash=0.1; or calm")
    parser.add_argument("--mutants", nargs="*", metavar="NAME", help="play the product without its guards")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for number in range(GROUNDS):
        lay_ground(number)  # once, and not again in each process
    if arguments.seed is not None:
        result = simulate(arguments.seed, arguments.climate)
        print("\n".join(result.trace))
        print(f"\n{result.climate}\n")
        print("\n".join(result.violations) or "No rule was broken.")
        return bool(result.violations)
    if arguments.mutants is not None:
        return find_mutants(arguments.mutants)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return report(play_all(seeds, WORKERS, arguments.climate), len(seeds)) > 0


if __name__ == "__main__":
    sys.exit(main())
