"""Running a recipe: skip what is done, resume what was cut, repeat what changed.

`run` and `run_single` are the two ways in; `run_recipe` goes through a checked recipe, `run_stage` through one stage.
`all_done` answers for a run in which nothing changed, without importing torch.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tether
from tether.config.load import find_recipe, parse_recipe, parse_stage, read_toml
from tether.config.overrides import override_recipe
from tether.config.recipe import Recipe, RunConfig, stage_references
from tether.errors import InputError
from tether.pipeline.artifacts import (
    MANIFEST,
    UNFINISHED,
    begin,
    digest,
    hash_path,
    locked,
    publish,
    read_manifest,
    write_json,
)
from tether.pipeline.place import Place, inputs_of
from tether.pipeline.sections import sections

Runner = Callable[[Place, Callable[[str], None]], dict[str, Any]]


def runner_of(algorithm: str) -> Runner:
    """What runs a stage of this algorithm."""
    if algorithm == "init":
        from tether.pipeline.init_stage import init_stage as runner
    elif algorithm == "sample":
        from tether.pipeline.sample_stage import sample_stage as runner
    elif algorithm == "best_of_n":
        from tether.pipeline.best_of_n_stage import best_of_n_stage as runner
    elif algorithm == "critique":
        from tether.pipeline.constitution_stage import critique_stage as runner
    elif algorithm == "label":
        from tether.pipeline.label_stage import label_stage as runner
    elif algorithm == "evaluate":
        from tether.pipeline.evaluate_stage import evaluate_stage as runner
    else:
        from tether.pipeline.train_stage import train_stage as runner
    return runner


def run(
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    only_stage: str | None = None,
    out: str | Path | None = None,
) -> Path:
    """Runs a recipe, or one of its stages; returns the run's folder.

    `recipe` is a TOML file, a shipped name (`quickstart`) or the table such a file holds; `overrides` are those of
    `--set`, and `out` takes the place of `run.out`.

    Raises:
        InputError: the recipe, an input or the output folder is wrong.

    >>> import tether
    >>> folder = tether.run("quickstart", ["ppo.train.steps=10"])              # doctest: +SKIP
    >>> tether.show(folder)["stages"]["evaluate"]["metrics"]["win_rate"]       # doctest: +SKIP
    """
    table = override_recipe(recipe if isinstance(recipe, Mapping) else read_toml(find_recipe(recipe)), overrides)
    package = Path(tether.__file__).parent
    code = sorted(file for pattern in SCHEMA for file in package.glob(pattern))
    mark = digest({"recipe": table, "schema": [hash_path(file) for file in code]})
    if only_stage is None and all_done(table, mark, out):
        return folder_of(table, out)
    where = "recipe" if isinstance(recipe, Mapping) else str(recipe)
    checked = parse_recipe(table, sections(), where=where)
    if only_stage is not None and only_stage not in [s.name for s in checked.stages]:
        raise InputError(f"no stage '{only_stage}' in {where}; it has {', '.join(s.name for s in checked.stages)}")
    return run_recipe(checked, folder_of(table, out), only_stage, mark)


def run_single(
    algorithm: str, model: str, data: str, out: str | Path, *, reward: str | None = None, overrides: Sequence[str] = ()
) -> Path:
    """Runs one training stage on its own, as `tether sft|reward|ppo` do; its artifact is the folder `out`.

    Raises:
        InputError: an option, an input or the output folder is wrong.
    """
    from tether.pipeline.precheck import precheck

    fields = {"name": algorithm, "algorithm": algorithm, "model": model, "data": {"path": data}}
    stage = parse_stage(fields | ({} if reward is None else {"reward": reward}), sections(), overrides)
    folder = Path(out)
    precheck([stage])
    with locked(folder):
        run_stage(Place(folder, folder, stage, stage.seed or 0), {})
    return folder


SCHEMA = ("config/*.py", "algorithms/*.py", "pipeline/sections.py")
"""The code that says what a recipe means, defaults included."""
DONE = "done.json"
"""In a run's folder: the mark of the recipe all of which is done, report and all."""


def folder_of(table: Mapping[str, Any], out: str | Path | None) -> Path:
    """Where a recipe's run goes."""
    return Path(out) if out else RunConfig(**table["run"]).folder


