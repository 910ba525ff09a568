"""Is the policy still saying different things? Distinct n-grams, self-BLEU, repeated replies, lengths."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tether.errors import InputError

_Gram = tuple[str, ...]


@dataclass(frozen=True)
class Diversity:
    """What a set of replies looks like as a set."""

    distinct_1: float
    distinct_2: float
    top_reply: str
    """The most frequent reply, blanks and case aside."""
    top_share: float
    """Its share of all replies: near 1 when the policy has collapsed to one answer."""
    mean_words: float
    mean_tokens: float | None
    """End-of-turn token included; None when tokens were not given."""
    ended: float | None
    """Share that closed their turn; None when not given."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def diversity(
    texts: Sequence[str], *, num_tokens: Sequence[int] | None = None, ended: Sequence[bool] | None = None
) -> Diversity:
    """All of it for some replies, with their lengths in tokens and whether they closed their turn, where known.

    InputError without replies, or when the lists are of different lengths.
    """
    for name, column in (("num_tokens", num_tokens), ("ended", ended)):
        if column is not None and len(column) != len(texts):
            raise InputError(f"{name}: has {len(column)} entries for {len(texts)} texts; give one for each")
    if not texts:
        raise InputError("texts: there are none; give one or more replies")
    (top, times), *_ = Counter(" ".join(_words(text)) for text in texts).most_common(1)
    return Diversity(
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        top_reply=top,
        top_share=times / len(texts),
        mean_words=sum(len(text.split()) for text in texts) / len(texts),
        mean_tokens=None if num_tokens is None else sum(num_tokens) / len(texts),
        ended=None if ended is None else sum(ended) / len(texts),
    )


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams of the whole set (Li et al. 2016), over lower-case words; 0 without any.

    It falls with the number of words, so compare sets of the same prompts and like lengths.

    >>> distinct_n(["a b a b", "a b"], 2)  # ab, ba, ab, ab
    0.5
    """
    if n < 1:
        raise InputError(f"n {n}: must be at least 1")
    grams = [gram for text in texts for gram in _grams(_words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_bleu(texts: Sequence[str], *, max_n: int = 4, sample: int = 200, seed: int = 0) -> float:
    """Mean BLEU of each text against all the others (Zhu et al. 2018): 0 all different, 1 all the same.

    BLEU by Papineni et al. 2002 up to `max_n`-grams, add-one smoothed above 1-grams (Lin & Och 2004). At most `sample`
    texts, drawn by `seed`, are scored, all against all the rest of the sample. InputError for fewer than two texts.
    """
    if len(texts) < 2:
        raise InputError(f"self-BLEU: needs two or more texts, got {len(texts)}")
    if len(texts) > sample:
        texts = random.Random(seed).sample(list(texts), sample)
    words = [_words(text) for text in texts]
    counts = [[Counter(_grams(w, n)) for n in range(1, max_n + 1)] for w in words]
    ceilings = [_two_largest([text[n] for text in counts]) for n in range(max_n)]
    lengths = [len(w) for w in words]
    return sum(_bleu(at, counts[at], ceilings, lengths) for at in range(len(texts))) / len(texts)


def _bleu(
    at: int,
    mine: Sequence[Counter[_Gram]],
    ceilings: Sequence[dict[_Gram, tuple[int, int, int]]],
    lengths: Sequence[int],
) -> float:
    if not lengths[at]:
        return 0.0
    logs = []
    for n, (grams, ceiling) in enumerate(zip(mine, ceilings, strict=True)):
        matched = 0
        for gram, count in grams.items():
            owner, most, next_most = ceiling[gram]
            matched += min(count, next_most if owner == at else most)
        extra = 1 if n else 0
        if not matched + extra:
            return 0.0
        logs.append(math.log((matched + extra) / (grams.total() + extra)))
    others = [length for other, length in enumerate(lengths) if other != at]
    closest = min(others, key=lambda length: (abs(length - lengths[at]), length))
    brevity = min(0.0, 1 - closest / lengths[at])
    return math.exp(brevity + sum(logs) / len(logs))


def _two_largest(texts: Sequence[Counter[_Gram]]) -> dict[_Gram, tuple[int, int, int]]:
    """N-gram → (the text that has it most often, how often, how often the runner-up has it)."""
    found: dict[_Gram, tuple[int, int, int]] = {}
    for at, grams in enumerate(texts):
        for gram, count in grams.items():
            owner, most, next_most = found.get(gram, (-1, 0, 0))
            found[gram] = (at, count, most) if count > most else (owner, most, max(count, next_most))
    return found


def _words(text: str) -> list[str]:
    return text.lower().split()


def _grams(words: Sequence[str], n: int) -> list[_Gram]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
