"""Choosing the best of n samples, and how far that is from the policy that drew them.

Shapes: `S` responses, `G` groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n ‖ policy) in nats a response: log n − (n − 1)/n (Stiennon et al. 2020, appendix G.3).

    An upper bound, reached where no two samples ever share a score; one response drawn twice does (Beirami et al.
    2024). ValueError below 1.

    >>> best_of_n_kl(1), round(best_of_n_kl(4), 4)
    (0.0, 0.6363)
    """
    if n < 1:
        raise ValueError(f"n = {n} responses leave nothing to choose from")
    return math.log(n) - (n - 1) / n


def top_k(scores: Tensor, group_of: Tensor, k: int) -> list[list[int]]:
    """(S,) scores and groups → for each group the k best responses, as places within the group, the best first.

    Of equal scores the earlier comes first. A group of fewer than k gives all it has.

    >>> top_k(torch.tensor([0.1, 0.9, 0.5, 0.5, 0.7]), torch.tensor([0, 0, 0, 1, 1]), 2)
    [[1, 2], [1, 0]]
    """
    sizes = torch.bincount(group_of).tolist() if len(group_of) else []
    return [own.argsort(descending=True, stable=True)[:k].tolist() for own in torch.split(scores, sizes)]
