"""Strengths of items from comparisons of two (Bradley–Terry, and Davidson's with ties) or rankings (Plackett–Luce).

Strengths are logarithms with mean 0; only their differences mean something. A `ridge` λ subtracts λ/2 Σ s² from the
log-likelihood: a normal prior of variance 1/λ on each, and on Davidson's ln ν. Without one, items that won or lost
everything against the rest have no finite strength: an InputError names them. Covariances are the inverse of the
observed information where strengths sum to 0.

Shapes: `n` items; `P` problems solved side by side, each of `k` items.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.feedback.davidson import climb, solve_davidson

_Floats = NDArray[np.float64]
_NAMED = 8  # items of a group, and groups, that an error names


@dataclass(frozen=True)
class Fit:
    """Strengths of n items, and how well they are known."""

    strengths: _Floats
    """(n,) log-strengths, mean 0."""
    covariance: _Floats
    """(n, n) of the strengths."""
    log_likelihood: float
    """At the fit, without the prior."""
    tie: float = 0.0
    """Davidson's ν: two items of equal strength tie with chance ν / (2 + ν)."""
    log_tie_error: float = math.nan
    """Standard error of ln ν."""

    @property
    def errors(self) -> _Floats:
        """(n,) standard errors of the strengths."""
        found: _Floats = np.sqrt(np.diag(self.covariance))
        return found

    @property
    def log_odds(self) -> _Floats:
        """(n, n) posterior log-odds that i, not j, wins their next comparison, should it not be a tie.

        d / √(1 + π v / 8) for a difference of strengths d of variance v (MacKay 1992): doubt draws it towards 0.
        """
        return _posterior_log_odds(self.strengths, self.covariance)


def bradley_terry(wins: ArrayLike, *, ridge: float = 0.0) -> Fit:
    """Bradley & Terry (1952): P(i beats j) = σ(s_i - s_j), from `wins` (n, n): how often i beat j, fractions allowed.

    >>> fit = bradley_terry([[0, 9], [4, 0]])  # s_0 - s_1 = ln 9/4, of variance 1/9 + 1/4
    >>> [round(s, 4) for s in fit.strengths.tolist()], [round(e, 4) for e in fit.errors.tolist()]
    ([0.4055, -0.4055], [0.3005, 0.3005])
    """
    won = _counts("wins", wins)
    if not _checked_ridge(ridge):
        _check_connected(won > 0)
    return _fit(won, np.zeros_like(won), ridge, -math.inf)


def davidson(wins: ArrayLike, ties: ArrayLike, *, ridge: float = 0.0) -> Fit:
    """Davidson (1970): Bradley–Terry with ties, from `wins` (n, n) and symmetric `ties` (n, n).

        P(i beats j) ∝ e^{(s_i - s_j)/2},   P(j beats i) ∝ e^{(s_j - s_i)/2},   P(tie) ∝ ν

    Without a ridge and without a single tie ν is 0, and this is Bradley–Terry.

    >>> fit = davidson([[0, 8], [2, 0]], [[0, 4], [4, 0]])  # s_0 - s_1 = ln 8/2, ν = 4 / √(8·2)
    >>> [round(s, 4) for s in fit.strengths.tolist()], round(fit.tie, 4)
    ([0.6931, -0.6931], 1.0)
    """
    won, tied = _counts("wins", wins), _counts("ties", ties)
    if won.shape != tied.shape or (tied != tied.T).any():
        raise InputError(f"ties of shape {tied.shape}: must be symmetric and of the wins' shape, {won.shape}")
    if not _checked_ridge(ridge):
        if not tied.any():
            return bradley_terry(won)
        _check_connected((won > 0) | (tied > 0))
        _check_contradiction(won > 0, tied > 0)
    return _fit(won, tied, ridge, 0.0)


