"""`gym:TASK`: puzzles that reasoning-gym makes, whose answers can be checked; nothing to download.

A row is prompt, answer, and the task's own `entry`, by which the verifier `gym` scores an answer. Settings of a task
follow its name: `gym:chain_sum?min_terms=2&max_terms=3`. A prompt belongs to one split by its hash alone, so splits
share none; each split is drawn from a seed of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl

from tether.config.problems import nearest
from tether.errors import InputError

SPLITS = {"train": 70, "validation": 10, "test": 20}
"""Split → per cent of the prompts."""
SIZES = {"train": 10_000, "validation": 1_000, "test": 1_000}
"""Split → rows, unless the task runs out of new prompts before."""
PATIENCE = 1_000
"""Draws without a new prompt of the split after which a task counts as used up."""

Row = dict[str, Any]


def read_gym(name: str, split: str) -> Iterator[Row]:
    """The rows of one split of `gym:name`, made as they are asked for.

    Raises:
        InputError: reasoning-gym is missing; an unknown task, setting or split.
    """
    return _rows(make_task(name, split), name.partition("?")[0], split)


def make_task(name: str, split: str = "train") -> Any:
    """reasoning-gym's data set for a task's name and settings. InputError as `read_gym`."""
    if split not in SPLITS:
        raise InputError(f"gym:{name} has no split {split!r}; it has {', '.join(SPLITS)}")
    if find_spec("reasoning_gym") is None:
        raise InputError("gym tasks need the package reasoning-gym: pip install 'tether-rlhf[verify]'")
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    task, _, query = name.partition("?")
    if task not in DATASETS:
        raise InputError(f"there is no task 'gym:{task}' in reasoning-gym; {nearest(task, DATASETS)}")
    settings = {key: _value(text) for key, text in parse_qsl(query, keep_blank_values=True)}
    known = [field for field in DATASETS[task][1].__dataclass_fields__ if field not in ("seed", "size")]
    for key in settings:
        if key not in known:
            raise InputError(f"gym:{task} has no setting {key!r}; it has {', '.join(known)}")
    try:
        seed = list(SPLITS).index(split)
        return reasoning_gym.create_dataset(task, seed=seed, size=2**31 - 1, **settings)
    except (AssertionError, TypeError, ValueError) as error:  # a task checks its settings by assertions
        raise InputError(f"gym:{name}: {str(error) or 'the settings do not go together'}") from error


def _value(text: str) -> Any:
    """Numbers, true and false, lists as JSON; anything else is text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _rows(task: Any, name: str, split: str) -> Iterator[Row]:
    seen: set[str] = set()
    index = last = 0
    while len(seen) < SIZES[split] and index - last < PATIENCE:
        entry = task[index]
        index += 1
        prompt = entry["question"]
        if prompt not in seen and split_of(prompt, SPLITS) == split:
            last = index
            seen.add(prompt)
            yield {"id": f"{name}:{split}:{index - 1}", "prompt": prompt, "answer": entry["answer"], "entry": entry}


def split_of(prompt: str, shares: dict[str, int]) -> str:
    """The split of a prompt: a function of its text alone. `shares` are per cent, and add up to 100.

    >>> split_of("2+2=", {"train": 0, "test": 100})
    'test'
    """
    place = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 100
    for split, share in shares.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")
