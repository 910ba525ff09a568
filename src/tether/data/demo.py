"""Demo data with nothing to download: real people's conversations from the PyPI package `chitchat_dataset` (MIT).

    demo:chitchat-text      whole conversations, rendered with the special tokens of `bpe.py`, for language modelling
    demo:chitchat-chat      (last turns → next turn) from conversations whose participants rated them in the better half
    demo:chitchat-prompts   last turns only, two from a conversation, to be answered

Splits are by conversation (`train` 90 %, `validation` 5 %, `test` 5 %, by a hash of its id), and a prompt belongs to the
first split it occurs in, so nothing held out is seen by any stage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tether.data.bpe import render
from tether.errors import InputError

SPLITS = ("train", "validation", "test")
Row = dict[str, Any]

_UNWANTED = re.compile(r"https?://|www\.|\b(fuck\w*|shit\w*|bitch\w*|cunt\w*|nigg\w*|fag\w*|rape\w*|porn\w*|whore\w*)\b", re.I)
_MAX_TURN_WORDS = 60


class Conversation(NamedTuple):
    """One conversation: alternating turns of two people."""

    id: str
    split: str
    turns: tuple[str, ...]
    clean: tuple[bool, ...]
    """Which turns hold no link, no slur and at most 60 words."""
    rating: float | None
    """Mean of the participants' ratings (witty, interesting, upbeat; 1 to 10)."""


@lru_cache(maxsize=1)
def conversations() -> tuple[Conversation, ...]:
    """All usable conversations, in the order of the package. InputError when the package is not installed."""
    spec = find_spec("chitchat_dataset")
    if spec is None or spec.origin is None:
        raise InputError("demo data needs the package chitchat_dataset; install it with: pip install 'tether[demo]'")
    raw = json.loads((Path(spec.origin).parent / "dataset.json").read_text(encoding="utf-8"))
    found = []
    for name, talk in raw.items():
        turns = tuple(t for t in (" ".join(" ".join(u["text"] for u in turn).split()) for turn in talk["messages"]) if t)
        scores = [s for s in (talk.get("ratings") or {}).values() if s is not None]
        if len(turns) >= 2:
            clean = tuple(len(t.split()) <= _MAX_TURN_WORDS and not _UNWANTED.search(t) for t in turns)
            rating = sum(scores) / len(scores) if scores else None
            found.append(Conversation(name, split_of(name), turns, clean, rating))
    return tuple(found)


def split_of(name: str) -> str:
    """The split a conversation belongs to: a function of its id alone."""
    place = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return SPLITS[0] if place < 90 else SPLITS[1] if place < 95 else SPLITS[2]


def words(turn: str) -> int:
    """How many words a turn has."""
    return len(turn.split())


def windows(talk: Conversation) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """(index of the next turn, the turns before it as messages): three of them where there are, else one."""
    for i in range(1, len(talk.turns) + 1):
        first = i - 3 if i >= 3 else i - 1
        if all(talk.clean[first:i]):
            roles = ("user", "assistant", "user")
            yield i, [{"role": r, "content": t} for r, t in zip(roles, talk.turns[first:i], strict=False)]


def text_rows() -> Iterator[tuple[str, Row]]:
    for talk in conversations():
        kept = [t for t, clean in zip(talk.turns, talk.clean, strict=True) if clean]
        turns = [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(kept)]
        if turns:
            yield talk.split, {"text": render(turns), "id": talk.id}


def chat_rows() -> Iterator[tuple[str, Row]]:
    rated = sorted(t.rating for t in conversations() if t.rating is not None)
    middle = rated[len(rated) // 2]
    seen: set[tuple[str, ...]] = set()
    for talk in _by_split():
        if talk.rating is None or talk.rating < middle:
            continue
        for i, messages in windows(talk):
            if i == len(talk.turns) or not talk.clean[i] or not 3 <= words(talk.turns[i]) <= 30:
                continue
            if _first_seen(seen, messages):
                row = {"prompt": messages, "response": talk.turns[i], "rating": talk.rating, "id": f"{talk.id}/{i}"}
                yield talk.split, row


def prompt_rows() -> Iterator[tuple[str, Row]]:
    seen: set[tuple[str, ...]] = set()
    for talk in _by_split():
        # Two places of a conversation, the same ones every time, apart from one another.
        fitting = [(i, m) for i, m in windows(talk) if 4 <= words(m[-1]["content"]) <= 40]
        order = sorted(fitting, key=lambda w: hashlib.sha256(f"{talk.id}/{w[0]}".encode()).digest())
        for i, messages in order[:2]:
            if _first_seen(seen, messages):
                yield talk.split, {"prompt": messages, "id": f"{talk.id}/{i}"}


def _by_split() -> list[Conversation]:
    return sorted(conversations(), key=lambda talk: SPLITS.index(talk.split))


def _first_seen(seen: set[tuple[str, ...]], messages: list[dict[str, str]]) -> bool:
    """Whether this prompt is new: a prompt counts once, in the first split it occurs in."""
    key = tuple(m["content"] for m in messages)
    new = key not in seen
    seen.add(key)
    return new


DEMOS: dict[str, Callable[[], Iterator[tuple[str, Row]]]] = {
    "chitchat-text": text_rows,
    "chitchat-chat": chat_rows,
    "chitchat-prompts": prompt_rows,
}
"""Name → (split, row) pairs."""


def demo_rows(name: str, split: str) -> list[Row]:
    """The rows of one split of `demo:NAME`, shuffled in an order fixed by their ids.

    Raises:
        InputError: unknown name or split, or the package is missing.
    """
    if name not in DEMOS:
        raise InputError(f"demo:{name}: there is no such demo data; valid: {', '.join('demo:' + n for n in DEMOS)}")
    if split not in SPLITS:
        raise InputError(f"demo:{name}: there is no split '{split}'; valid: {', '.join(SPLITS)}")
    rows = [row for where, row in DEMOS[name]() if where == split]
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).digest())
