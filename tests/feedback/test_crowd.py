"""Crowd-BT on simulated annotators whose reliability is known, on votes few enough to integrate, and on bad input."""

from __future__ import annotations

import math
import random
from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import kendalltau, spearmanr

from tether.errors import InputError
from tether.feedback.aggregate import vote_counts
from tether.feedback.annotators import Rater
from tether.feedback.crowd import crowd_bradley_terry

# Chance to say the opposite; the fifth and sixth don't read at all.
REVERSE = (0.95, 0.8, 0.65, 0.4, 0.5, 0.5, 0.3, 0.25, 0.2, 0.15, 0.1, 0.0)


class Crowd:
    """Thirty texts, every pair of them shown to five of twelve raters."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        worth = {f"text {i}": rng.uniform(-1, 1) for i in range(30)}
        raters = [
            Rater(f"r{a}", worth.__getitem__, tie=0.05, noise=0.2, **({"spam": 1.0} if a in (4, 5) else {"reverse": r}))
            for a, r in enumerate(REVERSE)
        ]
        texts = list(worth)
        self.votes, self.ties, rankings = [], [], []
        for i, j in combinations(range(30), 2):
            for a in rng.sample(range(12), 5):
                shown = rng.sample([i, j], 2)
                ranks = raters[a].compare("", [texts[s] for s in shown], rng).ranking
                rankings.append(dict(zip(shown, ranks, strict=True)))
                if ranks[0] == ranks[1]:
                    self.ties.append(shown)
                else:
                    self.votes.append([a, *sorted(shown, key=rankings[-1].__getitem__)])
        self.truth = np.array(list(worth.values()))
        wins, _ = vote_counts(range(30), rankings)
        self.majority = (wins > wins.T).sum(1)  # pairs won by majority vote

    def fit(self):
        return crowd_bradley_terry(self.votes, self.ties, num_items=30, num_annotators=12)


def distance(order, truth) -> float:
    """Kendall's: the share of pairs in the wrong order."""
    return (1 - kendalltau(order, truth).statistic) / 2


@pytest.mark.parametrize("seed", range(8))
def test_it_ranks_the_annotators_and_beats_majority_vote(seed):
    crowd = Crowd(seed)
    fit, true = crowd.fit(), 1 - np.array(REVERSE)
    assert spearmanr(fit.reliability, true).statistic >= 0.9
    assert distance(fit.strengths, crowd.truth) < distance(crowd.majority, crowd.truth) / 2
    standing = fit.standing()
    assert standing[:2] == ["reversed", "reversed"]
    assert standing[-4:] == ["sound"] * 4
    assert standing[4:6].count("chance") >= 1


def test_errors_of_reliabilities_are_their_spread():
    # Strengths as in the model itself, so that η is exactly the chance to mean what is said.
    rng, standardised = np.random.default_rng(0), []
    true = np.array([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.9, 0.95])
    for _ in range(25):
        strengths = rng.normal(0, 2, 20)
        votes = [
            (a, i, j)
            if (rng.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))) == (rng.random() < true[a])
            else (a, j, i)
            for i, j in combinations(range(20), 2)
            for a in rng.choice(8, 4, replace=False)
        ]
        fit = crowd_bradley_terry(votes, num_items=20, num_annotators=8)
        standardised.append((fit.reliability - true) / fit.errors)
    assert np.sqrt(np.mean(np.square(standardised))) == pytest.approx(1, abs=0.2)
    assert np.mean(np.abs(standardised) < 2) > 0.9


def test_three_votes_on_each_of_many_pairs_tell_who_is_reliable():
    rng = np.random.default_rng(0)
    true = np.linspace(0.3, 1, 8)
    votes = []
    for pair in range(1500):
        win = 1 / (1 + math.exp(-rng.normal(0, math.sqrt(8))))
        for a in rng.choice(8, 3, replace=False):
            said = (rng.random() < win) == (rng.random() < true[a])
            votes.append((a, 2 * pair, 2 * pair + 1) if said else (a, 2 * pair + 1, 2 * pair))
    fit = crowd_bradley_terry(votes, num_items=3000, num_annotators=8)
    assert spearmanr(fit.reliability, true).statistic >= 0.95
    assert np.abs(fit.reliability - true).max() < 0.12
    assert [b.items.shape for b in fit.blocks] == [(1500, 2)]


def test_one_vote_by_quadrature():
    fit = crowd_bradley_terry([[0, 1, 0]], num_items=3, num_annotators=2, ridge=0.5, prior=(3.0, 1.0))
    assert fit.reliability == pytest.approx([0.75, 0.75])  # one vote alone tells nothing of who cast it
    posterior = [  # s_1 - s_0 has prior variance 2 / 0.5
        quad(lambda d, k=k: d**k * (0.25 + 0.5 / (1 + math.exp(-d))) * math.exp(-d * d / 8), -30, 30)[0]
        for k in range(3)
    ]
    mean = posterior[1] / posterior[0]
    variance = posterior[2] / posterior[0] - mean**2
    assert fit.strengths == pytest.approx([-mean / 2, mean / 2, 0], abs=1e-4)
    shrunk = mean / math.sqrt(1 + math.pi / 8 * variance)
    assert fit.log_odds([(1, 0), (0, 1)]) == pytest.approx([shrunk, -shrunk], abs=1e-4)
    assert fit.votes.tolist() == [1, 0]


