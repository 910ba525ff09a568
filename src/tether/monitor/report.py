"""The report of a run: one HTML file that needs nothing but itself, and the same data as JSON beside it.

Everything a model or a data file wrote is hostile: it is escaped by Jinja, and the page's content security policy
allows no script, no frame and no request at all.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from tether.monitor.charts import Series, bar_chart, goodhart_chart, interval_bar, line_chart
from tether.monitor.console import duration
from tether.monitor.findings import Measure, findings, measures, over_optimisation
from tether.monitor.lineage import Edge, lineage_rows, lineage_svg
from tether.monitor.log import plain
from tether.monitor.metric_table import Metric
from tether.monitor.metrics import ALSO, METRICS, described, label, number
from tether.monitor.samples import word_diff
from tether.monitor.scales import Point, noisy, smoothed

PRIMARY = {
    *("reward/proxy", "kl/ref", "policy/entropy", "rollout/length", "rollout/distinct_2"),
    *("eval/gold", "eval/distinct_2"),
    *("sft/loss", "lm/loss", "rm/loss", "rm/accuracy", "rm/margin"),
}
"""Curves shown at once; the others open on demand."""
OPEN_SAMPLES, MAX_SAMPLES = 6, 48
"""Held-out samples shown at once, and on demand; all of them are in report.json."""
MARKED = re.compile("[⟦⟧]")
"""What stands around the trained tokens of a data report's sample."""


@dataclass(frozen=True)
class StageReport:
    """What one stage did."""

    name: str
    algorithm: str
    status: str
    """`done`, `running`, `cut` or `waiting`."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """The numbers it ended with, for one line."""
    events: Sequence[Mapping[str, Any]] = ()
    """Its event log, as `read_events` gives it."""
    data_report: Mapping[str, Any] | None = None
    """What became of its data. Numbers, texts, `{reason: count}` tables; `sample` is an example as the model
    reads it, what the loss counts between ⟦ and ⟧; `warnings` are sentences."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Field of the recipe → what it read, with its hash."""
    key: str = ""
    """Hash of everything it was made from."""
    seconds: float | None = None
    """Wall-clock time."""


@dataclass(frozen=True)
class RunReport:
    """A run, whole or under way."""

    title: str
    stages: Sequence[StageReport]
    samples: Sequence[Mapping[str, Any]] = ()
    """`{"prompt": str, "answers": {label: text}, "scores": {label: {name: float}}}`, the first policy's label first."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """Name → number, or `{"value", "low", "high", "n", "baseline", "against"}` (see `findings.measures`)."""
    evaluations: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Stage → its evaluation, where there are several: one for each round, say."""
    lineage: Sequence[Edge] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and hardware."""
    recipe: str = ""
    """The recipe as it was run, in TOML."""


class Card(NamedTuple):
    """A curve and what is said about it."""

    title: str
    metric: str
    last: str
    chart: Markup
    about: Metric | None


class Answer(NamedTuple):
    """One checkpoint's answer to a held-out prompt."""

    label: str
    pieces: Sequence[tuple[str, bool]]
    """Text, and whether it is marked as different."""
    scores: Sequence[tuple[str, str]]


def write_report(run: RunReport, path: str | Path) -> Path:
    """Write `path` (HTML) and `report.json` beside it, each under a temporary name and renamed. Returns `path`."""
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    _replace(
        page.with_name("report.json"), json.dumps(report_data(run), indent=1, ensure_ascii=True, sort_keys=True) + "\n"
    )
    _replace(page, render(run))
    return page


def report_data(run: RunReport) -> dict[str, Any]:
    """The report as JSON data. Only `timing` differs between two runs of the same recipe and seed on one machine."""
    data: dict[str, Any] = plain(dataclasses.asdict(run))
    data["lineage"] = [edge._asdict() for edge in run.lineage]
    data["timing"] = {stage["name"]: stage.pop("seconds") for stage in data["stages"]}
    data["findings"] = [finding._asdict() for finding in findings(run.evaluation, _all_events(run))]
    return data


