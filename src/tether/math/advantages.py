"""From scores to per-token rewards, and from rewards to advantages: against values, or against other responses.

Shapes: `S` responses, `N` response tokens, `G` groups. `group_of` (S,) int64 is each response's group, 0 … G−1.
Nothing here carries gradient.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from tether.math.segments import group_mean, last_index, next_in_segment, reverse_scan

Scale = Literal["std", "batch", "none"]

_SPREAD_FLOOR = 1e-4
"""Added to a deviation before dividing by it: what rounding alone spreads must not become an advantage."""


@torch.no_grad()
def shape_rewards(scores: Tensor, kl_tokens: Tensor | None, beta: float, lengths: Tensor) -> Tensor:
    """(S,) scores and (N,) KL estimates → (N,) rewards: −β · kl at every token, the score added at the last one.

    The KL-shaped reward of Ziegler et al. 2019 (eq. 2), paid token by token as in Stiennon et al. 2020. Without
    `kl_tokens` only the score is paid. Raises ValueError for a response without tokens.

    >>> shape_rewards(torch.tensor([2.0]), torch.tensor([1.0, 3.0]), 0.5, torch.tensor([2])).tolist()
    [-0.5, 0.5]
    """
    last = last_index(lengths)
    rewards = scores.new_zeros(int(lengths.sum())) if kl_tokens is None else -beta * kl_tokens
    return rewards.index_add(0, last, scores.to(rewards.dtype))


@torch.no_grad()
def gae(rewards: Tensor, values: Tensor, lengths: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), all of shape (N,): (advantages, returns).

        δ_t = r_t + γ V_{t+1} − V_t,   A_t = δ_t + γλ A_{t+1},   return_t = A_t + V_t

    A response ends at its last token, whether it closed its turn or ran into the length limit: the state after it has
    value 0. Raises ValueError for a response without tokens.

    >>> advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), torch.tensor([2]), 1.0, 0.5)
    >>> (advantages.tolist(), returns.tolist())
    ([0.125, 0.75], [0.625, 1.0])
    """
    delta = rewards + gamma * next_in_segment(values, lengths, last=0.0) - values
    advantages = reverse_scan(delta, gamma * lam, lengths)
    return advantages, advantages + values


@torch.no_grad()
def group_advantages(rewards: Tensor, group_of: Tensor, scale: Scale = "std") -> Tensor:
    """(S,) rewards → (S,) r − mean of its group, over a deviation (GRPO, Shao et al. 2024, §4.1.2).

        std     the group's              GRPO
        batch   that of all S rewards    Lite PPO ("Tricks or Traps", Liu et al. 2025)
        none    1                        Dr. GRPO (Liu et al. 2025): dividing favours prompts of small spread

    Deviations are the sample's (n − 1), as everywhere in the field's code. Equal rewards give 0. Raises ValueError for
    an unknown `scale`.

    >>> rewards, group_of = torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1])
    >>> group_advantages(rewards, group_of, "none").tolist()
    [-1.0, 1.0, 0.0, 0.0]
    >>> [round(a, 3) for a in group_advantages(rewards, group_of).tolist()]
    [-0.707, 0.707, 0.0, 0.0]
    """
    centred = rewards - group_mean(rewards, group_of)
    if scale == "none":
        return centred
    if scale not in ("std", "batch"):
        raise ValueError(f"scale={scale!r} is not one of 'std', 'batch', 'none'")
    owner = group_of if scale == "std" else torch.zeros_like(group_of)
    count = torch.bincount(owner)[owner]
    variance = group_mean((rewards - group_mean(rewards, owner)).square(), owner) * count / (count - 1).clamp(min=1)
    return centred / (variance.sqrt() + _SPREAD_FLOOR)


@torch.no_grad()
def leave_one_out(rewards: Tensor, group_of: Tensor) -> Tensor:
    """(S,) rewards → (S,) baselines: the mean reward of the group's other responses (RLOO, Ahmadian et al. 2024).

    It does not depend on the response it is for, so that the gradient stays unbiased. Raises ValueError for a group of
    one response.

    >>> leave_one_out(torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0, 0, 0])).tolist()
    [4.0, 3.5, 1.5]
    """
    count = torch.bincount(group_of)[group_of]
    if bool((count < 2).any()):
        raise ValueError(f"group {int(group_of[count.argmin()])} has one response, so no other to compare it with")
    return (count * group_mean(rewards, group_of) - rewards) / (count - 1)


@torch.no_grad()
def moving_mean(rewards: Tensor, past: float | None, decay: float) -> tuple[float, float]:
    """(baseline for these rewards (S,), the next one): an exponential mean of the rewards before them (Williams 1992).

        b ← decay · b + (1 − decay) · mean(r)

    Without a past the first is the mean of the rewards themselves.

    >>> moving_mean(torch.tensor([1.0, 3.0]), None, 0.5), moving_mean(torch.tensor([1.0, 3.0]), 4.0, 0.5)
    ((2.0, 2.0), (4.0, 3.0))
    """
    now = rewards.mean().item()
    return (now, now) if past is None else (past, decay * past + (1 - decay) * now)


@torch.no_grad()
def zero_spread(rewards: Tensor, group_of: Tensor) -> Tensor:
    """(S,) rewards → (G,) bool: groups whose responses all have one reward, so that comparing them teaches nothing.

    Rewards that differ by rounding alone are one reward.

    >>> zero_spread(torch.tensor([1.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])).tolist()
    [True, False]
    """
    ordered, count = rewards[group_of.argsort(stable=True)], torch.bincount(group_of)
    most, least = (torch.segment_reduce(ordered, which, lengths=count) for which in ("max", "min"))
    return most - least <= 1e-6 * torch.maximum(most.abs(), least.abs())
