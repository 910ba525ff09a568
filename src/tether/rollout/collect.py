"""Prompts → scored groups, and groups as rows that JSON can carry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from tether.errors import InputError
from tether.types import Group, Prompt, Response, Sampler, Scorer


def collect(
    sampler: Sampler, scorer: Scorer, prompts: Sequence[Prompt], k: int, seed: int
) -> tuple[list[Group], Tensor]:
    """K scored responses for each prompt (label `rewards`), and all rewards (S,), group by group.

    Raises InputError for rewards that are too few, too many, missing, NaN or infinite, naming the sample.
    """
    groups = sampler.generate(prompts, k, seed=seed)
    rewards: Any = scorer(groups)  # a user's scorer may return anything
    values: list[Any] = rewards.tolist() if isinstance(rewards, Tensor) else list(rewards)
    count = sum(len(group.responses) for group in groups)
    if len(values) != count:
        raise InputError(f"the scorer gave {len(values)} rewards for {count} responses; it must give one for each")
    scored, first = [], 0
    for index, group in enumerate(groups):
        own = values[first : first + len(group.responses)]
        first += len(own)
        for number, reward in enumerate(own):
            if not isinstance(reward, int | float) or not math.isfinite(reward):
                raise InputError(
                    f"the reward of response {number} to prompt {group.prompt.meta.get('id', f'number {index}')} is "
                    f"{reward}; a reward must be a finite number (the response was {group.responses[number].text!r})"
                )
        scored.append(replace(group, labels={**group.labels, "rewards": own}))
    return scored, torch.as_tensor(rewards, dtype=torch.float32)


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
