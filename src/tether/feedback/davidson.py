"""Newton's method for Davidson's model of wins and ties, on one problem or on many small ones that share ν.

    P(i beats j) ∝ e^{(s_i - s_j)/2},   P(j beats i) ∝ e^{(s_j - s_i)/2},   P(tie) ∝ ν = e^η

The information is an arrow, a block for each problem and a border for η, so a step costs P solutions of k equations.
With η at minus infinity it stays there, and this is Bradley–Terry.

Shapes: `P` problems, each of `k` items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float64]
_STEPS = 200
_TOLERANCE = 1e-8  # largest step that ends the climb: what is then left is about its square


class Solution(NamedTuple):
    """Davidson's model fitted to P problems that share ν."""

    strengths: _Floats
    """(P, k), each row with mean 0."""
    covariances: _Floats
    """(P, k, k) of each row's strengths."""
    log_tie: float
    """η = ln ν."""
    log_tie_error: float
    """Its standard error."""
    log_likelihood: float


class _Terms(NamedTuple):
    """Derivatives of the log-likelihood, the second ones negated."""

    slope: _Floats  # (P, k)
    bend: _Floats  # (P, k, k)
    cross: _Floats  # (P, k): strengths with η
    tie_slope: float
    tie_bend: float


class _Arrow(NamedTuple):
    """The information with the prior's, solved for what a step needs."""

    inverses: _Floats  # (P, k, k) of the blocks
    leaning: _Floats  # (P, k): inverse · cross
    left: float  # what of η's information is left once the strengths are free; 0 with η at minus infinity


def solve_davidson(
    wins: _Floats, ties: _Floats, ridge: float, log_tie: float, start: _Floats | None = None
) -> Solution:
    """The maximum for wins and symmetric ties (P, k, k), climbed to from strengths `start` (P, k) and η = `log_tie`.

    Subtracts ridge/2 times the sum of all squared strengths and η². Nothing is checked: a maximum must exist.
    """
    problems, size = wins.shape[:2]
    has_ties = math.isfinite(log_tie)

    def penalty(at: _Floats) -> float:
        return ridge / 2 * float((at if has_ties else at[:-1]) @ (at if has_ties else at[:-1]))

    def value(at: _Floats) -> float:
        return _log_likelihood(wins, ties, at[:-1].reshape(problems, size), float(at[-1])) - penalty(at)

    def step(at: _Floats) -> _Floats:
        strengths = at[:-1].reshape(problems, size)
        terms = _terms(wins, ties, strengths, float(at[-1]))
        arrow = _arrow(terms, ridge)
        free = np.einsum("pij,pj->pi", arrow.inverses, terms.slope - ridge * strengths)
        pull = terms.tie_slope - (ridge * at[-1] if has_ties else 0.0) - float((terms.cross * free).sum())
        move = pull / arrow.left if has_ties else 0.0
        return np.append((free - arrow.leaning * move).ravel(), move)

    found = climb(value, step, np.append(np.zeros(problems * size) if start is None else start.ravel(), log_tie))
    strengths, eta = found[:-1].reshape(problems, size), float(found[-1])
    strengths = strengths - strengths.mean(1, keepdims=True)
    arrow = _arrow(_terms(wins, ties, strengths, eta), ridge)
    covariances = arrow.inverses - 1 / (size * (1 + ridge))
    if has_ties:
        covariances = covariances + arrow.leaning[:, :, None] * arrow.leaning[:, None, :] / arrow.left
    error = arrow.left**-0.5 if has_ties else math.nan
    return Solution(strengths, covariances, eta, error, _log_likelihood(wins, ties, strengths, eta))


def climb(value: Callable[[_Floats], float], step: Callable[[_Floats], _Floats], start: _Floats) -> _Floats:
    """Newton's method to the top of a concave function; a step that leads down is halved.

    RuntimeError when it doesn't end.
    """
    at, height = start, value(start)
    for _ in range(_STEPS):
        move = step(at)
        while (reached := value(at + move)) < height - 1e-10 * (1 + abs(height)):
            move = move / 2
        at, height = at + move, reached
        if np.abs(move).max() <= _TOLERANCE:
            return at
    raise RuntimeError(f"strengths still moved after {_STEPS} steps")


def _log_shares(strengths: _Floats, eta: float) -> tuple[_Floats, _Floats]:
    """(P, k, k) half the difference of two strengths, and the logarithm of what the three chances are divided by."""
    half = (strengths[:, :, None] - strengths[:, None, :]) / 2
    return half, np.logaddexp(np.logaddexp(half, -half), eta)


def _log_likelihood(wins: _Floats, ties: _Floats, strengths: _Floats, eta: float) -> float:
    half, log_total = _log_shares(strengths, eta)
    tied = float(ties.sum()) / 2
    found = (wins * (half - log_total)).sum() - (ties * log_total).sum() / 2 + (tied * eta if tied else 0.0)
    return float(found)


def _terms(wins: _Floats, ties: _Floats, strengths: _Floats, eta: float) -> _Terms:
    """A win is worth 1, a tie a half: slopes and bends are means and variances of what comparisons are worth."""
    half, log_total = _log_shares(strengths, eta)
    win, tie = np.exp(half - log_total), np.exp(eta - log_total)
    met, worth = wins + wins.transpose(0, 2, 1) + ties, win + tie / 2
    weight = met * (win + tie / 4 - worth**2)
    np.einsum("pii->pi", weight)[:] = 0
    return _Terms(
        slope=(wins + ties / 2 - met * worth).sum(2),
        bend=np.eye(wins.shape[1]) * weight.sum(2)[:, :, None] - weight,
        cross=(met * tie * (0.5 - worth)).sum(2),
        tie_slope=float((ties - met * tie).sum()) / 2,
        tie_bend=float((met * tie * (1 - tie)).sum()) / 2,
    )


def _arrow(terms: _Terms, ridge: float) -> _Arrow:
    """Adding 1/k everywhere to a block makes it invertible and, slopes summing to 0, does not change the step."""
    size = terms.slope.shape[1]
    inverses = np.linalg.inv(terms.bend + ridge * np.eye(size) + 1 / size)
    leaning = np.einsum("pij,pj->pi", inverses, terms.cross)
    return _Arrow(inverses, leaning, terms.tie_bend + ridge - float((terms.cross * leaning).sum()))
