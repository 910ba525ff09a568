"""`tether coverage`: do the prompts that were labelled look like those that the policy will see?

`prompts_of` reads either side, `coverage_report` compares them (feedback/coverage.py), `verdict` says what it means.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tether.config import DataConfig
from tether.data.formats import understand
from tether.data.load import usable_format
from tether.data.rows import read_rows
from tether.errors import InputError
from tether.feedback.coverage import Coverage, coverage
from tether.pipeline.artifacts import read_jsonl, read_manifest
from tether.pipeline.place import STAGE
from tether.rollout.rows import from_rows

SURE = 0.05
"""p below which the two sides are held to be of unlike kinds."""
MANY = 0.1
"""Share of far prompts from which that matters: twice what alike prompts have."""
SHOWN = 88
"""Letters of a prompt that are printed."""


def coverage_report(
    labelled: str,
    policy: str,
    *,
    run: Path | None = None,
    splits: tuple[str, str] = ("train", "train"),
    most: int = 5000,
    num_worst: int = 10,
    seed: int = 0,
) -> dict[str, Any]:
    """What `Coverage` says of two data sets, the worst-covered prompts as texts, and the verdict; all JSON can carry.

    Data are named as in a recipe; `stage:NAME` is a stage of `run`. Of more than `most` prompts `seed` draws as many.
    InputError: data that cannot be read, holds no prompts, or too few.
    """
    rng = random.Random(seed)
    named = ((labelled, splits[0]), (policy, splits[1]))
    known, seen = (_some(list(dict.fromkeys(prompts_of(name, split, run))), most, rng) for name, split in named)
    found = coverage(known, seen, num_worst=num_worst, seed=seed)
    worst = [
        {"prompt": seen[one.prompt], "nearest": known[one.nearest], "distance": one.distance} for one in found.worst
    ]
    return found.as_dict() | {"worst": worst, "alike": alike(found), "verdict": verdict(found)}


def prompts_of(name: str, split: str = "train", run: Path | None = None) -> list[str]:
    """The prompts of data as a recipe names it: a conversation's turns below each other.

    A stage, or the folder of its artifact, stands for the prompts of what it made; where it made no examples, for those
    of what it learnt from. InputError as `coverage_report`.
    """
    folder = Path(name)
    if name.startswith(STAGE):
        if run is None:
            raise InputError(f"{name}: is a stage of no run; say with --run in which folder to look")
        folder = run / name.removeprefix(STAGE)
    manifest = read_manifest(folder)
    if manifest is not None:
        return _of_stage(folder, manifest, split)
    if name.startswith(STAGE):
        raise InputError(f"{name}: no such stage is done in {run}")
    return _of_data(DataConfig(path=name, split=split))


def _of_stage(folder: Path, manifest: Mapping[str, Any], split: str) -> list[str]:
    file = next((f for f in (folder / f"{split}.jsonl", folder / "groups.jsonl") if f.is_file()), None)
    if file is not None:
        return [_text(p.messages or p.text) for p in (group.prompt for group in from_rows(read_jsonl(file)))]
    if "data" not in manifest["section"]:
        raise InputError(f"{folder}: this stage made no examples of split '{split}', nor did it learn from any")
    data = DataConfig.model_validate(manifest["section"]["data"])
    each = (data.model_copy(update={"path": path, "also": ()}) for path in (data.path, *data.also))
    return [
        prompt
        for one in each
        for prompt in (prompts_of(one.path, one.split, folder.parent) if one.path.startswith(STAGE) else _of_data(one))
    ]


def _of_data(config: DataConfig) -> list[str]:
    rows, source = read_rows(config), f"{config.path} [{config.split}]"
    examples = understand(rows, usable_format(rows[0], config, "prompts"), source, config.split)
    return [_text(example.prompt or "") for example in examples]


def _text(said: str | Iterable[Mapping[str, str]]) -> str:
    return said if isinstance(said, str) else "\n".join(message["content"] for message in said)


def _some(prompts: Sequence[str], most: int, rng: random.Random) -> Sequence[str]:
    return prompts if len(prompts) <= most else rng.sample(prompts, most)


def alike(found: Coverage) -> bool:
    """Whether nothing speaks against scoring the policy's prompts by what was learnt from the labelled ones."""
    return found.p >= SURE or found.far < MANY


def verdict(found: Coverage) -> str:
    """One sentence."""
    if found.p >= SURE:
        return f"As far as {found.labelled} and {found.policy} prompts can tell, the two are alike."
    if alike(found):
        return (
            f"The two differ, but few of the policy's prompts ({found.far:.0%}; 5% where the two are alike) are "
            "farther from the labelled ones than those are from each other."
        )
    return (
        f"{found.far:.0%} of the policy's prompts are farther from every labelled one than 95% of those are from each "
        "other: there a reward model guesses; label such prompts too."
    )


def told(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for a terminal."""
    quantiles = report["quantiles"]
    shares = "".join(f"{q['share']:>8.0%}" for q in quantiles)
    lines = [
        f"{report['labelled']} labelled prompts, {report['policy']} of the policy",
        f"distance to the nearest labelled prompt, by quantiles{shares}",
    ]
    lines += [
        f"    {name:<48}" + "".join(f"{q[side]:8.3f}" for q in quantiles)
        for side, name in (("labelled", "labelled prompts, to the others"), ("policy", "the policy's prompts"))
    ]
    lines += [
        f"farther off than 95% of the labelled: {report['far']:.1%} (5% where alike); a policy's prompt is farther "
        f"than a labelled one with chance {report['auc']:.2f} (0.50)",
        f"both drawn alike: p = {report['p']:.3f} (permutations of the energy distance)",
        report["verdict"],
        "The farthest:",
    ]
    for one in report["worst"]:
        lines += [f"  {one['distance']:.3f}  {_short(one['prompt'])}", f"         nearest: {_short(one['nearest'])}"]
    return lines


def _short(prompt: str) -> str:
    """The end of a prompt, which is what is to be answered, on one line."""
    line = " ".join(prompt.split())
    return line if len(line) <= SHOWN else "…" + line[1 - SHOWN :]
