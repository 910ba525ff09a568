"""How far annotators agree, with intervals: raw agreement, Cohen's κ, Fleiss' κ, Krippendorff's α; and position bias.

A table is (I, A) integers: the category annotator a gave item i, negative where they gave none. Intervals are Efron's
percentile interval over `num` resamplings of the items: a resampling is a weight for each item, how often it was drawn.
It is too narrow below some twenty items, and NaN where all resamplings come out alike: one item, or no disagreement.

Shapes: `I` items, `A` annotators, `C` categories, `B` resamplings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.feedback.records import Judgement
from tether.types import Interval

_Floats = NDArray[np.float64]
_LEVEL = 0.95

COHEN_WEIGHTS: Mapping[str, Callable[[_Floats], _Floats]] = {
    "none": lambda apart: (apart > 0).astype(np.float64),
    "linear": lambda apart: apart,
    "quadratic": lambda apart: apart**2,
}
"""What a disagreement counts, by how many categories lie between the two."""


class Pairs(NamedTuple):
    """Rankings taken apart into comparisons of two."""

    table: NDArray[np.int64]
    """(I·C(k,2), A): 0 the earlier response is better, 1 a tie, 2 the later is better, -1 not both ranked."""
    clusters: NDArray[np.int64]
    """(I·C(k,2),): the item each row comes from; its rows are drawn together by a bootstrap."""


def ranking_pairs(ranks: ArrayLike) -> Pairs:
    """Rankings (I, A, k) → what each annotator said of each of an item's C(k,2) pairs of responses.

    `ranks[i, a, r]` is the rank annotator a gave response r of item i: 0 the best, equal ranks tie, negative not
    ranked. Responses must be in an order that has nothing to do with how they were shown.

    >>> table, clusters = ranking_pairs([[[0, 1, 1], [1, 0, -1]]])
    >>> table.tolist(), clusters.tolist()  # pairs (0, 1), (0, 2), (1, 2)
    ([[0, 2], [0, -1], [1, -1]], [0, 0, 0])
    """
    array = np.asarray(ranks)
    if array.ndim != 3 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(
            f"rankings of shape {array.shape} and type {array.dtype}: must be integers, items × annotators × responses"
        )
    first, second = np.array(list(combinations(range(array.shape[2]), 2)), dtype=int).reshape(-1, 2).T
    said = 1 + np.sign(array[:, :, first] - array[:, :, second])
    said = np.where((array[:, :, first] < 0) | (array[:, :, second] < 0), -1, said)  # (I, A, pairs)
    table = said.transpose(0, 2, 1).reshape(-1, array.shape[1]).astype(np.int64)
    return Pairs(table, np.repeat(np.arange(len(array)), len(first)))


def raw_agreement(table: ArrayLike, *, clusters: ArrayLike | None = None, num: int = 2000, seed: int = 0) -> Interval:
    """Share of pairs of annotators on the same item who gave it the same category, all such pairs counting alike.

    `clusters` (I,): rows with the same number are resampled together, as the pairs of one ranking must be.
    """
    counts = _counts(table)[1]
    rated = counts.sum(1)
    agreeing, pairs = (counts * (counts - 1)).sum(1), rated * (rated - 1)
    return _bootstrap(len(counts), lambda weights: (weights @ agreeing) / (weights @ pairs), num, seed, clusters)


def cohen_kappa(
    first: ArrayLike, second: ArrayLike, *, weights: str = "none", num: int = 2000, seed: int = 0
) -> Interval:
    """Cohen's κ (1960; weighted 1968) of two annotators, over the items (I,) that both rated.

        κ = 1 - Σ_cd w_cd p_cd / Σ_cd w_cd p_c p_d

    with w_cd = 1 for c ≠ d, |c - d| or (c - d)², for `weights` "none", "linear", "quadratic". InputError unless both
    are of the same length.
    """
    if weights not in COHEN_WEIGHTS:
        raise InputError(f"Cohen's kappa: weights {weights!r} is none of {', '.join(COHEN_WEIGHTS)}")
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != other.shape:
        raise InputError(f"ratings of shapes {one.shape} and {other.shape}: must be one of each for every item")
    table = _checked(np.stack([one, other], axis=1))
    table = table[(table >= 0).all(1)]
    categories, said = np.unique(table, return_inverse=True)
    said = said.reshape(table.shape)
    cost = COHEN_WEIGHTS[weights](np.abs(np.subtract.outer(categories, categories)).astype(np.float64))
    seen = np.eye(len(cost))[said].reshape(len(table), 2 * len(cost))  # (I, 2·C)
    paid = cost[said[:, 0], said[:, 1]]

    def kappa(drawn: _Floats) -> _Floats:
        share = (drawn @ seen).reshape(-1, 2, len(cost)) / drawn.sum(1)[:, None, None]
        expected = ((share[:, 0] @ cost) * share[:, 1]).sum(1)
        found: _Floats = 1 - (drawn @ paid) / drawn.sum(1) / expected
        return found

    return _bootstrap(len(table), kappa, num, seed)


def fleiss_kappa(table: ArrayLike, *, num: int = 2000, seed: int = 0) -> Interval:
    """Fleiss' κ (1971). InputError unless every item has the same number, two or more, of ratings."""
    counts = _counts(table)[1]
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

    return _bootstrap(len(columns), lambda weights: kappa(weights @ columns), num, seed)


