"""Losses on log-ratios: worked numbers, what they share, where they are smallest."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tether.math.direct_losses import (
    DIRECT_LOSSES,
    hinge_loss,
    ipo_loss,
    kto_baseline,
    kto_loss,
    log_odds,
    orpo_loss,
    pair_metrics,
    robust_loss,
    sigmoid_loss,
)
from tether.math.preference_losses import all_pairs, bradley_terry_loss

quick = settings(deadline=None, max_examples=60)
NAMES = sorted(DIRECT_LOSSES)
ratios, betas, shares = st.floats(-20, 20), st.floats(0.01, 3), st.floats(0, 0.49)


def one(x: float) -> Tensor:
    return torch.tensor([x], dtype=torch.float64)


def test_by_hand():
    chosen, rejected = one(math.log(9)), one(0.0)  # at β = ½ the gap of rewards is ln 3: a win with 3 in 4
    win, lose = -math.log(0.75), -math.log(0.25)
    assert sigmoid_loss(chosen, rejected, 0.5).item() == pytest.approx(win)
    assert sigmoid_loss(chosen, rejected, 0.5, 0.0, 0.1).item() == pytest.approx(0.9 * win + 0.1 * lose)
    assert robust_loss(chosen, rejected, 0.5, 0.0, 0.1).item() == pytest.approx((0.9 * win - 0.1 * lose) / 0.8)
    assert sigmoid_loss(chosen, rejected, 0.5, math.log(3)).item() == pytest.approx(math.log(2))
    assert hinge_loss(one(3.0), one(2.0), 0.25).item() == 0.75
    assert hinge_loss(one(3.0), one(2.0), 0.25, 0.5).item() == 1.25
    assert hinge_loss(one(2.0), one(3.0), 0.25, 0.0, 0.2).item() == pytest.approx(0.8 * 1.25 + 0.2 * 0.75)
    assert ipo_loss(one(3.0), one(2.0), 0.25).item() == 1.0  # the goal is 2
    assert ipo_loss(one(3.0), one(2.0), 0.25, 0.25).item() == 4.0  # and 3 with that margin
    assert ipo_loss(one(3.0), one(2.0), 0.25, 0.0, 0.1).item() == pytest.approx(0.9 * 1 + 0.1 * 9)


@pytest.mark.parametrize("name", NAMES)
@quick
@given(ratios, ratios, st.floats(-20, 20), betas, st.floats(-2, 2), shares)
def test_only_the_difference_counts(
    name: str, chosen: float, rejected: float, shift: float, beta: float, margin: float, smoothing: float
):
    loss = DIRECT_LOSSES[name].loss
    found = loss(one(chosen), one(rejected), beta, margin, smoothing)
    moved = loss(one(chosen + shift), one(rejected + shift), beta, margin, smoothing)
    torch.testing.assert_close(moved, found, rtol=1e-6, atol=1e-6)
    # A margin moves the gap, whatever the loss.
    moved = loss(one(chosen - margin / beta), one(rejected), beta, 0.0, smoothing)
    torch.testing.assert_close(moved, found, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [sigmoid_loss, hinge_loss, ipo_loss])
@quick
@given(ratios, ratios, betas, shares)
def test_smoothing_mixes_in_the_flipped_label(loss: object, chosen: float, rejected: float, beta: float, share: float):
    assert callable(loss)
    right, wrong = (loss(one(a), one(b), beta) for a, b in ((chosen, rejected), (rejected, chosen)))
    found = loss(one(chosen), one(rejected), beta, 0.0, share)
    torch.testing.assert_close(found, (1 - share) * right + share * wrong)


@quick
@given(ratios, ratios, betas, shares)
def test_robust_is_right_on_average(chosen: float, rejected: float, beta: float, share: float):
    """Over labels flipped at rate ε its mean is the loss of the true label (Chowdhury et al. 2024, lemma 3.1)."""
    kept, flipped = (robust_loss(one(a), one(b), beta, 0.0, share) for a, b in ((chosen, rejected), (rejected, chosen)))
    true = sigmoid_loss(one(chosen), one(rejected), beta)
    torch.testing.assert_close((1 - share) * kept + share * flipped, true, rtol=1e-6, atol=1e-6)


def slope(name: str, gap: float, beta: float, smoothing: float = 0.0) -> float:
    chosen = one(gap).requires_grad_()
    (found,) = torch.autograd.grad(DIRECT_LOSSES[name].loss(chosen, one(0.0), beta, 0.0, smoothing), chosen)
    return found.item()


def test_where_each_is_smallest():
    assert slope("ipo", 5.0, 0.1) == pytest.approx(0)  # 1/(2β), and no further
    assert slope("ipo", 4.0, 0.1, 0.1) == pytest.approx(0)  # (1−2ε)/(2β)
    assert slope("hinge", 9.9, 0.1) == pytest.approx(-0.1)
    assert slope("hinge", 10.1, 0.1) == 0
    assert slope("sigmoid", 10 * math.log(9), 0.1, 0.1) == pytest.approx(0)  # where the model says 1−ε
    assert slope("sigmoid", 100.0, 0.1) < 0
    assert slope("robust", 10 * math.log(9), 0.1, 0.1) < 0
    # DPO's gradient is β σ(−h) (Rafailov et al. 2023, section 4).
    assert slope("sigmoid", 7.0, 0.3) == pytest.approx(-0.3 / (1 + math.exp(0.3 * 7)))


def test_special_cases_are_the_general_loss():
    generator = torch.Generator().manual_seed(0)
    chosen, rejected = torch.randn(2, 9, generator=generator, dtype=torch.float64)
    expected = bradley_terry_loss(2 * chosen, 2 * rejected, 1.0)
    row = DIRECT_LOSSES["simpo"]
    torch.testing.assert_close(row.loss(chosen, rejected, row.beta, row.gamma, 0.0), expected)
    torch.testing.assert_close(robust_loss(chosen, rejected, 0.3), sigmoid_loss(chosen, rejected, 0.3))
    assert {n for n in NAMES if not DIRECT_LOSSES[n].reference} == {"simpo", "cpo"}
    assert {n for n in NAMES if DIRECT_LOSSES[n].length_normalised} == {"simpo", "ipo"}


@pytest.mark.parametrize("name", NAMES)
def test_extreme_ratios_stay_finite(name: str):
    for gap in (-1e4, 1e4):
        for smoothing in (0.0, 0.3):
            chosen = torch.tensor([gap], requires_grad=True)
            loss = DIRECT_LOSSES[name].loss(chosen, torch.zeros(1), 1.0, 0.0, smoothing)
            loss.backward()
            assert loss.isfinite().all()
            assert chosen.grad is not None
            assert chosen.grad.isfinite().all()


# ORPO


def test_odds_ratio_by_hand():
    chosen, rejected = one(0.8).log(), one(0.5).log()  # odds 4 and 1: σ(ln 4) = 0.8
    assert orpo_loss(chosen, rejected).item() == pytest.approx(-math.log(0.8))
    assert orpo_loss(rejected, chosen).item() == pytest.approx(-math.log(0.2))


@quick
@given(st.floats(1e-6, 1 - 1e-6))
def test_log_odds_turn_back_into_probabilities(p: float):
    assert log_odds(one(p).log()).sigmoid().item() == pytest.approx(p, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, -1e-9, -1e-7, -20.0, -1e4])
def test_log_odds_of_certainty(value: float):
    logprob = torch.tensor([value], requires_grad=True)
    found = log_odds(logprob)
    found.backward()
    assert found.isfinite().all()
    assert logprob.grad is not None
    assert logprob.grad.isfinite().all()


# KTO


def test_kto_by_hand():
    log_ratios = torch.tensor([3.0, 3.0, 1.0], dtype=torch.float64)
    desirable = torch.tensor([True, False, True])
    found = kto_loss(log_ratios, desirable, 1.0, math.log(3) / 2, 2.0, 0.5)
    # β (r − z) = ln 3: σ = ¾
    torch.testing.assert_close(found, torch.tensor([2 * 0.25, 0.5 * 0.75, 2 * 0.5], dtype=torch.float64))


@quick
@given(ratios, st.floats(0, 10), betas)
def test_kto_turns_with_its_label(ratio: float, baseline: float, beta: float):
    good, bad = (kto_loss(one(ratio), torch.tensor([label]), baseline, beta) for label in (True, False))
    torch.testing.assert_close(good + bad, one(1.0))
    mirrored = kto_loss(one(2 * baseline - ratio), torch.tensor([False]), baseline, beta)
    torch.testing.assert_close(mirrored, good, rtol=1e-6, atol=1e-9)


def test_the_baseline_carries_no_gradient_and_is_never_negative():
    log_ratios = torch.tensor([4.0, 1.0], requires_grad=True)
    assert kto_baseline(log_ratios) == 2.5
    assert kto_baseline(-log_ratios) == 0.0


# Pairs


@quick
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=5))
def test_a_prompt_weighs_as_one_comparison(rankings: list[list[int]]):
    pairs = all_pairs(rankings)
    flat = [(i, rank) for i, ranking in enumerate(rankings) for rank in ranking]
    for better, worse, group in zip(pairs.better, pairs.worse, pairs.group, strict=True):
        assert flat[better][0] == flat[worse][0] == group
        assert flat[better][1] < flat[worse][1]
    expected = sum(a[0] == b[0] and a[1] < b[1] for a in flat for b in flat)
    assert len(pairs.better) == expected
    informative = sum(len(set(ranking)) > 1 for ranking in rankings)
    assert sum(pairs.share) == pytest.approx(informative)


def test_metrics_of_pairs_by_hand():
    chosen = torch.tensor([2.0, -1.0, 0.5], requires_grad=True)
    found = pair_metrics(chosen, torch.tensor([1.0, 0.0, 0.5]), torch.tensor([0.5, 0.25, 0.25]))
    assert {name: value.item() for name, value in found.items()} == {
        "accuracy": 0.625,
        "margin": 0.25,
        "chosen_reward": 0.875,
        "rejected_reward": 0.625,
    }
    assert not any(value.requires_grad for value in found.values())
