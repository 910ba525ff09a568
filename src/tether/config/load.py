"""TOML → a checked `Recipe`. Everything wrong with a recipe is reported at once, one line each."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tether.config.overrides import override_recipe, override_stage
from tether.config.problems import nearest, problems
from tether.config.recipe import Recipe, RunConfig, stage_references
from tether.config.rounds import LoopConfig, unroll
from tether.config.sections import Section, StageSection
from tether.errors import InputError

S = TypeVar("S", bound=Section)

Sections = Mapping[str, type[StageSection]]
"""Algorithm name → the section that says which fields its stage has."""


def load_recipe(path: str | Path, sections: Sections, overrides: Sequence[str] = ()) -> Recipe:
    """Read a TOML recipe: a file, or the name of a shipped one (`quickstart`).

    Raises InputError naming every unknown key, wrong value, duplicate stage and dangling `stage:NAME`.
    """
    file = find_recipe(path)
    return parse_recipe(read_toml(file), sections, overrides, where=str(path))


def parse_recipe(
    table: Mapping[str, Any], sections: Sections, overrides: Sequence[str] = (), where: str = "recipe"
) -> Recipe:
    """The same from a table: `{"run": {...}, "stage": [{...}, ...]}`. Raises InputError as `load_recipe` does."""
    table = override_recipe(table, overrides)
    parts = ("run", "stage", "loop")
    found = [f"unknown [{key}]; {nearest(key, parts)}" for key in table if key not in parts]
    run = _section(table.get("run", {}), RunConfig, "[run]", found)
    loop = _section(table.get("loop", {}), LoopConfig, "[loop]", found)
    entries = table.get("stage", [])
    if not isinstance(entries, list) or not entries:
        found.append("no [[stage]]; a recipe has at least one")
        entries = []
    if run is not None and loop is not None:
        entries = unroll(entries, loop, run.seed, found)
    stages = [_stage(entry, number, sections, found) for number, entry in enumerate(entries, 1)]
    found += _order(entries)
    if found or run is None or loop is None:
        raise InputError(_report(where, found))
    return Recipe(run, tuple(s for s in stages if s is not None), loop)


def parse_stage(
    fields: Mapping[str, Any], sections: Sections, overrides: Sequence[str] = (), where: str = "options"
) -> StageSection:
    """One stage on its own, from a table with its `algorithm`; overrides are plain: `train.lr=…`. InputError."""
    found: list[str] = []
    stage = _stage(override_stage(fields, overrides), 1, sections, found)
    if stage is None:
        raise InputError(_report(where, found))
    return stage


def find_recipe(path: str | Path) -> Path:
    """The file a recipe's path or shipped name stands for; InputError when there is none."""
    file = Path(path)
    if file.is_file():
        return file
    shipped = {f.stem: f for f in shipped_recipes()}
    if str(path) in shipped:
        return shipped[str(path)]
    if file.is_dir():
        raise InputError(f"{path}: is a folder, expected a recipe (a TOML file)")
    raise InputError(f"{path}: no such file, and no shipped recipe of this name; {nearest(str(path), shipped)}")


def shipped_recipes() -> list[Path]:
    """The recipes that come with Tether: inside the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    folders = (package / "recipes", package.parents[1] / "recipes")
    return sorted(next((f for folder in folders if (f := list(folder.glob("*.toml")))), []))


def read_toml(file: Path) -> dict[str, Any]:
    """A TOML file's table; InputError with the line when it is not one."""
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{file}: not valid TOML: {error}") from None


def _stage(entry: Any, number: int, sections: Sections, found: list[str]) -> StageSection | None:
    if not isinstance(entry, dict):
        found.append(f"stage {number}: got {entry!r}, expected a table")
        return None
    name = entry.get("name")
    where = f"stage '{name}'" if isinstance(name, str) and name else f"stage {number}"
    algorithm = entry.get("algorithm")
    if not isinstance(algorithm, str) or algorithm not in sections:
        got = "missing" if algorithm is None else f"got {algorithm!r}"
        found.append(f"{where}, field algorithm: {got}; {nearest(str(algorithm), sections)}")
        return None
    return _section(entry, sections[algorithm], where, found)


def _section(value: Any, section: type[S], where: str, found: list[str]) -> S | None:
    # Through JSON, because TOML's arrays are JSON's: in strict mode a Python list would not do for a tuple.
    try:
        return section.model_validate_json(json.dumps(value, default=str))
    except ValidationError as error:
        found += problems(error, section, where)
        return None


def _order(entries: Sequence[Any]) -> list[str]:
    """Stage names twice, and references to a stage that is not there yet."""
    tables = [e for e in entries if isinstance(e, dict)]
    names = [e.get("name") for e in tables]
    found = []
    for index, entry in enumerate(tables):
        name, before = names[index], [n for n in names[:index] if isinstance(n, str)]
        if name is not None and name in before:
            found.append(f"stage '{name}': a stage before it has the same name; names are given once")
        for field, target in stage_references(entry):
            if target in before:
                continue
            place = f"stage '{name}', field {field}"
            if target == name:
                found.append(f"{place}: refers to itself; expected an earlier stage")
            elif target in names:
                found.append(f"{place}: stage '{target}' comes later; move it before '{name}'")
            else:
                hint = nearest(target, before) if before else "no stage comes before this one"
                found.append(f"{place}: there is no stage '{target}'; {hint}")
    return found


def _report(where: str, found: Sequence[str]) -> str:
    if len(found) == 1:
        return f"{where}: {found[0]}"
    return "\n  ".join([f"{where}: {len(found)} problems", *found])