def krippendorff_alpha(
    table: ArrayLike,
    *,
    level: str = "nominal",
    clusters: ArrayLike | None = None,
    num: int = 2000,
    seed: int = 0,
) -> Interval:
    """Krippendorff's α (2011); items with fewer than two ratings do not count.

        α = 1 - (n - 1) Σ_i Σ_cd n_ic n_id δ²_cd / (m_i - 1) / Σ_cd n_c n_d δ²_cd

    `level` says how far apart c and d are. "nominal": δ² = 1 unless they are equal. "interval": (c - d)²; ratings in
    halves are doubled first, which changes nothing. "ordinal": (r_c - r_d)², where r_c = Σ_{g<c} n_g + n_c / 2 is the
    mean rank of those who said c. `clusters` (I,): rows with the same number are resampled together.

    >>> round(krippendorff_alpha([[0, 0], [1, 2], [3, 3]], level="interval", num=1).estimate, 4)  # 1 - 5·2 / 114
    0.9123
    """
    if level not in _DISAGREEMENT:
        raise InputError(f"Krippendorff's alpha: level {level!r} is none of {', '.join(_DISAGREEMENT)}")
    categories, counts = _counts(table)
    several = counts.sum(1) >= 2
    counts, observed_and_expected = counts[several], _DISAGREEMENT[level]

    def alpha(weights: _Floats) -> _Floats:
        observed, expected = observed_and_expected(categories, counts, weights)
        found: _Floats = 1 - ((weights @ counts.sum(1)) - 1) * observed / expected
        return found

    return _bootstrap(len(counts), alpha, num, seed, None if clusters is None else np.asarray(clusters)[several])


class Rated(NamedTuple):
    """How far annotators agree in rating responses by one attribute."""

    units: int
    """Responses of an item that two annotators or more rated."""
    alpha: Interval
    """Krippendorff's α, ordinal, over these units; drawn together by the item."""


def rating_agreement(ratings: Mapping[tuple[int, int], Mapping[int, int]]) -> Rated:
    """(item, response) → annotator → rating, any whole number: only their order counts.

    >>> units, alpha = rating_agreement({(1, 7): {1: 1, 2: 1}, (2, 8): {1: -2, 2: 2}, (3, 9): {2: 2}})
    >>> units, round(alpha.estimate, 4)  # of -2, 1, 1, 2: mean ranks .5, 2, 2, 3.5; 1 - 3 · 2 · 3² / (2 · 4 · 4.5)
    (2, -0.5)
    """
    shared = {unit: said for unit, said in ratings.items() if len(said) > 1}
    columns = {user: at for at, user in enumerate(sorted({user for said in shared.values() for user in said}))}
    places = {
        value: at for at, value in enumerate(sorted({value for said in shared.values() for value in said.values()}))
    }
    table = np.full((len(shared), len(columns)), -1)
    for row, said in zip(table, shared.values(), strict=True):
        for user, value in said.items():
            row[columns[user]] = places[value]
    return Rated(len(shared), krippendorff_alpha(table, level="ordinal", clusters=[item for item, _ in shared]))


def _nominal(categories: _Floats, counts: _Floats, weights: _Floats) -> tuple[_Floats, _Floats]:
    """(B,) Σ_i Σ_cd n_ic n_id δ²_cd / (m_i - 1) and (B,) Σ_cd n_c n_d δ²_cd."""
    rated, total = counts.sum(1), weights @ counts
    return weights @ ((rated**2 - (counts**2).sum(1)) / (rated - 1)), total.sum(1) ** 2 - (total**2).sum(1)


def _interval(categories: _Floats, counts: _Floats, weights: _Floats) -> tuple[_Floats, _Floats]:
    return _apart(counts, weights, np.broadcast_to(categories, (len(weights), len(categories))))


def _ordinal(categories: _Floats, counts: _Floats, weights: _Floats) -> tuple[_Floats, _Floats]:
    total = weights @ counts
    return _apart(counts, weights, np.cumsum(total, axis=1) - total / 2)


