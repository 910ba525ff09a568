"""`tether learning-curve`: held-out accuracy of reward models against the number of labels, and what more would buy.

A label is an example of the data: a comparison or ranking with all the votes on it. Each seed shuffles the prompts and
learns from the first labels in that order, so smaller sizes are parts of larger ones. Accuracy is the share of the
held-out comparisons that the scores put in the right order, each held-out prompt counted once; a tie is half right.

Parts: `learning_curve` (all of it), `divide` (what is held out), `first` (what a size learns from), `measure` (one
reward model), `summary` (the points as a report), `told` and `chart` (the report as lines, and as a picture).
"""

from __future__ import annotations

import hashlib
import random
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tether.algorithms.reward_model import REWARD_MODEL
from tether.config import StageSection
from tether.config.load import parse_stage
from tether.data.report import shared_prompts
from tether.data.template import Template
from tether.errors import InputError
from tether.evals.bootstrap import interval
from tether.feedback.curves import fit_curve, what_would_buy
from tether.math.preference_losses import all_pairs
from tether.models.plan import infer
from tether.monitor.charts import Series, line_chart
from tether.monitor.console import Progress
from tether.pipeline.artifacts import digest, locked, read_json, read_manifest, write_json
from tether.pipeline.place import Place
from tether.pipeline.precheck import precheck
from tether.pipeline.run import stage_key
from tether.pipeline.sections import sections
from tether.pipeline.train_stage import build_context
from tether.train.checkpoint import seed_everything
from tether.train.cursor import Cursor
from tether.train.loop import Run, iterate, num_steps
from tether.train.selftest import selftest
from tether.types import Group

POINTS, REPORT, CHART = "points.json", "learning_curve.json", "learning_curve.svg"
"""In the folder: what is measured so far; what it came to, as numbers and as a picture."""
PARTS = (8, 4, 2, 1)
"""The sizes when none are given: all labels, divided by these."""

_DRAWN = 33  # points of the curve in the picture


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    sizes: tuple[int, ...] = ()
    """Numbers of labels; an eighth, a quarter, half and all of what there is when empty."""
    more: int = 200
    """How many further labels to forecast the gain of."""
    held_out: float = 0.2
    """Share of the prompts whose labels are never learnt from; of no meaning where `eval_data` are given."""
    seeds: int = 3
    """Reward models of each size."""

    def check(self) -> None:
        """InputError for a value that makes no sense."""
        if self.sizes and (min(self.sizes) < 1 or len(set(self.sizes)) < 3):
            raise InputError("sizes: a curve needs three different numbers of labels or more, each at least 1")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out {self.held_out}: must be above 0 and below 1")
        if self.more < 1 or self.seeds < 1:
            raise InputError(f"more {self.more} and seeds {self.seeds}: must be at least 1")


class Point(NamedTuple):
    """One reward model."""

    labels: int
    seed: int
    right: list[float]
    """(m,) share of each held-out prompt's comparisons that it gets right."""


def learning_curve(
    model: str, data: str, out: Path, plan: Plan, overrides: Sequence[str] = (), run: Path | None = None
) -> dict[str, Any]:
    """Measures what `out` does not hold yet, writes the report and its chart there, and returns the report.

    `overrides` are settings of the reward models, as of `tether reward`; `stage:NAME` is a stage of `run`. With
    `eval_data` among them these are what accuracy is measured on. Points of other data or settings are measured again.

    Raises:
        InputError: an option, an input or the folder is wrong, or there are fewer labels than a size asks for.
    """
    plan.check()
    fields = {"name": "learning-curve", "algorithm": "reward_model", "model": model, "data": {"path": data}}
    section: Any = parse_stage(fields, sections(), overrides)
    if section.train.keep != "last":
        raise InputError("train.keep: the curve is of the last weights of each reward model; leave it out")
    before = _stages(run)
    precheck([section], [stage for stage, _ in before])
    key, _ = stage_key(section.model_dump(), section.seed or 0, {stage.name: key for stage, key in before})
    with locked(out):
        place = Place(run or out, out, section, section.seed or 0)
        learnt, held_out = _examples(place, plan.held_out)
        sizes = _sizes(plan.sizes, len(learnt))
        points = _measured(place, digest([key, plan.held_out]), sizes, plan.seeds, learnt, held_out)
        report = {"model": model, "data": data, "available": len(learnt)} | summary(points, plan.more)
        write_json(out / REPORT, report)
        (out / CHART).write_text(chart(report), encoding="utf-8")
    return report


