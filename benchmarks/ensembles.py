"""What an ensemble of reward models buys: gold score at the same proxy score, against a single one.

    python benchmarks/ensembles.py --seeds 3 --write benchmarks/RESULTS.md

On the quickstart's SFT policy and pairs: for each seed few, noisy votes of its own, a reward model of them all, and M
that each leave another part of them out; then GRPO under next to no tether, against the one, and against
mean − λ·deviation of the M. Both proxies are put on one scale by the scores they give the SFT policy's answers (mean 0,
deviation 1), and the gold score is read off each run's own curve at one proxy: the highest that both runs of a seed
reached. Parts: `plan` (the recipe), `curve` (a run's held-out points), `gold_at` (on the curve), `table`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

from pages import put

import tether
from tether.monitor.log import read_events

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart.toml"
FIRST = ("sft", "pairs")
GOLD = "tether.feedback.annotators:gold_reward"
NOISE = 0.5
"""Deviation of what is added to a rater's opinion (−1 to 1) of a text."""
SAMPLING = {"temperature": 0.8, "max_new_tokens": 32}


class Point(NamedTuple):
    """One evaluation of a run on held-out prompts."""

    proxy: float
    """The run's own reward, in deviations above the SFT policy's mean."""
    gold: float
    kl: float


def plan(seeds: int, members: int, labels: int, steps: int, penalty: float) -> dict[str, Any]:
    """The recipe: for each seed its reward models, and one policy against the first, one against all."""
    stages = [s for s in tomllib.loads(QUICKSTART.read_text())["stage"] if s["name"] in FIRST]
    for seed in range(seeds):
        votes = {"name": f"votes-{seed}", "algorithm": "label", "responses": "stage:pairs", "seed": seed}
        stages.append(votes | {"overlap": 1, "noise": NOISE})
        names = [f"reward-{seed}-{m}" for m in range(members + 1)]
        for m, name in enumerate(names):
            # The first learns from all labels; each of the others leaves another part of the same out.
            fold = {"fold": f"-{m}/{members}"} if m else {}
            stages.append(
                {
                    "name": name,
                    "algorithm": "reward_model",
                    "seed": 100 * seed + m,
                    "model": "stage:sft",
                    "data": {"path": f"stage:votes-{seed}", "limit": labels, **fold},
                    "train": {"epochs": 3, "batch_size": 16},
                    "optim": {"lr": 1e-3, "warmup": 0.1, "schedule": "cosine", "weight_decay": 0.1},
                }
            )
        rewards: dict[str, Any] = {
            "one": f"stage:{names[0]}",
            "all": [
                {"use": [f"stage:{n}" for n in names], "ensemble": "lower", "spread_penalty": penalty, "name": "all"}
            ],
        }
        for name, reward in rewards.items():
            stages.append(
                {
                    "name": f"{name}-{seed}",
                    "algorithm": "grpo",
                    "seed": seed,
                    "model": "stage:sft",
                    "reward": reward,
                    "data": {"path": "demo:chitchat-prompts"},
                    "eval_data": {"path": "demo:chitchat-prompts", "split": "validation", "limit": 200},
                    "eval_reward": GOLD,
                    "num_responses": 4,
                    "train": {"steps": steps, "batch_size": 16, "mini_epochs": 2, "eval_every": max(1, steps // 8)},
                    "optim": {"lr": 1e-4},
                    "kl": {"beta": 0.02},
                    "sampling": SAMPLING,
                    "missing_end": "penalty",
                }
            )
    return {"run": {"name": "ensembles", "seed": 0}, "stage": stages}


def curve(folder: Path) -> list[Point]:
    """The run's evaluations, from its start."""
    events = read_events(folder)
    first = next(e["rows"] for e in events if e["kind"] == "samples")
    scores = [row["proxy"] for row in first]
    mean, deviation = statistics.fmean(scores), statistics.pstdev(scores)
    return [
        Point((e["eval/proxy"] - mean) / deviation, e["eval/gold"], e["eval/kl"]) for e in events if e["kind"] == "eval"
    ]


def gold_at(points: Sequence[Point], proxy: float) -> float:
    """The gold score where a curve first reaches `proxy`, between its evaluations on a straight line."""
    for before, after in pairwise(points):
        if before.proxy <= proxy <= after.proxy:
            share = (proxy - before.proxy) / (after.proxy - before.proxy or 1.0)
            return before.gold + share * (after.gold - before.gold)
    return max(points, key=lambda point: point.proxy).gold


def table(folder: Path, seeds: int) -> str:
    """Markdown: a row a seed, then the means."""
    columns = ("proxy", "gold: one", "all", "best gold: one", "all", "last KL: one", "all")
    head = "| seed | " + " | ".join(columns) + " |"
    rows, lines = [], [head, "|---" * 8 + "|"]
    for seed in range(seeds):
        one, every = (curve(folder / f"{name}-{seed}") for name in ("one", "all"))
        proxy = min(max(p.proxy for p in one), max(p.proxy for p in every))
        best = [max(p.gold for p in points) for points in (one, every)]
        rows.append([proxy, gold_at(one, proxy), gold_at(every, proxy), *best, one[-1].kl, every[-1].kl])
        lines.append(f"| {seed} | " + " | ".join(f"{x:.2f}" for x in rows[-1]) + " |")
    means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
    return "\n".join([*lines, "| mean | " + " | ".join(f"{x:.2f}" for x in means) + " |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--labels", type=int, default=60, help="comparisons of a seed")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--penalty", type=float, default=1.0, help="λ")
    parser.add_argument("--out", type=Path, default=Path("runs/ensembles"))
    parser.add_argument("--write", type=Path, help="a page with the lines that the table goes between")
    given = parser.parse_args()
    recipe = plan(given.seeds, given.members, given.labels, given.steps, given.penalty)
    text = table(tether.run(recipe, out=given.out), given.seeds)
    print(text)
    if given.write:
        put(given.write, "ensembles", text)


if __name__ == "__main__":
    main()
