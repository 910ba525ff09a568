"""Charts as SVG text: no script, no dependency, the same input the same bytes.

Colours and type come from `charts.css` (variables, one set for light and one for dark), so a chart fits its page.
Every chart has an accessible name and a <desc>; under the pointer a chart reads its values out by CSS alone. Series
differ by dash and marker as well as by colour (Okabe–Ito hues).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from tether.monitor.metrics import number
from tether.monitor.scales import Point, Scale, nice_ticks, noisy, smoothed, spread, thin, tick_text

LEFT, RIGHT, TOP, BOTTOM = 44.0, 12.0, 14.0, 24.0
"""Margins of the plot area, in pixels of the viewBox."""
LEGEND = 18.0
"""Height added above the plot area when there is more than one series."""
MAX_READOUTS = 48
"""Places under the pointer at which a chart reads its values out."""


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    label: str
    points: Sequence[Point]
    """(x, y), x rising; a NaN or infinite y is a gap."""
    band: Sequence[Point] | None = None
    """(low, high) for each point: a confidence band."""
    dots: bool = False
    """Draw a marker at each point (few, dear measurements such as evaluations)."""
    hue: int = 0
    """Which of the five looks (colour, dash, marker) it has; 0: by its place in the chart."""


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str = "",
    width: int = 320,
    height: int = 176,
    marks: Sequence[tuple[float, str]] = (),
    x_label: str = "step",
) -> str:
    """Lines over a common x axis; `marks` are (x, text) of dashed upright lines. Empty if there is nothing to draw."""
    clean = [
        dataclasses.replace(one, hue=one.hue or place)
        for place, one in enumerate(series, start=1)
        if any(math.isfinite(y) for _, y in one.points)
    ]
    if not clean:
        return ""
    xs = [x for s in clean for x, _ in s.points]
    ys = [y for s in clean for _, y in s.points] + [y for s in clean for pair in s.band or () for y in pair]
    ys = [y for y in ys if math.isfinite(y)]
    top = TOP + (LEGEND if len(clean) > 1 else 0)
    first = (
        0.0 if 0 < min(xs) <= 0.1 * max(xs) else min(xs)
    )  # charts of one stage line up, whether they begin at step 0 or 1
    x = spread(first, max(xs), LEFT, width - RIGHT)
    ticks = nice_ticks(min(ys), max(ys))
    y = Scale(ticks[0], ticks[-1], height - BOTTOM - (14 if x_label not in ("", "step") else 0), top)
    parts = [_frame(x, y, ticks, x_label)]
    parts += [
        f'<path class="mark" d="M{_f(x(at))} {_f(y.end)}V{_f(y.start)}"><title>{_text(text)}</title></path>'
        for at, text in marks
    ]
    parts += [_draw(one, x, y) for one in clean]
    if len(clean) > 1:
        parts.append(_legend(clean))
    parts.append(_readouts(clean, x, y, width, x_label))
    kind = "chart wide" if width > 400 else "chart"
    return _svg("".join(parts), width, height, title, description or _describe(clean), kind)


def goodhart_chart(
    proxy: Sequence[Point],
    gold: Sequence[Point],
    *,
    width: int = 460,
    height: int = 280,
    title: str = "Proxy and gold against KL",
) -> str:
    """What the pull bought: (KL in nats, score) of the trained-on reward and of the independent one, over √KL.

    Gao, Schulman & Hilton (2023) found gold to follow d(α − β d) or so in d = √KL: it rises, peaks and falls, while the
    proxy goes on rising. Each series is shown as its change since the first point, divided by its largest change.
    """
    if len(gold) < 2 or len(proxy) < 2:
        return ""
    right = 96.0
    shares = [_gain_shares(points) for points in (proxy, gold)]
    xs = [math.sqrt(max(kl, 0.0)) for points in (proxy, gold) for kl, _ in points]
    ys = [share for points in shares for _, share in points]
    x = spread(0.0, max(xs), LEFT, width - right)
    ticks = nice_ticks(min(*ys, 0.0), max(*ys, 1.0), 4)
    y = Scale(ticks[0], ticks[-1], height - BOTTOM - 14, TOP)
    parts = [_frame(x, y, ticks, "√KL to the reference", percent=True)]
    ends: list[float] = []
    for index, (label, points, raw) in enumerate(zip(("proxy", "gold"), shares, (proxy, gold), strict=True), start=1):
        path = "".join(f"{'ML'[i > 0]}{_f(x(d))} {_f(y(v))}" for i, (d, v) in enumerate(points))
        parts.append(f'<path class="line s{index}" d="{path}"/>')
        for (d, v), (kl, score) in zip(points, raw, strict=True):
            said = f"{label} {number(score)} at KL {number(kl)}"
            parts.append(f'<g class="hit">{_marker(index, x(d), y(v))}<title>{said}</title></g>')
        at = y(points[-1][1])
        if ends and abs(at - ends[0]) < 32:  # two labels at one height: the second goes out of the way
            at = ends[0] + (32 if at >= ends[0] else -32)
            at = min(max(at, TOP + 6), height - BOTTOM - 16)
        ends.append(at)
        change, beside = raw[-1][1] - raw[0][1], _f(width - right + 12)
        parts.append(
            f'<text class="name t{index}" x="{beside}" y="{_f(at + 1)}">{label}</text>'
            f'<text class="tick" x="{beside}" y="{_f(at + 15)}">{"+" if change >= 0 else ""}{number(change)}</text>'
        )
    peak = max(range(len(gold)), key=lambda i: gold[i][1])
    description = (
        f"Proxy went from {number(proxy[0][1])} to {number(proxy[-1][1])}; gold from {number(gold[0][1])} "
        f"to {number(gold[-1][1])}, highest at KL {number(gold[peak][0])}."
    )
    return _svg("".join(parts), width, height, title, description, "chart wide")


def bar_chart(
    bars: Sequence[tuple[str, float]],
    *,
    title: str,
    description: str = "",
    width: int = 320,
    row: float = 22.0,
    names: float = 110.0,
) -> str:
    """Bars from left to right, one a row, each with its name and value. Negative and non-finite values draw no bar."""
    if not bars:
        return ""
    largest = max([value for _, value in bars if math.isfinite(value)] + [0.0]) or 1.0
    x = Scale(0.0, largest, names, width - 48.0)
    parts = []
    for index, (name, value) in enumerate(bars):
        at, base = index * row, _f(index * row + row / 2 + 4)
        length = x(value) - names if math.isfinite(value) and value > 0 else 0.0
        parts.append(
            f'<g class="hit"><text class="tick end" x="{_f(names - 8)}" y="{base}">{_text(_short(name, 18))}</text>'
            f'<rect class="bar" x="{_f(names)}" y="{_f(at + 3)}" width="{_f(length)}" height="{_f(row - 6)}" rx="2"/>'
            f'<text class="value" x="{_f(names + length + 6)}" y="{base}">{number(value)}</text>'
            f"<title>{_text(name)}: {number(value)}</title></g>"
        )
    return _svg("".join(parts), width, math.ceil(len(bars) * row), title, description or f"{len(bars)} bars")


def histogram(
    counts: Sequence[tuple[float, float, float]],
    *,
    title: str,
    description: str = "",
    width: int = 320,
    height: int = 150,
    x_label: str = "",
) -> str:
    """Columns over (low, high, count) bins."""
    if not counts or max(count for _, _, count in counts) <= 0:
        return ""
    x = spread(min(low for low, _, _ in counts), max(high for _, high, _ in counts), LEFT, width - RIGHT)
    ticks = nice_ticks(0.0, max(count for _, _, count in counts), 3)
    y = Scale(0.0, ticks[-1], height - BOTTOM, TOP)
    parts = [_frame(x, y, ticks, x_label)]
    for low, high, count in counts:
        left, column, top = x(low), max(x(high) - x(low) - 1, 0.5), y(count)
        parts.append(
            f'<g class="hit"><rect class="bar" x="{_f(left + 0.5)}" y="{_f(top)}" width="{_f(column)}" '
            f'height="{_f(y.start - top)}"/><title>{number(low)} to {number(high)}: {number(count)}</title></g>'
        )
    return _svg("".join(parts), width, height, title, description or f"{len(counts)} bins")


def interval_bar(
    value: float, low: float, high: float, *, start: float, end: float, reference: float | None, title: str
) -> str:
    """A point with its interval on a line from `start` to `end`, and a tick at `reference` (chance, say)."""
    x = Scale(start, end, 4.0, 196.0)
    a, b, at = (min(max(x(v), 4.0), 196.0) for v in (low, high, value))
    tick = f'<path class="reference" d="M{_f(x(reference))} 2V18"/>' if reference is not None else ""
    body = (
        f'<path class="axis" d="M4 10H196"/>{tick}<path class="interval" d="M{_f(a)} 10H{_f(b)}"/>'
        f'<circle class="dot s1" cx="{_f(at)}" cy="10" r="4.5"/>'
    )
    return _svg(body, 200, 20, title, f"{number(value)}, interval {number(low)} to {number(high)}", "chart strip")


def _gain_shares(points: Sequence[Point]) -> list[Point]:
    start = points[0][1]
    largest = max(abs(value - start) for _, value in points) or 1.0
    return [(math.sqrt(max(kl, 0.0)), (value - start) / largest) for kl, value in points]


def _frame(x: Scale, y: Scale, y_ticks: Sequence[float], x_label: str, percent: bool = False) -> str:
    step = y_ticks[1] - y_ticks[0]
    lines = []
    for tick in y_ticks:
        kind = "zero" if tick == 0 and y_ticks[0] < 0 else "grid"
        name = f"{100 * tick:.0f} %".replace("-", "−") if percent else tick_text(tick, step)
        lines.append(
            f'<path class="{kind}" d="M{_f(x.start)} {_f(y(tick))}H{_f(x.end)}"/>'
            f'<text class="tick end" x="{_f(x.start - 6)}" y="{_f(y(tick) + 3.5)}">{name}</text>'
        )
    inside = [tick for tick in nice_ticks(x.low, x.high, 4) if x.low <= tick <= x.high]
    gap = inside[1] - inside[0] if len(inside) > 1 else 1.0
    for tick in inside:
        anchor = " end" if x(tick) > x.end - 12 else " middle"
        lines.append(
            f'<text class="tick{anchor}" x="{_f(x(tick))}" y="{_f(y.start + 15)}">{tick_text(tick, gap)}</text>'
        )
    if x_label and x_label != "step":
        lines.append(
            f'<text class="tick middle" x="{_f((x.start + x.end) / 2)}" y="{_f(y.start + 32)}">{_text(x_label)}</text>'
        )
    return "".join(lines)


def _draw(one: Series, x: Scale, y: Scale) -> str:
    parts, index = [], one.hue
    if one.band:
        finite = [(p[0], b) for p, b in zip(one.points, one.band, strict=True) if all(map(math.isfinite, b))]
        there = " ".join(f"{_f(x(at))},{_f(y(high))}" for at, (_, high) in finite)
        back = " ".join(f"{_f(x(at))},{_f(y(low))}" for at, (low, _) in reversed(finite))
        parts.append(f'<polygon class="band s{index}" points="{there} {back}"/>')
    jagged = not one.dots and noisy(one.points)
    parts.append(f'<path class="line s{index}{" raw" if jagged else ""}" d="{_path(thin(one.points), x, y)}"/>')
    if jagged:
        parts.append(f'<path class="line s{index}" d="{_path(thin(smoothed(one.points)), x, y)}"/>')
    shown = [(at, value) for at, value in one.points if math.isfinite(value)]
    if one.dots or len(shown) == 1:
        parts += [_marker(index, x(at), y(value)) for at, value in thin(shown, 60)]
    return "".join(parts)


def _path(points: Sequence[Point], x: Scale, y: Scale) -> str:
    """Straight pieces between finite neighbours; a gap starts a new piece."""
    commands, pen = [], "M"
    for at, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        commands.append(f"{pen}{_f(x(at))} {_f(y(value))}")
        pen = "L"
    return "".join(commands)


def _marker(index: int, x: float, y: float) -> str:
    """A circle, a square, a diamond …: told apart without colour."""
    if index % 3 == 1:
        return f'<circle class="dot s{index}" cx="{_f(x)}" cy="{_f(y)}" r="3"/>'
    turn = f' transform="rotate(45 {_f(x)} {_f(y)})"' if index % 3 == 0 else ""
    return f'<rect class="dot s{index}" x="{_f(x - 2.7)}" y="{_f(y - 2.7)}" width="5.4" height="5.4"{turn}/>'


def _legend(series: Sequence[Series]) -> str:
    parts, at = [], LEFT
    for one in series:
        parts.append(f'<path class="line s{one.hue}" d="M{_f(at)} 9H{_f(at + 16)}"/>')
        if one.dots:
            parts.append(_marker(one.hue, at + 8, 9))
        parts.append(f'<text class="tick" x="{_f(at + 21)}" y="12.5">{_text(_short(one.label, 18))}</text>')
        at += 34 + 6.2 * min(len(one.label), 18)
    return "".join(parts)


def _readouts(series: Sequence[Series], x: Scale, y: Scale, width: int, x_label: str) -> str:
    """Invisible columns over the plot; the one under the pointer shows its values and a dot on each line."""
    places = sorted({at for one in series for at, value in one.points if math.isfinite(value)})
    if len(places) > MAX_READOUTS:
        places = [places[i * (len(places) - 1) // (MAX_READOUTS - 1)] for i in range(MAX_READOUTS)]
    by_series = [dict(one.points) for one in series]
    parts = []
    for index, at in enumerate(places):
        left = x.start if index == 0 else (x(places[index - 1]) + x(at)) / 2
        right = x.end if index == len(places) - 1 else (x(at) + x(places[index + 1])) / 2
        dots, words = [], []
        for one, values in zip(series, by_series, strict=True):
            value = values.get(at, math.nan)
            if math.isfinite(value):
                dots.append(f'<circle class="s{one.hue}" cx="{_f(x(at))}" cy="{_f(y(value))}" r="3.5"/>')
                words.append(number(value))
        text = f"{_text(x_label)} {number(at)}: {' · '.join(words)}"
        box = f'x="{_f(left)}" y="{_f(y.end)}" width="{_f(right - left)}" height="{_f(y.start - y.end)}"'
        parts.append(
            f'<g class="read"><rect {box}/>{"".join(dots)}'
            f'<text x="{_f(width - RIGHT)}" y="{_f(y.end - 4)}">{text}</text><title>{text}</title></g>'
        )
    return "".join(parts)


def _describe(series: Sequence[Series]) -> str:
    sentences = []
    for one in series:
        finite = [value for _, value in one.points if math.isfinite(value)]
        sentences.append(
            f"{one.label}: from {number(finite[0])} to {number(finite[-1])}, "
            f"lowest {number(min(finite))}, highest {number(max(finite))}."
        )
    return " ".join(sentences)


def _svg(body: str, width: float, height: float, title: str, description: str, kind: str = "chart") -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {_f(width)} {_f(height)}" role="img" xmlns="http://www.w3.org/2000/svg" '
        f'aria-label="{_text(title)}"><desc>{_text(description)}</desc>{body}</svg>'
    )


def _f(value: float) -> str:
    """A coordinate: at most one decimal, no trailing zero, no negative zero."""
    return f"{round(value, 1) + 0.0:g}" if abs(value) < 1e5 else f"{value:.0f}"


def _text(text: str) -> str:
    """Safe inside XML: escaped, and characters that XML forbids replaced."""
    legal = "".join(
        c if c in "\t\n" or " " <= c <= "\ud7ff" or "\ue000" <= c <= "\ufffd" or c > "\uffff" else "\ufffd"
        for c in text
    )
    return escape(legal)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