def all_done(table: Mapping[str, Any], mark: str, out: str | Path | None) -> bool:
    """Whether this very recipe was run to its end and nothing it read has changed; says so if it is so.

    What the recipe's fields mean was found out then: the manifests hold every stage's section, defaults filled in.
    """
    began = time.perf_counter()
    try:
        folder = folder_of(table, out)
        done = json.loads((folder / DONE).read_text(encoding="utf-8"))
        if done["mark"] != mark:
            return False
        names = list(done["stages"])
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not run yet, or not a recipe: whoever parses it says what is wrong
    with locked(folder):
        keys: dict[str, str] = {}
        for name in names:
            manifest = read_manifest(folder / name)
            if manifest is None:
                return False
            keys[name] = stage_key(manifest["section"], manifest["seed"], keys)[0]
            if keys[name] != manifest["key"]:
                return False
        if not (folder / "report.html").is_file():
            return False
    for name in names:
        print(f"{name}: done before", flush=True)
    finished(folder, began)
    return True


def finished(folder: Path, began: float) -> None:
    """The last line of a run."""
    print(f"run {folder.name}: done in {time.perf_counter() - began:.1f} s; see {folder / 'report.html'}", flush=True)


def stage_key(section: Mapping[str, Any], seed: int, keys: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """What a stage is made from as one hash, and what it reads; `keys` are those of the stages before it."""
    inputs = inputs_of({name: value for name, value in section.items() if name != "name"}, keys, section["name"])
    return digest({"section": section, "inputs": inputs, "seed": seed}), inputs


def run_recipe(recipe: Recipe, folder: Path, only_stage: str | None, mark: str) -> Path:
    """Runs a checked recipe in `folder`."""
    from tether.pipeline.precheck import precheck
    from tether.pipeline.show import write_report

    precheck([stage for stage in recipe.stages if only_stage in (None, stage.name)], recipe.stages)
    with locked(folder):
        keys: dict[str, str] = {}
        began = time.perf_counter()
        (folder / DONE).unlink(missing_ok=True)
        write_json(
            folder / "recipe.json", {"run": recipe.run.model_dump(), "stages": [s.model_dump() for s in recipe.stages]}
        )
        for stage in recipe.stages:
            place = Place(folder, folder / stage.name, stage, recipe.run.seed if stage.seed is None else stage.seed)
            run_stage(place, keys, skip=only_stage not in (None, stage.name))
        if only_stage is None:
            write_report(folder)
            write_json(folder / DONE, {"mark": mark, "stages": [stage.name for stage in recipe.stages]})
            finished(folder, began)
    return folder


def run_stage(place: Place, keys: dict[str, str], *, skip: bool = False) -> None:
    """Runs one stage unless it is done or skipped, and notes its key."""
    stage = place.section
    section = stage.model_dump()
    key, inputs = stage_key(section, place.seed, keys)
    done = is_done(place.folder, key)
    if done:
        with contextlib.suppress(OSError):  # empty after a kill in the last moment; else it is another key's
            (place.folder / UNFINISHED).rmdir()
        print(f"{stage.name}: done before", flush=True)
    if not done and not skip:
        for _, name in stage_references(section):
            if not is_done(place.run / name, keys[name]):
                raise InputError(f"stage '{stage.name}' needs stage:{name}, which is not done; run the whole recipe")
        make(place, key, inputs)
    keys[stage.name] = key


def is_done(folder: Path, key: str) -> bool:
    """Whether the artifact in `folder` is whole and was made from what `key` says."""
    manifest = read_manifest(folder)
    return manifest is not None and manifest["key"] == key


def make(place: Place, key: str, inputs: Mapping[str, str]) -> None:
    """Runs a stage, from where it was cut if it was, and writes its manifest."""
    stage = place.section

    def say(text: str) -> None:
        print(f"{stage.name}: {text}", flush=True)

    began = time.perf_counter()
    work = place.folder / UNFINISHED
    if not is_done(work, key):  # else a kill came between the manifest and its place
        begin(place.folder, key, stage.model_dump())
        try:
            summary = runner_of(stage.algorithm)(replace(place, folder=work), say)
        except InputError as error:
            if str(error).startswith(f"stage '{stage.name}'"):
                raise
            raise InputError(f"stage '{stage.name}': {error}") from error
        manifest = {
            "name": stage.name,
            "algorithm": stage.algorithm,
            "key": key,
            "section": stage.model_dump(),
            "seed": place.seed,
            "inputs": inputs,
            "made": {p.name: hash_path(p) for p in sorted(work.iterdir()) if p.name in OUTPUTS},
            "version": tether.__version__,
            "summary": summary,
            "timing": {"seconds": round(time.perf_counter() - began, 2)},
        }
        write_json(work / MANIFEST, manifest)
    publish(place.folder, key)
    say(f"finished in {time.perf_counter() - began:.1f} s")


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
