"""Strengths of items from who beat whom.

Shapes: `n` items.
"""

from __future__ import annotations

import torch
from torch import Tensor


def bradley_terry_mm(wins: Tensor, *, prior: float = 0.0, tolerance: float = 1e-10, max_steps: int = 10_000) -> Tensor:
    """(n, n) wins → (n,) Bradley–Terry strengths p, float64, with geometric mean 1; P(i beats j) = p_i / (p_i + p_j).

    `wins[i, j]` counts how often i beat j (half a win each for a tie). The maximum-likelihood fit by Hunter 2004's
    minorisation–maximisation, until no log-strength moves by more than `tolerance`:

        p_i ← W_i / Σ_{j≠i} n_ij / (p_i + p_j),   W_i = Σ_j wins_ij,   n_ij = wins_ij + wins_ji

    The fit exists only if no group of items won (or lost) all its comparisons with the rest (Ford 1957): ValueError
    otherwise, unless `prior` > 0 adds that many wins each way to every pair. RuntimeError if it has not converged.

    >>> [round(p, 3) for p in bradley_terry_mm(torch.tensor([[0, 9], [4, 0]])).tolist()]
    [1.5, 0.667]
    """
    if len(wins) < 2:
        return torch.ones(len(wins), dtype=torch.float64, device=wins.device)
    beaten = (wins.double() + prior).fill_diagonal_(0)
    if not _connected(beaten):
        raise ValueError("some items won or lost every comparison with the rest, so no strength fits; give prior > 0")
    won, met = beaten.sum(1), beaten + beaten.T
    log_strength = torch.zeros_like(won)
    for _ in range(max_steps):
        strength = log_strength.exp()
        fitted = (won / (met / (strength[:, None] + strength)).sum(1)).log()
        fitted = fitted - fitted.mean()
        if bool((fitted - log_strength).abs().max() <= tolerance):
            return fitted.exp()
        log_strength = fitted
    raise RuntimeError(f"Bradley-Terry strengths still moved after {max_steps} steps")


def _connected(beaten: Tensor) -> bool:
    """Whether every item is reached from every other along wins."""
    reach = (beaten > 0) | torch.eye(len(beaten), dtype=torch.bool, device=beaten.device)
    for _ in range(len(beaten).bit_length()):  # each squaring doubles the length of the paths that are found
        reach = reach.double() @ reach.double() > 0
    return bool(reach.all())
