"""Groups as rows that JSON can carry, and back: how an artifact keeps what was sampled, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from tether.types import Group, Prompt, Response


def to_rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """One JSON-able dictionary a group; `from_rows` gives the same groups back, floats bit by bit.

    `meta` and `labels` must hold JSON's own types: a tuple in them would come back as a list.
    """
    return [
        {
            "prompt": _row(group.prompt),
            "responses": [_row(response) for response in group.responses],
            "labels": dict(group.labels),
        }
        for group in groups
    ]


def from_rows(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """The groups that `to_rows` wrote, also after a trip through JSON."""
    return [
        Group(
            _record(Prompt, row["prompt"]),
            tuple(_record(Response, response) for response in row["responses"]),
            row["labels"],
        )
        for row in rows
    ]


def _row(record: Prompt | Response) -> dict[str, Any]:
    """A record's fields; its mappings as plain dictionaries and its tuples as lists."""
    row: dict[str, Any] = {}
    for entry in fields(record):
        value = getattr(record, entry.name)
        if isinstance(value, tuple):
            value = [dict(v) if isinstance(v, Mapping) else v for v in value]
        row[entry.name] = dict(value) if isinstance(value, Mapping) else value
    return row


def _record(kind: type[Any], row: dict[str, Any]) -> Any:
    """A record whose sequences are tuples again."""
    known = {field.name for field in fields(kind)}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in row.items() if name in known})
