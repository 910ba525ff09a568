"""What a recipe may name as a reward, through the real stages: terms with weights, ensembles, verifiers, steps."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import tether
from tether.errors import InputError
from tether.monitor.log import read_events

TRAIN = {"steps": 2, "batch_size": 4}
SAMPLING = {"max_new_tokens": 6}
ASK = "how are you "


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def write(file: str, lines: list[dict[str, Any]]) -> None:
    Path(file).write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def work(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, a reward function, and the tiny models one level up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("I am fine", "the cat sat on the mat", "hello", "what is that name")
    pairs = [{"prompt": ASK, "chosen": w + " today", "rejected": w} for w in words]
    write("pairs.jsonl", pairs)
    write("prompts.jsonl", [{"prompt": w + " ", "answer": "7"} for w in words])
    write("steps.jsonl", [{"prompt": ASK, "steps": [w, "hello"], "labels": [True, i % 2]} for i, w in enumerate(words)])
    Path("own_rewards.py").write_text(
        "def size(completion_ids, **_):\n    return [float(len(ids)) for ids in completion_ids]\n"
    )
    return tmp_path


def stage(name: str, algorithm: str, data: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "algorithm": algorithm, "data": {"path": data}, **fields}


def learnt(model: Path, name: str, **fields: Any) -> dict[str, Any]:
    return stage(name, "reward_model", "pairs.jsonl", model=str(model), train=TRAIN, **fields)


def run(*stages: dict[str, Any]) -> Path:
    return tether.run({"run": {"name": "x"}, "stage": list(stages)})


def word_model(folder: Path) -> Path:
    """A tiny random BERT whose tokens are words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        *["I", "am", "fine", "the", "cat", "sat", "on", "mat", "hello", "what", "is", "that", "name", "how", "are"],
    ]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=made, **special).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


def test_terms_with_weights_an_ensemble_and_a_verifier(work: Path, models: Path):
    llama = models / "llama"
    terms = [
        {"use": ["stage:one", "stage:two"], "name": "team", "ensemble": "min"},
        {"use": "own_rewards:size", "weight": -0.25},
        {"use": "regex", "options": {"pattern": "[a-z]"}, "weight": 2.0},
    ]
    ppo = stage("play", "ppo", "prompts.jsonl", model=str(llama), reward=terms, train=TRAIN, sampling=SAMPLING)
    folder = run(learnt(llama, "one", seed=1), learnt(llama, "two", seed=2), ppo)
    logged = [e for e in read_events(folder / "play") if e["kind"] == "train"]
    assert len(logged) == 2
    for event in logged:
        parts = {name: event[f"reward/part/{name}"] for name in ("team", "size", "regex")}
        assert parts["size"] == event["rollout/length"]
        assert 0 <= parts["regex"] <= 1
        assert event["reward/disagreement/team"] > 0
        total = parts["team"] - 0.25 * parts["size"] + 2 * parts["regex"]
        assert math.isclose(event["reward/proxy"], total, abs_tol=1e-5)


def test_heads_on_one_trunk(work: Path, models: Path):
    llama = models / "llama"
    terms = [{"use": ["stage:one"], "ensemble": "lower", "spread_penalty": 0.5, "name": "heads"}]
    ppo = stage("play", "ppo", "prompts.jsonl", model=str(llama), reward=terms, train=TRAIN, sampling=SAMPLING)
    judged = stage("judged", "evaluate", "prompts.jsonl", model="stage:play", baseline=str(llama), sampling=SAMPLING)
    judged |= {"judge": "own_rewards:size", "reward": "stage:one", "comparisons": {"path": "pairs.jsonl"}}
    folder = run(learnt(llama, "one", heads=3), ppo, judged)
    assert len(json.loads((folder / "one" / "model" / "config.json").read_text())["id2label"]) == 3
    for event in read_events(folder / "play"):
        if event["kind"] == "train":
            assert event["reward/disagreement/heads"] > 0
    figures = json.loads((folder / "judged" / "manifest.json").read_text())["summary"]["metrics"]
    assert figures["reward_model"]["num"] == 4


def test_an_encoder_scores_what_a_decoder_says(work: Path, models: Path):
    bert = word_model(work / "bert")
    learn = stage("one", "reward_model", "pairs.jsonl", model=str(bert), train=TRAIN)
    ppo = stage("play", "ppo", "prompts.jsonl", model=str(models / "llama"), reward="stage:one", train=TRAIN)
    folder = run(learn, ppo | {"sampling": SAMPLING})
    logged = [e["reward/proxy"] for e in read_events(folder / "play") if e["kind"] == "train"]
    assert len(set(logged)) == 2


def test_folds_share_no_prompt(work: Path, models: Path):
    write("many.jsonl", [{"prompt": f"{i} ", "chosen": "hello", "rejected": "what"} for i in range(20)])
    folds = {"one": "1/2", "two": "2/2", "rest": "-1/2"}
    data = {name: {"path": "many.jsonl", "fold": fold} for name, fold in folds.items()}
    folder = run(*(learnt(models / "llama", name) | {"data": data[name]} for name in folds))
    found = {n: json.loads((folder / n / "manifest.json").read_text())["summary"]["examples"] for n in folds}
    assert found["one"] + found["two"] == 20
    assert found["rest"] == found["two"]
    assert 4 < found["one"] < 16
    report = json.loads((folder / "one" / "data.json").read_text())
    assert report["dropped"] == {"of other folds": found["two"]}
    with pytest.raises(InputError, match=r"'3/2' is no fold"):
        run(learnt(models / "llama", "x") | {"data": {"path": "many.jsonl", "fold": "3/2"}})


