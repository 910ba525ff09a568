"""Running a recipe: skip what is done, resume what was cut, repeat what changed."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tether
from tether.config.load import load_recipe, parse_stage
from tether.config.recipe import Recipe
from tether.errors import InputError
from tether.pipeline.artifacts import begin, digest, hash_path, locked, read_manifest, write_json
from tether.pipeline.place import Place, inputs_of
from tether.pipeline.sections import sections

Runner = Callable[[Place, Callable[[str], None]], dict[str, Any]]


def runner_of(algorithm: str) -> Runner:
    """What runs a stage of this algorithm."""
    if algorithm == "init":
        from tether.pipeline.init_stage import init_stage as runner
    elif algorithm == "sample":
        from tether.pipeline.sample_stage import sample_stage as runner
    elif algorithm == "label":
        from tether.pipeline.label_stage import label_stage as runner
    elif algorithm == "evaluate":
        from tether.pipeline.evaluate_stage import evaluate_stage as runner
    else:
        from tether.pipeline.train_stage import train_stage as runner
    return runner


def run(
    recipe: str | Path, overrides: Sequence[str] = (), only_stage: str | None = None, out: str | Path | None = None
) -> Path:
    """Runs a recipe (a TOML file or a shipped name), or one of its stages; returns the run's folder.

    Raises:
        InputError: the recipe, an input or the output folder is wrong.
    """
    checked = load_recipe(recipe, sections(), overrides)
    if only_stage is not None and only_stage not in [s.name for s in checked.stages]:
        raise InputError(f"no stage '{only_stage}' in {recipe}; it has {', '.join(s.name for s in checked.stages)}")
    return run_recipe(checked, Path(out) if out else checked.run.folder, only_stage)


def run_single(
    algorithm: str, model: str, data: str, out: str | Path, *, reward: str | None = None, overrides: Sequence[str] = ()
) -> Path:
    """Runs one training stage on its own, as `tether sft|reward|ppo` do; its artifact is the folder `out`.

    Raises:
        InputError: an option, an input or the output folder is wrong.
    """
    fields = {"name": algorithm, "algorithm": algorithm, "model": model, "data": {"path": data}}
    stage = parse_stage(fields | ({} if reward is None else {"reward": reward}), sections(), overrides)
    folder = Path(out)
    with locked(folder):
        run_stage(Place(folder, folder, stage, stage.seed or 0), {})
    return folder


def run_recipe(recipe: Recipe, folder: Path, only_stage: str | None) -> Path:
    """Runs a checked recipe in `folder`."""
    from tether.pipeline.show import write_report

    with locked(folder):
        keys: dict[str, str] = {}
        began = time.perf_counter()
        write_json(
            folder / "recipe.json", {"run": recipe.run.model_dump(), "stages": [s.model_dump() for s in recipe.stages]}
        )
        for stage in recipe.stages:
            place = Place(folder, folder / stage.name, stage, recipe.run.seed if stage.seed is None else stage.seed)
            run_stage(place, keys, skip=only_stage not in (None, stage.name))
        if only_stage is None:
            write_report(folder)
        print(
            f"run {recipe.run.name}: done in {time.perf_counter() - began:.1f} s; see {folder / 'report.html'}",
            flush=True,
        )
    return folder


def run_stage(place: Place, keys: dict[str, str], *, skip: bool = False) -> None:
    """Runs one stage unless it is done or skipped, and notes its key."""
    stage = place.section
    section = stage.model_dump()
    inputs = inputs_of({k: v for k, v in section.items() if k != "name"}, keys, stage.name)
    key = keys[stage.name] = digest({"section": section, "inputs": inputs, "seed": place.seed})
    manifest = read_manifest(place.folder)
    if manifest is not None and manifest["key"] == key:
        print(f"{stage.name}: done before", flush=True)
        return
    if skip:
        return
    for reference in {v for v in strings(section) if v.startswith("stage:")}:
        if read_manifest(place.artifact(reference)) is None:
            raise InputError(f"stage '{stage.name}' needs {reference}, which is not done; run the whole recipe")

    def say(text: str) -> None:
        print(f"{stage.name}: {text}", flush=True)

    began = time.perf_counter()
    try:
        begin(place.folder, key, section)
        summary = runner_of(stage.algorithm)(place, say)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise InputError(f"stage '{stage.name}' cannot write to {place.folder}: {error.strerror}") from error
    made = {p.name: hash_path(p) for p in sorted(place.folder.iterdir()) if p.name in OUTPUTS}
    write_json(
        place.folder / "manifest.json",
        {
            "name": stage.name,
            "algorithm": stage.algorithm,
            "key": key,
            "section": section,
            "seed": place.seed,
            "inputs": inputs,
            "made": made,
            "version": tether.__version__,
            "summary": summary,
            "timing": {"seconds": round(time.perf_counter() - began, 2)},
        },
    )
    say(f"finished in {time.perf_counter() - began:.1f} s")


REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What an operating system says of a folder it will not let us write to."""

OUTPUTS = (
    "model",
    "groups.jsonl",
    "train.jsonl",
    "validation.jsonl",
    "preferences.jsonl",
    "evaluation.json",
    "events.jsonl",
)
"""What of an artifact is hashed into its manifest."""


def strings(value: Any) -> list[str]:
    """Every string within a section."""
    if isinstance(value, dict):
        return [s for inner in value.values() for s in strings(inner)]
    return [value] if isinstance(value, str) else []
