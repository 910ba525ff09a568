"""Losses of reward models on comparisons, per pair, and the pairs a ranking holds.

Shapes: `P` pairs; `chosen` and `rejected` (P,) are the scores of the better and of the worse response.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import logsigmoid


def bradley_terry_loss(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """(P,) −log σ(r_w − r_l − m): the Bradley–Terry likelihood (Ouyang et al. 2022, eq. 1).

        L = −(1−ε) log σ(r_w − r_l − m) − ε log σ(−(r_w − r_l − m))

    `margin` m, a number or (P,), asks clearer preferences to be further apart (Touvron et al. 2023, eq. 2);
    `label_smoothing` ε in [0, ½) is the chance that a label is flipped.

    >>> import torch
    >>> round(bradley_terry_loss(torch.tensor([1.0]), torch.tensor([1.0])).item(), 4)
    0.6931
    """
    gap = chosen - rejected - margin
    loss = -(1 - label_smoothing) * logsigmoid(gap)
    # At ε = 0 the second term is skipped, not multiplied by 0: 0 · inf is NaN.
    return loss - label_smoothing * logsigmoid(-gap) if label_smoothing else loss


def centering_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """(P,) (r_w + r_l)²: keeps scores around 0, which comparisons alone leave free (Eisenstein et al. 2023, eq. 2).

    >>> import torch
    >>> centering_loss(torch.tensor([2.0]), torch.tensor([1.0])).item()
    9.0
    """
    return (chosen + rejected).square()


def ranking_pairs(ranking: Sequence[int]) -> list[tuple[int, int]]:
    """All (better, worse) pairs of responses; `ranking` holds each response's rank, the lowest the best, ties skipped.

    >>> ranking_pairs([1, 0, 1])
    [(1, 0), (1, 2)]
    """
    places = range(len(ranking))
    return [(i, j) for i in places for j in places if ranking[i] < ranking[j]]
