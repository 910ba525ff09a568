"""Learning curves: held-out accuracy against number of judgements, and what more of them would buy.

Shapes: `K` measured points, `R` refits, `C` exponents tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.types import Interval

_Floats = NDArray[np.float64]
_LEVEL = 0.95
EXPONENTS = (0.05, 3.0)
"""Bounds of c. Below, no range of sizes tells the curve from a logarithm; above, from a step."""


@dataclass(frozen=True)
class Curve:
    """acc(n) = a − b n^(−c), fitted."""

    a: float
    """Accuracy with endless judgements, at most 1."""
    b: float
    """What is lost with one judgement, 0 or more."""
    c: float
    """How fast the loss falls."""
    largest: float
    """The most judgements that were measured."""
    dispersion: float
    """How many times the points vary what held-out comparisons drawn by chance would, 1 or more."""
    refits: _Floats = field(repr=False, compare=False)
    """(R, 3) a, b, c of the parametric bootstrap; a may be above 1 where all points share an error."""

    def at(self, num: float) -> Interval:
        """Accuracy with `num` judgements: the curve's, not that of one more measurement. InputError unless positive."""
        _positive("num", num)
        return self._interval(lambda a, b, c: np.minimum(a - b * num**-c, 1.0))

    def gain(self, start: float, end: float) -> Interval:
        """Accuracy with `end` judgements less that with `start`. InputError unless both are positive."""
        _positive("start", start)
        _positive("end", end)
        return self._interval(lambda a, b, c: b * (start**-c - end**-c))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the refits."""
        return {name: getattr(self, name) for name in ("a", "b", "c", "largest", "dispersion")}

    def _interval(self, value: Callable[..., Any]) -> Interval:
        estimate = float(value(self.a, self.b, self.c))
        if not len(self.refits):
            return Interval(estimate, float("nan"), float("nan"))
        low, high = np.quantile(value(*self.refits.T), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
        return Interval(estimate, float(low), float(high))


def fit_curve(
    sizes: ArrayLike,
    accuracies: ArrayLike,
    held_out: ArrayLike,
    *,
    same: bool = False,
    num: int = 1000,
    seed: int = 0,
) -> Curve:
    """The curve through `accuracies` (K,) measured with `sizes` (K,) judgements on `held_out` comparisons (K,) or one.

    The inverse power law a − b n^(−c) (Cortes et al. 1994) by weighted least squares, weights 1 / variance of a share
    of m comparisons, p(1 − p)/m, with p = (m acc + 1)/(m + 2) so that a perfect score has a variance too. Sizes may
    repeat (several seeds). Given c the rest is linear, so the best c is found on a grid that is narrowed.

    Intervals are percentiles of `num` refits to points drawn around the curve (parametric bootstrap: Efron & Tibshirani
    1993): binomial, with m divided by the dispersion max(1, χ²/(K − 3)), so that chance in training counts as well.
    Points measured on the `same` comparisons share an error: it moves the whole curve on other comparisons, and hardly
    the gain. Each refit is moved by one of variance p(1 − p)/m, of the mean point; the points' own errors stay as they
    are, so intervals are rather too wide.

    InputError: fewer than 3 sizes, or a size, share or number of comparisons that cannot be one.

    >>> curve = fit_curve([50, 100, 200, 400], [0.65, 0.70, 0.735, 0.76], 2000)  # 0.82 − 1.2 n^−½ gives this
    >>> round(curve.a, 2), round(curve.c, 1)
    (0.82, 0.5)
    """
    n, acc, m = _checked(sizes, accuracies, held_out)
    a, b, c = map(float, _fits(n, acc[None], m)[0])
    expected = a - b * n**-c
    chi_squared = float(((acc - expected) ** 2 / _variance(acc, m)).sum())
    dispersion = max(1.0, chi_squared / (len(n) - 3)) if len(n) > 3 else 1.0
    effective = np.maximum(1, np.rint(m / dispersion)).astype(np.int64)
    rng = np.random.default_rng(seed)
    drawn = rng.binomial(effective, np.clip(expected, 0, 1), size=(num, len(n))) / effective
    refits = _fits(n, drawn, effective.astype(np.float64))
    if same:
        refits[:, 0] += rng.normal(0, np.sqrt(_variance(acc.mean(), m.mean())), num)
    return Curve(a, b, c, float(n.max()), dispersion, refits)


def what_would_buy(curve: Curve, more: int = 200, start: float | None = None) -> Interval:
    """The gain in held-out accuracy that `more` judgements would bring, after the largest size measured or `start`.

    A forecast: it holds as far as the curve does, and says nothing of judgements of another kind.

    >>> curve = fit_curve([50, 100, 200, 400], [0.65, 0.70, 0.735, 0.76], 2000)
    >>> gain = what_would_buy(curve, more=400)
    >>> gain.low <= gain.estimate <= gain.high, round(gain.estimate, 3)
    (True, 0.018)
    """
    _positive("more", more)
    begin = curve.largest if start is None else start
    return curve.gain(begin, begin + more)


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise InputError(f"{name} {value}: must be a number of judgements above 0")


def _checked(sizes: ArrayLike, accuracies: ArrayLike, held_out: ArrayLike) -> tuple[_Floats, _Floats, _Floats]:
    n, acc = np.asarray(sizes, dtype=np.float64), np.asarray(accuracies, dtype=np.float64)
    m = np.asarray(held_out, dtype=np.float64)
    if n.ndim != 1 or n.shape != acc.shape:
        raise InputError(f"a learning curve: {n.shape} sizes, {acc.shape} accuracies; give one of each for every point")
    if not (np.isfinite(n) & (n > 0)).all() or not ((acc >= 0) & (acc <= 1)).all():
        raise InputError("a learning curve: sizes must be above 0 and accuracies between 0 and 1")
    if m.shape not in ((), n.shape) or not (np.isfinite(m) & (m >= 1)).all():
        raise InputError(
            "a learning curve: held_out must be 1 or more comparisons, one number for all points or for each"
        )
    if len(np.unique(n)) < 3:
        raise InputError(f"a learning curve needs 3 different sizes or more, got {len(np.unique(n))}")
    return n, acc, np.broadcast_to(m, n.shape)


def _variance(acc: Any, m: Any) -> Any:
    p = (m * acc + 1) / (m + 2)
    return p * (1 - p) / m


def _fits(n: _Floats, acc: _Floats, m: _Floats) -> _Floats:
    """(R, 3) a, b, c of each row of `acc` (R, K): a grid over log c, then ever finer ones around the best."""
    weight = 1 / _variance(acc, m)
    low, high = (np.full(len(acc), np.log(bound)) for bound in EXPONENTS)
    rows = np.arange(len(acc))
    for points in (41, *[11] * 12):
        grid = low[:, None] + (high - low)[:, None] * np.linspace(0, 1, points)
        a, b, error = _linear(n / n.min(), acc, weight, np.exp(grid))
        best = error.argmin(1)
        low, high = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, points - 1)]
    c = np.exp(grid[rows, best])
    return np.stack([a[rows, best], b[rows, best] * n.min() ** c, c], axis=1)


def _linear(n: _Floats, acc: _Floats, weight: _Floats, c: _Floats) -> tuple[_Floats, _Floats, _Floats]:
    """a, b and the weighted squared error, each (R, C), of the best a − b n^(−c) with a ≤ 1, b ≥ 0 for given c (R, C).

    A convex problem in two variables: where the free solution breaks a bound, the solution lies on that bound.
    """
    x = n ** -c[:, :, None]  # (R, C, K)
    y, w = acc[:, None], weight[:, None] / weight.sum(1)[:, None, None]
    mean_x, mean_y = (w * x).sum(2), (w * y).sum(2)
    off = x - mean_x[:, :, None]
    b = np.maximum(-(w * off * y).sum(2) / (w * off**2).sum(2), 0.0)
    a = mean_y + b * mean_x
    high = a > 1
    b = np.where(high, (w * x * (1 - y)).sum(2) / (w * x**2).sum(2), b)
    a = np.minimum(a, 1.0)
    error = (w * (y - a[:, :, None] + b[:, :, None] * x) ** 2).sum(2)
    return a, b, error
