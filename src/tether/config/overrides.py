"""`--set STAGE.train.lr=3e-5`: fields from the command line. Values are TOML values; bare words are strings."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from tether.config.problems import nearest
from tether.errors import InputError


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`a.b=value` as a path and a value; InputError when it is neither.

    >>> parse_override("ppo.optim.lr=3e-5")
    (('ppo', 'optim', 'lr'), 3e-05)
    >>> parse_override("model=stage:sft")
    (('model',), 'stage:sft')
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    path = key.split(".")
    if not equals or not value or not all(re.fullmatch(r"[\w-]+", step) for step in path):
        raise InputError(f"--set {text}: expected FIELD=VALUE, such as train.steps=100")
    try:
        parsed = tomllib.loads(f"value = {value}")
        return tuple(path), parsed["value"] if len(parsed) == 1 else value
    except tomllib.TOMLDecodeError as error:
        if value[0] in "[{\"'":
            raise InputError(f"--set {text}: the value is not valid TOML: {error}") from None
        return tuple(path), value


def override_stage(fields: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """One stage's fields with `train.lr=…` overrides set; the given table is left as it was."""
    changed = dict(fields)
    for text in overrides:
        path, value = parse_override(text)
        changed = _with(changed, path, value, text)
    return changed


def override_recipe(table: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A recipe's table with `STAGE.train.lr=…`, `run.seed=…` overrides set; the given table is left as it was."""
    changed = dict(table)
    for text in overrides:
        path, value = parse_override(text)
        stages = changed.get("stage")
        stages = stages if isinstance(stages, list) else []
        names = [s.get("name") if isinstance(s, dict) else None for s in stages]
        if len(path) == 1:
            raise InputError(f"--set {text}: name the stage as well, STAGE.{text}; {nearest(path[0], _starts(names))}")
        if path[0] in names:
            index = names.index(path[0])
            stages = [*stages[:index], _with(stages[index], path[1:], value, text), *stages[index + 1 :]]
            changed["stage"] = stages
        elif path[0] in ("run", "loop"):
            changed = _with(changed, path, value, text)
        else:
            raise InputError(f"--set {text}: no stage is called '{path[0]}'; {nearest(path[0], _starts(names))}")
    return changed


def _starts(names: Sequence[Any]) -> list[str]:
    return ["run", "loop", *(n for n in names if isinstance(n, str))]


def _with(table: Any, path: Sequence[str], value: Any, text: str) -> Any:
    """A copy of a nested table (or list) with the place at `path` set."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(table, list) and step.isdecimal() and int(step) < len(table):
        return [_with(item, rest, value, text) if i == int(step) else item for i, item in enumerate(table)]
    if not isinstance(table, dict):
        raise InputError(f"--set {text}: '{step}' is not within a table; the recipe has {table!r} there")
    return {**table, step: _with(table.get(step, {}), rest, value, text)}
