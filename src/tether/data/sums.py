"""`demo:sums`: adding four digits, all 10,000 sums; `demo:sums-text`: the same as text.

A row is a prompt, one turn of a conversation (`3+0+8+4`), and an answer (`15`). A small model learns this little by
little; adding two numbers of two digits it learns all at once, early or late by the luck of its seed. A sum belongs to
one split by its hash; rows come in hash order, so the first `limit` are a fair sample.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from itertools import product
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
    (1479, ['answer', 'id', 'prompt'])
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
    totals = {"+".join(map(str, digits)): str(sum(digits)) for digits in product(range(10), repeat=4)}
    for sum_ in sorted(totals, key=lambda text: hashlib.blake2b(f"order {text}".encode()).digest()):
        found[split_of(sum_, SPLITS)].append((sum_, totals[sum_]))
    return MappingProxyType(found)
