"""Tasks of reasoning-gym as data, and their own scores as rewards."""

from __future__ import annotations

import sys
from itertools import islice

import pytest

from tether.data.gym import SPLITS, read_gym
from tether.errors import InputError
from tether.rewards.verifiers import build_verifier
from tether.types import Group, Prompt, Response

pytest.importorskip("reasoning_gym")

TASKS = ("basic_arithmetic", "chain_sum", "leg_counting", "simple_equations", "word_sorting", "spell_backward", "maze")


def rows(name, split="train", count=20):
    return list(islice(read_gym(name, split), count))


def group(row, *texts):
    prompt = Prompt((1,), text=row["prompt"], meta={k: v for k, v in row.items() if k != "prompt"})
    return Group(prompt, tuple(Response((2,), text) for text in texts))


@pytest.mark.parametrize("name", TASKS)
def test_the_right_answer_scores_one_and_another_less(name):
    for row in rows(name, count=5):
        right, wrong, nothing = build_verifier("gym", {})([group(row, f" {row['answer']}\n", "no idea", "")]).tolist()
        assert right == 1
        assert max(wrong, nothing) < 0.5


def test_an_answer_within_a_response():
    row = rows("chain_sum", count=1)[0]
    texts = (f"<think>1?</think><answer> {row['answer']} </answer>", row["answer"], "<answer></answer>")
    verifier = build_verifier("gym", {"pattern": "<answer>(.*?)</answer>"})
    assert verifier([group(row, *texts)]).tolist() == [1, 0, 0]


def test_splits_share_no_prompt_and_rows_are_repeatable():
    said = {split: [row["prompt"] for row in rows("basic_arithmetic", split, 100)] for split in SPLITS}
    for split, prompts in said.items():
        assert len(set(prompts)) == 100
        assert prompts == [row["prompt"] for row in rows("basic_arithmetic", split, 100)]
        for other in SPLITS:
            assert split == other or not set(prompts) & set(said[other])


def test_a_task_that_runs_out_of_prompts_ends():
    small = "chain_sum?min_terms=2&max_terms=2&min_digits=1&max_digits=1"
    prompts = {split: {row["prompt"] for row in rows(small, split, 10**6)} for split in SPLITS}
    assert 100 < sum(map(len, prompts.values())) <= 10 * 10 * 2
    assert not prompts["train"] & prompts["test"]


def test_settings_reach_the_task():
    for row in rows("chain_sum?min_terms=3&max_terms=3&min_digits=1&max_digits=1"):
        assert row["entry"]["metadata"]["num_terms"] == 3


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("chainsum", "train", "there is no task 'gym:chainsum' in reasoning-gym; did you mean 'chain_sum'"),
        ("chain_sum", "dev", "gym:chain_sum has no split 'dev'; it has train, validation, test"),
        ("chain_sum?terms=3", "train", "gym:chain_sum has no setting 'terms'; it has min_terms, max_terms"),
        ("chain_sum?seed=3", "train", "no setting 'seed'"),
        ("chain_sum?min_terms=0", "train", r"gym:chain_sum\?min_terms=0: min_terms must be positive"),
        ("chain_sum?min_terms=x", "train", r"gym:chain_sum\?min_terms=x: "),
    ],
)
def test_what_is_wrong_is_named(name, split, message):
    with pytest.raises(InputError, match=message):
        read_gym(name, split)


def test_data_of_another_source_are_refused():
    verifier = build_verifier("gym", {})
    for meta in ({"id": "p1"}, {"id": "p1", "entry": {"answer": "1"}}):
        with pytest.raises(InputError, match=r"prompt p1: has no entry of a reasoning-gym task; .* data of gym:TASK"):
            verifier([Group(Prompt((), meta=meta), (Response((), "1"),))])


def test_the_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"tether-rlhf\[verify\]"):
        read_gym("chain_sum", "train")
    with pytest.raises(InputError, match=r"verifier 'gym': needs the package reasoning-gym: .*tether-rlhf\[verify\]"):
        build_verifier("gym", {})
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(InputError, match=r"verifier 'symbolic': needs the package math-verify"):
        build_verifier("symbolic", {})
