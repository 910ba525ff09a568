"""Every way to learn from preferences beside the others: one SFT policy, the same votes, the same number of tokens.

    python benchmarks/methods.py --seeds 2 --write docs/methods.md

The first stages of recipes/quickstart.toml, then for each method of methods.toml and each seed its own stages and an
evaluation on prompts that no stage has seen: one recipe, so that a second run does only what is not done. Parts: `plan`
(the recipe), `read` (an evaluation and what it cost), `table` (Markdown).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tomllib
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pages import put

import tether
from tether.algorithms import ALGORITHMS
from tether.config import StageSection, parse_stage
from tether.data.rows import read_rows
from tether.data.template import Template
from tether.evals.bootstrap import interval
from tether.evals.diversity import distinct_n
from tether.evals.winrate import outcomes
from tether.feedback.annotators import gold
from tether.pipeline import sections
from tether.pipeline.artifacts import read_json, read_jsonl, read_manifest
from tether.pipeline.place import Place

HERE = Path(__file__).parent
QUICKSTART = HERE.parent / "recipes" / "quickstart.toml"
METHODS = HERE / "methods.toml"
FIRST = ("sft", "pairs", "votes", "reward")
"""Stages of the quickstart that all methods start from."""
GOLD = "tether.feedback.annotators:gold_reward"

Table = dict[str, Any]


class Trial(NamedTuple):
    """One method with one seed."""

    method: str
    seed: int
    stages: tuple[str, ...]
    """What trains it, in order."""

    @property
    def evaluation(self) -> str:
        """The stage that measures it."""
        return f"{self.stages[-1]}-eval"


class Result(NamedTuple):
    """What came of a trial."""

    won: list[float]
    """For each prompt 1 where it beat SFT by the gold score, 0 where it lost, ½ for a tie."""
    reward: float
    """The reward model's mean score, less SFT's."""
    kl: float
    """Nats a response from SFT."""
    distinct_2: float
    length: float
    """Tokens a response."""
    tokens: float
    """Response tokens sampled, and learnt from each time they were."""
    seconds: float
    """Of its stages, evaluation apart."""


def plan(methods: Sequence[str], seeds: int, scale: float, split: str, limit: int) -> tuple[Table, list[Trial]]:
    """The recipe of everything, and what to read of it. SystemExit for a method there is none of.

    `scale` stretches every method's steps, or prompts, alike.
    """
    quickstart = tomllib.loads(QUICKSTART.read_text(encoding="utf-8"))
    said = tomllib.loads(METHODS.read_text(encoding="utf-8"))
    if unknown := [name for name in methods if name not in said["methods"]]:
        raise SystemExit(f"no method '{unknown[0]}' in {METHODS.name}; valid: {', '.join(said['methods'])}")
    stages = [stage for stage in quickstart["stage"] if stage["name"] in FIRST]
    (measured,) = (stage for stage in quickstart["stage"] if stage["algorithm"] == "evaluate")
    held_out = {"path": measured["data"]["path"], "split": split, "limit": limit}
    trials = []
    for seed in range(seeds):
        for method in methods or said["methods"]:
            made: list[str] = []
            for number, own in enumerate(said["methods"][method], 1):
                name = f"{method}-{seed}" if len(said["methods"][method]) == number else f"{method}-{seed}-{number}"
                stage = filled(own, said["shared"], made[-1] if made else "", scale)
                stages.append(stage | {"name": name, "seed": seed})
                made.append(name)
            trials.append(Trial(method, seed, tuple(made)))
            at = {"name": trials[-1].evaluation, "model": f"stage:{made[-1]}", "data": held_out, "seed": seed}
            stages.append({key: value for key, value in measured.items() if key != "comparisons"} | at)
    return {"run": {"name": "methods", "seed": 0}, "stage": stages}, trials


def filled(own: Mapping[str, Any], shared: Mapping[str, Any], before: str, scale: float) -> Table:
    """A stage with the shared fields that its section knows, and its length scaled."""
    known = sections()[own["algorithm"]].model_fields
    stage: Table = json.loads(json.dumps({k: v for k, v in shared.items() if k in known} | dict(own)))
    stage["data"]["path"] = stage["data"]["path"].format(before=before)
    if own["algorithm"] == "best_of_n":
        stage["data"]["limit"] = max(1, round(stage["data"]["limit"] * scale))
    elif "steps" in stage["train"]:
        stage["train"]["steps"] = max(1, round(stage["train"]["steps"] * scale))
    return stage


SAMPLED = {"spin": 1}
"""Algorithm → responses it samples to a prompt, where that is not `num_responses`."""
LEARNT = {"dpo": 2, "orpo": 2, "online_dpo": 2, "spin": 2, "kto": 1, "sft": 1}
"""Algorithm → responses of a group it takes a gradient of, where that is not `num_responses`."""


def tokens(folder: Path, name: str) -> float:
    """Response tokens that a stage sampled, and those it took a gradient of, each time it did."""
    manifest = manifest_of(folder, name)
    section = parse_stage(manifest["section"], sections())
    k = getattr(section, "num_responses", 0)
    if section.algorithm == "best_of_n":
        return manifest["summary"]["prompts"] * k * mean_length(folder, section, f"stage:{name}", "responses")
    sampled = SAMPLED.get(section.algorithm, k) + (getattr(section, "baseline", "") == "greedy")
    learnt = LEARNT.get(section.algorithm, k) * section.train.mini_epochs
    need = ALGORITHMS[section.algorithm].data
    known = mean_length(folder, section, section.data.path, need) if not sampled else 0.0
    events = [event for event in read_jsonl(folder / name / "events.jsonl") if event["kind"] == "train"]
    size = section.train.batch_size
    return sum(
        event.get("rollout/length", known) * (sampled * event.get("rollout/groups", size) + learnt * size)
        for event in events
    )


def mean_length(folder: Path, section: StageSection, path: str, need: str) -> float:
    """Tokens of a response in what a stage reads, or in another stage's examples."""
    place = Place(folder, folder / section.name, section, 0)
    data = section.data.model_copy(update={"path": path})
    template = Template.load(place.model("stage:sft"))
    return statistics.mean(r.num_trained for g in place.groups(data, template, 512, need) for r in g.responses)


