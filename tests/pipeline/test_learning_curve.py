"""Learning curves: what is held out and learnt from, and a curve of real replies, resumed and read back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tether.cli import main
from tether.config import DataConfig
from tether.data.bpe import train_tokenizer
from tether.data.rows import read_rows
from tether.errors import InputError
from tether.pipeline.learning_curve import Plan, Point, chart, divide, first, learning_curve, right, summary, told
from tether.types import Group, Prompt, Response

Capture = pytest.CaptureFixture[str]


def group(prompt: int, *ranking: int) -> Group:
    return Group(Prompt((prompt,)), tuple(Response((r + 1,)) for r in ranking), {"ranking": ranking})


GROUPS = st.lists(st.integers(0, 9), min_size=1, max_size=40).map(lambda ids: [group(i, 0, 1) for i in ids])


@given(GROUPS, st.integers(0, 3))
def test_smaller_sizes_are_parts_of_larger_ones(groups: list[Group], seed: int) -> None:
    order = first(groups, len(groups), seed)
    assert sorted(g.prompt.token_ids for g in order) == sorted(g.prompt.token_ids for g in groups)
    for size in range(len(groups)):
        assert first(groups, size, seed) == order[:size]
    runs = [g.prompt.token_ids for g in order]
    assert sum(a != b for a, b in pairwise(runs)) == len(set(runs)) - 1  # a prompt's labels together


@given(GROUPS, st.floats(0.01, 0.99))
def test_held_out_prompts_are_never_learnt_from(groups: list[Group], share: float) -> None:
    prompts = {g.prompt.token_ids for g in groups}
    if not 0 < round(share * len(prompts)) < len(prompts):
        with pytest.raises(InputError, match="leaves none on one side"):
            divide(groups, share)
        return
    learnt, held_out = divide(groups, share)
    assert not {g.prompt.token_ids for g in learnt} & {g.prompt.token_ids for g in held_out}
    assert len({g.prompt.token_ids for g in held_out}) == round(share * len(prompts))
    assert sorted(g.prompt.token_ids for g in [*learnt, *held_out]) == sorted(g.prompt.token_ids for g in groups)


def test_what_is_right_by_hand() -> None:
    """Prompt 1: A > B and A > C right, B = C says nothing, and of a second pair a tie; prompt 2: wrong."""
    groups = [group(1, 0, 1, 1), group(2, 1, 0), group(1, 0, 1)]
    assert right(groups, np.array([3.0, 2.0, 2.5, 1.0, 0.0, 4.0, 4.0])) == [pytest.approx(2.5 / 3), 0.0]


def test_a_summary_by_hand() -> None:
    """Accuracies on 0.9 − 1.6 n^−½: exactly the curve's, and what it promises."""
    points = [
        Point(n, seed, [1.0] * round(1000 * (0.9 - 1.6 * n**-0.5)) + [0.0] * round(1000 * (0.1 + 1.6 * n**-0.5)))
        for n in (64, 256, 1024)
        for seed in (0, 1)
    ]
    report = json.loads(json.dumps(summary(points, more=3072)))
    assert [(size["labels"], size["by_seed"]) for size in report["sizes"]] == [
        (64, [0.7, 0.7]),
        (256, [0.8, 0.8]),
        (1024, [0.85, 0.85]),
    ]
    assert report["held_out_prompts"] == 1000
    assert report["gain"]["estimate"] == pytest.approx(0.025, abs=1e-3)
    assert report["gain"]["low"] < 0.025 < report["gain"]["high"]
    assert report["forecast"] == {"labels": 4096, "accuracy": report["forecast"]["accuracy"]}
    error = 1.96 * (0.7 * 0.3 / 1000) ** 0.5
    assert report["sizes"][0]["accuracy"]["low"] == pytest.approx(0.7 - error, abs=0.004)
    lines = told(report)
    assert lines[2].split()[:2] == ["256", "80.0"]
    assert lines[-1].startswith("3072 more labels (1024 to 4096) would buy 2.5 points (95% interval ")
    drawing = ElementTree.fromstring(chart(report))
    texts = ["".join(e.itertext()) for e in drawing.iter()]
    assert any(text.startswith("labels 4,096: 0.87") for text in texts)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(sizes=(1, 2)), "three different numbers of labels"),
        (Plan(sizes=(0, 2, 3)), "each at least 1"),
        (Plan(held_out=1.0), "held_out 1.0: must be above 0 and below 1"),
        (Plan(seeds=0), "must be at least 1"),
        (Plan(sizes=(5, 10, 99)), "99 labels are more than the 48 there are to learn from"),
    ],
)
def test_bad_plans(plan: Plan, message: str, replies: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        learning_curve(str(replies), str(replies / "pairs.jsonl"), tmp_path / "out", plan)


@pytest.fixture(scope="module")
def replies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of people's replies, of which the one with the exclamation mark is preferred; and a tiny model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("replies")
    rows = [r for r in read_rows(DataConfig(path="demo:chitchat-chat", limit=3000)) if len(r["response"]) < 60]
    loud, calm = ([r for r in rows if r["response"].endswith("!") == end] for end in (True, False))
    pairs = [
        {"prompt": a["prompt"][-1]["content"], "chosen": a["response"], "rejected": b["response"]}
        for a, b in zip(loud[:60], calm, strict=False)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tokenizer = train_tokenizer([" ".join(map(str, pair.values())) for pair in pairs], 300, folder)
    size: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=2, **size, **special)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def test_a_curve_of_real_replies(replies: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    args = ["learning-curve", "--model", str(replies), "--data", str(replies / "pairs.jsonl"), "--out", str(out)]
    args += ["--sizes", "6,12,45", "--held-out", "0.25", "--seeds", "2", "--more", "50"]
    args += ["--set", "train.epochs=6", "--set", "train.batch_size=6", "--set", "optim.lr=1e-2"]
    assert main(args) == 0
    said = capsys.readouterr().out
    assert said.count("learning-curve: ") == 6
    assert "on 15 held-out prompts" in said
    assert "50 more labels (45 to 95) would buy" in said
    report = json.loads((out / "learning_curve.json").read_text())
    assert report["available"] == 45
    assert report["sizes"][-1]["accuracy"]["estimate"] > 0.7
    assert ElementTree.parse(out / "learning_curve.svg").getroot().tag.endswith("svg")

    kept = json.loads((out / "points.json").read_text())
    lost = kept["points"].pop(2)  # cut before this one
    (out / "points.json").write_text(json.dumps(kept))
    assert main([*args, "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == report
    assert captured.err.count("learning-curve: ") == 1
    assert f"{lost[0]} labels, seed {lost[1]}: " in captured.err

    assert main([*args, "--set", "train.batch_size=12"]) == 0
    assert capsys.readouterr().out.count("learning-curve: ") == 6  # other settings, other points


def test_bad_options_are_one_sentence(replies: Path, tmp_path: Path, capsys: Capture) -> None:
    args = ["learning-curve", "--model", str(replies), "--data", str(replies / "pairs.jsonl"), "--out", str(tmp_path)]
    assert main([*args, "--sizes", "5,ten"]) == 2
    assert capsys.readouterr().err == (
        "error: sizes '5,ten': must be whole numbers with commas between, such as 50,100,200\n"
    )
    assert main([*args, "--set", "optim.lr=fast"]) == 2
    assert "optim.lr" in capsys.readouterr().err


def test_held_out_data_of_ones_own(replies: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = (replies / "pairs.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "learn.jsonl").write_text("".join(rows[:20]))
    (tmp_path / "test.jsonl").write_text("".join(rows[20:]))
    args = ["learning-curve", "--model", str(replies), "--out", str(tmp_path / "out"), "--seeds", "1", "--more", "5"]
    args += ["--set", f"eval_data.path={tmp_path / 'test.jsonl'}"]
    assert main([*args, "--data", str(tmp_path / "learn.jsonl"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [size["labels"] for size in report["sizes"]] == [2, 5, 10, 20]  # an eighth, a quarter, half, all
    assert report["held_out_prompts"] == 40
    assert main([*args, "--data", str(replies / "pairs.jsonl")]) == 2
    assert "held-out prompts are in the training data too" in capsys.readouterr().err
