"""Losses of reward models: on comparisons, on rankings and on right or wrong steps; the pairs a ranking holds.

Shapes: `P` pairs; `chosen` and `rejected` (P,) are the scores of the better and of the worse response. `S` responses,
`N` steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid


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


def plackett_luce_loss(scores: Tensor, ranks: Tensor, group_of: Tensor) -> Tensor:
    """(S,) −log P(a response is chosen before those ranked below it), the terms of the Plackett–Luce likelihood
    (Plackett 1975; Luce 1959).

        L_i = log(e^{r_i} + Σ_{j below i} e^{r_j}) − r_i        Σ_i L_i = −log P(the ranking)

    `scores` r (S,); `ranks` (S,) the lowest the best; `group_of` (S,) int64: only responses of one group are compared.
    Ties are left out: responses of equal rank are never held against each other, each is against all below both. A
    response with none below it costs 0. For two responses this is Bradley–Terry's loss. Memory grows with S².

    >>> import torch
    >>> loss = plackett_luce_loss(torch.zeros(3), torch.tensor([0, 2, 1]), torch.zeros(3))
    >>> [round(x, 4) for x in loss.tolist()]  # ln 3, 0, ln 2: one order out of 3!
    [1.0986, 0.0, 0.6931]
    """
    rivals = (group_of[:, None] == group_of) & (ranks[:, None] < ranks)
    rivals |= torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    table = scores.expand(len(scores), -1).masked_fill(~rivals, float("-inf"))
    return table.logsumexp(1) - scores


def step_loss(scores: Tensor, right: Tensor) -> Tensor:
    """(N,) −log σ(s) for a right step and −log σ(−s) for a wrong one: a process reward model's (Lightman et al. 2023).

    `scores` (N,) at the steps' ends, `right` (N,) 1 or 0 (or a share of annotators between them).

    >>> import torch
    >>> [round(x, 4) for x in step_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 0.0])).tolist()]
    [0.6931, 2.1269]
    """
    return binary_cross_entropy_with_logits(scores, right, reduction="none")


def ranking_pairs(ranking: Sequence[int]) -> list[tuple[int, int]]:
    """All (better, worse) pairs of responses; `ranking` holds each response's rank, the lowest the best, ties skipped.

    >>> ranking_pairs([1, 0, 1])
    [(1, 0), (1, 2)]
    """
    places = range(len(ranking))
    return [(i, j) for i in places for j in places if ranking[i] < ranking[j]]


class Pairs(NamedTuple):
    """The P (better, worse) pairs of some groups."""

    better: list[int]
    """(P,) index of the better response among all S."""
    worse: list[int]
    group: list[int]
    """(P,) index of the pair's group."""
    share: list[float]
    """(P,) 1 / the pairs of its group: a prompt weighs as one comparison, however many it has."""


def all_pairs(rankings: Sequence[Sequence[int]]) -> Pairs:
    """All pairs of each group's ranking (see `ranking_pairs`), numbered over the responses of all groups.

    >>> all_pairs([[1, 0], [0, 1, 1]])
    Pairs(better=[1, 2, 2], worse=[0, 3, 4], group=[0, 1, 1], share=[1.0, 0.5, 0.5])
    """
    pairs, first = Pairs([], [], [], []), 0
    for i, ranking in enumerate(rankings):
        found = ranking_pairs(ranking)
        pairs.better.extend(first + winner for winner, _ in found)
        pairs.worse.extend(first + loser for _, loser in found)
        pairs.group.extend([i] * len(found))
        pairs.share.extend(1 / len(found) for _ in found)
        first += len(ranking)
    return pairs
