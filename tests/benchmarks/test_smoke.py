"""The comparison with TRL runs as written, and finds that both sides do the same work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")
pytest.importorskip("chitchat_dataset")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vs_trl.py"


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "unit"), [("sft", "examples"), ("rm", "pairs")])
def test_both_sides_do_the_same_work(stage: str, unit: str) -> None:
    command = [sys.executable, str(SCRIPT), "--stage", stage, "--steps", "2", "--repeats", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    head, _, *lines, verdict = done.stdout.splitlines()
    assert head.startswith(f"{stage}: 64 {unit} of ")
    sides = [line for line in lines if f" {unit}/s (median of 1" in line]
    ratios = [line for line in lines if line.startswith("tether / trl micro-batch ")]
    assert [line.split()[0] for line in sides] == ["tether", *["trl"] * len(ratios)]
    assert len(sides) + len(ratios) == len(lines)
    assert {re.search(r"(\d+) steps", line)[1] for line in sides} == {"2"}
    assert all(re.search(r": min (\S+), median \1, max \1; turn by turn \1$", line) for line in ratios)
    assert verdict == "same work: yes"
