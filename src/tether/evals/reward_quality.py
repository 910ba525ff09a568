"""Is a reward model right, and does it know how sure to be? Accuracy and calibration on held-out comparisons.

A comparison is the margin r(chosen) - r(rejected); the model says the chosen one is better with probability σ(margin).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tether.errors import InputError
from tether.evals.bootstrap import Floats, interval, numbers, paired
from tether.types import Interval

TEMPERATURES = (0.01, 100.0)
"""Bounds of a fitted temperature."""


class Bin(NamedTuple):
    """Comparisons of like confidence."""

    low: float
    high: float
    num: int
    confidence: float
    """Mean of what the model claimed."""
    accuracy: float
    """Share it had right; over- or underconfident as this is below or above the claim."""


@dataclass(frozen=True)
class RewardQuality:
    """A reward model on held-out comparisons."""

    num: int
    accuracy: Interval
    mean_margin: float
    brier: float
    """Mean squared distance of σ(margin) from 1: 0.25 says nothing, 0 is perfect."""
    log_loss: float
    """Mean -ln σ(margin): ln 2 = 0.693 says nothing."""
    ece: float
    """Expected calibration error: mean distance of the bins' confidence from their accuracy, weighted by number."""
    bins: tuple[Bin, ...]
    """The reliability curve; empty bins left out."""
    temperature: float
    """What margins must be divided by for σ to be honest: above 1 the model is overconfident, below 1 too modest."""
    ece_calibrated: float
    """`ece` with margins divided by a temperature fitted on the other half of the comparisons (even and odd ones)."""
    log_loss_calibrated: float
    """`log_loss` in the same way: what a temperature leaves of it."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"accuracy": self.accuracy.as_dict(), "bins": [b._asdict() for b in self.bins]}


def reward_quality(
    chosen: ArrayLike, rejected: ArrayLike, *, num_bins: int = 10, num: int = 2000, seed: int = 0
) -> RewardQuality:
    """All of it, from the rewards (P,) of the chosen and of the rejected responses."""
    a, b = paired("chosen", chosen, "rejected", rejected)
    margin = a - b
    bins = reliability(margin, num_bins)
    honest = _cross_fitted(margin)
    return RewardQuality(
        num=len(margin),
        accuracy=pairwise_accuracy(a, b, num=num, seed=seed),
        mean_margin=float(margin.mean()),
        brier=float(((1 - _sigmoid(margin)) ** 2).mean()),
        log_loss=_log_loss(margin),
        ece=_ece(bins),
        bins=bins,
        temperature=calibration_temperature(margin),
        ece_calibrated=_ece(reliability(honest, num_bins)),
        log_loss_calibrated=_log_loss(honest),
    )


def calibration_temperature(margin: ArrayLike) -> float:
    """The T that minimises the mean of −log σ(m / T) over margins m (P,): temperature scaling (Guo et al. 2017).

    Convex in 1/T, so the zero of its slope is found by bisection. T stays within 0.01 and 100, where it would go if all
    margins were positive (no margin is too sure) or their mean were not (no margin says anything). It changes no
    ranking; to calibrate a reward model, divide its scores by it.

    >>> round(calibration_temperature([2.0, 2.0, 2.0, -2.0]), 3)  # three of four right, so σ(2/T) = ¾
    1.82
    """
    values = numbers("margin", margin)
    low, high = (float(np.log(bound)) for bound in TEMPERATURES)
    for _ in range(60):
        middle = (low + high) / 2
        weight = -np.logaddexp(0.0, values / np.exp(middle))
        # The slope in 1/T is −Σ m σ(−m/T), and only its sign counts: the largest weight is 1, so that none vanish.
        if float((values * np.exp(weight - weight.max())).sum()) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp((low + high) / 2))


def pairwise_accuracy(chosen: ArrayLike, rejected: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Share of comparisons with r(chosen) > r(rejected), equal rewards counting half, with a bootstrap interval.

    >>> pairwise_accuracy([2.0, 1.0, 0.0], [1.0, 1.0, 3.0]).estimate
    0.5
    """
    a, b = paired("chosen", chosen, "rejected", rejected)
    return interval(_right(a - b), num=num, seed=seed)


def accuracy_by_slice(
    chosen: ArrayLike, rejected: ArrayLike, slices: Sequence[str], *, num: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """Accuracy of each named slice of the comparisons, by name. InputError unless each comparison has a slice."""
    a, b = paired("chosen", chosen, "rejected", rejected)
    if len(slices) != len(a):
        raise InputError(f"slices: has {len(slices)} names for {len(a)} comparisons; give one for each")
    names = np.array(slices)
    right = _right(a - b)
    return {name: interval(right[names == name], num=num, seed=seed) for name in sorted(set(slices))}


def reliability(margin: Floats, num_bins: int = 10) -> tuple[Bin, ...]:
    """Bins of equal width over the confidence σ(|margin|), from ½ to 1 (Guo et al. 2017); empty ones left out."""
    if num_bins < 1:
        raise InputError(f"num_bins {num_bins}: must be at least 1")
    confidence, right = _sigmoid(np.abs(margin)), _right(margin)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, num_bins - 1)
    found = []
    for k in range(num_bins):
        inside = place == k
        if inside.any():
            means = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(Bin(float(edges[k]), float(edges[k + 1]), int(inside.sum()), *means))
    return tuple(found)


def _cross_fitted(margin: Floats) -> Floats:
    """Margins over a temperature that has not seen them: even ones that of the odd, and the reverse."""
    halves = [margin[0::2], margin[1::2]]
    if not len(halves[1]):
        return margin
    fitted = margin.copy()
    for first, other in ((0, halves[1]), (1, halves[0])):
        fitted[first::2] /= calibration_temperature(other)
    return fitted


def _log_loss(margin: Floats) -> float:
    return float(np.logaddexp(0.0, -margin).mean())


def _ece(bins: Sequence[Bin]) -> float:
    return sum(b.num * abs(b.confidence - b.accuracy) for b in bins) / sum(b.num for b in bins)


def _right(margin: Floats) -> Floats:
    found: Floats = (1 + np.sign(margin)) / 2
    return found


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(values / 2))
    return found
