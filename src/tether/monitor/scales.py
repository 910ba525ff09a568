"""What charts compute before they draw: scales, round ticks, thinning, smoothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from tether.monitor.metrics import number

Point = tuple[float, float]

SMOOTH_FROM = 24
"""A jagged series of at least this many points is drawn thin, with a smooth line over it."""
MAX_POINTS = 240
"""Drawn points of a line; longer series keep the lowest and the highest of each stretch."""


@dataclass(frozen=True)
class Scale:
    """Linear map from data `low … high` to pixels `start … end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that enclose `low … high`.

    >>> nice_ticks(0.13, 0.87)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    step = _nice_step((high - low) / max(count, 1))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def spread(low: float, high: float, start: float, end: float) -> Scale:
    """A scale exactly over the data; a single value gets half a unit on both sides."""
    return Scale(low, high, start, end) if high > low else Scale(low - 0.5, high + 0.5, start, end)


def tick_text(value: float, step: float) -> str:
    """A tick's text: as many decimals as the step needs, thousands as k."""
    if value == 0:
        return "0"
    size = max(abs(value), step)
    if size >= 1e6 or size < 1e-3:
        return number(value)
    if size >= 1e4:
        return f"{value / 1000:g}k".replace("-", "−")
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10**decimals - round(step * 10**decimals)) > 1e-6:
        decimals += 1  # a step of 0.25 needs two
    return f"{value:.{decimals}f}".replace("-", "−")


def thin(points: Sequence[Point], most: int = MAX_POINTS) -> list[Point]:
    """At most about `most` points: the lowest and the highest of each stretch, so no spike is lost; gaps survive."""
    if len(points) <= most:
        return list(points)
    bins = max(most // 2, 1)
    kept = []
    for index in range(bins):
        stretch = range(index * len(points) // bins, (index + 1) * len(points) // bins)
        finite = [i for i in stretch if math.isfinite(points[i][1])]
        if len(finite) < len(stretch):
            kept += [points[next(i for i in stretch if not math.isfinite(points[i][1]))]]
        kept += (
            [
                points[i]
                for i in sorted({min(finite, key=lambda i: points[i][1]), max(finite, key=lambda i: points[i][1])})
            ]
            if finite
            else []
        )
    return sorted(kept, key=lambda point: point[0])


def noisy(points: Sequence[Point]) -> bool:
    """Whether a series is long and jagged enough to be smoothed; a learning rate's schedule is not."""
    values = [y for _, y in points if math.isfinite(y)]
    if len(values) < SMOOTH_FROM:
        return False
    bends = [abs(a - 2 * b + c) for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    return sum(bends) / len(bends) > 0.01 * (max(values) - min(values))


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Local straight-line fit over a tenth of the series: inside, a centred moving average; at the ends, no lag.

    Non-finite values are left out. The fit is over places in the series, not over x.
    """
    finite = [point for point in points if math.isfinite(point[1])]
    half = max(len(finite) // 20, 1)
    sums = list(accumulate((y for _, y in finite), initial=0.0))
    moments = list(accumulate((i * y for i, (_, y) in enumerate(finite)), initial=0.0))
    fitted = []
    for i, (x, _) in enumerate(finite):
        first = max(min(i - half, len(finite) - 1 - 2 * half), 0)  # at the ends the window is as wide, only off centre
        last = min(first + 2 * half, len(finite) - 1)
        count, centre = last - first + 1, (first + last) / 2
        mean = (sums[last + 1] - sums[first]) / count
        spread = count * (count * count - 1) / 12  # sum of squared distances of `count` neighbours from their centre
        tilt = (moments[last + 1] - moments[first] - centre * count * mean) / spread if spread else 0.0
        fitted.append((x, mean + tilt * (i - centre)))
    return fitted


def _nice_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))
