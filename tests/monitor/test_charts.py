"""Charts: coordinates worked out by hand, valid XML whatever the input, round ticks, honest smoothing and thinning."""

from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.monitor.charts import Series, bar_chart, goodhart_chart, histogram, interval_bar, line_chart
from tether.monitor.lineage import Edge, lineage_rows, lineage_svg
from tether.monitor.scales import nice_ticks, noisy, smoothed, thin, tick_text

SVG = "{http://www.w3.org/2000/svg}"
points = st.lists(st.tuples(st.integers(0, 500), st.floats(width=32)), max_size=60, unique_by=lambda p: p[0]).map(
    sorted
)


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def paths(svg: str, kind: str) -> list[str]:
    return [e.get("d") or "" for e in parse(svg).iter(f"{SVG}path") if (e.get("class") or "") == kind]


def test_line_by_hand():
    """320 × 176, margins 44, 12, 14, 24: x 0…10 is 44…308, y 0…1 is 152…14."""
    svg = line_chart([Series("a", [(0, 0.0), (5, 0.5), (10, 1.0)])], title="t")
    assert paths(svg, "line s1") == ["M44 152L176 83L308 14"]


def test_two_series_make_room_for_a_legend():
    svg = line_chart([Series("a", [(0, 0.0), (10, 1.0)]), Series("b", [(0, 1.0), (10, 0.0)], dots=True)], title="t")
    assert paths(svg, "line s2")[0] == "M44 32L308 152"  # the plot begins 18 lower
    assert {e.text for e in parse(svg).iter(f"{SVG}text")} >= {"a", "b"}
    assert (
        len([e for e in parse(svg).iter(f"{SVG}rect") if e.get("class") == "dot s2"]) == 3
    )  # two points and the legend


def test_band_by_hand():
    svg = line_chart([Series("a", [(0, 0.5), (10, 0.5)], band=[(0.0, 1.0), (0.25, 0.75)])], title="t")
    polygon = next(parse(svg).iter(f"{SVG}polygon"))
    assert polygon.get("points") == "44,14 308,48.5 308,117.5 44,152"


def test_a_gap_is_a_gap():
    svg = line_chart([Series("a", [(0, 0.0), (1, 1.0), (2, math.nan), (3, math.inf), (4, 0.5), (5, 1.0)])], title="t")
    (path,) = paths(svg, "line s1")
    assert re.sub("[^ML]", "", path) == "MLML"


def test_readouts_say_every_series_at_a_step():
    svg = line_chart([Series("a", [(0, 0.25), (4, 1.5)]), Series("b", [(4, 3.0)])], title="t")
    assert [e.text for g in parse(svg).iter(f"{SVG}g") for e in g.iter(f"{SVG}title")] == [
        "step 0: 0.25",
        "step 4: 1.5 · 3",
    ]


def test_marks_stand_at_their_step():
    svg = line_chart([Series("a", [(0, 0.0), (10, 1.0)])], title="t", marks=[(5, "alarm & <b>")])
    assert paths(svg, "mark") == ["M176 14V152"]


@given(points, points, st.text(max_size=20), st.text(max_size=20))
def test_any_series_is_valid_xml_inside_its_frame(first, second, title, label):
    svg = line_chart([Series(label, first), Series("b", second)], title=title, description=label)
    if not any(math.isfinite(y) for _, y in [*first, *second]):
        assert svg == ""
        return
    tree = parse(svg)
    drawn = " ".join(e.get("d") or "" for e in tree.iter(f"{SVG}path"))
    numbers = [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", drawn)]
    assert all(-1 <= n <= 321 for n in numbers)
    assert "nan" not in drawn
    assert tree.find(f"{SVG}desc") is not None
    assert svg == line_chart([Series(label, first), Series("b", second)], title=title, description=label)


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9), st.integers(1, 8))
def test_ticks_are_round_enclose_and_are_few(a, b, count):
    low, high = min(a, b), max(a, b)
    ticks = nice_ticks(low, high, count)
    slack = 1e-6 * max(high - low, abs(low), 1e-300)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= count + 2
    assert ticks == sorted(set(ticks))


def test_ticks_by_hand():
    assert nice_ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
    assert nice_ticks(-0.3, 7.2) == [-2, 0, 2, 4, 6, 8]
    assert nice_ticks(5, 5) == [4.5, 4.75, 5, 5.25, 5.5]
    assert [tick_text(t, 0.25) for t in (0, 0.25, -0.5)] == ["0", "0.25", "−0.50"]
    assert [tick_text(t, 1000) for t in (1000, 12000)] == ["1000", "12k"]
    assert tick_text(2e-5, 1e-5) == "2e−5"


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 300))
def test_smoothing_keeps_a_straight_line_to_its_ends(a, b, size):
    line = [(float(i), a + b * i / size) for i in range(size)]
    assert smoothed(line) == [(x, pytest.approx(y, abs=1e-6)) for x, y in line]


