"""Reward-model quality by hand and against scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from tether.errors import InputError
from tether.evals.reward_quality import (
    TEMPERATURES,
    accuracy_by_slice,
    calibration_temperature,
    pairwise_accuracy,
    reliability,
    reward_quality,
)


def test_accuracy_by_hand():
    assert pairwise_accuracy([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 3.0, 4.0]).estimate == 0.625  # two right, one even
    found = accuracy_by_slice([2.0, 1.0, 0.0, 5.0], [1.0, 1.0, 3.0, 4.0], ["short", "short", "long", "long"])
    assert {name: i.estimate for name, i in found.items()} == {"short": 0.75, "long": 0.5}


def both_ways(margin):
    """Each comparison seen from either side, as scikit-learn wants labels of both kinds."""
    p = 1 / (1 + np.exp(-margin))
    return np.repeat([1, 0], len(p)), np.concatenate([p, 1 - p])


def test_brier_and_log_loss_are_scikit_learns():
    margin = np.random.default_rng(0).normal(0.5, 1.5, 400)
    found = reward_quality(margin, np.zeros(400))
    labels, p = both_ways(margin)
    assert found.brier == pytest.approx(brier_score_loss(labels, p))
    assert found.log_loss == pytest.approx(log_loss(labels, p))
    assert found.mean_margin == pytest.approx(margin.mean())


def test_reliability_is_the_upper_half_of_scikit_learns_curve():
    margin = np.random.default_rng(1).normal(0.5, 1.5, 4000)
    labels, p = both_ways(margin)
    accuracy, confidence = calibration_curve(labels, p, n_bins=20)
    found = reliability(margin, 10)
    assert [b.accuracy for b in found] == pytest.approx(accuracy[10:])
    assert [b.confidence for b in found] == pytest.approx(confidence[10:])
    assert sum(b.num for b in found) == 4000


def test_ece_by_hand():
    # Two comparisons at confidence 0.9, one of them right; two at 0.6, both right: (2·|0.9-0.5| + 2·|0.6-1|)/4 = 0.4.
    high, low = np.log(9.0), np.log(1.5)
    found = reward_quality([high, -high, low, low], [0.0] * 4)
    assert found.ece == pytest.approx(0.4)
    assert [(b.num, b.accuracy) for b in found.bins] == [(2, 1.0), (2, 0.5)]


def test_a_calibrated_model_has_small_ece_and_an_overconfident_one_does_not():
    rng = np.random.default_rng(2)
    said = rng.normal(0, 2, 20_000)
    truth = np.where(rng.random(20_000) < 1 / (1 + np.exp(-said)), said, -said)
    zero = np.zeros(20_000)
    assert reward_quality(truth, zero, num=10).ece < 0.015
    assert reward_quality(3 * truth, zero, num=10).ece > 0.08


def test_temperature_by_hand():
    # Three of four right at one confidence: σ(2/T) = ¾, so T = 2 / ln 3.
    assert calibration_temperature([2.0, 2.0, 2.0, -2.0]) == pytest.approx(2 / np.log(3))


@pytest.mark.parametrize("seed", range(5))
def test_temperature_is_scipys_minimum(seed):
    margin = np.random.default_rng(seed).normal(0.4, 0.5 + seed, 300)
    best = minimize_scalar(lambda b: np.logaddexp(0, -b * margin).mean(), bounds=(1e-3, 50), method="bounded").x
    assert calibration_temperature(margin) == pytest.approx(1 / best, rel=1e-3)
    assert calibration_temperature(margin * 3) == pytest.approx(3 * calibration_temperature(margin))


def test_a_temperature_undoes_overconfidence_on_comparisons_it_has_not_seen():
    rng = np.random.default_rng(3)
    said = rng.normal(0, 2, 20_000)
    truth = np.where(rng.random(20_000) < 1 / (1 + np.exp(-said)), said, -said)
    found = reward_quality(3 * truth, np.zeros(20_000), num=10)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.ece > 0.08
    assert found.ece_calibrated < 0.015
    honest = reward_quality(truth, np.zeros(20_000), num=10)
    assert honest.temperature == pytest.approx(1, rel=0.05)
    assert found.log_loss_calibrated == pytest.approx(honest.log_loss, rel=0.01)
    # Noise fits a temperature of its own, which does not help the other half.
    noise = reward_quality(rng.normal(0, 2, 200), np.zeros(200), num=10)
    assert noise.log_loss_calibrated > np.log(2) - 0.03


def test_a_temperature_has_bounds():
    low, high = TEMPERATURES
    assert calibration_temperature([1.0, 2.0]) == pytest.approx(low)
    assert calibration_temperature([1e6, 2e6]) == pytest.approx(low)
    assert calibration_temperature([-1.0, 0.5]) == pytest.approx(high)
    assert calibration_temperature([0.0]) == pytest.approx(high)
    assert reward_quality([1.0], [0.0]).log_loss_calibrated == reward_quality([1.0], [0.0]).log_loss


def test_a_model_that_says_nothing():
    found = reward_quality([1.0] * 5, [1.0] * 5)
    assert (found.accuracy.estimate, found.brier) == (0.5, 0.25)
    assert found.log_loss == pytest.approx(np.log(2))
    assert found.ece == 0
    assert json.loads(json.dumps(found.as_dict()))["bins"][0]["num"] == 5


def test_huge_margins_stay_finite():
    found = reward_quality([1e4, -1e4], [0.0, 0.0])
    assert (found.brier, found.log_loss) == (0.5, 5000.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reward_quality([1.0], [1.0, 2.0]), "chosen has 1 values and rejected 2"),
        (lambda: reward_quality([float("nan")], [1.0]), "chosen: entry 0"),
        (lambda: reward_quality([1.0], [1.0], num_bins=0), "num_bins 0"),
        (lambda: accuracy_by_slice([1.0], [0.0], []), "slices: has 0 names for 1"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
