"""`demo:sums`: adding two numbers of two digits, all 8,100 sums; `demo:sums-text`: the same as text.

A row is a prompt, one turn of a conversation (`12+34`), and an answer (`46`). The conversation's opening token is a
landmark: small models learn to add several times faster with it than from bare text. A sum belongs to one split by its
hash; rows come in hash order, so the first `limit` are a fair sample.
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
    >>> len(rows), sorted(rows[0])
    (1186, ['answer', 'id', 'prompt'])
    """
    check_sums(name, split)
    sums = _sums()[split]
    if name == "sums-text":
        return [{"id": sum_, "text": f"{sum_}={total}"} for sum_, total in sums]
    return [{"id": sum_, "prompt": [{"role": "user", "content": sum_}], "answer": total} for sum_, total in sums]


def check_sums(name: str, split: str) -> None:
    """InputError for an unknown name or split."""
    if name not in NAMES:
        raise InputError(f"there is no data set demo:{name}; there are {', '.join('demo:' + known for known in NAMES)}")
    if split not in SPLITS:
        raise InputError(f"demo:{name} has no split {split!r}; it has {', '.join(SPLITS)}")


@functools.cache
def _sums() -> Mapping[str, list[tuple[str, str]]]:
    """Split → (sum, total), in hash order."""
    found: dict[str, list[tuple[str, str]]] = {split: [] for split in SPLITS}
    totals = {f"{a}+{b}": str(a + b) for a in range(10, 100) for b in range(10, 100)}
    for sum_ in sorted(totals, key=lambda text: hashlib.blake2b(f"order {text}".encode()).digest()):
        found[split_of(sum_, SPLITS)].append((sum_, totals[sum_]))
    return MappingProxyType(found)
