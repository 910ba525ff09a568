"""Intervals by resampling prompts (Efron 1979): what a number measured on these prompts says about others like them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tether.errors import InputError
from tether.types import Interval

Floats = NDArray[np.float64]
_CELLS = 2_000_000  # resampled values held at once


def mean(values: Floats) -> Floats:
    """(..., P) → (...,), the statistic when none is named."""
    found: Floats = values.mean(-1)
    return found


def interval(
    values: ArrayLike,
    statistic: Callable[[Floats], Any] = mean,
    *,
    level: float = 0.95,
    num: int = 2000,
    seed: int = 0,
) -> Interval:
    """The statistic of `values` (P,), one value a prompt, and its percentile interval over `num` resamplings.

    `statistic` maps (B, P) to (B,): any numpy reduction over the last axis. Values of two policies on the same prompts
    are compared by their difference, see `difference`. InputError without values, or with NaN among them.

    >>> interval([0.0, 1.0, 1.0, 0.0, 1.0]).estimate
    0.6
    """
    data = numbers("values", values)
    if not 0 < level < 1 or num < 1:
        raise InputError(f"bootstrap: level {level} must be between 0 and 1, and num {num} at least 1")
    drawn = [np.asarray(statistic(data[index])) for index in resamplings(len(data), num, seed)]
    low, high = np.quantile(np.concatenate(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.asarray(statistic(data[None]))[0]), float(low), float(high))


def difference(first: ArrayLike, second: ArrayLike, *, level: float = 0.95, num: int = 2000, seed: int = 0) -> Interval:
    """Mean of `first - second`, prompt by prompt: the paired bootstrap, which does not see how hard a prompt is."""
    a, b = paired("first", first, "second", second)
    return interval(a - b, level=level, num=num, seed=seed)


def resamplings(size: int, num: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Blocks (B, size) of indices drawn with replacement, `num` rows in all; the same for the same seed and sizes."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // size)
    for start in range(0, num, rows):
        yield rng.integers(0, size, size=(min(rows, num - start), size))


def numbers(name: str, values: ArrayLike) -> Floats:
    """(P,) float64. InputError unless it is one axis of one or more finite numbers."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise InputError(f"{name}: has shape {array.shape}, but must be a list of one or more numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{name}: entry {int(np.flatnonzero(~np.isfinite(array))[0])} is not a finite number")
    return array


def paired(first_name: str, first: ArrayLike, second_name: str, second: ArrayLike) -> tuple[Floats, Floats]:
    """Both as `numbers`; InputError unless they are as many."""
    a, b = numbers(first_name, first), numbers(second_name, second)
    if len(a) != len(b):
        raise InputError(f"{first_name} has {len(a)} values and {second_name} {len(b)}: one of each for every prompt")
    return a, b