def _stages(run: Path | None) -> list[tuple[StageSection, str]]:
    """The finished stages of a run, each with its key."""
    folders = [] if run is None else sorted(path for path in run.iterdir() if path.is_dir())
    found = [manifest for folder in folders if (manifest := read_manifest(folder)) is not None]
    return [(parse_stage(manifest["section"], sections()), manifest["key"]) for manifest in found]


def _examples(place: Place, share: float) -> tuple[list[Group], list[Group]]:
    """What may be learnt from, and what accuracy is measured on."""
    section: Any = place.section
    template = Template.load(place.model(section.model), end_of_turn=section.end_of_turn)
    context = build_context(place, REWARD_MODEL, template).roles["reward"].max_tokens
    groups = _ordered(place.groups(section.data, template, context, "preference"))
    if section.eval_data is None:
        return divide(groups, share)
    held_out = _ordered(place.groups(section.eval_data, template, context, "preference"))
    shared_prompts(groups, held_out)
    return groups, held_out


def _ordered(groups: Sequence[Group]) -> list[Group]:
    """Those that put any response before another. InputError when none does."""
    found = [group for group in groups if len(set(group.labels["ranking"])) > 1]
    if not found:
        raise InputError(f"of {len(groups)} examples none prefers a response to another")
    return found


def divide(groups: Sequence[Group], share: float) -> tuple[list[Group], list[Group]]:
    """(to learn from, held out): the labels of `share` of the prompts are held out, the same whatever else there is.

    InputError when that leaves no prompt on either side.
    """
    prompts = {group.prompt.token_ids for group in groups}
    by_hash = sorted(prompts, key=lambda ids: hashlib.sha256(repr(ids).encode()).hexdigest())
    count = round(share * len(prompts))
    if not 0 < count < len(prompts):
        raise InputError(f"held_out {share} of {len(prompts)} prompts: leaves none on one side; collect more")
    kept_back = set(by_hash[:count])
    parts: tuple[list[Group], list[Group]] = ([], [])
    for group in groups:
        parts[group.prompt.token_ids in kept_back].append(group)
    return parts


