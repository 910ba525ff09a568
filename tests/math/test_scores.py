"""Scores before they are rewards: numbers worked out by hand, and what no scale may change."""

from __future__ import annotations

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.math.scores import combine, end_rule, overlong, standardise


@pytest.mark.parametrize(
    ("rule", "expected"), [("none", [2.0, -3.0]), ("penalty", [2.0, -3.5]), ("replace", [2.0, 0.5])]
)
def test_end_rule_by_hand(rule, expected):
    assert end_rule(torch.tensor([2.0, -3.0]), torch.tensor([True, False]), rule, 0.5).tolist() == expected


def test_overlong_is_dapos_equation_13():
    """L_max 20, L_cache 5: 0 up to 15, (15 − |y|) / 5 up to 20, −1 beyond; here times 2."""
    lengths = torch.tensor([1, 15, 16, 18, 20, 25])
    expected = [0.0, 0.0, -0.4, -1.2, -2.0, -2.0]
    assert overlong(lengths, limit=20, buffer=5, penalty=2.0).tolist() == pytest.approx(expected)
    assert overlong(lengths, limit=20, buffer=0, penalty=2.0).tolist() == [0.0] * 6


def test_standardise_by_hand():
    scores = torch.tensor([0.0, 2.0, 4.0, 7.0, 7.0])
    found = standardise(scores, torch.tensor([0, 0, 0, 1, 1]))
    # Group 0: mean 2, population deviation √(8/3).
    assert found.tolist() == pytest.approx([-(1.5**0.5), 0.0, 1.5**0.5, 0.0, 0.0])
    # One response a prompt: over all of them.
    alone = standardise(torch.tensor([1.0, 3.0]), torch.tensor([0, 1]))
    assert alone.tolist() == [-1.0, 1.0]


def test_equal_scores_with_rounding_do_not_become_noise():
    scores = torch.tensor([0.1, 0.1 + 1e-8, 0.1]) + torch.tensor([0.2, 0.2, 0.2 + 2e-8])
    assert standardise(scores, torch.zeros(3, dtype=torch.long)).abs().max() == 0.0


groups = st.lists(st.lists(st.integers(-50, 50), min_size=2, max_size=5), min_size=1, max_size=4)


@given(groups, st.floats(0.5, 20), st.floats(-5, 5))
def test_standardise_against_statistics_and_blind_to_scale(rows, factor, shift):
    owner = torch.tensor([i for i, row in enumerate(rows) for _ in row])
    scores = torch.tensor([float(x) for row in rows for x in row])
    expected = []
    for row in rows:
        mean, deviation = statistics.fmean(row), statistics.pstdev(row)
        expected += [(x - mean) / deviation if deviation else 0.0 for x in row]
    found = standardise(scores, owner)
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(standardise(scores * factor + shift, owner), found, atol=2e-3, rtol=1e-3)


def test_combine_by_hand():
    one, two = torch.tensor([0.0, 1.0]), torch.tensor([30.0, 10.0])
    owner = torch.tensor([0, 0])
    assert combine([one, two], [1.0, -0.1], owner, "none").tolist() == pytest.approx([-3.0, 0.0])
    assert combine([one, two], [1.0, -0.1], owner, "terms").tolist() == pytest.approx([-1.1, 1.1])
    assert combine([one, two], [1.0, 0.1], owner, "sum").tolist() == pytest.approx([1.0, -1.0])
