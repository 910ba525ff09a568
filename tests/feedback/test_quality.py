"""Rows of annotators by hand; the tests' power and false alarms on simulated annotators; Holm and Wilson."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from tether.errors import InputError
from tether.feedback.annotators import Rater
from tether.feedback.quality import AnnotatorQuality, Vote, annotator_quality, holm, wilson


def test_every_field_by_hand():
    votes = [
        Vote("ann", 1, "a", "b", "first", 10.0, 60, 40, gold="a"),
        Vote("ann", 2, "c", "d", "first", 2.0, 30, 20, gold="d"),  # 50 words take 3 s
        Vote("ann", 3, "e", "f", "tie", 30.0, 5, 9, gold="e"),
        Vote("ann", 4, "g", "h", "skip", 4.0, 1000, 1000, gold="g"),
        Vote("ann", 1, "b", "a", "second", None, 40, 60),  # a again, as before
        Vote("ann", 2, "d", "c", "first", 6.0),  # d, not c
        Vote("bob", 1, "b", "a", "first", 10.0, 40, 60),
        Vote("bob", 2, "c", "d", "first", 10.0, 30, 20),
        Vote("cat", 1, "a", "b", "first", 10.0, 60, 40),
        Vote("cat", 3, "e", "f", "first", 10.0, 5, 9),
    ]
    ann, bob, cat = annotator_quality(votes)
    assert (ann.annotator, ann.votes, ann.ties, ann.skips) == ("ann", 6, 1 / 5, 1 / 6)
    assert (ann.seconds, ann.fast) == (6.0, 1 / 3)
    assert ann.position[:2] == (3 / 4, 4)
    assert ann.longer == (1.0, 3, pytest.approx(0.25))
    assert ann.agreement == 2 / 4  # cat on 1 and bob on 2, not bob on 1 and cat on 3
    assert (ann.consistency.estimate, ann.repeats) == (0.5, 2)
    assert ann.gold.estimate == pytest.approx(1 / 3)
    assert ann.below_gold.p == pytest.approx(0.3**3 + 3 * 0.7 * 0.3**2)
    assert ann.length.num + bob.length.num > 0
    assert (bob.agreement, cat.agreement) == (1 / 3, 1 / 3)
    assert (bob.repeats, bob.gold.estimate) == (0, pytest.approx(math.nan, nan_ok=True))
    row = json.loads(json.dumps(bob.as_dict(), allow_nan=False))
    assert row["gold"] == {"estimate": None, "low": None, "high": None}
    assert row["below_gold"] == {"share": None, "num": 0, "p": 1.0}
    assert row["flags"] == []
    assert row.keys() == AnnotatorQuality.__dataclass_fields__.keys()


def test_answers_that_do_not_compare_the_pair_count_as_answers_only():
    votes = [
        Vote("ann", 1, "a", "b", "first", 8.0, 60, 40, gold="a"),
        Vote("ann", 2, "c", "d", "other", 2.0, 60, 40, gold="c"),  # 100 words take 6 s
        Vote("ann", 3, "e", "f", "other", 10.0, 60, 40),
        Vote("ann", 4, "g", "h", "skip", 1.0, 60, 40),
        Vote("ann", 5, "i", "j", "tie"),
        Vote("bob", 2, "c", "d", "first"),
        Vote("bob", 5, "i", "j", "tie"),
    ]
    ann, bob = annotator_quality(votes)
    assert (ann.votes, ann.skips, ann.ties) == (5, 1 / 5, 1 / 2)
    assert (ann.seconds, ann.fast) == (5.0, 1 / 3)
    assert (ann.position.num, ann.longer.num, ann.repeats) == (1, 1, 0)
    assert ann.gold.estimate == ann.below_gold.num == 1
    assert (ann.agreement, bob.agreement) == (1.0, 1.0)  # on 5; ann says nothing of 2


def test_an_annotator_alone_is_compared_to_none():
    row = annotator_quality([Vote("ann", 1, "a", "b", "tie"), Vote("ann", 2, "a", "b", "skip")])[0].as_dict()
    assert row["agreement"] is row["seconds"] is row["fast"] is row["position"]["share"] is None
    assert row["length"]["num"] == row["less_agreement"]["num"] == 0


def shown(rater: Rater, num: int, rng: random.Random) -> list[Vote]:
    """Votes on `num` pairs of texts, in random order."""
    votes = []
    for item in range(num):
        ranks = rater.compare("", [f"{item} a", f"{item} b"], rng).ranking
        votes.append(Vote(rater.name, item, "a", "b", "first" if ranks[0] < ranks[1] else "second"))
    return votes


def found_at(level: float, first: float) -> float:
    """In how many of 200 simulations a rater with this fault, and otherwise indifferent, is flagged after 300 pairs."""
    rng = random.Random(0)
    rater = Rater("r", lambda text: 0.0, tie=0.0, noise=1.0, first=first)
    rows = [annotator_quality(shown(rater, 300, rng), level=level)[0] for _ in range(200)]
    return float(np.mean([row.flags == ("position",) for row in rows]))


def test_a_position_bias_of_six_in_ten_is_detected_as_often_as_it_can_be():
    # Who prefers the first without reading in one of five cases takes it in 0.2 + 0.8 / 2 = 0.6 of them. The test at
    # p < 0.01 sees that with chance 0.81 in 300 pairs; the expected 180 of 300 has p = 0.0006.
    rejected = [k for k in range(301) if 2 * binom.cdf(min(k, 300 - k), 300, 0.5) <= 0.01]
    power = float(binom.pmf(rejected, 300, 0.6).sum())
    assert power == pytest.approx(0.812, abs=5e-4)
    assert found_at(0.01, first=0.2) == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / 200))
    assert binomtest(180, 300).pvalue < 0.001
    assert found_at(0.01, first=0.6) == 1.0


def test_a_position_bias_is_not_invented():
    assert found_at(0.01, first=0.0) <= 0.05
    for level in (0.01, 0.05):  # and exactly: the chance of a false alarm is at most the level
        rejected = [k for k in range(301) if 2 * binom.cdf(min(k, 300 - k), 300, 0.5) <= level]
        assert binom.pmf(rejected, 300, 0.5).sum() <= level


HONEST = {f"honest-{i}": {} for i in range(5)}


def pool(seed: int, people: dict[str, dict[str, float]], num: int = 120, overlap: int = 4) -> list[Vote]:
    """Votes on pairs whose better text is the longer in six of ten cases; one item in four is gold."""
    rng = random.Random(seed)
    worth: dict[str, float] = {}
    raters = [
        Rater(name, lambda text: worth[text], tie=0.05, **({"noise": 0.25} | fault)) for name, fault in people.items()
    ]
    votes = []
    for item in range(num):
        words = rng.sample(range(10, 60), 2)
        texts = [f"{item} {side} " + "word " * (n - 2) for side, n in zip("ab", words, strict=True)]
        better = int((words[1] > words[0]) == (rng.random() < 0.6))
        worth.update({texts[better]: rng.uniform(0.3, 0.9), texts[1 - better]: 0.0})
        for rater in rng.sample(raters, overlap):
            first, second = order = rng.sample([0, 1], 2)
            ranks = rater.compare("", [texts[i] for i in order], rng).ranking
            choice = "tie" if ranks[0] == ranks[1] else ("first" if ranks[0] < ranks[1] else "second")
            gold = better if item % 4 == 0 else None
            votes.append(Vote(rater.name, item, first, second, choice, 10.0, words[first], words[second], gold))
    return votes


def test_nobody_is_flagged_among_equals():
    # Four tests of each of five people: a flag for anyone at all in at most 5 % of the pools.
    flagged = [any(row.flags for row in annotator_quality(pool(seed, HONEST, num=60))) for seed in range(200)]
    assert np.mean(flagged) <= 0.05


@pytest.mark.parametrize(
    ("fault", "flags"),
    [
        ({"spam": 1.0}, {"agreement"}),
        ({"reverse": 0.8}, {"agreement", "gold"}),
        ({"first": 0.5}, {"position"}),
        ({"length": 0.8}, {"length"}),
    ],
)
def test_faults_are_flagged_in_those_who_have_them_alone(fault, flags):
    caught = wrongly = 0
    for seed in range(10):
        rows = {row.annotator: row for row in annotator_quality(pool(seed, HONEST | {"odd": fault}, num=300))}
        caught += flags <= set(rows["odd"].flags)
        wrongly += any(rows[name].flags for name in HONEST)
    assert caught >= 9
    assert wrongly <= 1


def test_liking_long_answers_is_no_fault_where_all_do():
    rows = annotator_quality(pool(0, {name: {"length": 0.8} for name in HONEST}, num=300))
    assert all(row.longer.p < 0.001 and row.longer.share > 0.7 for row in rows)
    assert not any("length" in row.flags for row in rows)


def test_the_order_of_votes_of_different_people_does_not_matter():
    votes = pool(3, HONEST | {"odd": {"first": 0.5}})
    by_name = sorted(votes, key=lambda v: v.annotator)
    assert [r.as_dict() for r in annotator_quality(by_name)] == [r.as_dict() for r in annotator_quality(votes)]


@pytest.mark.parametrize(("right", "num"), [(0, 5), (5, 5), (3, 7), (180, 200)])
def test_wilsons_interval_is_scipys(right, num):
    oracle = binomtest(right, num).proportion_ci(method="wilson")
    assert wilson(right, num) == pytest.approx((right / num, oracle.low, oracle.high), abs=1e-12)


def test_holm_by_its_definition():
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = dict(enumerate(rng.random(8) ** 4))
        ordered = sorted(p, key=p.__getitem__)
        adjusted = np.maximum.accumulate([(8 - at) * p[name] for at, name in enumerate(ordered)])
        assert holm(p, 0.05) == {name for name, value in zip(ordered, adjusted, strict=True) if value <= 0.05}


@pytest.mark.parametrize(
    ("vote", "message"),
    [
        (Vote("ann", 1, "a", "b", "left"), "vote 0: choice 'left' is none of first, second, tie, other, skip"),
        (Vote("ann", 1, "a", "a", "first"), "compares response 'a' with itself"),
        (Vote("ann", 1, "a", "b", "first", gold="c"), "gold answer 'c' is none of the two"),
    ],
)
def test_bad_votes_are_one_sentence(vote, message):
    with pytest.raises(InputError, match=message):
        annotator_quality([vote])
    with pytest.raises(InputError, match=r"level 1\.5"):
        annotator_quality([], level=1.5)


def test_an_order_nobody_recorded_says_nothing_of_position_bias():
    votes = [Vote("ann", item, "x", "y", "first", order_known=item < 3) for item in range(10)]
    (row,) = annotator_quality(votes)
    assert (row.position.share, row.position.num) == (1.0, 3)
