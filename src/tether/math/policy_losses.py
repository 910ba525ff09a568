"""Policy-gradient losses, per token; `aggregate` makes them a number.

Shapes: all (N,), over response tokens. `old_logprobs` and `advantages` carry no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

# exp(20) ≈ 5e8 is far past any clip. Beyond fp32's exp(88) the ratio is inf, and even a branch that min() leaves out
# would then backpropagate 0 · inf = NaN.
_LOG_RATIO_LIMIT = 20.0


class Clip(NamedTuple):
    """How far the ratio may go before a token stops counting: [1 − low, 1 + high]."""

    low: float = 0.2
    high: float = 0.2


def clipped_policy_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """PPO's clipped surrogate (Schulman et al. 2017, eq. 7), negated to be minimised.

        L_t = −min(r_t A_t, clip(r_t, 1−ε_low, 1+ε_high) A_t),   r_t = π(a_t) / π_old(a_t)

    A wider ε_high is DAPO's clip-higher (Yu et al. 2025).

    >>> import torch
    >>> up = torch.tensor([1.5]).log()
    >>> clipped_policy_loss(up, torch.zeros(1), torch.tensor([2.0]), Clip(0.2, 0.25)).item()
    -2.5
    """
    free, clipped = _surrogates(logprobs, old_logprobs, advantages, clip)
    return -free.minimum(clipped)


def clip_fraction(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> Tensor:
    """1 where the clip decides (the clipped branch is the smaller one, so the token has no gradient), else 0.

    >>> import torch
    >>> up = torch.tensor([1.5, 1.5]).log()
    >>> clip_fraction(up, torch.zeros(2), torch.tensor([2.0, -2.0]), Clip()).tolist()
    [1.0, 0.0]
    """
    free, clipped = _surrogates(logprobs, old_logprobs, advantages, clip)
    return (clipped < free).to(logprobs.dtype)


def _surrogates(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip: Clip) -> tuple[Tensor, Tensor]:
    ratio = (logprobs - old_logprobs).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT).exp()
    return ratio * advantages, ratio.clamp(1 - clip.low, 1 + clip.high) * advantages
