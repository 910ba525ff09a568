"""The recipe reference in Markdown, from the sections' own docstrings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic.fields import FieldInfo

from tether.config.describe import wanted
from tether.config.load import Sections
from tether.config.recipe import RunConfig
from tether.config.rounds import LoopConfig
from tether.config.sections import Section, StageSection


def recipe_reference(sections: Sections) -> str:
    """A Markdown page: `[run]`, `[loop]`, every algorithm's stage, then the tables that stages share."""
    parts = [
        "# Recipe reference\n\nA recipe is a TOML file: one `[run]` and a `[[stage]]` for each step. "
        "A stage's `algorithm` decides its other fields. Any field can be set from the command line: "
        "`--set STAGE.FIELD=VALUE`. `stage:NAME` stands for what an earlier stage made.",
        section_reference("`[run]`", RunConfig),
        section_reference("`[loop]`", LoopConfig),
        section_reference("Every stage", StageSection),
    ]
    skip = set(StageSection.model_fields)
    for algorithm, section in sorted(sections.items()):
        parts.append(section_reference(f'`algorithm = "{algorithm}"`', section, skip))
    parts += [section_reference(f"Table `{s.__name__}`", s) for s in nested_sections(sections.values())]
    return "\n\n".join(parts) + "\n"


def nested_sections(sections: Iterable[type[Section]]) -> list[type[Section]]:
    """Every section that is a field of these (or of such a field), by name."""
    seen: dict[type[Section], None] = {}
    waiting = [inner for s in sections for inner in _inner(s)]
    while waiting:
        section = waiting.pop()
        if section not in seen:
            seen[section] = None
            waiting += _inner(section)
    return sorted(seen, key=lambda s: s.__name__)


def _inner(section: type[Section]) -> list[type[Section]]:
    return [s for field in section.model_fields.values() for s in _held(field.annotation)]


def _held(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for part in get_args(annotation):
        yield from _held(part)


def section_reference(title: str, section: type[Section], skip: Iterable[str] = ()) -> str:
    """A heading and a table of a section's fields."""
    rows = [_row(name, field) for name, field in section.model_fields.items() if name not in set(skip)]
    intro = inspect.cleandoc(section.__doc__ or "")
    head = ["| field | takes | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", intro, "", *head, *rows])


def _row(name: str, field: FieldInfo) -> str:
    held = [f"[{s.__name__}](#table-{s.__name__.lower()})" for s in _held(field.annotation)]
    takes = re.sub(r"matching (\S+)", r"matching `\1`", wanted(field)) + (f": {', '.join(held)}" if held else "")
    cells = (f"`{name}`", takes, _default(field), field.description or "")
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "not given"
    return "see table" if isinstance(value, Section) else f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return str(value)
