"""What a run came to: its stages' manifests as one table of facts, and the report."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from tether.config.recipe import stage_references
from tether.errors import InputError
from tether.monitor.findings import as_evaluation
from tether.monitor.lineage import Edge
from tether.monitor.log import read_events
from tether.monitor.report import RunReport, StageReport
from tether.monitor.report import write_report as write
from tether.monitor.samples import gather_samples, versus_samples
from tether.pipeline.artifacts import MANIFEST, read_json, read_manifest

SAMPLES = 24
"""Prompts shown of the evaluation, and as many of those answered at every evaluation during training."""


def manifests(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """(folder, manifest) of the finished stages of a run in the recipe's order, or of a stage run on its own.

    A stage made from an artifact that has been made anew since is left out: its numbers are of another run.

    Raises:
        InputError: nothing is finished there.
    """
    if (folder / MANIFEST).is_file():
        places = [folder]
    elif (recipe := read_json(folder / "recipe.json")) is not None:
        places = [folder / stage["name"] for stage in recipe["stages"]]
    else:
        raise InputError(f"{folder}: holds no run; expected the folder `tether run` or `tether sft|reward|ppo` wrote")
    found: list[tuple[Path, dict[str, Any]]] = []
    keys: dict[str, str] = {}
    for place in places:
        manifest = read_manifest(place)
        if manifest is not None and current(manifest, keys):
            found.append((place, manifest))
            keys[manifest["name"]] = manifest["key"]
    if not found:
        raise InputError(f"{folder}: no stage of this run is finished yet")
    return found


def current(manifest: dict[str, Any], keys: dict[str, str]) -> bool:
    """Whether each stage it was made from is still the one that is there; `keys` are those of the stages before it."""
    return all(keys.get(name) == manifest["inputs"][field] for field, name in stage_references(manifest["section"]))


def show(folder: str | Path) -> dict[str, Any]:
    """Stage → what it came to; durations under `timing`, so that the rest is the same for every run of a recipe."""
    found = manifests(Path(folder))
    stages = {m["name"]: {"algorithm": m["algorithm"], "key": m["key"], **m["summary"]} for _, m in found}
    return {"stages": stages, "timing": {m["name"]: m["timing"]["seconds"] for _, m in found}}


def write_report(folder: str | Path) -> Path:
    """Writes `report.html` and `report.json` into the run's folder."""
    run = Path(folder)
    found = manifests(run)
    names = {manifest["key"]: manifest["name"] for _, manifest in found}
    stages = [stage_report(place, manifest) for place, manifest in found]
    lineage = [
        Edge(names[key], manifest["name"], field)
        for _, manifest in found
        for field, key in manifest["inputs"].items()
        if key in names
    ]
    evaluated = [(place, manifest) for place, manifest in found if manifest["algorithm"] == "evaluate"]
    evaluations = {manifest["name"]: evaluation_of(manifest) for _, manifest in evaluated}
    recipe = read_json(run / "recipe.json")
    samples = gather_samples([(stage.name, stage.events) for stage in stages])[:SAMPLES]
    for place, _ in evaluated[-1:]:
        samples = versus_samples(read_json(place / "evaluation.json")["samples"])[:SAMPLES] + samples
    report = RunReport(
        title=recipe["run"]["name"] if recipe else run.resolve().name,
        stages=stages,
        samples=samples,
        evaluation=next(reversed(evaluations.values()), {}),
        evaluations=evaluations if len(evaluations) > 1 else {},
        lineage=lineage,
        environment={"tether": found[0][1]["version"], "python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", "transformers")},
        recipe=json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else "",
    )
    return write(report, run / "report.html")


def evaluation_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The figures of an `evaluate` stage, as the report reads them."""
    baseline = str(manifest["section"]["baseline"]).removeprefix("stage:")
    return as_evaluation(manifest["summary"]["metrics"], against=f"the {baseline} policy")


OTHER_DATA = {"also": "data-*.json", "held_out": "eval_data*.json", "mixed_in": "mix*.json"}
"""What a stage reads beside its first data → the reports of it."""


def data_report(place: Path) -> dict[str, Any] | None:
    """The report of a stage's data, with a line for each other file or split it read."""
    report: dict[str, Any] | None = read_json(place / "data.json")
    if report is None:
        return None
    for name, pattern in OTHER_DATA.items():
        others = [read_json(file) for file in sorted(place.glob(pattern))]
        if others:
            report[name] = [f"{other['source']}: {other['kept']} of {other['read']} rows" for other in others]
    return report


def stage_report(place: Path, manifest: dict[str, Any]) -> StageReport:
    """One stage's part of the report."""
    return StageReport(
        name=manifest["name"],
        algorithm=manifest["algorithm"],
        status="done",
        summary=manifest["summary"],
        events=read_events(place),
        data_report=data_report(place),
        inputs=manifest["inputs"],
        key=manifest["key"],
        seconds=manifest["timing"]["seconds"],
    )