def render(run: RunReport) -> str:
    """The page's HTML."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": _cell, "duration": duration, "label": label, "prose": _prose}
    proxy, gold = over_optimisation(_all_events(run))
    rows = lineage_rows({s.name: (s.algorithm, s.key) for s in run.stages}, run.lineage)
    samples = [_sample(sample) for sample in run.samples[:MAX_SAMPLES]]
    return environment.get_template("report.html.j2").render(
        run=run,
        findings=findings(run.evaluation, _all_events(run)),
        tiles=[(m, _strip(m)) for m in measures(run.evaluation)],
        compared=_compared(run.evaluations),
        goodhart=Markup(goodhart_chart(proxy, gold)),
        gold_chart=Markup(_gold_chart(run)),
        samples=samples[:OPEN_SAMPLES],
        more_samples=samples[OPEN_SAMPLES:],
        stages=[(stage, _summary(stage), *_cards(stage), _data(stage)) for stage in run.stages],
        lineage=rows,
        threads=Markup(lineage_svg(rows, run.lineage)),
        timing=_timing(run),
        seconds=sum(stage.seconds or 0.0 for stage in run.stages),
    )


def _all_events(run: RunReport) -> list[Mapping[str, Any]]:
    """Events of the last stage with a gold score, else of the last with any: what a headline speaks about."""
    for stage in reversed(run.stages):
        if any("eval/gold" in event for event in stage.events):
            return list(stage.events)
    return next((list(stage.events) for stage in reversed(run.stages) if stage.events), [])


def _compared(evaluations: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(measure, (stage, value and interval)) of several evaluations, a row for each measure that all of them have."""
    if len(evaluations) < 2:
        return []
    found = {stage: {m.name: m for m in measures(evaluation)} for stage, evaluation in evaluations.items()}
    first = next(iter(found.values()))
    return [
        (m.label, [(stage, _measured(own[name])) for stage, own in found.items()])
        for name, m in first.items()
        if all(name in own for own in found.values())
    ]


def _measured(measure: Measure) -> str:
    return f"{measure.text()} ({measure.interval})" if measure.interval else measure.text()


def _strip(measure: Measure) -> Markup:
    """Where a share and its interval lie between nothing and everything."""
    if measure.low is None or measure.high is None or measure.name not in ("win_rate", "accuracy"):
        return Markup("")
    return Markup(
        interval_bar(
            measure.value,
            measure.low,
            measure.high,
            start=0.0,
            end=1.0,
            reference=0.5,
            title=f"{measure.label} and its interval",
        )
    )


def _gold_chart(run: RunReport) -> str:
    """The gold score over training, with its interval where the evaluations have one."""
    curves = _curves(_all_events(run), "eval")
    if len(curves.get("eval/gold", ())) < 2:
        return ""
    series = dataclasses.replace(_held_out("eval/gold", curves), hue=2)
    return line_chart([series], title="Gold score over training", width=460, height=280)


def _held_out(name: str, curves: Mapping[str, list[Point]]) -> Series:
    """Evaluations of `name`, with a band where `NAME_low` and `NAME_high` were logged at the same steps."""
    points = curves[name]
    ends = [dict(curves.get(f"{name}_{end}", ())) for end in ("low", "high")]
    known = all(x in end for x, _ in points for end in ends)
    return Series("held out", points, [(ends[0][x], ends[1][x]) for x, _ in points] if known else None, dots=True)


def _cards(stage: StageReport) -> tuple[list[Card], list[Card]]:
    """The stage's curves: those to see at once, and the others."""
    train, held_out = _curves(stage.events, "train"), _curves(stage.events, "eval")
    marks = [(float(e["step"]), str(e.get("text", "alarm"))) for e in stage.events if e.get("kind") == "alarm"]
    order = {name: index for index, name in enumerate(METRICS)}
    names = sorted({*train, *held_out}, key=lambda name: (order.get(name, len(order)), name))
    companions = {ALSO[name] for name in train if name in ALSO}
    companions |= {f"{name}_{end}" for name in held_out for end in ("low", "high")}
    first: list[Card] = []
    others: list[Card] = []
    for name in names:
        if name in companions and name not in train:
            continue
        series = [Series("training", train[name])] if name in train else []
        if ALSO.get(name, name) in held_out:
            series.append(_held_out(ALSO.get(name, name), held_out))
        chart = line_chart(series, title=f"{label(name)}, {stage.name}", marks=marks)
        if chart:
            card = Card(label(name), name, _last(series[0].points), Markup(chart), described(name))
            (first if name in PRIMARY else others).append(card)
    return (first, others) if first else (others, [])


