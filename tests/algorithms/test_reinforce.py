"""REINFORCE: every baseline by loops on sampled batches, what the KL is charged to, and whole runs on a toy reward."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, run_of, stage, token_reward

from tether.algorithms.reinforce import REINFORCE, Config
from tether.errors import InputError
from tether.monitor.log import read_events
from tether.train.context import Context
from tether.train.loop import train
from tether.types import Group, RolloutBatch

BASELINES = ["none", "moving_mean", "leave_one_out", "greedy", "batch_norm"]


def section(tiny: Tiny, **fields: Any) -> Config:
    given = {"reward": "unread:reward", "num_responses": 3, "sampling": {"max_new_tokens": 8, "temperature": 0.8}}
    made: Config = stage("reinforce", tiny(), **(given | fields))
    return made


def untethered(tiny: Tiny, **fields: Any) -> Context:
    """A run whose reference is another model, so that no KL is 0."""
    kl = {"start": "any", "beta": 0.3} | fields.pop("kl", {})
    return context(section(tiny, reference=tiny(seed=1), kl=kl, **fields), token_reward)


def prepared(ctx: Context, count: int = 4) -> tuple[RolloutBatch, dict[str, float]]:
    with torch.no_grad():
        batch, metrics = REINFORCE.prepare(ctx, [Group(g.prompt) for g in examples(ctx.template, count, 1)])
    return batch, {name: float(value) for name, value in metrics.items()}


def by_loops(batch: RolloutBatch, beta: float, credit: str) -> tuple[list[list[float]], list[float]]:
    """What each token is credited with, and each response's return."""
    credits, returns = [], []
    kls = (batch.logprobs - batch.ref_logprobs).split(batch.lengths.tolist())
    for reward, kl in zip(batch.rewards.tolist(), kls, strict=True):
        tokens = [-beta * k for k in kl.tolist()]
        tokens[-1] += reward
        to_go = [sum(tokens[t:]) for t in range(len(tokens))]
        returns.append(sum(tokens))
        credits.append(to_go if credit == "token" else [sum(tokens)] * len(tokens))
    return credits, returns


def greedy_scores(ctx: Context, batch: RolloutBatch) -> list[float]:
    """By transformers' own greedy decoding, under the same rules for how an answer ends."""
    model, scores = ctx.roles["policy"].hf, []
    for group in batch.groups:
        prompt = torch.tensor([group.prompt.token_ids])
        settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": ctx.template.end_id, "pad_token_id": 0}
        answer = model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings)[0, prompt.shape[1] :]
        late = max(0, len(answer) - 5) / 3
        cut = 0.0 if answer[-1] == ctx.template.end_id else 0.4
        scores.append(token_reward([answer.tolist()])[0] - late - cut)
    return scores


@pytest.mark.parametrize("credit", ["response", "token"])
@pytest.mark.parametrize("use", ["shaping", "loss"])
@pytest.mark.parametrize("baseline", BASELINES)
def test_advantages_by_loops(tiny: Tiny, baseline: str, use: str, credit: str):
    rule = {"missing_end": "penalty", "missing_end_value": 0.4, "overlong_buffer": 3}
    ctx = untethered(tiny, baseline=baseline, credit=credit, kl={"use": use}, **rule)
    ctx.state["baseline"] = 0.25
    batch, metrics = prepared(ctx)
    credits, returns = by_loops(batch, 0.3 if use == "shaping" else 0.0, credit)
    against = [0.25 if baseline == "moving_mean" else 0.0] * len(returns)
    if baseline == "leave_one_out":
        groups = [returns[3 * g : 3 * g + 3] for g in range(4)]
        against = [(sum(own) - r) / 2 for own in groups for r in own]
    elif baseline == "greedy":
        against = [score for score in greedy_scores(ctx, batch) for _ in range(3)]
    expected = [c - b for tokens, b in zip(credits, against, strict=True) for c in tokens]
    if baseline == "batch_norm":
        expected = [(c - mean(expected)) / pstdev(expected) for c in expected]
    assert batch.advantages.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert metrics["reward/shaped"] == pytest.approx(mean(returns), rel=1e-4)
    if baseline == "moving_mean":
        assert ctx.state["baseline"] == pytest.approx(0.95 * 0.25 + 0.05 * mean(returns))


