"""What active selection buys: held-out accuracy of reward models per label, pairs chosen by BALD against any pairs.

    python benchmarks/active.py --seeds 3 --write benchmarks/RESULTS.md

On the quickstart's SFT policy, its sampled pairs (the pool) and its raters. Both arms of a seed start from the same few
pairs, drawn uniformly; in each round an ensemble learns from all labels so far, and the next pairs are asked. A label
is a pair asked about, whether the raters could tell its responses apart or not; those they could not teach nothing.
Accuracy is that of the members' mean score on comparisons of replies to prompts of another split. A learning curve is
fitted to the uniform arm without its last budget, and its forecast of that set against what came.

Parts: `recipe` (what is labelled), `read` (as data), `Bench.scores` (one member), `Bench.arm` (its rounds), `table`,
`forecast`, `audited`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

import numpy as np
from numpy.typing import NDArray
from pages import put

import tether
from tether.algorithms.reward_model import REWARD_MODEL
from tether.config.load import parse_stage
from tether.data.template import Template
from tether.evals.reward_quality import pairwise_accuracy
from tether.feedback.active import Selected, information, population_mean, select_pairs
from tether.feedback.curves import fit_curve, what_would_buy
from tether.models.plan import infer
from tether.pipeline.artifacts import read_jsonl
from tether.pipeline.place import Place
from tether.pipeline.sections import sections
from tether.pipeline.train_stage import build_context
from tether.rollout.rows import from_rows
from tether.train.checkpoint import seed_everything
from tether.train.cursor import Cursor
from tether.train.loop import Run, iterate, num_steps
from tether.types import Group

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.toml"
FIRST = ("sft", "pairs", "votes")
REWARD = {
    "name": "reward",
    "algorithm": "reward_model",
    "model": "stage:sft",
    "data": {"path": "stage:votes"},
    "train": {"epochs": 3, "batch_size": 16, "token_budget": 2048},
    "optim": {"lr": 1e-3, "warmup": 0.1, "schedule": "cosine", "weight_decay": 0.1},
}
"""As the quickstart's, but for few labels: smaller batches, one more pass."""

Floats = NDArray[np.float64]


class Data(NamedTuple):
    """What is asked about, and what answers are measured on."""

    pool: list[Group]
    """Pairs that may be asked about."""
    answers: list[Group | None]
    """The comparison each comes to; None where the raters' votes do not tell its responses apart."""
    test: list[Group]
    """Replies to prompts of the `test` split."""
    better: list[int]
    """For each held-out comparison the place of its chosen response among all of `test`."""
    worse: list[int]
    """And of its rejected one."""


class Round(NamedTuple):
    """An arm at one budget."""

    labels: int
    accuracy: float
    """Of the mean of the members' scores."""
    alone: float
    """Mean accuracy of the members by themselves."""
    decided: float
    """Share of the labels that told the responses apart."""


class Audit(NamedTuple):
    """The last pairs an active arm chose: the share that the raters decide."""

    chosen: float
    weighed: float
    """Estimated for all candidates, by the recorded propensities."""
    error: float
    """Half the width of its 95 % interval."""
    candidates: float
    """Of all candidates in truth, which only a benchmark knows."""


def recipe() -> dict[str, Any]:
    """The quickstart up to its votes, and comparisons of four replies each to prompts of the `test` split."""
    stages = [s for s in tomllib.loads(QUICKSTART.read_text())["stage"] if s["name"] in FIRST]
    pairs = next(s for s in stages if s["name"] == "pairs")
    data = {"path": "demo:chitchat-prompts", "split": "test"}
    stages.append(pairs | {"name": "fresh", "data": data, "num_responses": 4})
    stages.append({"name": "fresh-votes", "algorithm": "label", "responses": "stage:fresh", "overlap": 3})
    return {"run": {"name": "active", "seed": 0}, "stage": stages}


