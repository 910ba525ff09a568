"""Sampled gradients against the exact ones: real algorithms on 6,144 samples, against sums over all responses.

The objective is J = E[r] − β KL(π ‖ π_ref), the mean over two prompts, at a temperature other than 1. Differentiating
its sum over all responses gives ∇J with no theorem in between. What an algorithm finds is the mean over 64 blocks, and
each of its P components must lie within 4 standard errors of the exact number. Every test also says what is *not*
found: wrong gradients and wrong estimators must lie outside, or 4 standard errors would be too wide to mean anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tests.exact.conftest import LENGTHS, LONGEST, REAL, RESPONSES, SCORES, World
from tests.exact.gradients import (
    BETA,
    FREE,
    GROUPS,
    LOO,
    PLAIN_PPO,
    SHAPED,
    Exact,
    K,
    check,
    exact,
    found,
    learnt,
    mean,
    mean_length,
    objective,
    pull,
    run,
    sampled,
    token_spread,
)
from torch import Tensor

from tether.math.segments import expand, next_in_segment, segment_sum
from tether.train.context import Context
from tether.types import Group, RolloutBatch


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        ("reinforce", {"baseline": "none"}),
        ("reinforce", {"baseline": "moving_mean", "credit": "token"}),
        ("reinforce", LOO),
        ("reinforce", LOO | {"credit": "token", "loss": "ppo"}),
        ("reinforce", {"baseline": "greedy"}),
        ("reinforce", LOO | {"aggregation": "token"}),
        ("grpo", {"variant": "dr_grpo", "kl": SHAPED}),
        ("grpo", {"variant": "cispo", "scale": "none", "kl": SHAPED}),
        ("ppo", PLAIN_PPO),
    ],
)
def test_the_gradient_of_the_objective(world: World, algorithm: str, fields: dict[str, Any]):
    """Every estimator that claims to be unbiased, KL shaping included, up to a constant that is known."""
    ctx = run(world, algorithm, **fields)
    ctx.state["baseline"] = 0.7  # the moving mean of iterations before this one
    by_token = algorithm == "ppo" or ctx.config.aggregation == "token"
    factor = 1 / mean_length(ctx) if by_token else 1 / LONGEST
    # A mean that holds the response's own reward takes 1/K of the gradient away.
    factor *= (K - 1) / K if algorithm == "grpo" else 1
    right = -factor * objective(ctx)
    check(
        found(ctx),
        right,
        climbs_down=-right,
        baseline_of_itself=right * (K - 1) / K,
        own_share_forgotten=right * K / (K - 1),
        no_tether=-factor * objective(ctx, beta=0.0),
        half_the_tether=-factor * objective(ctx, beta=BETA / 2),
        temperature_of_one=-factor * objective(ctx, heat=1.0),
    )


@pytest.mark.parametrize(
    ("algorithm", "fields"),
    [
        ("reinforce", {"baseline": "batch_norm"}),
        ("ppo", {"lam": 1.0, "num_responses": K}),
        ("grpo", {"variant": "dr_grpo", "scale": "batch", "kl": FREE}),
    ],
)
def test_scaled_by_the_whole_batch(world: World, algorithm: str, fields: dict[str, Any]):
    """∇J over a deviation: biased for few samples, for the deviation is theirs; a large batch has the direction."""
    ctx = run(world, algorithm, **fields)
    if algorithm == "grpo":
        mean_score, square = (mean(lambda one: (one.chance * SCORES**n).sum(), exact(ctx)) for n in (1, 2))  # noqa: B023
        right = -(K - 1) / K * objective(ctx, beta=0.0) / LONGEST / float((square - mean_score**2).sqrt())
    elif algorithm == "ppo":
        right = -objective(ctx) / mean_length(ctx) / token_spread(ctx, partial(advantages, ctx, 1.0))
    else:
        spread = token_spread(ctx, lambda one: one.returns(BETA)[:, None].expand(REAL.shape))
        right = -objective(ctx) / LONGEST / spread
    check(found(ctx), right, climbs_down=-right, too_small=0.8 * right, too_large=1.2 * right)


def advantages(ctx: Context, lam: float, one: Exact) -> Tensor:
    """(Y, T) GAE by loops over every response, from the run's own values; γ = 1."""
    own = Group(one.prompt, RESPONSES)
    values = ctx.infer("value", [own], ("values",)).values.split(LENGTHS.tolist())
    table = torch.zeros(REAL.shape)
    for y, (reward, value, kl) in enumerate(zip(SCORES, values, one.log_ratio.detach(), strict=True)):
        for t in range(len(value)):
            for later in range(t, len(value)):
                ends = later + 1 == len(value)
                paid = (reward if ends else 0) - BETA * kl[later]
                table[y, t] += lam ** (later - t) * (paid + (0 if ends else value[later + 1]) - value[later])
    return table