def _apart(counts: _Floats, weights: _Floats, places: _Floats) -> tuple[_Floats, _Floats]:
    """The two sums where δ is the difference of the categories' places (B, C): Σ_cd n_c n_d δ² = 2 n Σx² - 2 (Σx)²."""
    total = weights @ counts
    places = places - (total * places).sum(1, keepdims=True) / total.sum(1, keepdims=True)  # so that nothing cancels
    rated, sums, squares = counts.sum(1), places @ counts.T, places**2 @ counts.T  # (I,), (B, I), (B, I)
    observed = (weights * 2 * (rated * squares - sums**2) / (rated - 1)).sum(1)
    return observed, 2 * total.sum(1) * (total * places**2).sum(1)


_DISAGREEMENT: Mapping[str, Callable[[_Floats, _Floats, _Floats], tuple[_Floats, _Floats]]] = {
    "nominal": _nominal,
    "ordinal": _ordinal,
    "interval": _interval,
}


class Share(NamedTuple):
    """A share of a number of trials, and the p-value of an exact binomial test of it."""

    share: float
    """NaN where `num` is 0."""
    num: int
    p: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON: a share of nothing is None."""
        return self._asdict() | {"share": self.share if self.num else None}


def position_bias(judged: Iterable[Judgement]) -> Share:
    """How often the response shown first won its pair, tested against one half; ties and longer rankings left out."""
    won = [0, 0]
    for j in judged:
        if j.ranking is not None and len(j.shown) == 2 and set(j.shown) <= j.ranking.keys():
            first, second = (j.ranking[response] for response in j.shown)
            if first != second:
                won[first > second] += 1
    return sign_test(*won)


def sign_test(won: int, lost: int) -> Share:
    """The share won of those won or lost, and the two-sided p-value of a chance of one half.

    >>> share, num, p = sign_test(8, 2)  # p = 2 (45 + 10 + 1) / 2^10
    >>> share, num, round(p, 6)
    (0.8, 10, 0.109375)
    """
    num = won + lost
    p = min(1.0, 2 * binomial_tail(min(won, lost), num, 0.5))
    return Share(won / num if num else math.nan, num, p)


def binomial_tail(at_most: int, num: int, chance: float) -> float:
    """P(X ≤ at_most) for X ~ Binomial(num, chance), 0 < chance < 1.

    >>> round(binomial_tail(1, 3, 0.25), 4)  # (27 + 27) / 64
    0.8438
    """
    whole, win, lose = math.lgamma(num + 1), math.log(chance), math.log1p(-chance)
    terms = (
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(num - k + 1) + k * win + (num - k) * lose)
        for k in range(at_most + 1)
    )
    return min(1.0, math.fsum(terms))


def _checked(table: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(table)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"ratings of shape {array.shape} and type {array.dtype}: must be integers, items × annotators")
    return array.astype(np.int64)


def _counts(table: ArrayLike) -> tuple[_Floats, _Floats]:
    """(C,) the categories given, rising, whatever their numbers; (I, C) how many annotators gave item i each."""
    ratings = _checked(table)
    rows, columns = np.nonzero(ratings >= 0)
    categories, said = np.unique(ratings[rows, columns], return_inverse=True)
    shape = (len(ratings), len(categories))
    counts = np.bincount(rows * len(categories) + said, minlength=shape[0] * shape[1]).reshape(shape)
    return categories.astype(np.float64), counts.astype(np.float64)


def _bootstrap(
    size: int,
    statistic: Callable[[_Floats], _Floats],
    num: int,
    seed: int,
    clusters: ArrayLike | None = None,
) -> Interval:
    """The statistic of all items once, and percentiles of it over `num` resamplings of the items or of their clusters.

    `statistic` turns weights (B, I) into values (B,). Resamplings where it is undefined (only one category was drawn)
    are left out; where the others vary by nothing they tell of no interval.
    """
    of = np.arange(size) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if of.shape != (size,):
        raise InputError(f"clusters of shape {of.shape}: must be one number for each of the {size} items")
    if not size:
        return Interval(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    many = int(of.max()) + 1
    with np.errstate(invalid="ignore", divide="ignore"):
        estimate = float(statistic(np.ones((1, size)))[0])
        draws = (_drawn(rng, min(100, num - at), many) for at in range(0, num, 100))
        blocks = [statistic(draw[:, of].astype(np.float64)) for draw in draws]
    drawn = np.concatenate([np.zeros(0), *blocks])
    drawn = drawn[np.isfinite(drawn)]
    if math.isnan(estimate) or np.allclose(drawn, estimate, rtol=0, atol=1e-12):
        return Interval(estimate, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(estimate, float(low), float(high))


def _drawn(rng: np.random.Generator, times: int, many: int) -> NDArray[np.int64]:
    """(times, many): how often each was drawn in `many` draws with replacement. Five times as fast as a multinomial."""
    drawn = rng.integers(many, size=(times, many)) + many * np.arange(times)[:, None]
    return np.bincount(drawn.ravel(), minlength=times * many).reshape(times, many)
