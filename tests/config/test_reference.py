"""Words for fields, and the page made of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from tether.config import DataConfig, Section, StageSection, TrainSection
from tether.config.describe import describe, wanted
from tether.config.reference import nested_sections, recipe_reference


class Inner(Section):
    """Inner things."""

    a: Annotated[int, Field(gt=0)] = 1
    """A | B,
    on two lines."""


class Stage(TrainSection):
    """What the stage does."""

    inner: dict[str, Inner] = {}
    """Tables."""
    flag: bool = False
    """A switch."""
    names: tuple[str, ...] = ("x", "y")
    """Names."""


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (bool | None, "true or false"),
        (float | Literal["auto"], "a number or 'auto'"),
        (list[str], "a list of strings"),
        (tuple[float, float], "a list of 2 numbers"),
        (tuple[int, str], "a list of a whole number and a string"),
        (dict[str, int], "a table of whole numbers"),
        (list[Inner], "a list of tables"),
        (list[list[int]], "a list of lists of whole numbers"),
        (Inner | str, "a table or a string"),
        (Any, "anything"),
    ],
)
def test_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


def test_bounds() -> None:
    assert wanted(Inner.model_fields["a"]) == "a whole number > 0"


def test_nested_sections_are_found_once() -> None:
    names = [s.__name__ for s in nested_sections([Stage, Stage])]
    assert names == ["DataConfig", "Inner", "OptimConfig", "TrainConfig"]


def test_page() -> None:
    sections: dict[str, type[StageSection]] = {"stage": Stage}
    page = recipe_reference(sections)
    lines = page.splitlines()
    assert '## `algorithm = "stage"`' in lines
    assert "| `inner` | a table of tables: [Inner](#table-inner) | `{}` | Tables. |" in lines
    assert "| `flag` | true or false | `false` | A switch. |" in lines
    assert '| `names` | a list of strings | `["x", "y"]` | Names. |' in lines
    assert "| `a` | a whole number > 0 | `1` | A \\| B, on two lines. |" in lines
    for name, field in DataConfig.model_fields.items():
        row = next(line for line in lines if line.startswith(f"| `{name}` "))
        assert " ".join((field.description or "missing").split()) in row