def test_a_schedule_is_not_smoothed_and_noise_is():
    assert not noisy([(float(i), min(i / 10, 1) * (100 - i)) for i in range(100)])
    assert noisy([(float(i), float(i % 2)) for i in range(100)])
    assert not noisy([(float(i), float(i % 2)) for i in range(23)])
    assert not noisy([(float(i), 1.0) for i in range(100)])


def test_smoothing_is_the_mean_of_neighbours_inside():
    line = [(float(i), float(i % 2)) for i in range(60)]  # half-width 3: four of one kind, three of the other
    assert smoothed(line)[30][1] == pytest.approx(4 / 7)
    assert smoothed(line)[31][1] == pytest.approx(3 / 7)


@settings(max_examples=25)
@given(st.lists(st.floats(-9, 9) | st.just(math.nan), min_size=300, max_size=600))
def test_thinning_keeps_the_extremes_and_the_order(values):
    series = list(enumerate(values))
    kept = thin(series)
    finite = [v for v in values if math.isfinite(v)]
    assert len(kept) <= 360
    assert all(a[0] < b[0] for a, b in itertools.pairwise(kept))
    if finite:
        shown = [v for _, v in kept if math.isfinite(v)]
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    assert any(math.isnan(v) for _, v in kept) == any(math.isnan(v) for v in values)


def test_goodhart_by_hand():
    """√KL 0…2 is 44…364; proxy gains 2 of 2, gold 0.5 of its best 1.0."""
    svg = goodhart_chart([(0.0, 1.0), (1.0, 2.0), (4.0, 3.0)], [(0.0, 0.0), (1.0, 1.0), (4.0, 0.5)])
    assert paths(svg, "line s1") == ["M44 242L204 128L364 14"]
    assert paths(svg, "line s2") == ["M44 242L204 14L364 128"]
    assert {e.text for e in parse(svg).iter(f"{SVG}text")} >= {"proxy", "gold", "+2", "+0.5", "√KL to the reference"}
    assert goodhart_chart([(0, 1)], [(0, 1)]) == ""


def test_bars_and_columns_by_hand():
    bars = list(parse(bar_chart([("a", 1.0), ("b", 2.0), ("c", math.nan)], title="t")).iter(f"{SVG}rect"))
    assert [e.get("width") for e in bars] == ["81", "162", "0"]  # 110…272 is 0…2
    columns = [
        e for e in parse(histogram([(0, 1, 2), (1, 2, 4)], title="t")).iter(f"{SVG}rect") if e.get("class") == "bar"
    ]
    assert [(e.get("x"), e.get("y"), e.get("height")) for e in columns] == [
        ("44.5", "70", "56"),
        ("176.5", "14", "112"),
    ]
    assert bar_chart([], title="t") == histogram([], title="t") == ""


def test_interval_by_hand():
    svg = interval_bar(0.5, 0.25, 2.0, start=0, end=1, reference=0.5, title="t")
    assert paths(svg, "interval") == ["M52 10H196"]  # 4…196 is 0…1, and what is beyond stops at the end
    assert paths(svg, "reference") == ["M100 2V18"]


def test_lineage_order_and_threads():
    edges = [
        Edge("sft", "ppo", "model"),
        Edge("rm", "ppo", "reward"),
        Edge("file.jsonl", "rm", "data", "abc"),
        Edge("sft", "rm", "model"),
    ]
    rows = lineage_rows({"ppo": ("ppo", "k3"), "rm": ("reward_model", "k2"), "sft": ("sft", "k1")}, edges)
    assert [(row.name, row.hash) for row in rows] == [("sft", "k1"), ("file.jsonl", "abc"), ("rm", "k2"), ("ppo", "k3")]
    assert rows[-1].made_from == "model from sft, reward from rm"
    svg = lineage_svg(rows, edges)
    assert len(paths(svg, "thread")) == 4
    assert len({p.split("V")[0].split("C")[-1] for p in paths(svg, "thread") if "C" in p}) == 2  # two lanes
    assert len(list(parse(svg).iter(f"{SVG}circle"))) == 3


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)).filter(lambda e: e[0] < e[1]), max_size=20))
def test_nothing_stands_above_what_it_was_made_from(pairs):
    edges = [Edge(f"n{a}", f"n{b}") for a, b in pairs]
    stages = {f"n{i}": ("x", "") for i in reversed(range(9))}
    place = {row.name: i for i, row in enumerate(lineage_rows(stages, edges))}
    assert len(place) == 9
    assert all(place[e.source] < place[e.target] for e in edges)
    parse(lineage_svg(lineage_rows(stages, edges), edges))


def test_a_circle_in_the_lineage_ends():
    edges = [Edge("a", "b"), Edge("b", "a")]
    assert {row.name for row in lineage_rows({}, edges)} == {"a", "b"}
