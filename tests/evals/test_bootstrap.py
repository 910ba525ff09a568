"""Intervals: known widths, coverage, pairing, repeatability."""

from __future__ import annotations

import numpy as np
import pytest

from tether.errors import InputError
from tether.evals.bootstrap import difference, interval


def test_width_is_that_of_the_normal_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, 1000)
    found = interval(values)
    error = values.std() / np.sqrt(1000)
    assert found.estimate == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_it_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(2)
    found = [interval(rng.normal(0.0, 1.0, 60), num=400, seed=i, level=0.9) for i in range(300)]
    share = np.mean([f.low <= 0 <= f.high for f in found])
    assert 0.83 <= share <= 0.95  # 0.9 ± 3 standard deviations of 0.017, a little low for 60 values


def test_any_reduction_is_a_statistic():
    values = np.arange(101.0)
    found = interval(values, lambda drawn: np.median(drawn, axis=-1))
    assert found.estimate == 50
    assert 30 < found.low < 50 < found.high < 70


def test_pairing_removes_how_hard_the_prompts_are():
    rng = np.random.default_rng(3)
    hard = rng.normal(0, 10, 400)
    a, b = hard + 0.5 + rng.normal(0, 0.5, 400), hard + rng.normal(0, 0.5, 400)
    found = difference(a, b)
    assert found.estimate == pytest.approx(a.mean() - b.mean())
    assert 0.3 < found.low < found.high < 0.7
    assert interval(a).high - interval(a).low > 1.5


def test_same_seed_same_interval_and_another_seed_another():
    values = np.random.default_rng(4).normal(size=50)
    assert interval(values, seed=1) == interval(values, seed=1) != interval(values, seed=2)


def test_a_constant_has_no_width():
    assert interval([2.0] * 10) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interval([]), "one or more numbers"),
        (lambda: interval([[1.0]]), "one or more numbers"),
        (lambda: interval([1.0, float("nan")]), "entry 1 is not a finite number"),
        (lambda: interval([1.0], level=1.0), "level 1.0"),
        (lambda: difference([1.0, 2.0], [1.0]), "first has 2 values and second 1"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
