"""Labelled prompts against the policy's, from files and from a run's stages."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from tether.cli import main
from tether.errors import InputError
from tether.pipeline.artifacts import write_json
from tether.pipeline.coverage_report import coverage_report, prompts_of

HOW = ("boil", "fry", "bake", "season", "serve", "store", "freeze")
DISHES = ("eggs", "rice", "pasta", "soup", "beans", "bread", "fish", "stew")
COOKING = random.Random(0).sample([f"How do I {how} {dish}?" for how in HOW for dish in DISHES], 56)
MATHS = [f"Prove that the square root of {number} is irrational." for number in range(11, 31)]


def write(path: Path, rows: Sequence[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def labelled(tmp_path: Path) -> str:
    rows = [{"prompt": p, "chosen": "Slowly.", "rejected": "No."} for p in COOKING[::2]]
    return write(tmp_path / "pairs.jsonl", rows)


def test_prompts_nobody_labelled_are_shown(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chats = [[{"role": "user", "content": text}] for text in COOKING[1::2] + MATHS]
    policy = write(tmp_path / "prompts.jsonl", [{"prompt": chat} for chat in chats])
    assert main(["coverage", labelled, policy, "--worst", "20"]) == 0
    out = capsys.readouterr().out
    assert "28 labelled prompts, 48 of the policy\n" in out
    assert "there a reward model guesses" in out
    assert out.index("The farthest:") < min(out.index(text) for text in MATHS)
    assert main(["coverage", labelled, policy, "--worst", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["prompt"] for one in found["worst"]} == set(MATHS)
    assert {one["nearest"] for one in found["worst"]} <= set(COOKING[::2])
    assert found["far"] == pytest.approx(20 / 48, abs=0.1)
    assert found["p"] < 0.05
    assert found["alike"] is False


def test_prompts_of_the_same_kind_are_alike(labelled: str, tmp_path: Path) -> None:
    policy = write(tmp_path / "prompts.jsonl", [{"prompt": text} for text in COOKING[::2]])
    found = coverage_report(labelled, policy)
    assert found["alike"] is True
    assert found["verdict"] == "As far as 28 and 28 prompts can tell, the two are alike."
    assert found["quantiles"][-1]["policy"] == pytest.approx(0, abs=1e-5)  # each was labelled itself
    assert coverage_report(labelled, policy, most=7)["policy"] == 7


def test_stages_stand_for_what_they_made_or_learnt_from(labelled: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sections = {
        "pairs": {"name": "pairs"},
        "reward": {"name": "reward", "data": {"path": "stage:pairs"}},
        "ppo": {"name": "ppo", "data": {"path": labelled, "also": [labelled], "limit": 3}},
        "base": {"name": "base"},
    }
    for name, section in sections.items():
        (run / name).mkdir(parents=True)
        write_json(run / name / "manifest.json", {"section": section})
    prompts = [
        {"token_ids": [1], "text": "plain"},
        {"token_ids": [2], "text": "last", "messages": [{"role": "user", "content": "c"}]},
    ]
    write(run / "pairs" / "groups.jsonl", [{"prompt": p, "responses": [], "labels": {}} for p in prompts])
    assert prompts_of("stage:pairs", run=run) == prompts_of("stage:reward", run=run) == ["plain", "c"]
    assert prompts_of(str(run / "reward")) == ["plain", "c"]
    assert prompts_of("stage:ppo", run=run) == 2 * COOKING[:6:2]
    with pytest.raises(InputError, match="base: this stage made no examples of split 'train', nor did it learn"):
        prompts_of("stage:base", run=run)
    with pytest.raises(InputError, match="stage:sft: no such stage is done in "):
        prompts_of("stage:sft", run=run)
    with pytest.raises(InputError, match="stage:pairs: is a stage of no run; say with --run"):
        prompts_of("stage:pairs")


def test_bad_data_is_one_sentence(labelled: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = write(tmp_path / "text.jsonl", [{"text": "a"}, {"text": "b"}])
    assert main(["coverage", labelled, text]) == 2
    assert "holds text data" in capsys.readouterr().err
    one = write(tmp_path / "one.jsonl", [{"prompt": "a b c"}])
    assert main(["coverage", one, labelled]) == 2
    assert capsys.readouterr().err == "error: labelled prompts: 1 different ones are too few, there must be 2\n"
