"""`demo:NAME`: real conversations between people, from the package `chitchat_dataset` (MIT; BYU PCC lab), no download.

    chitchat-text      whole conversations, rendered with the base tokenizer's special tokens, for language modelling
    chitchat-chat      prompt, response and rating: replies from the conversations their own participants rated well
    chitchat-prompts   prompts alone, at most two a conversation

A conversation belongs to one split by the hash of its id, and a prompt that an earlier split holds is left out of the
later ones (train, validation, test): "how are you?" is asked everywhere. Rows come in hash order, so the first `limit`
are a fair sample. Nothing is cached on disk; a process parses the file once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tether.data import bpe
from tether.data.sums import NAMES as SUMS
from tether.errors import InputError

NAMES = ("chitchat-text", "chitchat-chat", "chitchat-prompts")
SPLITS = {"train": 85, "validation": 5, "test": 10}
"""Split → per cent of the conversations. A tenth held out leaves over 300 test prompts."""

Row = dict[str, Any]

MAX_TURN_WORDS = 80
REPLY_WORDS = range(3, 31)
PROMPT_WORDS = range(3, 41)
"""Words of a prompt's last turn: enough to be answered."""
GOOD_RATING = 5.0
"""The rating sliders start at 5, so only a mean above it says that somebody was pleased: the better half."""

_TAG = re.compile(r"</?[a-z]{1,8}>")
_STRETCH = re.compile(r"(.)\1{3,}")
# Addresses, long numbers, keyboard mashing: nobody's reply should be learnt from these, nor anybody's data kept.
_UNWANTED = re.compile(r"https?:|www\.|\.com\b|\S@\S|\d{6,}|\S{31,}|\*\*|<\||\|>", re.IGNORECASE)
_INSULT = re.compile(
    r"\b(?:f+u+c+k\w*|shit\w*|bitch\w*|ass|asses|asshole\w*|bastards?|dicks?|cocks?|pussy|sluts?|whores?|cunts?|rape\w*"
    r"|porn\w*|sex|sexy|nazis?|hitler|fag\w*|nigg\w*|retard\w*|stupid|idiots?|morons?|dumb\w*|losers?|ugly|wtf|stfu)\b",
    re.IGNORECASE,
)


class Conversation(NamedTuple):
    id: str
    split: str
    rating: float | None
    """Mean of the ratings witty, interesting and upbeat (1 to 10); None where nobody rated."""
    segments: tuple[tuple[str, ...], ...]
    """Runs of alternating turns; a turn that `clean` refuses ends a run."""


def read_demo(name: str, split: str) -> list[Row]:
    """The rows of one split of `demo:name`. Raises InputError for an unknown name or split, or a missing package."""
    check_demo(name, split)
    if name == "chitchat-text":
        return _text_rows(split)
    return list(_prompted()[name, split])


def check_demo(name: str, split: str) -> None:
    """InputError for an unknown name or split, or a missing package; nothing is read."""
    if name not in NAMES:
        known = ", ".join(f"demo:{name}" for name in (*NAMES, *SUMS))
        raise InputError(f"there is no data set demo:{name}; there are {known}")
    if split not in SPLITS:
        raise InputError(f"demo:{name} has no split {split!r}; it has {', '.join(SPLITS)}")
    if find_spec("chitchat_dataset") is None:
        raise InputError("demo data needs the package chitchat_dataset: pip install 'tether-rlhf[demo]'")


def clean(utterances: Sequence[str]) -> str | None:
    """One turn as text; None when it holds what should not be learnt (links, insults, addresses, walls of text).

    >>> clean(["  so   goooooood!", "you? "])
    'so goood! you?'
    """
    text = " ".join(_TAG.sub(" ", " ".join(utterances)).split())
    text = _STRETCH.sub(r"\1\1\1", text)
    if not text or len(text.split()) > MAX_TURN_WORDS or _UNWANTED.search(text) or _INSULT.search(text):
        return None
    return text


def _hash(*key: object) -> int:
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big")


