"""Bradley–Terry strengths: a closed form, the likelihood's stationary point, and choix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.ranking import bradley_terry_mm

tables = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.lists(st.integers(1, 9), min_size=n, max_size=n), min_size=n, max_size=n)
)


def test_two_items_by_hand():
    # 9 wins to 4: odds 9/4 = p / q with p q = 1, so p = 3/2.
    strengths = bradley_terry_mm(torch.tensor([[0, 9], [4, 0]]))
    torch.testing.assert_close(strengths, torch.tensor([1.5, 2 / 3]).double())


def test_recovers_the_strengths_behind_expected_wins():
    true = torch.tensor([4.0, 2.0, 1.0, 0.125]).double()
    strengths = bradley_terry_mm(30 * true[:, None] / (true[:, None] + true))
    torch.testing.assert_close(strengths, true / true.log().mean().exp(), rtol=1e-7, atol=0)


@settings(deadline=None, max_examples=25)
@given(tables)
def test_stationary_and_scaled(table: list[list[int]]):
    """Expected wins equal wins (the likelihood's gradient is 0), the geometric mean is 1, self-play is ignored."""
    wins = torch.tensor(table, dtype=torch.float64)
    strengths = bradley_terry_mm(wins)
    met = (wins + wins.T).fill_diagonal_(0)
    expected = (met * strengths[:, None] / (strengths[:, None] + strengths)).sum(1)
    torch.testing.assert_close(expected, wins.fill_diagonal_(0).sum(1), rtol=1e-6, atol=1e-6)
    assert abs(strengths.log().sum().item()) < 1e-9


@settings(deadline=None, max_examples=10)
@given(tables)
def test_equals_choix(table: list[list[int]]):
    choix = pytest.importorskip("choix")
    games = [(i, j) for i, row in enumerate(table) for j, won in enumerate(row) if i != j for _ in range(won)]
    expected = torch.from_numpy(choix.opt_pairwise(len(table), games, tol=1e-9))
    found = bradley_terry_mm(torch.tensor(table)).log()
    torch.testing.assert_close(found, expected - expected.mean(), rtol=0, atol=1e-4)
    slow = torch.from_numpy(choix.mm_pairwise(len(table), games))
    torch.testing.assert_close(found, slow - slow.mean(), rtol=0, atol=1e-5)


def test_an_unbeaten_item_needs_a_prior():
    wins = torch.tensor([[0, 3, 1], [0, 0, 2], [0, 1, 0]])
    with pytest.raises(ValueError, match="prior"):
        bradley_terry_mm(wins)
    with pytest.raises(ValueError, match="prior"):
        bradley_terry_mm(torch.zeros(3, 3))
    strengths = bradley_terry_mm(wins, prior=0.5)
    assert strengths[0] > strengths[1] > strengths[2]


def test_a_cycle_is_enough():
    strengths = bradley_terry_mm(torch.tensor([[0, 1, 0], [0, 0, 1], [1, 0, 0]]))
    torch.testing.assert_close(strengths, torch.ones(3).double())


def test_small_and_unfinished():
    assert bradley_terry_mm(torch.zeros(1, 1)).tolist() == [1.0]
    assert bradley_terry_mm(torch.zeros(0, 0)).shape == (0,)
    with pytest.raises(RuntimeError, match="1 steps"):
        bradley_terry_mm(torch.tensor([[0, 9, 1], [4, 0, 2], [3, 3, 0]]), max_steps=1)