def _sizes(wanted: Sequence[int], available: int) -> list[int]:
    """In order. InputError when there are too few labels."""
    sizes = sorted({*wanted} or {available // part for part in PARTS})
    if sizes[0] < 1 or len(sizes) < 3:
        raise InputError(f"{available} labels to learn from are too few for a learning curve; collect more")
    if sizes[-1] > available:
        raise InputError(f"sizes: {sizes[-1]} labels are more than the {available} there are to learn from")
    return sizes


def _measured(
    place: Place, key: str, sizes: Sequence[int], seeds: int, learnt: Sequence[Group], held_out: Sequence[Group]
) -> list[Point]:
    """All points, by size and seed: those the folder knows, and the others measured and noted one after the other."""
    file = place.folder / POINTS
    kept = read_json(file)
    known = {} if kept is None or kept["key"] != key else {(p[0], p[1]): Point(*p) for p in kept["points"]}
    points, tested = [], False
    for size in sizes:
        for seed in range(place.seed, place.seed + seeds):
            if (size, seed) not in known:
                known[size, seed] = measure(replace(place, seed=seed), first(learnt, size, seed), held_out, not tested)
                tested = True
                write_json(file, {"key": key, "points": list(known.values())})
                accuracy = statistics.fmean(known[size, seed].right)
                print(f"learning-curve: {size} labels, seed {seed}: accuracy {accuracy:.3f}", flush=True)
            points.append(known[size, seed])
    return points


def first(groups: Sequence[Group], size: int, seed: int) -> list[Group]:
    """The first `size` labels with the prompts in an order drawn by `seed`, a prompt's labels beside each other."""
    by_prompt: dict[tuple[int, ...], list[Group]] = defaultdict(list)
    for group in groups:
        by_prompt[group.prompt.token_ids].append(group)
    order = list(by_prompt.values())
    random.Random(seed).shuffle(order)
    return [group for of_prompt in order for group in of_prompt][:size]


def measure(place: Place, learnt: Sequence[Group], held_out: Sequence[Group], test: bool) -> Point:
    """Trains a reward model as the section says and tries it on what is held out; `test`s the set-up before."""
    section: Any = place.section
    seed_everything(place.seed)
    ctx = build_context(place, REWARD_MODEL, Template.load(place.model(section.model), end_of_turn=section.end_of_turn))
    if test:
        selftest(REWARD_MODEL, ctx, learnt)
    run = Run(REWARD_MODEL, ctx, Cursor(learnt, place.seed), {"reward": section.optim}, place.folder)
    total = num_steps(section, len(learnt))
    with Progress(f"{len(learnt)} labels", total) as progress:
        for step in range(total):
            progress.update(step + 1, iterate(run, total))
    scores = infer(ctx.roles["reward"], held_out, ("scores",), token_budget=ctx.token_budget).scores
    return Point(len(learnt), place.seed, right(held_out, scores.view(len(scores), -1).mean(1).double().cpu().numpy()))


def right(groups: Sequence[Group], scores: np.ndarray[Any, Any]) -> list[float]:
    """For each prompt of `groups` the share of its comparisons that `scores` (S,) of their responses put right."""
    pairs = all_pairs([group.labels["ranking"] for group in groups])
    apart = scores[pairs.better] - scores[pairs.worse]
    of_prompt: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for group, gap in zip(pairs.group, apart.tolist(), strict=True):
        of_prompt[groups[group].prompt.token_ids].append(0.5 if gap == 0 else float(gap > 0))
    return [statistics.fmean(found) for found in of_prompt.values()]


def summary(points: Sequence[Point], more: int) -> dict[str, Any]:
    """The sizes' accuracies, the curve through them and what `more` labels would buy, as JSON can carry it.

    Intervals of 95 %: a size's is over held-out prompts, its seeds averaged; the curve's is that of `fit_curve`.
    """
    held_out = len(points[0].right)
    curve = fit_curve([p.labels for p in points], [statistics.fmean(p.right) for p in points], held_out, same=True)
    of_size: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        of_size[point.labels].append(point)
    gain, end = what_would_buy(curve, more=more), curve.largest + more
    return {
        "held_out_prompts": held_out,
        "sizes": [
            {
                "labels": size,
                "accuracy": interval(np.mean([p.right for p in found], axis=0)).as_dict(),
                "by_seed": [statistics.fmean(p.right) for p in found],
                "curve": curve.at(size).as_dict(),
            }
            for size, found in of_size.items()
        ],
        "curve": curve.as_dict(),
        "line": [{"labels": n} | curve.at(n).as_dict() for n in np.linspace(points[0].labels, end, _DRAWN).tolist()],
        "forecast": {"labels": end, "accuracy": curve.at(end).as_dict()},
        "gain": {"more": more} | gain.as_dict(),
    }


def told(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal."""
    lines = [f"{'labels':>8} {'accuracy':>9}  {'95% interval':<16}{'curve':>6}  by seed"]
    for size in report["sizes"]:
        found, seeds = size["accuracy"], "  ".join(f"{100 * one:.1f}" for one in size["by_seed"])
        lines.append(
            f"{size['labels']:>8} {100 * found['estimate']:>9.1f}  {_span(found):<16}"
            f"{100 * size['curve']['estimate']:>6.1f}  {seeds}"
        )
    curve, gain = report["curve"], report["gain"]
    end = report["forecast"]["labels"]
    lines += [
        f"on {report['held_out_prompts']} held-out prompts; accuracy = {100 * curve['a']:.1f} − "
        f"{100 * curve['b']:.3g} n^−{curve['c']:.2f} per cent, n labels",
        f"{gain['more']} more labels ({end - gain['more']:.0f} to {end:.0f}) would buy {100 * gain['estimate']:.1f} "
        f"points (95% interval {_span(gain)}), as far as the curve holds",
    ]
    return lines


def _span(found: Mapping[str, float]) -> str:
    return f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"


def chart(report: Mapping[str, Any]) -> str:
    """A picture (SVG) of the measured accuracies and the curve, up to the forecast."""
    sizes, line = report["sizes"], report["line"]
    measured = Series(
        "measured",
        [(size["labels"], size["accuracy"]["estimate"]) for size in sizes],
        [(size["accuracy"]["low"], size["accuracy"]["high"]) for size in sizes],
        dots=True,
    )
    fitted = Series("curve", [(n["labels"], n["estimate"]) for n in line], [(n["low"], n["high"]) for n in line])
    drawn = line_chart(
        [measured, fitted], title="Held-out accuracy against labels", width=460, height=280, x_label="labels"
    )
    style = files("tether.monitor").joinpath("charts.css").read_text(encoding="utf-8")
    return drawn.replace("<desc>", f"<style>{style}</style><desc>", 1)
