"""Gradients found from samples, and the exact ones they stand for.

`found` runs an algorithm's own `prepare` and `loss`; `objective` and `pull` sum over all responses. Both are of two
prompts of unlike lengths, at a temperature other than 1, with a policy that is not its reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from tests.exact.conftest import (
    LENGTHS,
    REAL,
    SCORES,
    World,
    algorithm_of,
    ask,
    flat,
    given,
    gradient,
    log_probs,
    prompts_of,
    score,
)
from torch import Tensor

from tether.train.context import Context
from tether.types import Prompt, RolloutBatch

HEAT = 0.8
BETA = 0.3
GROUPS, K, BLOCKS = 3072, 2, 64
BOTH = ("a b", "c")


class Found(NamedTuple):
    """A sampled gradient."""

    mean: Tensor  # (P,)
    error: Tensor  # (P,) its standard error

    def off(self, exact: Tensor) -> float:
        """The largest distance from `exact` (P,), in standard errors. Rounding alone is no distance."""
        return float(((self.mean - exact).abs() / (self.error + 1e-7)).max())


class Exact(NamedTuple):
    """One prompt, enumerated."""

    prompt: Prompt
    logprobs: Tensor  # (Y, T), with gradient
    ref: Tensor  # (Y, T)

    @property
    def chance(self) -> Tensor:
        """(Y,) of each response."""
        return self.logprobs.detach().sum(1).exp()

    @property
    def log_ratio(self) -> Tensor:
        """(Y, T) log π/π_ref."""
        return self.logprobs - self.ref

    def returns(self, beta: float) -> Tensor:
        """(Y,) r − β · log-ratio, without gradient."""
        return SCORES - beta * self.log_ratio.detach().sum(1)


def run(world: World, algorithm: str = "reinforce", reward: Any = score, **fields: Any) -> Context:
    """A run whose policy is not its reference."""
    kl = {"start": "any", "beta": BETA} | fields.pop("kl", {})
    known = {"reference": world(1), "kl": kl, "num_responses": K, "sampling": {"temperature": HEAT}}
    return given(algorithm, world(0), reward, **(known | fields))


def exact(ctx: Context, heat: float = HEAT) -> list[Exact]:
    prompts = [ask(ctx, text) for text in BOTH]
    policy, reference = (ctx.roles[name].hf for name in ("policy", "reference"))
    return [Exact(p, log_probs(policy, p, heat), log_probs(reference, p, heat).detach()) for p in prompts]


def mean(of: Callable[[Exact], Tensor], all_of: list[Exact]) -> Tensor:
    """Over the prompts."""
    return torch.stack([of(one) for one in all_of]).mean(0)


def objective(ctx: Context, beta: float = BETA, heat: float = HEAT) -> Tensor:
    """(P,) ∇(E[r] − β KL(π ‖ π_ref)), by differentiating the sum over all responses."""

    def value(one: Exact) -> Tensor:
        return (one.logprobs.sum(1).exp() * (SCORES - beta * one.log_ratio.sum(1))).sum()

    return gradient(mean(value, exact(ctx, heat)), ctx.roles["policy"].hf)


def pull(ctx: Context, credit: Callable[[Exact], Tensor]) -> Tensor:
    """(P,) E[Σ_t A_t ∇ log π(a_t)] of advantages A (Y, T) or (Y, 1) that depend on the response."""

    def value(one: Exact) -> Tensor:
        return (one.chance[:, None] * credit(one) * one.logprobs).sum()

    return gradient(mean(value, exact(ctx)), ctx.roles["policy"].hf)


def mean_length(ctx: Context) -> float:
    return float(mean(lambda one: (one.chance * LENGTHS).sum(), exact(ctx)))


def token_spread(ctx: Context, credit: Callable[[Exact], Tensor]) -> float:
    """The deviation of what tokens are credited with (Y, T), over the tokens of a large batch."""
    weights = mean(lambda one: one.chance[:, None] * REAL, all_of := exact(ctx))
    first, second = (mean(lambda one: one.chance[:, None] * REAL * credit(one) ** n, all_of).sum() for n in (1, 2))  # noqa: B023
    total = weights.sum()
    return float((second / total - (first / total) ** 2).sqrt())


def sampled(ctx: Context) -> RolloutBatch:
    """What the algorithm's own `prepare` makes of many samples."""
    with torch.no_grad():
        batch, _ = algorithm_of(ctx).prepare(ctx, prompts_of([ask(ctx, text) for text in BOTH], GROUPS))
    return batch


def learnt(ctx: Context, batch: RolloutBatch) -> Found:
    """The gradient that the algorithm's own `loss` makes of them."""
    batch = batch.replace(total=ctx.batch(batch.groups).total)  # as the loop counts it, whatever `prepare` left out
    weights = list(ctx.roles["policy"].hf.parameters())
    shares = []
    for block in torch.arange(len(batch.groups)).tensor_split(BLOCKS):
        loss, _ = algorithm_of(ctx).loss(ctx, batch.take(block.tolist()))
        shares.append(flat(torch.autograd.grad(loss, weights, allow_unused=True), weights))
    stacked = torch.stack(shares)  # (BLOCKS, P), which add up to the gradient
    return Found(stacked.sum(0), stacked.std(0) * BLOCKS**0.5)


def found(ctx: Context) -> Found:
    return learnt(ctx, sampled(ctx))


def check(got: Found, right: Tensor, **wrong: Tensor) -> None:
    assert got.off(right) < 4
    for name, gradient_of_it in wrong.items():
        assert got.off(gradient_of_it) > 5, name


LOO = {"baseline": "leave_one_out"}
FREE = {"use": "loss", "beta": 0.0}
SHAPED = {"use": "shaping", "estimator": "k1", "beta": BETA}
PLAIN_PPO = {"whiten_advantages": False, "lam": 1.0, "num_responses": K}