def pooled_log_odds(wins: ArrayLike, ties: ArrayLike, *, ridge: float = 1.0) -> _Floats:
    """Davidson's model of many small problems that share ν: `Fit.log_odds` of each, (P, k, k).

    A problem is, say, the k responses to one prompt, `wins` and `ties` (P, k, k) their votes; pad smaller ones with
    zeros. As few votes decide little, the ridge must be positive.

    >>> wins, ties = [[[0, 1], [0, 0]], [[0, 3], [0, 0]]], [[[0, 2], [2, 0]], [[0, 0], [0, 0]]]
    >>> [round(x, 3) for x in pooled_log_odds(wins, ties)[:, 0, 1].tolist()]  # a win and two ties; three wins
    [0.43, 1.316]
    """
    won, tied = np.asarray(wins, dtype=np.float64), np.asarray(ties, dtype=np.float64)
    if won.ndim != 3 or won.shape[1] != won.shape[2] or won.shape != tied.shape:
        raise InputError(f"wins {won.shape} and ties {tied.shape}: must both be of shape problems × items × items")
    if not _checked_ridge(ridge):
        raise InputError("ridge 0: must be positive for many small problems")
    for one, other in zip(won, tied, strict=True):
        _counts("wins", one), _counts("ties", other)
    found = solve_davidson(won, tied, ridge, 0.0)
    return _posterior_log_odds(found.strengths, found.covariances)


def plackett_luce(rankings: Iterable[Sequence[int]], num_items: int, *, ridge: float = 0.0) -> Fit:
    """Plackett (1975), Luce (1959): a ranking is drawn from the best down, each item with chance ∝ e^s of those left.

    A ranking lists items from 0 to num_items - 1, best first; those it does not list were not shown. It cannot hold
    ties: give rankings with ties to `davidson`, as the pairs they order or tie.

    >>> fit = plackett_luce([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 2]], 3)
    >>> [round(s, 4) for s in fit.strengths.tolist()]
    [0.2546, 0.6397, -0.8943]
    """
    stages = _stages(rankings, num_items)
    if not _checked_ridge(ridge):
        better = np.zeros((num_items, num_items), dtype=bool)
        for left in stages:
            better[left[:, :1], left[:, 1:]] = True
        _check_connected(better)
    prior = ridge * np.eye(num_items) + 1 / num_items

    def value(strengths: _Floats) -> float:
        return _luce_log_likelihood(stages, strengths) - ridge / 2 * float(strengths @ strengths)

    def step(strengths: _Floats) -> _Floats:
        slope, bend = _luce_slope_and_bend(stages, strengths)
        return np.asarray(np.linalg.solve(bend + prior, slope - ridge * strengths), dtype=np.float64)

    strengths = climb(value, step, np.zeros(num_items))
    inverse = np.asarray(np.linalg.inv(_luce_slope_and_bend(stages, strengths)[1] + prior), dtype=np.float64)
    covariance = inverse - 1 / (num_items * (1 + ridge))
    return Fit(strengths - strengths.mean(), covariance, _luce_log_likelihood(stages, strengths))


def _stages(rankings: Iterable[Sequence[int]], num_items: int) -> list[NDArray[np.int64]]:
    """For each number m ≥ 2 of items left, (times, m): the item taken, then those left behind."""
    if num_items < 1:
        raise InputError(f"num_items {num_items}: must be at least 1")
    stages: dict[int, list[Sequence[int]]] = defaultdict(list)
    for row, ranking in enumerate(rankings):
        if len(set(ranking)) != len(ranking) or not all(0 <= item < num_items for item in ranking):
            raise InputError(f"ranking {row}, {list(ranking)}: must list different items from 0 to {num_items - 1}")
        for taken in range(len(ranking) - 1):
            stages[len(ranking) - taken].append(ranking[taken:])
    return [np.array(stages[left], dtype=np.int64) for left in sorted(stages)]


def _luce_log_likelihood(stages: Sequence[NDArray[np.int64]], strengths: _Floats) -> float:
    return float(sum((strengths[left[:, 0]] - np.logaddexp.reduce(strengths[left], axis=1)).sum() for left in stages))