def test_several_votes_and_ties_are_close_to_the_integral():
    fit = crowd_bradley_terry(
        [[0, 0, 1], [1, 0, 1], [2, 1, 0]], [[0, 1], [1, 0]], num_items=2, num_annotators=3, ridge=1.0, prior=(2.0, 1.0)
    )
    a, b, c = fit.reliability
    assert a == b > 2 / 3 > c

    def density(d: float) -> float:
        win = 1 / (1 + math.exp(-d))
        told = [eta * p + (1 - eta) * (1 - p) for eta, p in ((a, win), (b, win), (c, 1 - win))]
        return math.prod(told) * win * (1 - win) * math.exp(-d * d / 4)

    mean = quad(lambda d: d * density(d), -30, 30)[0] / quad(density, -30, 30)[0]
    assert fit.strengths[0] - fit.strengths[1] == pytest.approx(mean, rel=0.02)


def test_ties_draw_together_and_are_no_sign_against_anyone():
    votes = [[a, 0, 1] for a in range(3)]
    without = crowd_bradley_terry(votes, num_items=2, num_annotators=3)
    tied = crowd_bradley_terry(votes, [[0, 1]] * 4, num_items=2, num_annotators=3)
    assert 0 < tied.strengths[0] < without.strengths[0] / 2
    assert (tied.reliability > 0.7).all()


def test_neither_order_nor_names_matter():
    crowd = Crowd(1)
    rng = np.random.default_rng(0)
    items, people, votes = rng.permutation(30), rng.permutation(12), np.array(crowd.votes)
    renamed = np.stack([people[votes[:, 0]], items[votes[:, 1]], items[votes[:, 2]]], axis=1)
    ties = items[np.array(crowd.ties)][:, ::-1]
    turned = crowd_bradley_terry(rng.permutation(renamed), ties, num_items=30, num_annotators=12)
    fit = crowd.fit()
    assert turned.strengths[items] == pytest.approx(fit.strengths, abs=1e-8)
    assert turned.reliability[people] == pytest.approx(fit.reliability, abs=1e-8)
    assert (crowd.fit().strengths == fit.strengths).all()


def test_groups_that_were_never_compared_do_not_touch_but_share_their_annotators():
    votes = [(a, i, j) for a in (0, 1, 2) for i, j in combinations(range(4), 2)]
    second = [(a, i + 4, j + 4) for a, i, j in votes] + [(3, j + 4, i + 4) for _, i, j in votes[:6]]
    fit = crowd_bradley_terry(votes + second + [(0, 9, 8)], num_items=11, num_annotators=4)
    assert [b.items.tolist() for b in fit.blocks] == [[[8, 9]], [[0, 1, 2, 3], [4, 5, 6, 7]]]
    assert fit.strengths[10] == 0
    for group in (slice(0, 4), slice(4, 8)):
        assert fit.strengths[group].sum() == pytest.approx(0, abs=1e-9)
        assert (np.diff(fit.strengths[group]) < 0).all()
    assert fit.reliability[3] < 0.5 < fit.reliability[:3].min()
    with pytest.raises(InputError, match="items 0 and 4: no comparisons link them"):
        fit.log_odds([(1, 2), (0, 4)])
    with pytest.raises(InputError, match="items 2 and 10: no comparisons link them"):
        fit.log_odds([(2, 10)])


@pytest.mark.parametrize(
    ("votes", "ties", "message"),
    [
        ([[0, 1, 1]], [], "votes, row 0: compares item 1 with itself"),
        ([[0, 0, 1]], [[0, 1], [2, 2]], "ties, row 1: compares item 2"),
        ([[5, 0, 1]], [], "annotator 5: must be from 0 to 1"),
        ([[0, 0, 3]], [], "item 3: must be from 0 to 2"),
        ([[0, 0, 1]], [[-1, 2]], "item -1"),
        ([[0, 1]], [], "rows of 3 integers"),
        ([[0.5, 0, 1]], [], "rows of 3 integers"),
    ],
)
def test_bad_input_is_one_sentence(votes, ties, message):
    with pytest.raises(InputError, match=message):
        crowd_bradley_terry(votes, ties, num_items=3, num_annotators=2)
    with pytest.raises(InputError, match="must be positive"):
        crowd_bradley_terry([[0, 0, 1]], num_items=3, num_annotators=2, ridge=0.0)
    with pytest.raises(InputError, match="more votes imagined right than wrong"):
        crowd_bradley_terry([[0, 0, 1]], num_items=3, num_annotators=2, prior=(1.0, 1.0))


def test_it_ends_on_votes_of_every_kind():
    rng = np.random.default_rng(0)
    for _ in range(150):
        items, people = int(rng.integers(2, 12)), int(rng.integers(1, 8))
        true = rng.choice([0, 0.2, 0.5, 0.8, 1], people)
        strengths = rng.normal(0, rng.choice([0.1, 1, 5]), items)
        votes = []
        for _ in range(rng.integers(1, 200)):
            i, j = rng.choice(items, 2, replace=False)
            a = rng.integers(people)
            meant = rng.random() < 1 / (1 + math.exp(strengths[j] - strengths[i]))
            votes.append((a, i, j) if meant == (rng.random() < true[a]) else (a, j, i))
        ties = [rng.choice(items, 2, replace=False) for _ in range(rng.integers(0, 30))]
        ridge = float(rng.choice([0.05, 0.25, 1, 4]))
        fit = crowd_bradley_terry(votes, ties, num_items=items, num_annotators=people, ridge=ridge)
        assert np.isfinite(fit.strengths).all()
        assert ((fit.reliability > 0) & (fit.reliability < 1)).all()


def test_no_votes_at_all():
    fit = crowd_bradley_terry([], num_items=3, num_annotators=1)
    assert fit.strengths.tolist() == [0, 0, 0]
    assert fit.standing() == ["chance"]