def read(folder: Path, trial: Trial) -> Result:
    """What the run in `folder` says of a trial."""
    found = read_json(folder / trial.evaluation / "evaluation.json")
    metrics, scores = found["metrics"], [row["scores"] for row in found["samples"]]
    won = outcomes([s["policy gold"] for s in scores], [s["baseline gold"] for s in scores])
    policy, baseline = metrics["policy"], metrics["baseline"]
    return Result(
        won.tolist(),
        policy["proxy"] - baseline["proxy"],
        metrics["kl"]["estimate"],
        policy["distinct_2"],
        policy["length"],
        sum(tokens(folder, name) for name in trial.stages),
        sum(manifest_of(folder, name)["timing"]["seconds"] for name in trial.stages),
    )


def manifest_of(folder: Path, name: str) -> Table:
    """The manifest of a stage that is done."""
    found = read_manifest(folder / name)
    assert found is not None, name
    return found


COLUMNS = {"KL": "kl", "reward": "reward", "distinct-2": "distinct_2", "length": "length"}
"""Heading → field of a result, shown with a value a seed."""
FORMATS = {"kl": ".2f", "reward": "+.2f", "distinct_2": ".3f", "length": ".1f"}


def table(folder: Path, trials: Sequence[Trial]) -> str:
    """Markdown: SFT, then each method's means over the seeds, each seed's own values in brackets behind them."""
    headings = ["method", "win rate over SFT", "95 % interval", *COLUMNS, "tokens", "seconds"]
    rows = [headings, ["---", *["---:"] * (len(headings) - 1)], baseline_row(folder, trials)]
    for method in dict.fromkeys(trial.method for trial in trials):
        results = [read(folder, trial) for trial in trials if trial.method == method]
        over_seeds = [statistics.mean(prompt) for prompt in zip(*(result.won for result in results), strict=True)]
        rate = interval(over_seeds)
        cells = [shown([getattr(result, name) for result in results], FORMATS[name]) for name in COLUMNS.values()]
        spent = [f"{statistics.mean(result.tokens for result in results) / 1000:.0f}k"]
        spent.append(f"{statistics.mean(result.seconds for result in results):.0f}")
        rates = shown([statistics.mean(result.won) for result in results], ".3f")
        rows.append([f"`{method}`", rates, f"{rate.low:.3f} to {rate.high:.3f}", *cells, *spent])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def baseline_row(folder: Path, trials: Sequence[Trial]) -> list[str]:
    """SFT's own figures, from its answers in the first evaluation of each seed."""
    firsts = {trial.seed: trial.evaluation for trial in reversed(trials)}
    found = [read_json(folder / firsts[seed] / "evaluation.json")["metrics"]["baseline"] for seed in sorted(firsts)]
    cells = [shown([metrics[name] for metrics in found], FORMATS[name]) for name in ("distinct_2", "length")]
    return ["SFT", "0.500", "", "0", "0", *cells, "", f"{manifest_of(folder, 'sft')['timing']['seconds']:.0f}"]


