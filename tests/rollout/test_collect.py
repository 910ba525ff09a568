"""What policy algorithms learn from: every number of a collected batch, worked out again from its responses."""

from __future__ import annotations

import pytest
import torch
from tests.train.conftest import Tiny, context, examples, reward_folder, stage, tiny

from tether.models.plan import infer
from tether.rewards.combine import Part, WeightedSum
from tether.rewards.function import FunctionScorer
from tether.types import Group

__all__ = ["reward_folder", "tiny"]


def evens(completion_ids, **_):
    return [sum(t % 2 == 0 for t in ids) / len(ids) for ids in completion_ids]


def lengths(completion_ids, **_):
    return [float(len(ids)) for ids in completion_ids]


def collected(tiny: Tiny, k: int = 3, **fields):
    ctx = context(stage("ppo", tiny(), reference=tiny(seed=1), kl={"start": "any", "beta": 0.3}, **fields), evens)
    ctx.scorer = WeightedSum((Part("even", FunctionScorer(evens), 2.0), Part("long", FunctionScorer(lengths), -0.1)))
    with torch.no_grad():
        batch, metrics = ctx.collect([Group(g.prompt) for g in examples(ctx.template, 5, 1)], k)
    return ctx, batch, {name: float(value) for name, value in metrics.items()}


def test_everything_it_says(tiny: Tiny):
    rules = {"missing_end": "penalty", "missing_end_value": 0.25, "overlong_buffer": 3, "overlong_penalty": 0.5}
    ctx, batch, metrics = collected(tiny, sampling={"max_new_tokens": 8, "temperature": 0.8}, **rules)
    responses = [r for g in batch.groups for r in g.responses]
    assert len(responses) == 15
    assert len({r.ended for r in responses}) == 2
    even, long = evens([r.token_ids for r in responses]), [len(r.token_ids) for r in responses]
    proxy = [2 * e - 0.1 * n for e, n in zip(even, long, strict=True)]
    rewards = [p - 0.25 * (not r.ended) for p, r in zip(proxy, responses, strict=True)]
    rewards = [s - 0.5 * max(0.0, n - 5) / 3 for s, n in zip(rewards, long, strict=True)]
    assert batch.rewards.tolist() == pytest.approx(rewards, abs=1e-6)
    assert metrics["reward/proxy"] == pytest.approx(sum(proxy) / 15, abs=1e-6)
    assert metrics["reward/part/even"] == pytest.approx(sum(even) / 15)
    assert metrics["reward/part/long"] == pytest.approx(sum(long) / 15)
    assert metrics["rollout/ended"] == pytest.approx(sum(r.ended for r in responses) / 15)
    for role, column in (("policy", batch.logprobs), ("reference", batch.ref_logprobs)):
        fresh = infer(ctx.roles[role], batch.groups, ("logprobs",), temperature=0.8).logprobs
        torch.testing.assert_close(column, fresh, atol=1e-4, rtol=1e-4)
    assert metrics["kl/ref"] == pytest.approx(float((batch.logprobs - batch.ref_logprobs).sum()) / 15, rel=1e-5)


@pytest.mark.parametrize("how", ["terms", "sum"])
def test_on_one_scale(tiny: Tiny, how: str):
    _, batch, metrics = collected(tiny, normalise=how)
    even = torch.tensor(evens([r.token_ids for g in batch.groups for r in g.responses]))
    long = torch.tensor([float(len(r.token_ids)) for g in batch.groups for r in g.responses])

    def scaled(x):
        rows = x.view(5, 3) - x.view(5, 3).mean(1, keepdim=True)
        deviation = rows.square().mean(1, keepdim=True).sqrt()
        return torch.where(deviation > 1e-5, rows / deviation, 0.0).flatten()

    expected = 2 * scaled(even) - 0.1 * scaled(long) if how == "terms" else scaled(2 * even - 0.1 * long)
    torch.testing.assert_close(batch.rewards, expected, atol=1e-4, rtol=1e-4)
    assert metrics["reward/proxy"] == pytest.approx(float((2 * even - 0.1 * long).mean()), abs=1e-5)


def test_beta_of_this_iteration_and_the_next(tiny: Tiny):
    ctx, _, metrics = collected(tiny)
    assert ctx.state == {"beta": 0.3}
    ctx.config = ctx.config.model_copy(
        update={"kl": ctx.config.kl.model_copy(update={"controller": "adaptive", "horizon": 30, "target": 1e-9})}
    )
    with torch.no_grad():
        _, metrics = ctx.collect([Group(g.prompt) for g in examples(ctx.template, 5, 1)], 3)
    assert metrics["kl/beta"] == 0.3
    assert ctx.state["next_beta"] == pytest.approx(0.3 * (1 + 0.2 * 15 / 30))
