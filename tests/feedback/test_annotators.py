"""The simulated raters: opinions by hand from the published ratings, and each fault in the size it was asked for."""

from __future__ import annotations

import importlib.util
import math
import random
import time

import numpy as np
import pytest

from tether.errors import InputError
from tether.feedback import annotators
from tether.feedback.annotators import Lexicon, Rater, gold, vader_lexicon, vader_raters

LOVE = [3, 3, 3, 3, 3, 3, 3, 4, 4, 3]  # the line of "love" in the lexicon file


def squash(total: float) -> float:
    return total / math.sqrt(total * total + 15)


def test_the_raters_are_the_ten_of_the_file():
    raters = vader_raters()
    assert [r.name for r in raters] == [f"vader-{i}" for i in range(10)]
    assert [r.opinion("love") for r in raters] == pytest.approx([squash(x) for x in LOVE])
    assert gold("love") == pytest.approx(np.mean([squash(x) for x in LOVE]))
    assert vader_lexicon().ratings.shape[1] == 10
    assert vader_lexicon().ratings.min() == -4
    assert vader_lexicon().ratings.max() == 4


@pytest.fixture
def lexicon() -> Lexicon:
    words = {"love": 0, "nice": 1, "bad": 2, "haha": 3, "hahaha": 4, ":(": 5, "no": 6}
    return Lexicon(words, np.array([[3.0], [2.0], [-2.0], [2.0], [3.0], [-2.0], [-1.0]]))


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("I LOVE it!", 3),
        ("nice, nice", 2 * 1.5),
        ("nice nice nice nice", 2 * (1 + 0.5 + 0.25 + 0.125)),
        ("haha hahaha", 2 + 0.5 * 3),  # one joke
        ("not nice", 2 * -0.74),
        ("I don't really love it", 3 * -0.74),
        ("I don\u2019t love it", 3 * -0.74),
        ("not a very big nice", 2),  # four words on, the negator has worn off
        ("not bad, nice", -2 * -0.74 + 2),  # nor does it pass the comma
        ("not nice :(", 2 * -0.74 - 2),  # an emoticon means what it shows
        ("no", 0),
        ("the table", 0),
        ("", 0),
        ("nice bad", 0),
        ("(nice)", 2),
    ],
)
def test_opinions_by_hand(lexicon, text, total):
    assert lexicon.opinions(text) == pytest.approx([squash(total)])


def test_repeats_can_count_for_nothing(lexicon):
    strict = Lexicon(lexicon.rows, lexicon.ratings, repeat=0.0)
    assert strict.opinions("haha haha hahaha haha") == pytest.approx([squash(2)])


def test_more_of_the_same_never_reaches_three_times_one(lexicon):
    one, many = (lexicon.opinions(" ".join(["nice"] * n))[0] for n in (1, 500))
    assert one < many < squash(4.0001)


def by_length(name: str = "r", **faults: float) -> Rater:
    """Likes short texts: opinion is minus a tenth of the length."""
    return Rater(name, lambda text: -len(text) / 10, **faults)


def test_ranks_ties_and_strengths_by_hand():
    rater, rng = by_length(), random.Random(0)
    assert rater.compare("", ["aaaa", "a"], rng)[:3] == ((1, 0), 1.0, None)
    assert rater.compare("", ["a", "a" * 7], rng)[:3] == ((0, 1), 2.0, None)
    assert rater.compare("", ["a", "a" * 10], rng)[:3] == ((0, 1), 3.0, None)
    assert rater.compare("", ["ab", "cd"], rng)[:3] == ((0, 0), 0.0, None)
    assert rater.compare("", ["a" * 9, "a", "a" * 5, "b"], rng)[:3] == ((2, 0, 1, 0), None, None)


def test_same_chance_same_verdict():
    rater = by_length(noise=1.0, first=0.2, spam=0.2)
    texts = ["aaa", "a"]
    runs = [[rater.compare("", texts, random.Random(i)) for i in range(50)] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) > 3


def shares(rater: Rater, num: int = 3000) -> tuple[float, float]:
    """How often the better of two wins, and how often the first shown does; the better is first half the time."""
    better = first = 0
    rng = random.Random(1)
    for i in range(num):
        texts = ["a", "a" * 4] if i % 2 else ["a" * 4, "a"]
        ranking = rater.compare("", texts, rng).ranking
        better += ranking[1 - i % 2] < ranking[i % 2]
        first += ranking[0] < ranking[1]
    return better / num, first / num


def test_each_fault_has_the_size_it_was_asked_for():
    assert shares(by_length()) == (1.0, 0.5)
    better, first = shares(by_length(first=0.4))
    assert better == pytest.approx(0.8, abs=0.03)
    assert first == pytest.approx(0.7, abs=0.03)
    better, first = shares(by_length(spam=1.0))
    assert better == pytest.approx(0.5, abs=0.03)
    assert first == pytest.approx(0.5, abs=0.03)
    better, _ = shares(by_length(noise=0.3 / math.sqrt(2), tie=0.0))  # one standard deviation apart: Φ(1)
    assert better == pytest.approx(0.8413, abs=0.025)
    better, first = shares(by_length(reverse=0.3))
    assert better == pytest.approx(0.7, abs=0.025)
    assert first == pytest.approx(0.5, abs=0.03)
    patient = Rater("long", lambda text: 0.0, length=1.0)
    assert patient.compare("", ["one two three", "one"], random.Random(0)).ranking == (0, 1)


def test_a_malicious_rater_says_the_opposite_and_keeps_ties():
    texts = ["a" * 9, "a", "a" * 5, "b"]
    assert by_length(reverse=1.0).compare("", texts, random.Random(0)).ranking == (0, 2, 1, 2)
    assert by_length(reverse=1.0, noise=3.0, spam=0.5).true_ranks(texts) == (2, 0, 1, 0)


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(annotators, "find_spec", lambda name: importlib.util.find_spec("no_such_package_here"))
    with pytest.raises(InputError, match=r"tether-rlhf\[demo\]"):
        vader_lexicon.__wrapped__()


def test_twenty_thousand_opinions_a_second():
    rng, words = random.Random(0), [*vader_lexicon().rows][:2000]
    texts = [" ".join(rng.choices(words, k=16)) + str(i) for i in range(1500)]
    raters = vader_raters()
    start = time.process_time()
    for text in texts:
        for rater in raters:
            rater.opinion(text)
    assert 15_000 / (time.process_time() - start) > 20_000