def pairwise(one: Exact, advantage: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """(Y, 1) the advantage of a response, in expectation over the other one of its group."""
    return (advantage(SCORES[:, None], SCORES[None, :]) @ one.chance)[:, None]


def over_spread(own: Tensor, other: Tensor) -> Tensor:
    """GRPO's advantage of the first of two: half their distance over their deviation, |own − other|/√2."""
    return (own - other) / 2 / ((own - other).abs() / 2**0.5 + 1e-4)


def same_twice(one: Exact) -> Tensor:
    """() the chance that a group has no spread."""
    return one.chance.square().sum()


BIASED: dict[str, tuple[str, dict[str, Any], Callable[[Context], Tensor], bool]] = {
    "grpo: over the group's deviation, each response's mean": (
        "grpo",
        {"kl": FREE},
        lambda ctx: pull(ctx, lambda one: pairwise(one, over_spread) / LENGTHS[:, None]),
        False,
    ),
    "grpo: each response's mean": (
        "grpo",
        {"scale": "none", "kl": FREE},
        lambda ctx: pull(ctx, lambda one: pairwise(one, lambda r, other: (r - other) / 2) / LENGTHS[:, None]),
        False,
    ),
    "grpo: over the group's deviation": (
        "grpo",
        {"variant": "dr_grpo", "scale": "std", "kl": FREE},
        lambda ctx: pull(ctx, lambda one: pairwise(one, over_spread)) / LONGEST,
        False,
    ),
    "gspo: the ratio of the whole response, whose exponent is 1/length": (
        "grpo",
        {"variant": "gspo", "scale": "none", "kl": FREE},
        lambda ctx: pull(ctx, lambda one: pairwise(one, lambda r, other: (r - other) / 2) / LENGTHS[:, None]),
        False,
    ),
    "dr_grpo: groups without spread left out, which only makes it longer": (
        "grpo",
        {"variant": "dr_grpo", "zero_spread": "drop", "kl": FREE},
        lambda ctx: (
            pull(ctx, lambda one: pairwise(one, lambda r, other: (r - other) / 2))
            / LONGEST
            / float(1 - mean(same_twice, exact(ctx)))
        ),
        True,
    ),
    "reinforce: each response's mean": (
        "reinforce",
        LOO | {"aggregation": "sequence", "kl": FREE},
        lambda ctx: pull(ctx, lambda one: pairwise(one, lambda r, other: r - other) / LENGTHS[:, None]),
        False,
    ),
    "reinforce: k2 as a reward": (
        "reinforce",
        LOO | {"kl": {"estimator": "k2", "beta": 1.0}},
        lambda ctx: pull(ctx, lambda one: (SCORES - one.log_ratio.detach().square().sum(1) / 2)[:, None]) / LONGEST,
        False,
    ),
    "reinforce: k3 as a reward, right in value, not in gradient": (
        "reinforce",
        LOO | {"kl": {"estimator": "k3", "beta": 1.0}},
        lambda ctx: (
            pull(ctx, lambda one: (SCORES - ((-one.log_ratio).exp() - 1 + one.log_ratio).detach().sum(1))[:, None])
            / LONGEST
        ),
        False,
    ),
    "ppo: λ below 1, with values that are not right": (
        "ppo",
        PLAIN_PPO | {"lam": 0.5},
        lambda ctx: pull(ctx, partial(advantages, ctx, 0.5)) / mean_length(ctx),
        False,
    ),
}


@pytest.mark.parametrize("name", BIASED)
def test_what_is_biased_has_exactly_its_bias(world: World, name: str):
    """Not ∇J, in no scale, but the expectation that its formula has over all responses, or all pairs of them."""
    algorithm, fields, expected, same_direction = BIASED[name]
    ctx = run(world, algorithm, **fields)
    right = -expected(ctx)
    tether = ctx.config.kl
    true = -objective(ctx, beta=tether.beta if tether.use == "shaping" else 0.0)
    closest = true * (right @ true) / (true @ true)
    got = found(ctx)
    check(got, right, climbs_down=-right, half=right / 2)
    assert (got.off(closest) > 4) is not same_direction


def by_response(batch: RolloutBatch, per_response: Tensor) -> RolloutBatch:
    return batch.replace(advantages=expand(per_response, batch.lengths))


def sums(batch: RolloutBatch) -> Tensor:
    """(S,) what each response's tokens are credited with, in all."""
    return segment_sum(batch.advantages, batch.lengths) / batch.lengths


WRONG: dict[str, Callable[[RolloutBatch], RolloutBatch]] = {
    "sign": lambda b: b.replace(advantages=-b.advantages),
    "the next response's reward": lambda b: by_response(b, sums(b).roll(1)),
    "a group mean with one's own in it": lambda b: by_response(b, sums(b) * (K - 1) / K),
    "a deviation of the group": lambda b: by_response(b, sums(b) / (sums(b).abs() / 2**0.5 + 1e-4)),
    "the mean over tokens": lambda b: b.replace(advantages=b.advantages * LONGEST / expand(b.lengths, b.lengths)),
    "the last token's credit missing": lambda b: b.replace(
        advantages=next_in_segment(b.advantages, b.lengths, last=0.0)
    ),
    "the KL added": lambda b: by_response(b, sums(b) + 2 * BETA * segment_sum(b.logprobs - b.ref_logprobs, b.lengths)),
    "the best half of the samples": lambda b: b.take(torch.arange(GROUPS)[b.rewards.view(-1, K).sum(1) > 2].tolist()),
}


def test_wrong_estimators_are_noticed(world: World):
    """The control of everything above: the same samples, one mistake, and the number is outside."""
    ctx = run(world, **LOO)
    right, batch = -objective(ctx) / LONGEST, sampled(ctx)
    assert learnt(ctx, batch).off(right) < 4
    for name, change in WRONG.items():
        assert learnt(ctx, change(batch)).off(right) > 5, name
    plain = ctx.config.sampling.model_copy(update={"temperature": 1.0})
    ctx.config = ctx.config.model_copy(update={"sampling": plain})
    assert learnt(ctx, batch).off(right) > 5, "a temperature in sampling alone"
