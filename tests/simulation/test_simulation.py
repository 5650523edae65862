"""The whole product in simulated worlds: installations, an application, people, a network that loses answers.

`make simulate` plays many more seeds; `make simulate SEED=n` prints the trace of one.
"""

import hashlib
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from conftest import REPO
from simulation.faults import CALM
from simulation.mutants import list_mutants
from simulation.scenario import simulate

SEEDS = 60  # what fits into a quarter of a minute of one core
BATCH = 20
MUTANT_SEEDS = 60

DIGEST = """
import hashlib, logging, sys
from simulation.scenario import simulate
logging.disable(logging.CRITICAL)
for seed in map(int, sys.argv[1:]):
    print("RESULT", hashlib.sha256("\\n".join(simulate(seed).trace).encode()).hexdigest())
"""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The product logs every event; here the trace has them."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def digest(seed: int) -> str:
    """The digest of a trace."""
    return hashlib.sha256("\n".join(simulate(seed).trace).encode()).hexdigest()


def test_a_seed_has_one_trace_whatever_the_process() -> None:
    """Byte for byte: in this process again, and in others that hash strings differently."""
    seeds = [1, 55]  # in the last one a person clears many tasks at once
    known = [digest(seed) for seed in seeds]
    assert len(set(known)) == len(seeds)
    assert [digest(seed) for seed in reversed(seeds)] == known[::-1]
    paths = os.pathsep.join(str(REPO / folder) for folder in ("include", "plugins", "tests", "dags"))
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", DIGEST, *map(str, seeds)],
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert found == known


@pytest.mark.parametrize("seed", range(10))
def test_nothing_goes_wrong_in_a_calm_world(seed: int) -> None:
    result = simulate(seed, CALM)
    assert not result.violations
    assert not {name for name in result.counts if name.startswith(("S3 ", "DynamoDB ")) and "requests" not in name}


@pytest.mark.parametrize("batch", range(SEEDS // BATCH))
def test_nothing_goes_wrong_whatever_goes_wrong(batch: int) -> None:
    """Crashes, lost answers, late requests, people, an application at work: no rule of the oracle is broken."""
    for seed in range(batch * BATCH, (batch + 1) * BATCH):
        violations = simulate(seed).violations
        assert not violations, f"make simulate SEED={seed} shows it: {violations[0]}"


@pytest.mark.parametrize("name", ["A3", "A5", "fence"])
def test_a_guard_that_is_taken_out_is_missed(name: str) -> None:
    """The oracle can fail: `make simulate MUTANTS=1` plays all of them."""
    (mutant,) = [one for one in list_mutants() if one.name == name]
    with mutant.applied():
        assert any(simulate(seed, mutant.climate).violations for seed in range(MUTANT_SEEDS))


def test_every_mutant_is_in_the_document() -> None:
    rows = re.findall(r"^\| (\S+(?: \S+)?) \| (.+?) \|", (REPO / "docs/simulation.md").read_text(), re.MULTILINE)
    known = dict(rows)
    assert all(known.get(mutant.name) == mutant.rule for mutant in list_mutants())
