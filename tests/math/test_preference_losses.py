"""Comparison losses: worked numbers, symmetries, gradients."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.preference_losses import bradley_terry_loss, centering_loss, ranking_pairs

quick = settings(deadline=None, max_examples=60)


def test_by_hand():
    chosen, rejected = torch.tensor([math.log(3), 0.0]).double(), torch.tensor([0.0, math.log(3)]).double()
    plain = torch.tensor([math.log(4 / 3), math.log(4)]).double()
    torch.testing.assert_close(bradley_terry_loss(chosen, rejected), plain)
    smoothed = bradley_terry_loss(chosen, rejected, label_smoothing=0.1)
    torch.testing.assert_close(smoothed, 0.9 * plain + 0.1 * plain.flip(0))
    ahead = bradley_terry_loss(chosen, rejected, margin=math.log(3))
    torch.testing.assert_close(ahead, torch.tensor([math.log(2), math.log(10)]).double())
    each = bradley_terry_loss(chosen, rejected, margin=torch.tensor([math.log(3), 0.0]).double())
    torch.testing.assert_close(each, torch.tensor([math.log(2), math.log(4)]).double())
    torch.testing.assert_close(
        centering_loss(torch.tensor([2.0, 1.0]), torch.tensor([1.0, -1.0])), torch.tensor([9.0, 0.0])
    )


@quick
@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(-50, 50), st.floats(0, 0.49))
def test_only_the_difference_counts(chosen: float, rejected: float, shift: float, smoothing: float):
    a, b = torch.tensor([[chosen], [rejected]], dtype=torch.float64)
    loss = bradley_terry_loss(a, b, label_smoothing=smoothing)
    torch.testing.assert_close(bradley_terry_loss(a + shift, b + shift, label_smoothing=smoothing), loss)
    # The two labels' likelihoods are those of a coin: exp(−L) sums to 1.
    total = (-bradley_terry_loss(a, b)).exp() + (-bradley_terry_loss(b, a)).exp()
    torch.testing.assert_close(total, torch.ones(1).double())


def test_smoothing_moves_the_optimum():
    """With ε = 0.1 the loss is smallest where the model says 90 %; without, it falls for ever."""
    gap = torch.tensor([math.log(9)], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    (slope,) = torch.autograd.grad(bradley_terry_loss(gap, zero, label_smoothing=0.1), gap)
    assert abs(slope.item()) < 1e-12
    (slope,) = torch.autograd.grad(bradley_terry_loss(gap, zero), gap)
    assert slope.item() == pytest.approx(-0.1)


def test_extreme_scores_stay_finite():
    chosen, rejected = torch.tensor([1e4, -1e4], requires_grad=True), torch.tensor([-1e4, 1e4])
    for smoothing in (0.0, 0.1):
        loss = bradley_terry_loss(chosen, rejected, label_smoothing=smoothing)
        (gradient,) = torch.autograd.grad(loss.sum(), chosen)
        assert bool(loss.isfinite().all())
        assert bool(gradient.isfinite().all())
    assert bradley_terry_loss(chosen, rejected).tolist() == [0.0, 2e4]


def test_gradcheck():
    chosen, rejected = (torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda a, b: bradley_terry_loss(a, b, 0.3, 0.1) + centering_loss(a, b), (chosen, rejected)
    )


@quick
@given(st.lists(st.integers(0, 3), max_size=6))
def test_ranking_pairs(ranking: list[int]):
    pairs = ranking_pairs(ranking)
    assert len(pairs) == len(set(pairs))
    assert all(ranking[better] < ranking[worse] for better, worse in pairs)
    ties = sum(a == b for a, b in itertools.combinations(ranking, 2))
    assert len(pairs) == math.comb(len(ranking), 2) - ties


def test_ranking_pairs_by_hand():
    assert ranking_pairs([2, 0, 1]) == [(1, 0), (1, 2), (2, 0)]
    assert ranking_pairs([0, 0]) == []
