"""From scores to per-token rewards, and from rewards and values to advantages.

Shapes: `S` responses, `N` response tokens. Nothing here carries gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tether.math.segments import last_index, next_in_segment, reverse_scan


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
