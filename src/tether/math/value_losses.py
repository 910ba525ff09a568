"""Value-function losses, per token, and how well values explain returns.

Shapes: all (N,), over response tokens. `old_values` and `returns` carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error, the worse of the value and of the value held within `clip` of the old one.

        L_t = ½ max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²)

    The clip of OpenAI baselines' PPO2, as in Ziegler et al. 2019; `clip=None` is the plain squared error.

    >>> value_loss(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([3.0]), clip=0.5).item()
    1.125
    """
    error = (values - returns).square()
    if clip is not None:
        near = old_values + (values - old_values).clamp(-clip, clip)
        error = error.maximum((near - returns).square())
    return 0.5 * error


@torch.no_grad()
def value_clip_fraction(values: Tensor, old_values: Tensor, clip: float | None) -> Tensor:
    """(N,) 1 where a value has left the clip range around the old one, else 0; all 0 without a clip.

    >>> value_clip_fraction(torch.tensor([1.0, 2.0]), torch.tensor([1.1, 1.0]), clip=0.5).tolist()
    [0.0, 1.0]
    """
    moved = (values - old_values).abs()
    return torch.zeros_like(moved) if clip is None else (moved > clip).to(moved.dtype)


@torch.no_grad()
def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 − Var(R − V) / Var(R), a scalar: 1 is perfect, 0 no better than a constant, below 0 worse than one.

    0 when the returns do not vary, for then there is nothing to explain.

    >>> explained_variance(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])).item()
    1.0
    """
    spread = returns.var(correction=0)
    explained = 1 - (returns - values).var(correction=0) / spread
    return torch.where(spread > 0, explained, torch.zeros_like(spread))
