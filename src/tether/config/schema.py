"""The JSON schema of recipes, for editors: completion, hover texts and red underlines while writing TOML."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from tether.config.load import Sections
from tether.config.recipe import RunConfig
from tether.config.rounds import LoopConfig
from tether.config.sections import Section


def recipe_schema(sections: Sections) -> dict[str, Any]:
    """JSON Schema (2020-12) of a recipe; a stage's `algorithm` decides which fields it has."""
    models: list[type[Section]] = [RunConfig, LoopConfig, *dict.fromkeys(sections.values())]
    refs, definitions = models_json_schema([(model, "validation") for model in models], ref_template="#/$defs/{model}")
    stages = [
        {
            "if": {"properties": {"algorithm": {"const": algorithm}}, "required": ["algorithm"]},
            "then": refs[(section, "validation")],
        }
        for algorithm, section in sections.items()
    ]
    stage = {
        "type": "object",
        "required": ["name", "algorithm"],
        "properties": {"algorithm": {"enum": sorted(sections)}},
        "allOf": stages,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tether recipe",
        "type": "object",
        "required": ["run", "stage"],
        "additionalProperties": False,
        "properties": {
            "run": refs[(RunConfig, "validation")],
            "loop": refs[(LoopConfig, "validation")],
            "stage": {"type": "array", "minItems": 1, "items": stage},
        },
        "$defs": definitions["$defs"],
    }