def shown(values: Sequence[float], how: str) -> str:
    """A mean and, where there are several, the values.

    >>> shown([1.0, 2.0], ".1f")
    '1.5 (1.0, 2.0)'
    """
    each = f" ({', '.join(format(value, how) for value in values)})" if len(values) > 1 else ""
    return format(statistics.mean(values), how) + each


def demonstrations(folder: Path, limit: int) -> str:
    """How the replies that people gave, which SFT and SPIN learn from, do against SFT's own by the gold score."""
    section: Any = parse_stage(manifest_of(folder, "sft")["section"], sections())
    texts = [str(row["response"]) for row in read_rows(section.data)]
    people = sorted(map(gold, texts))
    replies = [gold(r["text"]) for row in read_jsonl(folder / "pairs" / "groups.jsonl") for r in row["responses"]]
    won = [bisect_left(people, reply) + bisect_right(people, reply) for reply in replies]
    rate = 1 - statistics.mean(won) / 2 / len(people)
    about = "People's replies, which `sft` and `spin` learn from: win rate over SFT's replies"
    return f"{about} {rate:.3f}, distinct-2 of {limit} of them {distinct_n(texts[:limit], 2):.3f}.\n"


def main() -> None:
    """Reads the command line, runs what is not done, and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--methods", nargs="*", default=[], help="of methods.toml; all when not given")
    parser.add_argument("--seeds", type=int, default=2, help="how many, from 0")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="the run's folder")
    parser.add_argument("--steps", type=int, help="PPO's; those of all others change in proportion")
    parser.add_argument("--split", default="test", help="prompts of the evaluation; validation for tuning")
    parser.add_argument("--limit", type=int, default=400, help="how many of them")
    parser.add_argument("--set", nargs="*", default=[], help="stage.field=value, as for `tether run`")
    parser.add_argument("--write", type=Path, help="a Markdown page to put the table into")
    given = parser.parse_args()
    usual = tomllib.loads(METHODS.read_text(encoding="utf-8"))["methods"]["ppo"][0]["train"]["steps"]
    scale = 1.0 if given.steps is None else given.steps / usual
    recipe, trials = plan(given.methods, given.seeds, scale, given.split, given.limit)
    folder = tether.run(recipe, given.set, out=given.out)
    text = f"{table(folder, trials)}\n{demonstrations(folder, given.limit)}"
    print(text)
    if given.write:
        put(given.write, "methods", text)


if __name__ == "__main__":
    main()