@pytest.mark.parametrize("aggregation", ["constant", "token", "sequence"])
def test_gradient_is_the_policy_gradient(tiny: Tiny, aggregation: str):
    """Σ A ∇ log π over the batch, for the plain loss, and for PPO's at the policy that sampled."""
    gradients = []
    for loss in ("reinforce", "ppo"):
        ctx = untethered(tiny, loss=loss, aggregation=aggregation)
        batch, _ = prepared(ctx)
        role = ctx.roles["policy"]
        found, metrics = REINFORCE.loss(ctx, batch)
        assert float(metrics["policy/clip_frac"]) == 0
        gradients.append(torch.autograd.grad(found, list(role.parameters())))
    lengths = batch.lengths.tolist()
    objective = torch.zeros(())
    responses = [Group(g.prompt, (r,)) for g in batch.groups for r in g.responses]
    for group, advantages in zip(responses, batch.advantages.split(lengths), strict=True):
        logprobs = role(role.lay_out([group]), ("logprobs",), 0.8).logprobs
        over = {"constant": 8 * 12, "token": sum(lengths), "sequence": len(logprobs) * 12}[aggregation]
        objective = objective - (advantages * logprobs).sum() / over
    expected = torch.autograd.grad(objective, list(role.parameters()))
    for plain, clipped, wanted in zip(*gradients, expected, strict=True):
        torch.testing.assert_close(plain, wanted, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(clipped, wanted, rtol=1e-3, atol=1e-5)


def test_the_tether_as_a_loss(tiny: Tiny):
    ctx = untethered(tiny, kl={"use": "loss", "estimator": "k2", "beta": 0.3})
    batch, _ = prepared(ctx)
    objective, metrics = REINFORCE.loss(ctx, batch)
    k2 = 0.5 * (batch.logprobs - batch.ref_logprobs).square().sum() / (len(batch.lengths) * 8)
    torch.testing.assert_close(objective.detach() - metrics["policy/loss"], 0.3 * k2, rtol=1e-3, atol=1e-5)


def learn(tiny: Tiny, folder: Path, **fields: Any) -> list[dict[str, Any]]:
    plan = {"steps": 10, "batch_size": 16} | fields.pop("train", {})
    given = {"optim": {"lr": 5e-3}, "train": plan, "kl": {"beta": 0.01}} | fields
    ctx = context(section(tiny, **given), token_reward)
    train(run_of(ctx, [Group(g.prompt) for g in examples(ctx.template, 48, 1)], folder), [])
    return [e for e in read_events(folder) if e["kind"] == "train"]


RUNS: dict[str, dict[str, Any]] = {baseline: {"baseline": baseline} for baseline in BASELINES if baseline != "none"}
RUNS["clipped epochs"] = {"loss": "ppo", "train": {"mini_epochs": 2, "mini_batch_size": 8, "steps": 6}}


@pytest.mark.parametrize("name", RUNS)
def test_a_toy_reward_is_learnt(tiny: Tiny, tmp_path: Path, name: str):
    events = learn(tiny, tmp_path, **RUNS[name])
    proxy = [e["reward/proxy"] for e in events]
    error = (2 * events[0]["reward/std"] ** 2 / 96) ** 0.5
    assert mean(proxy[-2:]) - mean(proxy[:2]) > 5 * error
    assert events[0]["policy/ratio"] == pytest.approx(1, abs=0.2 if name == "clipped epochs" else 1e-5)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_responses": 1}, "num_responses must be 2 or more"),
        ({"baseline": "greedy", "normalise": "sum"}, "normalise must be 'none'"),
        ({"baseline": "mean"}, "baseline"),
        ({"train": {"mini_epochs": 2}}, "valid with them: loss = 'ppo'"),
        ({"train": {"batch_size": 8, "mini_batch_size": 4}}, "valid with them: loss = 'ppo'"),
        ({"baseline_decay": 1.0}, "baseline_decay"),
        ({"sampling": {"top_p": 0.9}}, "top_k and sampling.top_p change the sampled distribution"),
    ],
)
def test_what_the_recipe_may_not_say(tiny: Tiny, fields: dict[str, Any], says: str):
    with pytest.raises(InputError) as caught:
        section(tiny, **fields)
    assert says in str(caught.value)
    assert section(tiny, train={"batch_size": 8, "mini_batch_size": 8}).train.mini_batch_size == 8
