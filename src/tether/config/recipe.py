"""What a whole recipe is once read: the run, its stages in order, and how often they repeat."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from tether.config.rounds import LoopConfig
from tether.config.sections import Section, StageSection

_REFERENCE = re.compile(r"stage:([^/@#:\s]*)")


class RunConfig(Section):
    """`[run]`: what the run is called and where it goes."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run, and of its folder: letters, digits, `.`, `-`, `_`."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of everything random in the run; a stage may have its own."""
    out: str | None = None
    """Folder of the run; `runs/NAME` when not given."""

    @property
    def folder(self) -> Path:
        """Where the run's artifacts go."""
        return Path(self.out) if self.out else Path("runs") / self.name


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: every field valid, every `stage:NAME` naming an earlier stage."""

    run: RunConfig
    """Name, seed, folder."""
    stages: tuple[StageSection, ...]
    """In the order they run; each is the section class of its algorithm."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Rounds."""

    def stage(self, name: str) -> StageSection:
        """The stage called `name`; KeyError when there is none."""
        return {s.name: s for s in self.stages}[name]


def stage_references(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(field, stage name) of every `stage:NAME` within a stage's fields, a section or a plain table.

    >>> list(stage_references({"model": "stage:sft", "data": {"path": "stage:pairs"}}))
    [('model', 'sft'), ('data.path', 'pairs')]
    """
    if isinstance(value, Section):
        value = value.model_dump()
    if isinstance(value, str):
        if match := _REFERENCE.match(value):
            yield path, match[1]
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from stage_references(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from stage_references(inner, f"{path}.{index}")