def _luce_slope_and_bend(stages: Sequence[NDArray[np.int64]], strengths: _Floats) -> tuple[_Floats, _Floats]:
    """(n,) and (n, n): the first derivative of the log-likelihood, and the second negated."""
    slope, bend = np.zeros(len(strengths)), np.zeros((len(strengths), len(strengths)))
    for left in stages:
        here = strengths[left]
        chance = np.exp(here - np.logaddexp.reduce(here, axis=1)[:, None])
        np.add.at(slope, left[:, 0], 1.0)
        np.add.at(slope, left, -chance)
        np.add.at(bend, (left, left), chance)
        np.add.at(bend, (left[:, :, None], left[:, None, :]), -chance[:, :, None] * chance[:, None, :])
    return slope, bend


def _fit(wins: _Floats, ties: _Floats, ridge: float, log_tie: float) -> Fit:
    found = solve_davidson(wins[None], ties[None], ridge, log_tie)
    tie = math.exp(found.log_tie)
    return Fit(found.strengths[0], found.covariances[0], found.log_likelihood, tie, found.log_tie_error)


def _posterior_log_odds(strengths: _Floats, covariance: _Floats) -> _Floats:
    own = np.einsum("...ii->...i", covariance)
    variance = own[..., :, None] + own[..., None, :] - 2 * covariance
    found: _Floats = (strengths[..., :, None] - strengths[..., None, :]) / np.sqrt(1 + np.pi / 8 * variance)
    return found


def _counts(name: str, counts: ArrayLike) -> _Floats:
    array = np.asarray(counts, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1] or not len(array):
        raise InputError(f"{name} of shape {array.shape}: must be items × items")
    if not np.isfinite(array).all() or (array < 0).any() or np.diag(array).any():
        raise InputError(f"{name}: must be finite, not negative, and 0 on the diagonal")
    return array


def _checked_ridge(ridge: float) -> float:
    if not 0 <= ridge < math.inf:
        raise InputError(f"ridge {ridge}: must be 0 or more")
    return ridge


def _check_connected(better: NDArray[np.bool_]) -> None:
    """InputError, naming the groups, unless each item is reached from each other along `better` (Ford 1957)."""
    linked = _classes(better | better.T)
    if len(linked) > 1:
        raise InputError(
            f"items fall into {len(linked)} groups that were never compared with each other, {_named(linked)}: "
            "compare across the groups, or give a ridge"
        )
    ordered = _classes(better)
    if len(ordered) > 1:
        raise InputError(
            f"items fall into {len(ordered)} groups, {_named(ordered)}, and one won or lost every comparison with the "
            "rest, so its strength has no bound: collect more, or give a ridge"
        )


def _classes(better: NDArray[np.bool_]) -> list[list[int]]:
    """Groups of items each of which reaches every other of its group."""
    reach = better | np.eye(len(better), dtype=bool)
    for _ in range(len(better).bit_length()):  # each squaring doubles the length of the paths that are found
        reach = (reach.astype(np.float64) @ reach.astype(np.float64)) > 0
    mutual = reach & reach.T
    return [np.flatnonzero(mutual[first]).tolist() for first in np.unique(mutual.argmax(1))]


def _named(groups: Sequence[Sequence[int]]) -> str:
    """The groups as `{0, 1}, {2}`, long ones and long lists cut."""
    shown = ["{" + ", ".join(map(str, g[:_NAMED])) + (", …" if len(g) > _NAMED else "") + "}" for g in groups[:_NAMED]]
    return ", ".join(shown) + (", …" if len(groups) > _NAMED else "")


def _check_contradiction(won: NDArray[np.bool_], tied: NDArray[np.bool_]) -> None:
    """InputError where Davidson's likelihood has no maximum because ν can grow for ever.

    It can when some strengths put each winner at least 1 above each loser and those who tied at most 1 apart: these
    strengths times t, with ln ν = t/2, get likelier with t. Bellman and Ford's rounds find them if there are any.
    """
    cost = np.where(won, -1.0, np.where(tied, 1.0, np.inf))  # s_j ≤ s_i + cost_ij
    reach = np.zeros(len(cost))
    for _ in range(len(cost)):
        closer = np.minimum(reach, (reach[:, None] + cost).min(0))
        if (closer == reach).all():
            raise InputError(
                "no win contradicts another win or a tie, so the share of ties has no bound: collect more, or give a "
                "ridge"
            )
        reach = closer
