"""What the README and docs/bench say of speed is what the recorded numbers say."""

import json
import sys
from pathlib import Path

REPO = Path(__file__).parents[2]
sys.path.append(str(REPO / "tests/bench"))

from judge import judge, judge_large  # noqa: E402

from bench import BLOCK, show, show_load  # noqa: E402


def test_the_tables_are_those_of_the_recorded_run() -> None:
    result = json.loads((REPO / "docs/bench/bench.json").read_text())
    verdicts = judge(result)
    assert [vars(verdict) for verdict in verdicts] == result["bars"]
    assert (REPO / "docs/bench/table.md").read_text() == show(result, verdicts)
    shown = BLOCK.search((REPO / "README.md").read_text())
    assert shown and shown[0] == show_load(result)


def test_what_the_bars_are_told_decides_them() -> None:
    result = json.loads((REPO / "docs/bench/bench.json").read_text())
    load = result["load"]["10 ms"]["accession"]
    load["rows_per_second"]["median"] /= 100
    load["exact"] = False
    result["cap"]["measured"] *= 1.06
    result["growth"]["1000000"]["peak_mib"]["verify.user_book"] *= 10
    failed = [verdict.bar for verdict in judge(result) if not verdict.met]
    for bar in ("10 ms: at least 10 times", "10 ms: at least 150 times", "nobody lost", "memory", "a cap"):
        assert any(name.startswith(bar) for name in failed), bar


def test_a_step_whose_memory_grows_with_the_rows_of_390_kb_fails_its_bar() -> None:
    def judge_peak(peak: float, *, exact: bool = True) -> list[bool]:
        few = {"peak_mib": {"stage": 200.0, "undo": 300.0}, "exact": True}
        many = {"peak_mib": {"stage": 210.0, "undo": peak}, "exact": exact}
        return [verdict.met for verdict in judge_large({"500": few, "5000": many})]

    assert judge_peak(360.0) == [True, True]
    assert judge_peak(361.0) == [False, True]
    assert judge_peak(300.0, exact=False) == [True, False]