def read(folder: Path) -> Data:
    """The stages' artifacts."""

    def groups(name: str) -> list[Group]:
        return from_rows(read_jsonl(folder / name))

    def comparisons(stage: str) -> list[Group]:
        return [group for split in ("train", "validation") for group in groups(f"{stage}/{split}.jsonl")]

    pool, test = groups("pairs/groups.jsonl"), groups("fresh/groups.jsonl")
    answers = {group.prompt.meta["id"]: group for group in comparisons("votes")}
    said = [(group.prompt.meta["id"], response.text) for group in test for response in group.responses]
    place = {key: at for at, key in enumerate(said)}
    held_out = comparisons("fresh-votes")
    better, worse = ([place[g.prompt.meta["id"], g.responses[side].text] for g in held_out] for side in (0, 1))
    return Data(pool, [answers.get(group.prompt.meta["id"]) for group in pool], test, better, worse)


@dataclass(frozen=True)
class Bench:
    """The setting that all arms share."""

    folder: Path
    data: Data
    budgets: Sequence[int]
    members: int
    arms: dict[str, float]
    """Name → share of its pairs that are drawn uniformly."""

    def scores(self, learnt: Sequence[Group], asked: Sequence[Group], seed: int) -> Floats:
        """(S,) scores of a reward model that learnt these comparisons, for responses of `test` and then of `asked`."""
        section: Any = parse_stage(REWARD, sections())
        place = Place(self.folder, self.folder / "reward", section, seed)
        seed_everything(seed)
        ctx = build_context(place, REWARD_MODEL, Template.load(place.model(section.model)))
        run = Run(REWARD_MODEL, ctx, Cursor(learnt, seed), {"reward": section.optim}, place.folder)
        total = num_steps(section, len(learnt))
        for _ in range(total):
            iterate(run, total)
        outputs = infer(ctx.roles["reward"], [*self.data.test, *asked], ("scores",), token_budget=2048)
        found: Floats = outputs.scores.double().numpy()
        return found

    def ensemble(self, labelled: Sequence[int], rest: Sequence[int], seed: int) -> tuple[Round, Floats]:
        """How good members that learnt the labels are; and their scores (E, P, 2) of the pairs `rest`."""
        learnt = [answer for at in labelled if (answer := self.data.answers[at]) is not None]
        asked = [self.data.pool[at] for at in rest]
        scores = np.stack([self.scores(learnt, asked, 100 * seed + member) for member in range(self.members)])
        test, pool = np.split(scores, [sum(len(group.responses) for group in self.data.test)], axis=1)
        alone = statistics.fmean(self.accuracy(own) for own in test)
        measured = Round(len(labelled), self.accuracy(test.mean(0)), alone, len(learnt) / len(labelled))
        return measured, pool.reshape(self.members, len(rest), 2)

    def accuracy(self, scores: Floats) -> float:
        """Share of the held-out comparisons that the scores (S,) of `test` get right."""
        return pairwise_accuracy(scores[self.data.better], scores[self.data.worse], num=1).estimate

    def seed(self, seed: int) -> tuple[list[list[Round]], Audit]:
        """Every arm's rounds, from the same start; and what the propensities of the last arm say."""
        count = len(self.data.pool)
        start = [one.pair for one in select_pairs(np.ones(count), self.budgets[0], uniform=1.0, seed=seed)]
        first, scores = self.ensemble(start, self.rest(start), seed)
        done = [self.arm(arm, start, first, scores, seed) for arm in self.arms]
        return [rounds for rounds, _ in done], done[-1][1]

    def arm(self, arm: str, start: Sequence[int], first: Round, scores: Floats, seed: int) -> tuple[list[Round], Audit]:
        """Asks, learns and measures up to the last budget; `scores` are the first ensemble's, of all that is left."""
        labelled, rounds, uniform = list(start), [first], self.arms[arm]
        for before, budget in pairwise(self.budgets):
            rest = self.rest(labelled)
            merit = information(scores) if uniform < 1 else np.ones(len(rest))
            chosen = select_pairs(merit, budget - before, uniform=uniform, seed=1000 * seed + budget)
            labelled += [rest[one.pair] for one in chosen]
            ahead = self.rest(labelled) if uniform < 1 and budget < self.budgets[-1] else []
            measured, scores = self.ensemble(labelled, ahead, seed)
            print(f"seed {seed}, {arm}: {measured}", flush=True)
            rounds.append(measured)
        return rounds, self.audit(chosen, rest)

    def rest(self, labelled: Sequence[int]) -> list[int]:
        """The pairs that were not asked about yet."""
        return sorted(set(range(len(self.data.pool))) - set(labelled))

    def audit(self, chosen: Sequence[Selected], rest: Sequence[int]) -> Audit:
        """What the chosen among the candidates `rest` say of all of these."""
        decided = np.array([self.data.answers[at] is not None for at in rest], dtype=np.float64)
        values = decided[[one.pair for one in chosen]]
        found = population_mean(values, [one.propensity for one in chosen])
        return Audit(float(values.mean()), found.estimate, found.high - found.estimate, float(decided.mean()))


