"""Facts as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def facts_lines(facts: Mapping[str, Any]) -> list[str]:
    """Nested facts as aligned lines.

    >>> facts_lines({"a": {"b": 0.25, "cc": [1, 2]}})
    ['a.b   0.25', 'a.cc  1, 2']
    """
    flat = dict(_flat(facts))
    width = max((len(name) for name in flat), default=0)
    return [f"{name:<{width}}  {text}" for name, text in flat.items()]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(v, Mapping | list | tuple) for v in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{index}")
    elif isinstance(value, list | tuple):
        yield name, ", ".join(_text(v) for v in value) or "-"
    else:
        yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
