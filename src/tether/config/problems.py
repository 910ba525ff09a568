"""Pydantic's findings as lines a person can act on: the field, the value it got, what is valid."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tether.config.describe import describe
from tether.config.sections import Section


def nearest(word: str, names: Iterable[str]) -> str:
    """A suggestion to end a message with: the nearest valid name, or all of them when none is near.

    >>> nearest("lrr", ["lr", "betas"])
    "did you mean 'lr'?"
    >>> nearest("x", ["lr", "betas"])
    'valid: betas, lr'
    """
    names = sorted(set(names))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"valid: {', '.join(names)}"


def first_problem(findings: Sequence[Any]) -> str:
    """The first of `ValidationError.errors()` as `field: what is wrong`, in pydantic's words; for no section."""
    where, told = ".".join(map(str, findings[0]["loc"])), findings[0]["msg"].removeprefix("Value error, ")
    return f"{where}: {told}" if where else str(told)


class _Place(NamedTuple):
    """Where in a section an error is."""

    path: tuple[str, ...]
    annotation: Any
    constraints: tuple[Any, ...] = ()


def problems(error: ValidationError, section: type[Section], where: str) -> list[str]:
    """One line for each field at fault, in the order of the section: `where, field train.lr: got …, expected …`."""
    lines: dict[str, str] = {}
    for finding in error.errors(include_url=False):
        place = _Place((), section)
        for step in finding["loc"]:
            place = _into(place, step) or place  # what leads nowhere is pydantic's name of a union member
        unknown = finding["type"] == "extra_forbidden"
        path = ".".join((*place.path, str(finding["loc"][-1])) if unknown else place.path)
        label = f"{where}, field {path}" if path else where
        lines.setdefault(label, f"{label}: {_line(finding, place)}")
    # Of a union, the member that was meant says where within it; the others only say that they were not.
    return [line for label, line in lines.items() if not any(other.startswith(f"{label}.") for other in lines)]


def _line(finding: ErrorDetails, place: _Place) -> str:
    kind, value = finding["type"], finding["input"]
    if kind == "extra_forbidden":
        return f"unknown; {nearest(str(finding['loc'][-1]), _fields(place.annotation))}"
    if kind in ("value_error", "assertion_error"):
        return finding["msg"].split(", ", 1)[1]
    expected = describe(place.annotation, place.constraints)
    return f"missing; expected {expected}" if kind == "missing" else f"got {_show(value)}, expected {expected}"


def _show(value: Any) -> str:
    text = "a table" if isinstance(value, dict) else repr(value)
    return {"True": "true", "False": "false"}.get(text, text if len(text) <= 80 else text[:77] + "…")


def _into(place: _Place, step: str | int) -> _Place | None:
    """One step further into a section, a list or a table; None where the annotation has no such place."""
    annotation, origin, args = place.annotation, get_origin(place.annotation), get_args(place.annotation)
    path = (*place.path, str(step))
    if isinstance(annotation, type) and issubclass(annotation, Section) and step in annotation.model_fields:
        field = annotation.model_fields[str(step)]
        return _Place(path, field.annotation, tuple(field.metadata))
    if origin in (Union, types.UnionType, Annotated):
        ways = (_into(place._replace(annotation=a), step) for a in args)
        return next((way for way in ways if way), None)
    if origin in (list, tuple) and isinstance(step, int):
        return _Place(path, args[min(step, len(args) - 1)] if args[-1] is not Ellipsis else args[0])
    if origin is dict and isinstance(step, str) and step != "[key]":
        return _Place(path, args[1])
    return None


def _fields(annotation: Any) -> list[str]:
    """The field names of the section (or sections) an annotation holds."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return list(annotation.model_fields)
    return [name for a in get_args(annotation) for name in _fields(a)]
