"""The editor's schema accepts what the loader accepts, and refuses what it refuses."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import Field

from tether.config import StageSection, TrainSection, parse_recipe
from tether.config.schema import recipe_schema
from tether.errors import InputError


class Learn(TrainSection):
    """A stage that trains."""

    clip: float = Field(default=0.2, gt=0, lt=1)
    """Clip."""


class Draw(StageSection):
    """A stage that does not."""

    count: int = Field(ge=1)
    """Count."""


SECTIONS: dict[str, type[StageSection]] = {"learn": Learn, "draw": Draw}
SCHEMA = recipe_schema(SECTIONS)
RUN = '[run]\nname = "x"\n'
LEARN = '[[stage]]\nname = "a"\nalgorithm = "learn"\nmodel = "base"\ndata.path = "p"\n'
DRAW = '[[stage]]\nname = "b"\nalgorithm = "draw"\ncount = 3\n'


def test_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "text", [RUN + LEARN, RUN + LEARN + DRAW, RUN + LEARN + "clip = 0.5\n", RUN + "[loop]\nrounds = 1\n" + DRAW]
)
def test_accepts_what_loads(text: str) -> None:
    table: dict[str, Any] = tomllib.loads(text)
    parse_recipe(table, SECTIONS)
    Draft202012Validator(SCHEMA).validate(table)


@pytest.mark.parametrize(
    "text",
    [
        RUN,
        LEARN,
        RUN + LEARN + "clip = 1.0",
        RUN + LEARN + "count = 3",
        RUN + DRAW.replace("3", "0"),
        RUN + DRAW.replace('"draw"', '"drew"'),
        RUN + DRAW + "[lop]\nrounds = 1\n",
    ],
)
def test_refuses_what_does_not(text: str) -> None:
    table: dict[str, Any] = tomllib.loads(text)
    with pytest.raises(InputError):
        parse_recipe(table, SECTIONS)
    assert list(Draft202012Validator(SCHEMA).iter_errors(table))
