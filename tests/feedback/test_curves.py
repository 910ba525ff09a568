"""Learning curves: exact recovery, scipy's fit as oracle, coverage of the intervals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.optimize import curve_fit

from tether.errors import InputError
from tether.feedback.curves import EXPONENTS, fit_curve, what_would_buy

SIZES = np.array([50.0, 100.0, 200.0, 400.0, 800.0])


def law(n, a, b, c):
    return a - b * n**-c


@pytest.mark.parametrize("truth", [(0.85, 1.2, 0.5), (0.75, 0.3, 0.2), (1.0, 2.0, 0.7), (0.7, 40.0, 1.5)])
def test_points_on_a_curve_give_the_curve(truth):
    curve = fit_curve(SIZES, law(SIZES, *truth), 1000, num=1)
    assert (curve.a, curve.b, curve.c) == pytest.approx(truth, rel=1e-6)
    assert curve.dispersion == 1.0
    assert curve.at(1600).estimate == pytest.approx(law(1600, *truth))


def deviations(acc, m):
    """What the docstring promises to weigh by, written anew."""
    p = (m * acc + 1) / (m + 2)
    return np.sqrt(p * (1 - p) / m)


def squared(params, n, acc, m):
    return float((((acc - law(n, *params)) / deviations(acc, m)) ** 2).sum())


@pytest.mark.parametrize("seed", range(12))
def test_the_fit_is_no_worse_than_scipys(seed):
    rng = np.random.default_rng(seed)
    n = np.repeat(SIZES, 2)
    m = rng.integers(100, 2000, len(n)).astype(float)
    acc = rng.binomial(m.astype(int), law(n, 0.85, 1.2, 0.45)) / m
    curve = fit_curve(n, acc, m, num=1)
    bounds = ([-np.inf, 0, EXPONENTS[0]], [1, np.inf, EXPONENTS[1]])
    start = [0.8, 1.0, 0.5]
    oracle, _ = curve_fit(
        law, n, acc, start, deviations(acc, m), absolute_sigma=True, bounds=bounds, max_nfev=20_000, xtol=1e-12
    )
    ours, scipys = squared((curve.a, curve.b, curve.c), n, acc, m), squared(oracle, n, acc, m)
    assert ours <= scipys * (1 + 1e-9)  # flat valleys: the parameters may differ a little, the error not
    assert ours == pytest.approx(scipys, rel=1e-3)
    assert curve.at(1600).estimate == pytest.approx(law(1600, *oracle), abs=2e-3)
    assert curve.dispersion == pytest.approx(max(1, ours / (len(n) - 3)))


def test_more_labels_never_harm_and_no_accuracy_is_above_one():
    falling = fit_curve([60, 120, 240], [0.8, 0.75, 0.7], 500)
    assert falling.b == 0
    assert what_would_buy(falling).estimate == 0
    rising = fit_curve([60, 120, 240], [0.5, 0.7, 0.99], 500)
    assert rising.a == 1.0
    assert rising.at(10_000).high <= 1.0
    for curve in (falling, rising):
        gain = what_would_buy(curve, more=100)
        assert 0 <= gain.low <= gain.high


def test_what_more_would_buy_by_hand():
    # a = 0.9, b = 1, c = ½: from 400 to 1600 the loss halves from 0.05 to 0.025; from 100 to 400 from 0.1.
    curve = fit_curve([25, 100, 400], law(np.array([25.0, 100.0, 400.0]), 0.9, 1.0, 0.5), 1000)
    assert what_would_buy(curve, more=1200).estimate == pytest.approx(0.025, abs=1e-6)
    assert what_would_buy(curve, more=300, start=100).estimate == pytest.approx(0.05, abs=1e-6)
    assert curve.largest == 400


def test_intervals_hold_the_truth():
    """Five sizes, 120 experiments: the accuracy and the gain beyond the largest, within 95 % intervals."""
    truth, m = (0.85, 1.2, 0.45), 800
    accuracy, gain = law(1600, *truth), law(1000, *truth) - law(800, *truth)
    rng = np.random.default_rng(0)
    accuracies, gains = [], []
    for seed in range(120):
        curve = fit_curve(SIZES, rng.binomial(m, law(SIZES, *truth)) / m, m, num=200, seed=seed)
        accuracies.append(curve.at(1600))
        gains.append(what_would_buy(curve, more=200))
    for found, value in ((accuracies, accuracy), (gains, gain)):
        assert np.mean([one.low <= value <= one.high for one in found]) >= 0.9
    assert np.mean([one.high - one.low for one in gains]) < 0.03  # and are not so wide that they cannot but


def test_intervals_hold_the_truth_where_all_sizes_meet_the_same_comparisons():
    """As `tether learning-curve` measures: what is hard is hard for all, so an unlucky draw moves every point."""
    truth, m, sizes = (0.85, 1.2, 0.45), 300, np.repeat(SIZES, 3)
    accuracy, rng = law(1200, *truth), np.random.default_rng(0)
    held = {True: 0, False: 0}
    for seed in range(100):
        hardness = rng.random(m)
        right = (hardness < law(sizes, *truth)[:, None]).mean(1)
        for same in held:
            found = fit_curve(sizes, right, m, same=same, num=200, seed=seed).at(1200)
            held[same] += found.low <= accuracy <= found.high
    assert held[True] >= 93 > 85 > held[False]


def test_an_error_that_all_points_share_leaves_the_gain_alone():
    points = (SIZES, law(SIZES, 0.97, 1.2, 0.4), 50)
    own, shared = fit_curve(*points), fit_curve(*points, same=True)
    assert own.gain(800, 1600) == shared.gain(800, 1600)
    assert shared.at(1e6).high == 1.0 >= own.at(1e6).high
    assert shared.at(800).low < own.at(800).low < own.at(800).high < shared.at(800).high


def test_chance_in_training_widens_the_intervals():
    n = np.repeat(SIZES, 4)
    noise = np.tile([0.06, -0.06, 0.06, -0.06], 5)
    calm, wild = (fit_curve(n, law(n, 0.8, 1.0, 0.5) + by * noise, 1000) for by in (0.0, 1.0))
    assert calm.dispersion == 1
    assert wild.dispersion == pytest.approx(20 / 17 * 0.06**2 / np.mean(deviations(0.7, 1000)) ** 2, rel=0.1)
    widths = [curve.at(400).high - curve.at(400).low for curve in (calm, wild)]
    assert widths[1] > 3 * widths[0]


def test_it_is_deterministic_and_goes_into_json():
    points = (SIZES, law(SIZES, 0.8, 1.0, 0.4), 300)
    assert fit_curve(*points, seed=1).at(900) == fit_curve(*points, seed=1).at(900)
    assert fit_curve(*points, seed=1).at(900) != fit_curve(*points, seed=2).at(900)
    as_json = json.loads(json.dumps(fit_curve(*points).as_dict()))
    assert as_json.keys() == {"a", "b", "c", "largest", "dispersion"}
    assert math.isnan(fit_curve(*points, num=0).at(900).low)


CURVE = fit_curve(SIZES, law(SIZES, 0.8, 1.0, 0.4), 300, num=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_curve([60, 120], [0.6, 0.7], 500), "3 different sizes or more, got 2"),
        (lambda: fit_curve([60, 60, 120], [0.6, 0.6, 0.7], 500), "got 2"),
        (lambda: fit_curve([60, 120, 240], [0.6, 0.7], 500), "one of each"),
        (lambda: fit_curve([60, 120, 240], [0.6, 0.7, 0.8], [500, 500]), "one number for all points or for each"),
        (lambda: fit_curve([0, 120, 240], [0.6, 0.7, 0.8], 500), "above 0"),
        (lambda: fit_curve([60, 120, 240], [0.6, 0.7, 1.1], 500), "between 0 and 1"),
        (lambda: fit_curve([60, 120, 240], [0.6, math.nan, 0.7], 500), "between 0 and 1"),
        (lambda: fit_curve([60, 120, 240], [0.6, 0.7, 0.8], 0), "1 or more comparisons"),
        (lambda: what_would_buy(CURVE, more=0), "more 0"),
        (lambda: what_would_buy(CURVE, start=-1), "start -1"),
        (lambda: CURVE.at(0), "num 0"),
        (lambda: CURVE.at(math.nan), "num nan"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
