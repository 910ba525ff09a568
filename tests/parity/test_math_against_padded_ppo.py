"""One PPO update on the flat axis against one written with padding and masks, as most libraries do it.

The reference below shares no code with the package: right-padded (B, T) tensors, a mask in every mean, GAE as a
backward loop over columns, log-probs from full logits.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tether.math.advantages import gae, shape_rewards
from tether.math.aggregate import Aggregation, aggregate
from tether.math.kl import KL_ESTIMATORS
from tether.math.logprobs import token_logprobs
from tether.math.policy_losses import Clip, clip_fraction, clipped_policy_loss
from tether.math.segments import whiten
from tether.math.value_losses import value_loss
from tether.types import Totals

B, T, D, V = 5, 7, 6, 13
LENGTHS = [3, 7, 1, 5, 2]
GAMMA, LAM, BETA, CLIP, VALUE_CLIP, TEMPERATURE = 0.98, 0.9, 0.15, 0.2, 0.25, 0.8


class Rollout(NamedTuple):
    """A padded batch; what stands under the padding is deliberately large."""

    hidden: Tensor  # (B, T, D)
    tokens: Tensor  # (B, T)
    old_logprobs: Tensor  # (B, T), and so on
    ref_logprobs: Tensor
    old_values: Tensor
    scores: Tensor  # (B,)
    mask: Tensor  # (B, T) bool


class Weights(NamedTuple):
    policy: Tensor  # (V, D)
    value: Tensor  # (D,)


def example(seed: int) -> tuple[Rollout, Weights]:
    torch.manual_seed(seed)
    mask = torch.arange(T) < torch.tensor(LENGTHS)[:, None]
    weights = Weights(torch.randn(V, D).double().requires_grad_(), torch.randn(D).double().requires_grad_())
    hidden, tokens = torch.randn(B, T, D).double(), torch.randint(V, (B, T))
    now = torch.log_softmax(hidden @ weights.policy.detach().T / TEMPERATURE, -1).gather(2, tokens[:, :, None])[:, :, 0]

    def padded(x: Tensor) -> Tensor:
        return torch.where(mask, x, 1e3)

    return Rollout(
        hidden=torch.where(mask[:, :, None], hidden, 1e3),
        tokens=tokens,
        old_logprobs=padded(now + 0.3 * torch.randn(B, T).double()),
        ref_logprobs=padded(now + 0.5 * torch.randn(B, T).double()),
        old_values=padded(hidden @ weights.value.detach() + 0.4 * torch.randn(B, T).double()),
        scores=torch.randn(B).double(),
        mask=mask,
    ), weights


def padded_update(rollout: Rollout, weights: Weights, how: Aggregation, estimator: str) -> dict[str, Tensor]:
    """The reference."""
    mask = rollout.mask.double()

    def masked_mean(x: Tensor) -> Tensor:
        x = torch.where(rollout.mask, x, 0.0)
        if how == "token":
            return x.sum() / mask.sum()
        if how == "sequence":
            return (x.sum(1) / mask.sum(1)).mean()
        return x.sum() / (B * T)

    log_ratio_ref = (rollout.old_logprobs - rollout.ref_logprobs) * mask
    kl = {
        "k1": log_ratio_ref,
        "k2": log_ratio_ref**2 / 2,
        "k3": (rollout.ref_logprobs - rollout.old_logprobs).mul(mask).exp() - 1 + log_ratio_ref,
    }[estimator]
    rewards = -BETA * kl
    for b in range(B):
        rewards[b, LENGTHS[b] - 1] += rollout.scores[b]
    values = rollout.old_values * mask
    carry, columns = torch.zeros(B).double(), []
    for t in reversed(range(T)):
        following = values[:, t + 1] if t + 1 < T else torch.zeros(B).double()
        carry = (rewards[:, t] + GAMMA * following - values[:, t] + GAMMA * LAM * carry) * mask[:, t]
        columns.append(carry)
    advantages = torch.stack(columns[::-1], 1)
    returns = advantages + values
    mean = (advantages * mask).sum() / mask.sum()
    variance = ((advantages - mean) ** 2 * mask).sum() / mask.sum()
    advantages = (advantages - mean) / torch.sqrt(variance + 1e-8)

    logits = rollout.hidden @ weights.policy.T / TEMPERATURE
    everything = torch.log_softmax(logits, -1)
    logprobs = everything.gather(2, rollout.tokens[:, :, None])[:, :, 0]
    entropy = -(everything.exp() * everything).sum(-1)
    ratio = torch.exp(torch.where(rollout.mask, logprobs - rollout.old_logprobs, 0.0))
    losses = -advantages * ratio, -advantages * torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
    prediction = rollout.hidden @ weights.value
    held = torch.clamp(prediction, rollout.old_values - VALUE_CLIP, rollout.old_values + VALUE_CLIP)
    errors = torch.stack([(prediction - returns) ** 2, (held - returns) ** 2]).amax(0)
    return {
        "policy": masked_mean(torch.max(*losses)),
        "value": masked_mean(0.5 * errors),
        "entropy": masked_mean(entropy),
        "clip_fraction": masked_mean((losses[1] > losses[0]).double()),
    }


def flat_update(rollout: Rollout, weights: Weights, how: Aggregation, estimator: str) -> dict[str, Tensor]:
    """The same with this package's functions."""
    lengths = torch.tensor(LENGTHS)
    total = Totals(tokens=sum(LENGTHS), sequences=B, groups=B)
    hidden, tokens, old_logprobs, ref_logprobs, old_values = (x[rollout.mask] for x in rollout[:5])
    rewards = shape_rewards(rollout.scores, KL_ESTIMATORS[estimator](old_logprobs, ref_logprobs), BETA, lengths)
    advantages, returns = gae(rewards, old_values, lengths, GAMMA, LAM)
    advantages = whiten(advantages)
    logprobs, entropy = token_logprobs(
        hidden, weights.policy, tokens, temperature=TEMPERATURE, entropy=True, chunk_elements=4 * V
    )
    assert entropy is not None
    per_token = {
        "policy": clipped_policy_loss(logprobs, old_logprobs, advantages, Clip(CLIP, CLIP)),
        "value": value_loss(hidden @ weights.value, old_values, returns, VALUE_CLIP),
        "entropy": entropy,
        "clip_fraction": clip_fraction(logprobs, old_logprobs, advantages, Clip(CLIP, CLIP)),
    }
    constant = T if how == "constant" else None
    return {name: aggregate(x, lengths, total, how, constant) for name, x in per_token.items()}


@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("seed", range(3))
def test_update(how: Aggregation, estimator: str, seed: int):
    rollout, weights = example(seed)
    expected = padded_update(rollout, weights, how, estimator)
    found = flat_update(rollout, weights, how, estimator)
    assert 0 < expected["clip_fraction"].item() < 1  # the example exercises both branches
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    gradients = [
        torch.autograd.grad(x["policy"] + 0.5 * x["value"] - 0.01 * x["entropy"], weights) for x in (found, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-11)