def split_of(conversation_id: str) -> str:
    """The split of a conversation: a function of its id alone.

    >>> {split_of(str(i)) for i in range(100)} == set(SPLITS)
    True
    """
    place = _hash("split", conversation_id) % 100
    for split, share in SPLITS.items():
        if place < share:
            return split
        place -= share
    raise AssertionError("the shares add up to 100")


@functools.cache
def conversations() -> tuple[Conversation, ...]:
    """All conversations in which somebody answered, in hash order."""
    import chitchat_dataset

    raw = json.loads((Path(chitchat_dataset.__file__).parent / "dataset.json").read_text(encoding="utf-8"))
    found = (_conversation(key, raw[key]) for key in sorted(raw, key=lambda key: _hash("order", key)))
    return tuple(c for c in found if c.segments)


def _conversation(key: str, raw: dict[str, Any]) -> Conversation:
    segments: list[list[str]] = [[]]
    for turn in raw["messages"]:
        text = clean([utterance["text"] for utterance in turn])
        if text is not None:
            segments[-1].append(text)
        elif segments[-1]:
            segments.append([])
    ratings = [float(value) for value in (raw.get("ratings") or {}).values()]
    rating = sum(ratings) / len(ratings) if ratings else None
    return Conversation(key, split_of(key), rating, tuple(tuple(s) for s in segments if len(s) > 1))


def _messages(turns: Sequence[str], last: str) -> list[dict[str, str]]:
    other = {"user": "assistant", "assistant": "user"}
    roles = [last if (len(turns) - 1 - i) % 2 == 0 else other[last] for i in range(len(turns))]
    return [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]


def _text_rows(split: str) -> list[Row]:
    return [
        {"id": f"{c.id}:{i}", "text": bpe.render(_messages(turns, "user" if len(turns) % 2 else "assistant"))}
        for c in conversations()
        if c.split == split
        for i, turns in enumerate(c.segments)
    ]


def _windows(conversation: Conversation) -> Iterator[tuple[str, Sequence[str], str | None]]:
    """(id, the last one or three turns up to here, the next turn if any) at every turn.

    An odd number, so that a prompt starts and ends with the user's turn: many chat templates insist on it.
    """
    for number, turns in enumerate(conversation.segments):
        for end in range(1, len(turns) + 1):
            key = f"{conversation.id}:{number}:{end}"
            size = 3 if end >= 3 and _hash("window", key) % 3 else 1
            yield key, turns[end - size : end], turns[end] if end < len(turns) else None


def _num_words(text: str) -> int:
    return len(text.split())


@functools.cache
def _prompted() -> dict[tuple[str, str], tuple[Row, ...]]:
    """(name, split) → rows, for both sets with prompts at once: a prompt of either is seen by the later splits."""
    chat: dict[str, list[Row]] = {split: [] for split in SPLITS}
    prompts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for c in conversations():
        windows = list(_windows(c))
        if c.rating is not None and c.rating > GOOD_RATING:
            chat[c.split] += [
                {"id": key, "prompt": _messages(turns, "user"), "response": reply, "rating": round(c.rating, 2)}
                for key, turns, reply in windows
                if reply is not None and _num_words(reply) in REPLY_WORDS
            ]
        worth = [
            (_hash("prompt", key), key, turns) for key, turns, _ in windows if _num_words(turns[-1]) in PROMPT_WORDS
        ]
        prompts[c.split] += [{"id": key, "prompt": _messages(turns, "user")} for _, key, turns in sorted(worth)[:2]]
    rows: dict[tuple[str, str], tuple[Row, ...]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        kept = [row for row in chat[split] if _prompt_key(row) not in seen]
        kept.sort(key=lambda row: _hash("row", row["id"]))
        unique = {_prompt_key(row): row for row in prompts[split] if _prompt_key(row) not in seen}
        rows["chitchat-chat", split] = tuple(kept)
        rows["chitchat-prompts", split] = tuple(unique.values())
        seen |= unique.keys() | {_prompt_key(row) for row in kept}
    return rows


def _prompt_key(row: Row) -> str:
    return "\n".join(message["content"] for message in row["prompt"]).casefold()
