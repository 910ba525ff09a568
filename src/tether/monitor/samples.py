"""The same held-out prompts, answered at every evaluation: gathered from the log, and compared word by word."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

ALIKE = 0.2
"""Answers that share less of their words than this are shown unmarked: every word would be."""

Words = list[tuple[str, bool]]
"""Pieces of a text in order, and whether each is missing in the other text."""


def word_diff(first: str, last: str) -> tuple[Words, Words] | None:
    """Both texts in pieces, each marked if the other lacks it; None when they have too little in common to compare.

    >>> word_diff("i like cats", "i love cats")
    ([('i ', False), ('like', True), (' cats', False)], [('i ', False), ('love', True), (' cats', False)])
    """
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (first, last))
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    shared = sum(
        len(w) for block in matcher.get_matching_blocks() for w in a[block.a : block.a + block.size] if w.strip()
    )
    if shared < ALIKE * max(sum(len(w) for w in words if w.strip()) for words in (a, b)):
        return None
    before: Words = []
    after: Words = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        _add(before, "".join(a[a0:a1]), tag != "equal")
        _add(after, "".join(b[b0:b1]), tag != "equal")
    return before, after


def _add(words: Words, text: str, marked: bool) -> None:
    """Append `text`, its outer spaces unmarked; a piece marked like the one before joins it."""
    inner = text.strip()
    start = text.index(inner) if inner else len(text)
    for piece, mark in ((text[:start], False), (inner, marked), (text[start + len(inner) :], False)):
        if piece and words and words[-1][1] == mark:
            words[-1] = (words[-1][0] + piece, mark)
        elif piece:
            words.append((piece, mark))


def gather_samples(stages: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> list[dict[str, Any]]:
    """`RunReport.samples` from the `samples` events of (stage, events): rows with `prompt`, `answer` and scores.

    The n-th row of every such event is the n-th prompt. An answer is labelled `stage, step n`.
    """
    gathered: dict[tuple[int, str], dict[str, Any]] = {}
    for stage, events in stages:
        for event in events:
            if event.get("kind") != "samples":
                continue
            name = f"{stage}, step {event['step']}"
            for place, row in enumerate(event["rows"]):
                entry = gathered.setdefault(
                    (place, row["prompt"]), {"prompt": row["prompt"], "answers": {}, "scores": {}}
                )
                entry["answers"][name] = row["answer"]
                entry["scores"][name] = {k: v for k, v in row.items() if k not in ("prompt", "answer")}
    return [gathered[key] for key in sorted(gathered, key=lambda key: key[0])]


def versus_samples(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`RunReport.samples` from the rows of an `evaluate` stage: the baseline's answer, then the policy's."""
    return [
        {
            "prompt": row["prompt"],
            "answers": {name: row["answers"][name] for name in ("baseline", "policy")},
            "scores": {
                name: {
                    key.removeprefix(f"{name} "): v for key, v in row["scores"].items() if key.startswith(f"{name} ")
                }
                for name in ("baseline", "policy")
            },
        }
        for row in rows
    ]
