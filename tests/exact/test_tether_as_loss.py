"""The KL as a loss: what its gradient is, from samples and exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.exact.conftest import IDS, LONGEST, REAL, World, gradient
from tests.exact.gradients import (
    HEAT,
    PLAIN_PPO,
    Exact,
    check,
    exact,
    found,
    learnt,
    mean,
    mean_length,
    objective,
    run,
    sampled,
)
from torch import Tensor

from tether.train.context import Context
from tether.types import Prompt


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