def table(runs: Sequence[Sequence[Sequence[Round]]]) -> str:
    """Markdown: a row a budget. `runs` are seeds × arms (uniform, active) × budgets."""
    columns = ["labels", "uniform", "active", "active − uniform", "by seed"]
    columns += ["one model: uniform", "active", "decided: uniform", "active"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * 9 + "|"]
    for rounds in zip(*(zip(*run, strict=True) for run in runs), strict=True):  # a budget: seeds × arms
        arms = list(zip(*rounds, strict=True))
        uniform, active = ([100 * r.accuracy for r in arm] for arm in arms)
        apart = [b - a for a, b in zip(uniform, active, strict=True)]
        error = statistics.stdev(apart) / len(apart) ** 0.5
        cells = [
            str(rounds[0][0].labels),
            *(f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}" for values in (uniform, active)),
            f"{statistics.fmean(apart):+.1f} ± {error:.1f}",
            ", ".join(f"{x:+.1f}" for x in apart),
            *(f"{100 * statistics.fmean(r.alone for r in arm):.1f}" for arm in arms),
            *(f"{100 * statistics.fmean(r.decided for r in arm):.0f}" for arm in arms),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def forecast(uniform: Sequence[Sequence[Round]], held_out: int) -> str:
    """The curve through the uniform arm (seeds × budgets) without its last budget, and the last one as it came."""
    known = [one for rounds in uniform for one in rounds[:-1]]
    curve = fit_curve([r.labels for r in known], [r.accuracy for r in known], held_out)
    last, before = uniform[0][-1].labels, uniform[0][-2].labels
    gain = what_would_buy(curve, more=last - before)
    accuracy, came = curve.at(last), [statistics.fmean(r[at].accuracy for r in uniform) for at in (-2, -1)]
    return (
        f"Uniform arm up to {before} labels: acc(n) = {curve.a:.3f} − {curve.b:.3g} n^−{curve.c:.2f}.\n"
        f"Forecast with {last}: {accuracy.estimate:.3f} (95 % interval {accuracy.low:.3f} to {accuracy.high:.3f}); "
        f"it came to {came[1]:.3f}.\n"
        f"What {last - before} more would buy: {gain.estimate:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}); "
        f"it was {came[1] - came[0]:+.3f}."
    )


def audited(audits: Sequence[Audit]) -> str:
    """What the propensities are good for, a line a seed."""
    return "\n".join(
        f"Seed {seed}: raters decide {100 * a.chosen:.0f} % of the pairs the active arm chose last; weighed back "
        f"{100 * a.weighed:.0f} ± {100 * a.error:.0f} % of all candidates; in truth {100 * a.candidates:.0f} %."
        for seed, a in enumerate(audits)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--labels", type=int, nargs="+", default=[60, 120, 240, 480], help="budgets, from the start's")
    parser.add_argument("--uniform", type=float, default=0.25, help="share of the uniform arm within the active one")
    parser.add_argument("--out", type=Path, default=Path("runs/active"))
    parser.add_argument("--write", type=Path, help="a page with the lines that the table goes between")
    given = parser.parse_args()
    if given.seeds < 2 or len(given.labels) < 4:
        parser.error("two seeds or more, and four budgets: there is a spread to tell and a curve to fit")
    data = read(tether.run(recipe(), out=given.out))
    bench = Bench(given.out, data, given.labels, given.members, {"uniform": 1.0, "active": given.uniform})
    runs, audits = zip(*(bench.seed(seed) for seed in range(given.seeds)), strict=True)
    # Comparisons of one prompt's replies hang together, so each prompt counts as one.
    curve = forecast([run[0] for run in runs], len(data.test))
    text = f"{table(runs)}\n\n```\n{curve}\n{audited(audits)}\n```"
    print(text)
    if given.write:
        put(given.write, "active", text)


if __name__ == "__main__":
    main()
