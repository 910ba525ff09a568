"""The lineage graph: one artifact a row, oldest first, with the threads that lead from each to what was made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

ROW = 58
"""Pixels a row; the page's rows are as high (`.lineage li` in report.css)."""
LANE = 11
"""Pixels between two threads."""


class Edge(NamedTuple):
    """`target` was made from `source`."""

    source: str
    """A stage's name, or an input from outside: a path, a hub id, `demo:NAME`."""
    target: str
    """A stage's name."""
    label: str = ""
    """What it is to the target: `model`, `data`, `reward` …"""
    hash: str = ""
    """Content hash of the source."""


class Node(NamedTuple):
    """A row of the graph."""

    name: str
    kind: str
    """The stage's algorithm; empty for an input from outside."""
    hash: str
    made_from: str
    """`model from sft, data from prompts`."""


def lineage_rows(stages: Mapping[str, tuple[str, str]], edges: Sequence[Edge]) -> list[Node]:
    """Rows in an order in which nothing comes before what it was made from. `stages` is name → (algorithm, hash).

    Otherwise the order is the recipe's, and an input from outside stands right above its first use.
    """
    hashes = {e.source: e.hash for e in edges if e.hash}
    order: list[str] = []

    def visit(name: str, above: tuple[str, ...] = ()) -> None:
        if name in order or name in above:
            return
        for edge in edges:
            if edge.target == name:
                visit(edge.source, (*above, name))
        order.append(name)

    for name in (*stages, *(e.source for e in edges), *(e.target for e in edges)):
        visit(name)
    rows = []
    for name in order:
        kind, key = stages.get(name, ("", ""))
        sources = [f"{e.label} from {e.source}" if e.label else f"from {e.source}" for e in edges if e.target == name]
        rows.append(Node(name, kind, key or hashes.get(name, ""), ", ".join(sources)))
    return rows


def lineage_svg(rows: Sequence[Node], edges: Sequence[Edge]) -> str:
    """The threads, as high as the rows beside which they stand."""
    place = {node.name: index for index, node in enumerate(rows)}
    spans = sorted({(place[e.source], place[e.target]) for e in edges}, key=lambda s: (s[1] - s[0], s))
    lanes = _lanes([span for span in spans if span[1] - span[0] > 1])
    right = 12 + LANE * (max(lanes.values(), default=0))
    parts = []
    for start, end in spans:
        top, bottom = start * ROW + ROW / 2, end * ROW + ROW / 2
        left = right - LANE * lanes.get((start, end), 0)
        if left == right:
            parts.append(f'<path class="thread" d="M{right} {top:g}V{bottom:g}"/>')
        else:
            bend = 8 + min(14, right - left)
            out = f"M{right} {top:g}C{left} {top + 6:g} {left} {top + 10:g} {left} {top + bend:g}"
            back = f"V{bottom - bend:g}C{left} {bottom - 10:g} {left} {bottom - 6:g} {right} {bottom:g}"
            parts.append(f'<path class="thread" d="{out}{back}"/>')
    for index, node in enumerate(rows):
        y = index * ROW + ROW / 2
        if node.kind:
            parts.append(f'<circle class="stage" cx="{right}" cy="{y:g}" r="5.5"/>')
        else:
            parts.append(f'<rect class="outside" x="{right - 4.5}" y="{y - 4.5:g}" width="9" height="9" rx="1.5"/>')
    width, height = right + 12, len(rows) * ROW
    return (
        f'<svg class="threads" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'xmlns="http://www.w3.org/2000/svg" aria-label="Lineage graph">{"".join(parts)}</svg>'
    )


def _lanes(spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
    """Lane 1, 2, … for each span, so that no two that overlap share one."""
    taken: dict[tuple[int, int], int] = {}
    for span in spans:
        busy = {lane for other, lane in taken.items() if other[0] < span[1] and span[0] < other[1]}
        taken[span] = next(lane for lane in range(1, len(spans) + 1) if lane not in busy)
    return taken
