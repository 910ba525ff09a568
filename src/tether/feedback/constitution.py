"""A constitution: principles by which answers are criticised, revised and compared (Bai et al. 2022)."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from tether.config import Section
from tether.config.judge import ConstitutionConfig
from tether.config.problems import problems
from tether.errors import InputError

SHIPPED = {"demo:kindness": Path(__file__).with_name("kindness.toml")}
"""Constitutions that come with Tether."""


class Principle(Section):
    """One principle, in the three forms it is put to a model."""

    name: str = Field(min_length=1)
    """What it is called in transcripts."""
    critique: str = Field(min_length=1)
    """Asks what is wrong with the answer just given."""
    revise: str = Field(min_length=1)
    """Asks for the answer again, without what is wrong."""
    compare: str = Field(min_length=1)
    """The standard two answers are compared by."""


class Constitution(Section):
    """A file of principles."""

    principle: tuple[Principle, ...] = Field(min_length=1, strict=False)
    """In any order: which one is used is drawn."""


def load_constitution(config: ConstitutionConfig) -> tuple[Principle, ...]:
    """The principles of a file. InputError when it is not there, is no TOML, or a principle lacks something."""
    path = SHIPPED.get(config.path, Path(config.path).expanduser())
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        known = ", ".join(SHIPPED)
        raise InputError(f"constitution {config.path}: {error.strerror}; give a TOML file or one of {known}") from None
    except ValueError as error:  # bad UTF-8 is one too
        raise InputError(f"constitution {config.path}: is not valid TOML: {error}") from None
    try:
        principles = Constitution.model_validate(table).principle
    except ValidationError as error:
        raise InputError("; ".join(problems(error, Constitution, f"constitution {config.path}"))) from None
    names = [p.name for p in principles]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"constitution {config.path}: two principles are named {twice[0]!r}; each needs its own name")
    return principles


def drawn(principles: Sequence[Principle], *of: object) -> Principle:
    """One principle at random, the same whenever it is drawn again for `of`."""
    return min(principles, key=lambda p: hashlib.sha256("\0".join(map(str, (p.name, *of))).encode()).digest())
