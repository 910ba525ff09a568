"""Diversity by hand; self-BLEU against one written the slow way."""

from __future__ import annotations

import json
import math
import random
from collections import Counter

import pytest

from tether.errors import InputError
from tether.evals.diversity import distinct_n, diversity, self_bleu


def test_distinct_by_hand():
    texts = ["the cat sat", "The cat ran"]  # unigrams the cat sat the cat ran; bigrams the-cat cat-sat the-cat cat-ran
    assert distinct_n(texts, 1) == pytest.approx(4 / 6)
    assert distinct_n(texts, 2) == pytest.approx(3 / 4)
    assert distinct_n(["one", "two"], 2) == 0.0
    assert distinct_n(["a", "b", "c"], 1) == 1.0


def test_a_collapsed_policy_shows():
    found = diversity(["Haha!"] * 8 + ["haha!  ", "I see"], num_tokens=[3] * 10, ended=[True] * 9 + [False])
    assert (found.top_reply, found.top_share) == ("haha!", 0.9)
    assert (found.mean_words, found.mean_tokens, found.ended) == (1.1, 3.0, 0.9)
    assert found.distinct_1 == pytest.approx(3 / 11)
    assert json.loads(json.dumps(found.as_dict()))["top_share"] == 0.9
    assert diversity(["x"]).mean_tokens is None


def slow_self_bleu(texts, max_n=4):
    def grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    total = 0.0
    for at, text in enumerate(texts):
        words, others = text.lower().split(), [t.lower().split() for k, t in enumerate(texts) if k != at]
        precision = []
        for n in range(1, max_n + 1):
            mine = grams(words, n)
            clipped = sum(min(c, max(grams(o, n)[g] for o in others)) for g, c in mine.items())
            add = int(n > 1)
            precision.append((clipped + add) / (sum(mine.values()) + add))
        closest = min((abs(len(o) - len(words)), len(o)) for o in others)[1]
        brevity = 1.0 if len(words) >= closest else math.exp(1 - closest / len(words))
        total += brevity * math.prod(precision) ** (1 / max_n)
    return total / len(texts)


def test_self_bleu_is_the_slow_one():
    rng = random.Random(0)
    for _ in range(30):
        texts = [" ".join(rng.choices("abcd", k=rng.randint(1, 9))) for _ in range(rng.randint(2, 7))]
        assert self_bleu(texts) == pytest.approx(slow_self_bleu(texts))


def test_self_bleu_is_one_for_copies_and_none_for_strangers():
    assert self_bleu(["we all say the same"] * 5) == pytest.approx(1.0)
    assert self_bleu(["a b c d", "e f g h"]) == 0.0
    assert self_bleu(["", "a"]) == 0.0
    many = [f"a b {i}" for i in range(50)]
    assert self_bleu(many, sample=10, seed=1) == self_bleu(many, sample=10, seed=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity([]), "there are none"),
        (lambda: diversity(["a"], ended=[True, False]), "ended: has 2 entries for 1 texts"),
        (lambda: distinct_n(["a"], 0), "n 0"),
        (lambda: self_bleu(["a"]), "two or more texts"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