@pytest.mark.parametrize("dense", [False, True])
def test_a_process_reward(work: Path, models: Path, dense: bool):
    llama = models / "llama"
    prm = stage("prm", "process_reward", "steps.jsonl", model=str(llama), train=TRAIN)
    terms = [{"use": "stage:prm", "steps": "product", "step_delimiter": " ", "dense": dense}]
    ppo = stage("play", "ppo", "prompts.jsonl", model=str(llama), reward=terms, train=TRAIN, sampling=SAMPLING)
    folder = run(prm, ppo)
    for event in read_events(folder / "play"):
        if event["kind"] == "train":
            assert 0 <= event["reward/proxy"] <= 1
            # Step by step or at the end: what is paid adds up to the score, and at the start no KL is charged.
            if event["step"] == 1:
                assert math.isclose(event["reward/shaped"], event["reward/proxy"], abs_tol=1e-5)


def test_best_of_n_gives_demonstrations(work: Path, models: Path):
    llama = models / "llama"
    shortest = [{"use": "own_rewards:size", "weight": -1.0}]
    fields = {"model": str(llama), "reward": shortest, "sampling": {"max_new_tokens": 12}}
    best = stage("best", "best_of_n", "prompts.jsonl", num_responses=6, **fields)
    two = stage("two", "best_of_n", "prompts.jsonl", num_responses=6, keep=2, **fields)
    sft = stage("sft", "sft", "stage:two", model=str(llama), train={"epochs": 1, "batch_size": 2})
    folder = run(best, two, sft)
    kept, pairs = (rows(folder / name / "groups.jsonl") for name in ("best", "two"))
    assert [len(g["responses"]) for g in kept] == [1] * 4
    for one, both in zip(kept, pairs, strict=True):
        first, second = both["responses"]
        assert first["token_ids"] == one["responses"][0]["token_ids"]
        assert (
            -first["meta"]["score"] == len(first["token_ids"]) <= len(second["token_ids"]) == -second["meta"]["score"]
        )
    metrics = json.loads((folder / "best" / "manifest.json").read_text())["summary"]["metrics"]
    assert metrics["bon/kl"] == math.log(6) - 5 / 6
    assert metrics["bon/kept"] > metrics["bon/mean"]
    summary = json.loads((folder / "sft" / "manifest.json").read_text())["summary"]
    assert (summary["examples"], summary["steps"]) == (4, 2)


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("stage:prm", "stage:prm scores steps; only in a table of `reward` can it be used"),
        ([{"use": "stage:one", "steps": "min"}], "field reward.0.use: stage:one scores no steps: leave `steps` out"),
        ([{"use": "own_rewards:size", "options": {"a": 1}}], "'own_rewards:size' takes no options"),
        ([{"use": "regex", "options": {"patern": "a"}}], "did you mean 'pattern'?"),
        ([{"use": "own_rewards:sise"}], "field reward.0.use: reward function 'own_rewards:sise'"),
        ([{"use": ["stage:one", "stage:three"]}], "field reward.0.use.1: there is no stage 'three'"),
        ([{"use": "stage:prm", "dense": True}], "say with `steps` how their scores become one"),
        ([{"use": "own_rewards:size"}, {"use": "x", "name": "size"}], "two rewards are called 'size'"),
    ],
)
def test_refused_before_anything_runs(work: Path, models: Path, reward: Any, says: str):
    llama = models / "llama"
    prm = stage("prm", "process_reward", "steps.jsonl", model=str(llama), train=TRAIN)
    ppo = stage("play", "ppo", "prompts.jsonl", model=str(llama), reward=reward, train=TRAIN, sampling=SAMPLING)
    with pytest.raises(InputError) as caught:
        run(learnt(llama, "one"), prm, ppo)
    assert says in str(caught.value)
    assert not Path("runs").exists() or not list(Path("runs").rglob("manifest.json"))


def test_the_report_counts_every_file_read(work: Path, models: Path):
    write("more.jsonl", [{"prompt": f"{ASK}{i}", "chosen": "fine", "rejected": "cat"} for i in range(6)])
    write("held.jsonl", [{"prompt": "hello ", "chosen": "fine", "rejected": "cat"}])
    one = learnt(models / "llama", "one", eval_data={"path": "held.jsonl"})
    folder = run(one | {"data": {"path": "pairs.jsonl", "also": ["more.jsonl"], "limit": 3}})
    told = json.loads((folder / "report.json").read_text())["stages"][0]["data_report"]
    assert (told["source"], told["kept"]) == ("pairs.jsonl [train]", 3)
    assert told["also"] == ["more.jsonl [train]: 3 of 3 rows"]
    assert told["held_out"] == ["held.jsonl [train]: 1 of 1 rows"]
    assert "more.jsonl [train]: 3 of 3 rows" in (folder / "report.html").read_text()
