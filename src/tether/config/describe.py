"""What a field wants, in words: for error messages, for the reference page, for nobody's guess."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from tether.config.sections import Section

_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "true/false values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a string", "strings"),
    Any: ("anything", "anything"),
}
_BOUNDS = ((annotated_types.Gt, "gt", ">"), (annotated_types.Ge, "ge", ">="), (annotated_types.Lt, "lt", "<"),
           (annotated_types.Le, "le", "<="))  # fmt: skip


def wanted(field: FieldInfo) -> str:
    """What a field accepts.

    >>> from tether.config import TrainConfig
    >>> wanted(TrainConfig.model_fields["steps"])
    'a whole number >= 1'
    >>> wanted(TrainConfig.model_fields["layout"])
    "'auto', 'rows', 'tree' or 'varlen'"
    """
    return describe(field.annotation, field.metadata)


def describe(annotation: Any, constraints: Iterable[Any] = (), plural: bool = False) -> str:
    """A type annotation in words; `None` in a union is not mentioned (TOML has no null: leave the field out)."""
    if get_origin(annotation) is Annotated:
        annotation, *inner = get_args(annotation)
        return describe(annotation, [*constraints, *_flat(inner)], plural)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        choices = [describe(a, constraints, plural) for a in args if a is not type(None)]
        return either(dict.fromkeys(choices))
    if origin is Literal:
        return either(repr(a) for a in args)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "tables" if plural else "a table"
    if origin in (list, tuple, set, frozenset, Sequence):
        return ("lists of " if plural else "a list of ") + _items(args)
    if origin in (dict, Mapping):
        return ("tables of " if plural else "a table of ") + describe(args[1], plural=True)
    singular, many = _WORDS.get(annotation, (str(getattr(annotation, "__name__", annotation)),) * 2)
    return (many if plural else singular) + _bounds(constraints)


def either(choices: Iterable[str]) -> str:
    """`a, b or c`."""
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last


def _items(args: tuple[Any, ...]) -> str:
    kinds = [a for a in args if a is not Ellipsis]
    if len(kinds) > 1 and all(k == kinds[0] for k in kinds):
        return f"{len(kinds)} {describe(kinds[0], plural=True)}"
    return " and ".join(describe(k, plural=len(kinds) == 1) for k in kinds)


def _flat(metadata: Iterable[Any]) -> list[Any]:
    return [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _bounds(constraints: Iterable[Any]) -> str:
    words = ""
    for constraint in constraints:
        for kind, attribute, sign in _BOUNDS:
            if isinstance(constraint, kind):
                words += f"{' and' if words else ''} {sign} {getattr(constraint, attribute)}"
        if isinstance(constraint, annotated_types.MinLen):
            words += f"{' and' if words else ''} of length >= {constraint.min_length}"
        if pattern := getattr(constraint, "pattern", None):
            words += f"{' and' if words else ''} matching {pattern}"
    return words
