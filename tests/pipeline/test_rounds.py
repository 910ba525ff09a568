"""Two rounds for real: the newest policy answers, labels add up, and every point goes back to its votes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import tether

LOOP = """
[loop]
rounds = 2
first = "pairs"
carry = { sft = "ppo" }
gather = ["votes"]
"""


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_two_rounds(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "work"
    shutil.copytree(data, folder)
    (folder / "tiny.toml").write_text((folder / "tiny.toml").read_text() + LOOP)
    monkeypatch.chdir(folder)
    run = tether.run("tiny.toml")
    manifests = {p.parent.name: json.loads(p.read_text()) for p in run.glob("*/manifest.json")}
    assert len(manifests) == 11
    # The newest policy answered in round 2, and learns on.
    assert manifests["pairs-r2"]["inputs"]["model"] == manifests["ppo"]["key"]
    assert manifests["ppo-r2"]["inputs"]["model"] == manifests["ppo"]["key"]
    assert manifests["evaluate-r2"]["inputs"]["baseline"] == manifests["sft"]["key"]
    # Its reward model learnt from both rounds' votes.
    counts = [manifests[n]["summary"]["comparisons"]["train"] for n in ("votes", "votes-r2")]
    assert manifests["reward-r2"]["summary"]["examples"] == sum(counts)
    assert manifests["reward"]["summary"]["examples"] == counts[0]
    # Round 2 drew its own answers to the same prompts.
    first, second = (rows(run / name / "groups.jsonl") for name in ("pairs", "pairs-r2"))
    assert [g["prompt"]["token_ids"] for g in first] == [g["prompt"]["token_ids"] for g in second]
    assert [g["responses"] for g in first] != [g["responses"] for g in second]
    # From the last evaluation back to the judgements behind it.
    behind, waiting = set[str](), ["evaluate-r2"]
    made = {m["key"]: name for name, m in manifests.items()}
    while waiting:
        inputs = {made[key] for key in manifests[waiting.pop()]["inputs"].values() if key in made}
        waiting += inputs - behind
        behind |= inputs
    assert behind >= {"votes", "votes-r2", "pairs", "pairs-r2", "reward-r2", "ppo", "ppo-r2", "sft"}
    html = (run / "report.html").read_text()
    assert "evaluate-r2" in html
    assert "votes-r2" in html

    capsys.readouterr()
    tether.run("tiny.toml")
    assert capsys.readouterr().out.count("done before") == 11
