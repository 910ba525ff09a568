"""Sampled gradients against the exact ones: real algorithms on 6,144 samples, against sums over all responses.

The objective is J = E[r] − β KL(π ‖ π_ref), the mean over two prompts, at a temperature other than 1. Differentiating
its sum over all responses gives ∇J with no theorem in between. What an algorithm finds is the mean over 64 blocks, and
each of its P components must lie within 4 standard errors of the exact number. Every test also says what is *not*
found: wrong gradients and wrong estimators must lie outside, or 4 standard errors would be too wide to mean anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from tests.exact.conftest import (
    IDS,
    LENGTHS,
    LONGEST,
    REAL,
    RESPONSES,
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

from tether.math.segments import expand, next_in_segment, segment_sum
from tether.train.context import Context
from tether.types import Group, Prompt, RolloutBatch

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


def next_tokens(model: Any, prompt: Prompt) -> Tensor:
    """(Y, T, V) log-probs of every next token, where each token of each response is drawn."""
    start = len(prompt.token_ids)
    rows = torch.tensor([[*prompt.token_ids, *ids, *[0] * (LONGEST - len(ids))] for ids in IDS])
    logits: Tensor = model(input_ids=rows, use_cache=False).logits
    return (logits[:, start - 1 : -1] / HEAT).log_softmax(-1)


def token_kl(ctx: Context, towards_reference: bool) -> Tensor:
    """(P,) gradient of the KL between next-token distributions, at states that are visited as often as now.

    KL(π ‖ π_ref), or KL(π_ref ‖ π) without `towards_reference`.
    """
    policy, reference = (ctx.roles[name].hf for name in ("policy", "reference"))

    def value(one: Exact) -> Tensor:
        now, ref = next_tokens(policy, one.prompt), next_tokens(reference, one.prompt).detach()
        first, second = (now, ref) if towards_reference else (ref, now)
        divergence = (first.exp() * (first - second)).sum(-1)  # (Y, T)
        return (one.chance[:, None] * REAL * divergence).sum()

    return gradient(mean(value, exact(ctx)), policy)


def nothing(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [0.0] * len(completion_ids)


@pytest.mark.parametrize(
    ("algorithm", "estimator"),
    [("reinforce", "k1"), ("reinforce", "k2"), ("reinforce", "k3"), ("grpo", "k3"), ("ppo", "k2")],
)
def test_the_tether_as_a_loss(world: World, algorithm: str, estimator: str):
    """Differentiated through sampled tokens alone: k1 pulls nowhere, k2 down KL(π ‖ π_ref), k3 down KL(π_ref ‖ π).

    Those are KLs of next-token distributions. What a token does to the KL of tokens after it is left out of all
    three, so that even k2 is not the gradient of the responses' KL, which shaping with k1 is.
    """
    own = {"grpo": {"variant": "dr_grpo"}, "ppo": PLAIN_PPO, "reinforce": {"baseline": "none"}}[algorithm]
    ctx = run(world, algorithm, nothing, **own, kl={"use": "loss", "estimator": estimator, "beta": 1.0})
    over = mean_length(ctx) if algorithm == "ppo" else LONGEST
    batch = sampled(ctx)
    # Nothing but the tether: PPO's values are not right yet, and would leave noise.
    got = learnt(ctx, batch.replace(advantages=torch.zeros_like(batch.advantages)))
    forward, backward = token_kl(ctx, True) / over, token_kl(ctx, False) / over
    whole = (objective(ctx, beta=0.0) - objective(ctx, beta=1.0)) / over
    answers = {"k1": torch.zeros_like(forward), "k2": forward, "k3": backward}
    right = answers.pop(estimator)
    check(got, right, **answers, responses_kl=whole)


def test_of_one_token_k2_has_the_whole_gradient(world: World):
    """Where no token comes after, the KL of the next token is the KL of the response."""
    fields = {"baseline": "none", "kl": {"use": "loss", "estimator": "k2", "beta": 1.0}}
    ctx = run(world, "reinforce", nothing, **fields, sampling={"temperature": HEAT, "max_new_tokens": 1})

    def value(one: Exact) -> Tensor:
        now, ref = (next_tokens(ctx.roles[name].hf, one.prompt)[0, 0] for name in ("policy", "reference"))
        return (now.exp() * (now - ref.detach())).sum()

    right = gradient(mean(value, exact(ctx)), ctx.roles["policy"].hf)
    check(found(ctx), right, climbs=-right, half=right / 2, k1=torch.zeros_like(right))


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
