"""How often one policy's answer is better than another's, to the same prompts; also with length taken out of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tether.errors import InputError
from tether.evals.bootstrap import Floats, interval, numbers, paired, resamplings
from tether.types import Interval

_RIDGE = 1e-2  # curvature of the prior on the two coefficients: keeps them finite when length tells all
_STEPS = 25


@dataclass(frozen=True)
class WinRate:
    """A against B. `rate` counts a tie as half a win."""

    wins: int
    ties: int
    losses: int
    rate: float
    low: float
    high: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def win_rate(
    scores_a: ArrayLike, scores_b: ArrayLike, tie_margin: float = 0.0, *, num: int = 2000, seed: int = 0
) -> WinRate:
    """A wins a prompt when its score (P,) is more than `tie_margin` above B's; interval by bootstrap over prompts.

    >>> win_rate([3, 1, 2, 5], [1, 1, 4, 0]).rate
    0.625
    """
    outcome = outcomes(scores_a, scores_b, tie_margin)
    rate = interval(outcome, num=num, seed=seed)
    wins, ties, losses = (int((outcome == value).sum()) for value in (1.0, 0.5, 0.0))
    return WinRate(wins, ties, losses, *rate)


def outcomes(scores_a: ArrayLike, scores_b: ArrayLike, tie_margin: float = 0.0) -> Floats:
    """(P,) 1 where A wins, 0 where B does, ½ for a tie."""
    a, b = paired("scores_a", scores_a, "scores_b", scores_b)
    if not tie_margin >= 0:
        raise InputError(f"tie_margin {tie_margin}: must be at least 0")
    gap = a - b
    outcome: Floats = np.where(gap > tie_margin, 1.0, np.where(gap < -tie_margin, 0.0, 0.5))
    return outcome


def length_controlled_win_rate(
    outcome: ArrayLike, lengths_a: ArrayLike, lengths_b: ArrayLike, *, num: int = 500, seed: int = 0
) -> Interval:
    """What A's win rate would be if its answers were as long as B's (AlpacaEval 2, Dubois et al. 2024, eq. 2).

        P(A wins) = σ(θ + φ tanh(Δ / std Δ)),   Δ = length of A - length of B;   the rate is σ(θ)

    `outcome` (P,) is in [0, 1] as from `outcomes`; lengths are in words, tokens or letters. Fitted by Newton's method,
    once for each resampling of the prompts. Left out of AlpacaEval's model: the term for each prompt's difficulty,
    which needs other models' answers to the same prompts. InputError for an outcome outside [0, 1].
    """
    won = numbers("outcome", outcome)
    if won.min() < 0 or won.max() > 1:
        raise InputError(f"outcome: has values from {won.min()} to {won.max()}, but must be between 0 and 1")
    longer, shorter = paired("lengths_a", lengths_a, "lengths_b", lengths_b)
    paired("outcome", won, "lengths_a", longer)
    gap = longer - shorter
    feature = np.tanh(gap / gap.std()) if gap.std() > 0 else np.zeros_like(gap)
    drawn = [_rate_at_equal_length(won[index], feature[index]) for index in resamplings(len(won), num, seed)]
    low, high = np.quantile(np.concatenate(drawn), [0.025, 0.975])
    return Interval(float(_rate_at_equal_length(won[None], feature[None])[0]), float(low), float(high))


def _rate_at_equal_length(won: Floats, feature: Floats) -> Floats:
    """(B, P), (B, P) → (B,): σ(θ) of a logistic regression for each of the B rows."""
    design = np.stack([np.ones_like(feature), feature], axis=-1)  # (B, P, 2)
    weights = np.zeros((len(won), 2))
    for _ in range(_STEPS):
        chance = _sigmoid(np.einsum("bpk,bk->bp", design, weights))
        slope = np.einsum("bpk,bp->bk", design, won - chance) - _RIDGE * weights
        bend = np.einsum("bpk,bp,bpl->bkl", design, chance * (1 - chance), design) + _RIDGE * np.eye(2)
        step = np.linalg.solve(bend, slope[..., None])[..., 0]
        weights = weights + np.clip(step, -2, 2)  # a full step overshoots when nearly all outcomes agree
        if np.abs(step).max() < 1e-9:
            break
    return _sigmoid(weights[:, 0])


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(values / 2))
    return found
