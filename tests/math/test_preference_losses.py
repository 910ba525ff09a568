"""Comparison losses: worked numbers, symmetries, gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.preference_losses import (
    bradley_terry_loss,
    centering_loss,
    plackett_luce_loss,
    ranking_pairs,
    step_loss,
)

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


def likelihood(scores: list[float], ranking: list[int]) -> float:
    """P(ranking) by enumeration: the share of all orders of drawing without replacement that it stands for."""
    total = 0.0
    for order in itertools.permutations(range(len(scores))):
        if [ranking[i] for i in order] != sorted(ranking):
            continue
        chance, left = 1.0, list(order)
        for i in order:
            chance *= math.exp(scores[i]) / sum(math.exp(scores[j]) for j in left)
            left.remove(i)
        total += chance
    return total


@quick
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.randoms())
def test_plackett_luce_is_the_chance_of_the_ranking(scores: list[float], random):
    ranking = list(range(len(scores)))
    random.shuffle(ranking)
    r = torch.tensor(scores, dtype=torch.float64)
    loss = plackett_luce_loss(r, torch.tensor(ranking), torch.zeros(len(r)))
    assert loss.sum().item() == pytest.approx(-math.log(likelihood(scores, ranking)), abs=1e-9)
    assert loss[ranking.index(max(ranking))].item() == 0
    shifted = plackett_luce_loss(r + 7, torch.tensor(ranking) * 3 - 1, torch.zeros(len(r)))
    torch.testing.assert_close(shifted, loss)


def test_plackett_luce_of_two_is_bradley_terry():
    chosen, rejected = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    scores = torch.stack([rejected, chosen], 1).flatten()
    loss = plackett_luce_loss(scores, torch.tensor([1, 0] * 6), torch.arange(6).repeat_interleave(2))
    torch.testing.assert_close(loss[1::2], bradley_terry_loss(chosen, rejected))
    assert not loss[::2].any()


def test_a_tie_is_two_equal_winners_over_the_rest():
    """Ranks (0, 0, 1): each of the first two beats the last; neither beats the other."""
    scores = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    loss = plackett_luce_loss(scores, torch.tensor([0, 0, 1]), torch.zeros(3))
    alone = [math.log(1 + math.exp(2.0 - s)) for s in (0.5, -1.0)]
    torch.testing.assert_close(loss, torch.tensor([*alone, 0.0]).double())
    assert not plackett_luce_loss(scores, torch.tensor([1, 1, 1]), torch.zeros(3)).any()


@pytest.mark.parametrize("seed", range(24))
def test_plackett_luce_equals_choix(seed: int):
    """Value and gradient over 24 shapes: 1 to 4 groups of 2 to 8 responses, every other time with ties."""
    opt = pytest.importorskip("choix.opt")
    random = np.random.default_rng(seed)
    sizes = random.integers(2, 9, size=1 + seed % 4)
    ranks = [random.integers(0, 3, k) if seed % 2 else random.permutation(k) for k in sizes]
    scores = random.normal(0, 2, int(sizes.sum()))
    first, chosen = 0, []
    for own in ranks:
        chosen += [(first + i, first + np.flatnonzero(own > rank)) for i, rank in enumerate(own)]
        first += len(own)
    likelihoods = opt.Top1Fcts([(i, below) for i, below in chosen if len(below)], 0.0)
    if not seed % 2:  # without ties choix reads the rankings themselves
        starts = np.cumsum(sizes) - sizes
        orders = [tuple(start + np.argsort(own)) for start, own in zip(starts, ranks, strict=True)]
        likelihoods = opt.Top1Fcts.from_rankings(orders, 0.0)
    r = torch.tensor(scores, requires_grad=True)
    owner = torch.arange(len(sizes)).repeat_interleave(torch.from_numpy(sizes))
    loss = plackett_luce_loss(r, torch.from_numpy(np.concatenate(ranks)), owner).sum()
    (gradient,) = torch.autograd.grad(loss, r)
    assert loss.item() == pytest.approx(likelihoods.objective(scores), rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(gradient.numpy(), likelihoods.gradient(scores), atol=1e-9)


def test_plackett_luce_stays_finite():
    scores = torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = plackett_luce_loss(scores, torch.tensor([0, 1, 2]), torch.zeros(3))
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    assert loss.tolist() == [2e4, 0.0, 0.0]
    assert bool(gradient.isfinite().all())


def test_step_loss_by_hand_and_its_gradient():
    scores = torch.tensor([math.log(3), math.log(3), 1e4], dtype=torch.float64, requires_grad=True)
    right = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    loss = step_loss(scores, right)
    torch.testing.assert_close(loss, torch.tensor([math.log(4 / 3), math.log(4), 1e4]).double())
    (gradient,) = torch.autograd.grad(loss.sum(), scores)
    torch.testing.assert_close(gradient, torch.tensor([-0.25, 0.75, 1.0]).double())
