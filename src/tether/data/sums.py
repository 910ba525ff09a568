"""`demo:sums`: adding two numbers of at most two digits, all 10,000 of them; `demo:sums-text`: the same as text.

A row is prompt (`12+34=`) and answer (`46`). A sum belongs to one split by the hash of its prompt; rows come in hash
order, so the first `limit` are a fair sample.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tether.data.gym import split_of
from tether.errors import InputError

NAMES = ("sums", "sums-text")
SPLITS = {"train": 80, "validation": 5, "test": 15}
"""Split → per cent of the sums."""

Row = dict[str, Any]


def read_sums(name: str, split: str) -> list[Row]:
    """The rows of one split of `demo:name`. InputError for an unknown name or split.

    >>> rows = read_sums("sums", "test")
    >>> len(rows) > 1400, sorted(rows[0])
    (True, ['answer', 'id', 'prompt'])
    """
    check_sums(name, split)
    prompts = _prompts()[split]
    if name == "sums-text":
        return [{"id": prompt, "text": prompt + total} for prompt, total in prompts]
    return [{"id": prompt, "prompt": prompt, "answer": total} for prompt, total in prompts]


def check_sums(name: str, split: str) -> None:
    """InputError for an unknown name or split."""
    if name not in NAMES:
        raise InputError(f"there is no data set demo:{name}; there are {', '.join('demo:' + known for known in NAMES)}")
    if split not in SPLITS:
        raise InputError(f"demo:{name} has no split {split!r}; it has {', '.join(SPLITS)}")


@functools.cache
def _prompts() -> Mapping[str, list[tuple[str, str]]]:
    """Split → (prompt, answer), in hash order."""
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    sums = {f"{a}+{b}=": str(a + b) for a in range(100) for b in range(100)}
    for prompt in sorted(sums, key=lambda text: hashlib.blake2b(f"order {text}".encode()).digest()):
        found[split_of(prompt, SPLITS)].append((prompt, sums[prompt]))
    return MappingProxyType(found)
