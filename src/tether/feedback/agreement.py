"""How far annotators agree, with intervals: raw agreement, Cohen's κ, Fleiss' κ, Krippendorff's α; and position bias.

A table is (I, A) integers: the category annotator a gave item i, negative where they gave none. Every statistic here is
a function of sums over items, so a bootstrap over items (Efron's percentile interval) only reweights those sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.types import Interval

_Floats = NDArray[np.float64]
_LEVEL = 0.95


def raw_agreement(table: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Share of pairs of annotators on the same item who gave it the same category, all such pairs counting alike."""
    counts = _counts(table)
    rated = counts.sum(1)
    pairs = np.stack([(counts * (counts - 1)).sum(1), rated * (rated - 1)], axis=1)
    return _bootstrap(pairs, lambda sums: sums[:, 0] / sums[:, 1], num, seed)


def cohen_kappa(first: ArrayLike, second: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Cohen's κ (1960) of two annotators, over the items (I,) that both rated: (p_o - p_e) / (1 - p_e)."""
    table = _checked(np.stack([np.asarray(first), np.asarray(second)], axis=1))
    table = table[(table >= 0).all(1)]
    size = int(table.max(initial=0)) + 1
    confusion = np.zeros((len(table), size, size))
    confusion[np.arange(len(table)), table[:, 0], table[:, 1]] = 1

    def kappa(sums: _Floats) -> _Floats:
        joint = sums.reshape(-1, size, size)
        joint = joint / joint.sum((1, 2), keepdims=True)
        observed = np.trace(joint, axis1=1, axis2=2)
        expected: _Floats = (joint.sum(1) * joint.sum(2)).sum(1)
        found: _Floats = (observed - expected) / (1 - expected)
        return found

    return _bootstrap(confusion.reshape(len(table), -1), kappa, num, seed)


def fleiss_kappa(table: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Fleiss' κ (1971). InputError unless every item has the same number, two or more, of ratings."""
    counts = _counts(table)
    each = counts.sum(1)
    if len(each) and (each.min() != each.max() or each[0] < 2):
        raise InputError(
            f"Fleiss' kappa: items have {int(each.min())} to {int(each.max())} ratings, but it needs the same number, "
            "two or more, for each; use Krippendorff's alpha"
        )
    agreeing = (counts * (counts - 1)).sum(1) / np.maximum(each * (each - 1), 1)
    columns = np.concatenate([np.ones((len(counts), 1)), agreeing[:, None], counts], axis=1)

    def kappa(sums: _Floats) -> _Floats:
        share = sums[:, 2:] / sums[:, 2:].sum(1, keepdims=True)
        expected = (share**2).sum(1)
        found: _Floats = (sums[:, 1] / sums[:, 0] - expected) / (1 - expected)
        return found

    return _bootstrap(columns, kappa, num, seed)


def krippendorff_alpha(table: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Krippendorff's α (2011) for nominal categories; items with fewer than two ratings do not count.

    α = 1 - (n - 1) (n - Σ_c o_cc) / (n² - Σ_c n_c²),   o_cc = Σ_items n_ic (n_ic - 1) / (m_i - 1)
    """
    counts = _counts(table)
    counts = counts[counts.sum(1) >= 2]
    matches = (counts * (counts - 1)).sum(1) / np.maximum(counts.sum(1) - 1, 1)
    columns = np.concatenate([matches[:, None], counts], axis=1)

    def alpha(sums: _Floats) -> _Floats:
        total = sums[:, 1:].sum(1)
        found: _Floats = 1 - (total - 1) * (total - sums[:, 0]) / (total**2 - (sums[:, 1:] ** 2).sum(1))
        return found

    return _bootstrap(columns, alpha, num, seed)


class Bias(NamedTuple):
    """How often the first-shown of two responses won, ties left out."""

    share: float
    num: int
    p: float
    """Two-sided binomial test against one half."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a share of nothing is None."""
        return self._asdict() | {"share": self.share if self.num else None}


def position_bias(first_won: int, second_won: int) -> Bias:
    """The share of first-shown winners, and the probability of one this far from a half, or farther, by chance.

    >>> share, num, p = position_bias(8, 2)  # p = 2 (45 + 10 + 1) / 2^10
    >>> share, num, round(p, 6)
    (0.8, 10, 0.109375)
    """
    num = first_won + second_won
    if not num:
        return Bias(math.nan, 0, 1.0)
    more = max(first_won, second_won)
    whole = math.lgamma(num + 1) - num * math.log(2)
    tail = math.fsum(math.exp(whole - math.lgamma(k + 1) - math.lgamma(num - k + 1)) for k in range(more, num + 1))
    return Bias(first_won / num, num, min(1.0, 2 * tail))


def _checked(table: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(table)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"ratings of shape {array.shape} and type {array.dtype}: must be integers, items × annotators")
    return array.astype(np.int64)


def _counts(table: ArrayLike) -> _Floats:
    """(I, C): how many annotators gave item i category c."""
    ratings = _checked(table)
    categories = np.arange(int(ratings.max(initial=0)) + 1)
    counts: _Floats = (ratings[:, :, None] == categories).sum(1).astype(np.float64)
    return counts


def _bootstrap(columns: _Floats, statistic: Callable[[_Floats], _Floats], num: int, seed: int) -> Interval:
    """The statistic of the summed columns (I, ...), and percentiles of it over `num` resamplings of the items.

    Resamplings where it is undefined (only one category was drawn) are left out.
    """
    if not len(columns):
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    size = len(columns)
    share = np.full(size, 1 / size)
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = float(statistic(columns.sum(0, keepdims=True))[0])
        blocks = [rng.multinomial(size, share, size=min(100, num - at)) @ columns for at in range(0, num, 100)]
        drawn = statistic(np.concatenate(blocks)) if blocks else np.zeros(0)
    drawn = drawn[np.isfinite(drawn)]
    if not len(drawn) or math.isnan(estimate):
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(estimate, float(low), float(high))
