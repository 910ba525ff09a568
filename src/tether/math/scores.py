"""What happens to the scores of responses before they become rewards: rules for how a response ends, and scales.

Shapes: `S` responses, `G` groups. Nothing here carries gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from tether.math.segments import group_mean

MissingEnd = Literal["none", "penalty", "replace"]


def end_rule(scores: Tensor, ended: Tensor, rule: MissingEnd, value: float) -> Tensor:
    """(S,) scores after the rule for responses that did not end their turn; `ended` (S,) bool.

        none       s            penalty    s − value        replace    value

    The penalty and the fixed score for a missing end of turn are those of Stiennon et al. 2020 and Ziegler et al. 2019.

    >>> end_rule(torch.tensor([2.0, 2.0]), torch.tensor([True, False]), "penalty", 0.5).tolist()
    [2.0, 1.5]
    """
    if rule == "none":
        return scores
    changed = scores - value if rule == "penalty" else torch.full_like(scores, value)
    return torch.where(ended, scores, changed)


def overlong(lengths: Tensor, limit: int, buffer: int, penalty: float) -> Tensor:
    """(S,) lengths → (S,) what to add for responses that come near `limit` (DAPO's soft punishment, Yu et al. 2025,
    eq. 13, times `penalty`).

        0 up to limit − buffer,   −penalty · (length − (limit − buffer)) / buffer  beyond,   −penalty from limit on

    >>> overlong(torch.tensor([4, 9, 10]), limit=10, buffer=2, penalty=1.0).tolist()
    [0.0, -0.5, -1.0]
    """
    if not buffer:
        return torch.zeros(lengths.shape, device=lengths.device)
    return penalty * ((limit - buffer - lengths) / buffer).clamp(-1, 0)


def standardise(scores: Tensor, group_of: Tensor) -> Tensor:
    """(S,) scores to mean 0 and deviation 1 within each group of `group_of` (S,); over all of them where every group is
    one response. A group without spread gives 0.

    >>> standardise(torch.tensor([1.0, 3.0, 5.0, 5.0]), torch.tensor([0, 0, 1, 1])).tolist()
    [-1.0, 1.0, 0.0, 0.0]
    """
    alone = bool((torch.bincount(group_of) <= 1).all())
    owner = torch.zeros_like(group_of) if alone else group_of
    centred = scores - group_mean(scores, owner)
    variance = group_mean(centred.square(), owner)
    # A spread that rounding alone explains is none: dividing by it would make noise of equal scores.
    real = variance > 1e-12 * scores.square().max().clamp(min=1e-12)
    return centred * torch.where(real, variance, torch.inf).rsqrt()


def combine(
    parts: Sequence[Tensor], weights: Sequence[float], group_of: Tensor, normalise: Literal["none", "terms", "sum"]
) -> Tensor:
    """Several rewards, each (S,), as one (S,): Σ weight · score.

        none     the plain sum             terms    each score standardised before its weight (GDPO, Liu et al. 2026)
        sum      the sum standardised

    >>> one, ten = torch.tensor([0.0, 1.0]), torch.tensor([10.0, 0.0])
    >>> combine([one, ten], [1.0, 2.0], torch.tensor([0, 0]), "terms").tolist()
    [1.0, -1.0]
    """
    scaled = [standardise(part, group_of) if normalise == "terms" else part for part in parts]
    total = torch.stack([part * weight for part, weight in zip(scaled, weights, strict=True)]).sum(0)
    return standardise(total, group_of) if normalise == "sum" else total