def _last(points: Sequence[Point]) -> str:
    """The number beside a curve's name: where the curve ends, smoothed as it is drawn."""
    fit = smoothed(points) if noisy(points) else []
    return number((fit or points)[-1][1])


def _curves(events: Sequence[Mapping[str, Any]], kind: str) -> dict[str, list[Point]]:
    """Metric → its (step, value) in the events of this kind; of a step logged twice the last."""
    curves: dict[str, dict[float, float]] = {}
    for event in events:
        if event.get("kind") == kind:
            for name, value in event.items():
                if "/" in name and isinstance(value, int | float):
                    curves.setdefault(name, {})[float(event["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def _sample(sample: Mapping[str, Any]) -> tuple[str, list[Answer], list[Answer]]:
    """Prompt, (first, last) answers with their differences marked, and those in between."""
    scores = sample.get("scores") or {}
    texts = list(sample["answers"].items())
    marked = word_diff(texts[0][1], texts[-1][1]) if len(texts) > 1 else None
    answers = []
    for index, (name, text) in enumerate(texts):
        pieces: Sequence[tuple[str, bool]] = [(text, False)]
        if marked and index in (0, len(texts) - 1):
            pieces = marked[0 if index == 0 else 1]
        own = scores.get(name, {})
        shown = own.items() if isinstance(own, Mapping) else [("score", own)]
        answers.append(Answer(name, pieces, [(key, _cell(value)) for key, value in shown]))
    ends = answers if len(answers) < 2 else [answers[0], answers[-1]]
    return str(sample["prompt"]), ends, answers[1:-1]


def _summary(stage: StageReport) -> dict[str, Any]:
    """The stage's plain numbers and texts; those of a mapping in it too, but nothing deeper."""
    flat: dict[str, Any] = {}
    for name, item in stage.summary.items():
        inner = item if isinstance(item, Mapping) else {name: item}
        flat |= {key: value for key, value in inner.items() if isinstance(value, str | int | float)}
    return flat


def _data(stage: StageReport) -> dict[str, Any] | None:
    """The data report, sorted into what the page shows in different ways."""
    if not stage.data_report:
        return None
    facts, tables = {}, {}
    for key, value in stage.data_report.items():
        name = key.replace("_", " ")
        if key in ("sample", "warnings"):
            continue
        if isinstance(value, Mapping):
            numeric = [
                (str(k), float(v)) for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)
            ]
            if numeric:
                tables[name] = Markup(bar_chart(numeric, title=f"{name}, {stage.name}"))
        else:
            facts[name] = value
    sample = stage.data_report.get("sample")
    return {
        "facts": facts,
        "tables": tables,
        "sample": [(text, place % 2 == 1) for place, text in enumerate(MARKED.split(sample or ""))] if sample else None,
        "warnings": stage.data_report.get("warnings") or (),
    }


def _timing(run: RunReport) -> list[tuple[str, str, float]]:
    """(stage, time in words, per cent of the longest)."""
    known = [(stage.name, stage.seconds) for stage in run.stages if stage.seconds is not None]
    longest = max((seconds for _, seconds in known), default=0.0) or 1.0
    return [(name, duration(seconds), round(100 * seconds / longest, 1)) for name, seconds in known]


def _cell(value: Any) -> str:
    """A value in a table: numbers for reading, lists with commas, anything else as it is."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(_cell, value)) if isinstance(value, list | tuple) else str(value)


def _prose(text: str) -> Markup:
    """`names` between backticks as code, all of it escaped."""
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if place % 2 else piece for place, piece in enumerate(text.split("`"))
    )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(text.encode("utf-8", "replace"))  # a sampled text may hold a lone surrogate
    os.replace(temporary, path)
