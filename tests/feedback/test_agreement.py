"""Agreement by hand and against krippendorff and scikit-learn; intervals; position bias."""

from __future__ import annotations

import json
import math

import krippendorff
import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from tether.errors import InputError
from tether.feedback.agreement import (
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    position_bias,
    raw_agreement,
)


def ratings(seed: int, items: int = 80, people: int = 5, missing: float = 0.0, right: float = 0.6):
    """People who say the truth with chance `right`, else anything of three."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (items, 1))
    table = np.where(rng.random((items, people)) < right, truth, rng.integers(0, 3, (items, people)))
    return np.where(rng.random((items, people)) < missing, -1, table)


def test_raw_agreement_by_hand():
    table = [[0, 0, 1], [1, 1, 1], [0, -1, -1], [2, 2, -1]]  # agreeing pairs: 1 of 3, 3 of 3, none, 1 of 1
    assert raw_agreement(table).estimate == pytest.approx(5 / 7)


def test_cohen_by_hand():
    a, b = [0] * 25 + [1] * 25, [0] * 20 + [1] * 5 + [0] * 10 + [1] * 15  # p_o = .7, p_e = .5·.6 + .5·.4 = .5
    assert cohen_kappa(a, b).estimate == pytest.approx(0.4)


@pytest.mark.parametrize("seed", range(5))
def test_cohen_is_scikit_learns(seed):
    table = ratings(seed)
    found = cohen_kappa(table[:, 0], table[:, 1])
    assert found.estimate == pytest.approx(cohen_kappa_score(table[:, 0], table[:, 1]))
    assert found.low < found.estimate < found.high
    some = ratings(seed, missing=0.3)
    both = (some[:, :2] >= 0).all(1)
    oracle = cohen_kappa_score(some[both, 0], some[both, 1])
    assert cohen_kappa(some[:, 0], some[:, 1]).estimate == pytest.approx(oracle)


def test_fleiss_on_the_table_of_its_paper():
    # Ten subjects, fourteen raters, five categories: kappa = 0.210 (the worked example printed with the formula).
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    table = [[category for category, n in enumerate(row) for _ in range(n)] for row in counts]
    assert fleiss_kappa(table).estimate == pytest.approx(0.20993, abs=1e-5)


@pytest.mark.parametrize("missing", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_the_krippendorff_packages(seed, missing):
    table = ratings(seed, missing=missing)
    data = np.where(table < 0, np.nan, table.astype(float)).T
    oracle = krippendorff.alpha(reliability_data=data, level_of_measurement="nominal")
    found = krippendorff_alpha(table)
    assert found.estimate == pytest.approx(oracle, abs=1e-9)
    assert found.low < found.estimate < found.high


def test_alpha_of_the_published_example():
    # Krippendorff's 4 observers, 12 units, nominal: alpha = 0.743.
    marks = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    table = np.array([[-1 if m == "." else int(m) for m in row.split()] for row in marks]).T
    assert krippendorff_alpha(table).estimate == pytest.approx(0.743, abs=5e-4)


def test_the_interval_covers_the_population():
    truth = krippendorff_alpha(ratings(0, items=40_000), num=1).estimate
    found = [krippendorff_alpha(ratings(seed, items=60), num=300) for seed in range(1, 121)]
    assert 0.87 <= np.mean([f.low <= truth <= f.high for f in found]) <= 1.0


def test_order_of_items_people_and_names_of_categories_do_not_matter():
    table = ratings(3, missing=0.2)
    rng = np.random.default_rng(0)
    turned = table[rng.permutation(len(table))][:, rng.permutation(5)]
    turned = np.where(turned < 0, -1, np.array([7, 0, 4])[turned])
    for statistic in (raw_agreement, krippendorff_alpha):
        assert statistic(turned).estimate == pytest.approx(statistic(table).estimate)


def test_what_cannot_be_told_is_nan_and_null_in_json():
    for table in ([[0, 0], [0, 0]], [[0, -1], [-1, 1]], np.zeros((0, 2), int)):
        found = krippendorff_alpha(table)
        assert math.isnan(found.estimate)
        assert json.loads(json.dumps(found.as_dict())) == {"estimate": None, "low": None, "high": None}
    assert krippendorff_alpha([[0, 0], [1, 1], [0, 0]]).estimate == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fleiss_kappa([[0, 1, -1], [0, 1, 1]]), "2 to 3 ratings"),
        (lambda: raw_agreement([[0.5, 1.0]]), "must be integers"),
        (lambda: raw_agreement([0, 1]), "items × annotators"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(("first", "second"), [(8, 2), (2, 8), (5, 5), (0, 1), (180, 120), (2600, 2400)])
def test_position_bias_is_scipys_binomial_test(first, second):
    found = position_bias(first, second)
    assert found.share == first / (first + second)
    assert found.p == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


def test_position_bias_of_nothing():
    assert position_bias(0, 0).as_dict() == {"share": None, "num": 0, "p": 1.0}
