"""Win rates by hand, and the length-controlled one against scikit-learn and a truth that is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tether.errors import InputError
from tether.evals.winrate import length_controlled_win_rate, outcomes, win_rate


def test_by_hand():
    found = win_rate([3.0, 1.0, 2.0, 5.0], [1.0, 1.0, 4.0, 0.0])
    assert (found.wins, found.ties, found.losses, found.rate) == (2, 1, 1, 0.625)
    assert 0 <= found.low < 0.625 < found.high <= 1
    assert json.loads(json.dumps(found.as_dict()))["rate"] == 0.625


def test_ties_are_what_the_margin_calls_near():
    assert list(outcomes([0.0, 0.0, 0.0, 0.0], [0.25, -0.25, 0.5, -0.5], 0.25)) == [0.5, 0.5, 0.0, 1.0]


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30),
    st.floats(0, 2),
)
def test_turned_round_it_is_one_minus_itself(pairs, margin):
    a, b = zip(*pairs, strict=True)
    there, back = win_rate(a, b, margin, num=10), win_rate(b, a, margin, num=10)
    assert there.rate == pytest.approx(1 - back.rate)
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert there.wins + there.ties + there.losses == len(pairs)


def test_the_fit_is_scikit_learns():
    rng = np.random.default_rng(0)
    gap = rng.normal(5, 10, 500)
    won = (rng.random(500) < 1 / (1 + np.exp(-(0.4 + 1.2 * np.tanh(gap / gap.std()))))).astype(float)
    feature = np.tanh(gap / gap.std())
    # Its penalty |w|²/2C leaves the intercept free, so both coefficients go in as features.
    design = np.stack([np.ones(500), feature], 1)
    oracle = LogisticRegression(C=100.0, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design, won)
    want = 1 / (1 + np.exp(-oracle.coef_[0, 0]))
    assert length_controlled_win_rate(won, gap, np.zeros(500), num=10).estimate == pytest.approx(want, abs=1e-6)


def test_wins_bought_with_length_alone_are_taken_away():
    rng = np.random.default_rng(1)
    a, b = rng.integers(10, 60, 2000), rng.integers(5, 30, 2000)
    longer_wins = (rng.random(2000) < 1 / (1 + np.exp(-2 * np.tanh((a - b) / (a - b).std())))).astype(float)
    assert longer_wins.mean() > 0.7
    found = length_controlled_win_rate(longer_wins, a, b, num=200)
    assert found.low < 0.5 < found.high
    assert found.high - found.low < 0.15


def test_with_equal_lengths_it_is_the_plain_rate_and_certain_wins_stay_finite():
    won = np.array([1.0, 1.0, 0.5, 0.0] * 50)
    assert length_controlled_win_rate(won, [7] * 200, [7] * 200).estimate == pytest.approx(0.625, abs=1e-3)
    sure = length_controlled_win_rate(np.ones(200), np.arange(200), np.zeros(200))
    assert 0.95 < sure.low <= sure.estimate <= sure.high < 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate([1.0], [1.0, 2.0]), "scores_a has 1 values and scores_b 2"),
        (lambda: win_rate([1.0], [1.0], -1.0), "tie_margin -1.0"),
        (lambda: win_rate([1.0], [1.0], float("nan")), "tie_margin nan"),
        (lambda: length_controlled_win_rate([2.0], [1], [1]), "between 0 and 1"),
        (lambda: length_controlled_win_rate([1.0], [1, 2], [1, 2]), "outcome has 1 values and lengths_a 2"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
