"""Whole runs of PPO on a toy reward: it is learnt, the tether holds, and steps stop where the recipe says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage, token_reward

from tether.data.template import Template
from tether.monitor.log import read_events
from tether.train.loop import train
from tether.types import Group


def learn(tiny: Tiny, folder: Path, steps: int = 10, judge: Any = None, **fields: Any) -> list[dict[str, Any]]:
    """The training events of a run of `steps` iterations of 32 prompts."""
    plan = {"steps": steps, "batch_size": 32, "mini_batch_size": 16, "mini_epochs": 2} | fields.pop("train", {})
    given = {"optim": {"lr": 5e-3}, "train": plan, "kl": {"beta": 0.01}} | fields
    ctx = context(stage("ppo", tiny(), **given), token_reward, judge)
    prompts = [Group(g.prompt) for g in examples(Template.load(tiny()), 64, 1)]
    run = run_of(ctx, prompts[:48], folder)
    train(run, prompts[48:] if judge else [])
    return read_events(folder)


def of(events: list[dict[str, Any]], name: str, kind: str = "train") -> list[float]:
    return [e[name] for e in events if e["kind"] == kind]


@pytest.mark.parametrize("fields", [{}, {"value": {"model": "shared"}}, {"kl": {"use": "loss", "estimator": "k3"}}])
def test_a_toy_reward_is_learnt(tiny: Tiny, tmp_path: Path, fields: dict[str, Any]):
    events = learn(tiny, tmp_path, **fields)
    proxy, spread = of(events, "reward/proxy"), of(events, "reward/std")
    before, after = sum(proxy[:2]) / 2, sum(proxy[-2:]) / 2
    error = (2 * spread[0] ** 2 / 64) ** 0.5  # of the difference of two means of 64 responses
    assert after - before > 5 * error
    assert of(events, "kl/ref")[-1] > 0.1
    assert of(events, "policy/ratio")[0] == pytest.approx(1, abs=0.2)


def test_a_short_tether_holds_the_policy_back(tiny: Tiny, tmp_path: Path):
    loose = learn(tiny, tmp_path / "loose", kl={"beta": 0.0})
    tight = learn(tiny, tmp_path / "tight", kl={"beta": 1.0})
    assert of(tight, "kl/ref")[-1] < 0.5 * of(loose, "kl/ref")[-1]
    assert of(tight, "reward/proxy")[-1] < of(loose, "reward/proxy")[-1]


def test_target_kl_leaves_the_rest_of_an_iteration(tiny: Tiny, tmp_path: Path):
    # The first step of an iteration is taken on-policy (KL 0); after one step of this size the second is past it.
    plan = {"mini_epochs": 4, "mini_batch_size": 32}
    stopped = learn(tiny, tmp_path / "stopped", steps=2, target_kl=1e-3, train=plan)
    assert of(stopped, "optim/steps") == [2.0, 2.0]
    free = learn(tiny, tmp_path / "free", steps=2, train=plan)
    assert of(free, "optim/steps") == [4.0, 4.0]


def test_best_is_chosen_by_the_judge_and_not_by_the_reward(tiny: Tiny, tmp_path: Path):
    def against(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [-x for x in token_reward(completion_ids)]

    plan = {"keep": "best", "eval_every": 2}
    fields = {"train": plan, "eval_data": {"path": "x"}, "eval_reward": "a:b"}
    events = learn(tiny, tmp_path, steps=6, judge=against, **fields)
    proxy, gold = of(events, "eval/proxy", "eval"), of(events, "eval/gold", "eval")
    assert proxy[-1] > proxy[0]
    assert [-x for x in gold] == pytest.approx(proxy)
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    start = context(stage("ppo", tiny()), token_reward).roles["policy"].state_dict()
    assert all(torch.equal(kept[name], start[name]) for name in start)
    rows = [e["rows"] for e in events if e["kind"] == "samples"]
    assert len(rows) == 4
    assert [set(row) for row in rows[0][:1]] == [{"prompt", "answer", "proxy", "gold"}]
    assert [r["prompt"] for r in rows[0]] == [r["prompt"] for r in rows[-1]]
