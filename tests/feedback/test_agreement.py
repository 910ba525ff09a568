"""Agreement by hand and against krippendorff and scikit-learn; intervals; position bias."""

from __future__ import annotations

import json
import math

import krippendorff
import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import cohen_kappa_score

from tether.errors import InputError
from tether.feedback.agreement import (
    binomial_tail,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    ranking_pairs,
    rating_agreement,
    raw_agreement,
    sign_test,
)
from tether.types import Interval


def ratings(seed: int, items: int = 80, people: int = 5, missing: float = 0.0, right: float = 0.6):
    """People who say the truth with chance `right`, else anything of three."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, (items, 1))
    table = np.where(rng.random((items, people)) < right, truth, rng.integers(0, 3, (items, people)))
    return np.where(rng.random((items, people)) < missing, -1, table)


def scores(seed: int, items: int = 60, people: int = 4, missing: float = 0.0):
    """Ratings of 0 to 6: an item's worth and each person's error, rounded."""
    rng = np.random.default_rng(seed)
    said = rng.normal(3, 1.5, (items, 1)) + rng.normal(0, rng.uniform(0.3, 2), (items, people))
    table = np.clip(np.rint(said), 0, 6).astype(int)
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


@pytest.mark.parametrize("seed", range(20))
def test_weighted_cohen_is_scikit_learns(seed):
    table = scores(seed, people=2)
    for weights in ("none", "linear", "quadratic"):
        oracle = cohen_kappa_score(*table.T, weights=None if weights == "none" else weights)
        assert cohen_kappa(*table.T, weights=weights, num=1).estimate == pytest.approx(oracle, abs=1e-9)


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


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(20))
def test_alpha_of_ratings_is_the_krippendorff_packages(seed, level):
    table = scores(seed, missing=seed % 4 / 5)
    data = np.where(table < 0, np.nan, table.astype(float)).T
    oracle = krippendorff.alpha(reliability_data=data, level_of_measurement=level)
    assert krippendorff_alpha(table, level=level, num=1).estimate == pytest.approx(oracle, abs=1e-9)


def test_each_resampling_is_the_statistic_of_the_rows_it_drew():
    table = scores(1, items=12, missing=0.2)
    draw = np.bincount(np.random.default_rng(7).integers(12, size=12), minlength=12)  # one resampling from seed 7
    for level in ("nominal", "ordinal", "interval"):
        found = krippendorff_alpha(table, level=level, num=1, seed=7)
        drawn = krippendorff_alpha(np.repeat(table, draw, axis=0), level=level, num=1).estimate
        assert found.low == found.high == pytest.approx(drawn, abs=1e-12)


def test_interval_alpha_does_not_change_with_the_unit_nor_ordinal_with_any_rising_scale():
    table = scores(2, missing=0.1)
    doubled, squared = np.where(table < 0, -1, 2 * table + 3), np.where(table < 0, -1, table**2)
    for turned, level in ((doubled, "interval"), (squared, "ordinal")):
        assert krippendorff_alpha(turned, level=level) == pytest.approx(krippendorff_alpha(table, level=level))
    assert krippendorff_alpha(squared, level="interval").estimate != pytest.approx(
        krippendorff_alpha(table, level="interval").estimate, abs=1e-3
    )


def test_rankings_become_pairs_by_hand():
    ranks = [
        [[0, 1, 2], [2, 0, 0]],  # a > b > c; b = c > a
        [[1, -1, 0], [-1, -1, -1]],  # c > a, b not ranked; nothing
    ]
    table, clusters = ranking_pairs(ranks)
    assert table.tolist() == [[0, 2], [0, 2], [0, 1], [-1, -1], [2, -1], [-1, -1]]
    assert clusters.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw_agreement(table, clusters=clusters).estimate == 0


def test_the_pairs_of_a_ranking_are_drawn_together():
    rng = np.random.default_rng(0)
    # Both rank each item in the same way or in opposite ways: its six pairs agree or disagree as one.
    first = np.argsort(rng.random((100, 4)), axis=1)
    second = np.where(rng.random((100, 1)) < 0.7, first, 3 - first)
    table, clusters = ranking_pairs(np.stack([first, second], axis=1))
    whole, single = raw_agreement(table, clusters=clusters), raw_agreement(table)
    binomial = 2 * 1.96 * math.sqrt(whole.estimate * (1 - whole.estimate) / 100)
    assert width(whole) == pytest.approx(binomial, rel=0.1)
    assert width(whole) == pytest.approx(width(single) * math.sqrt(6), rel=0.1)
    alpha = krippendorff_alpha(table, level="ordinal", clusters=clusters)
    assert width(alpha) > 2 * width(krippendorff_alpha(table, level="ordinal"))


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_alpha_of_the_published_example():
    # Krippendorff's 4 observers, 12 units: alpha = 0.743 nominal, 0.815 ordinal, 0.849 interval.
    marks = [
        "1 2 3 3 2 1 4 1 2 . . .",
        "1 2 3 3 2 2 4 1 2 5 . 3",
        ". 3 3 3 2 3 4 2 2 5 1 .",
        "1 2 3 3 2 4 4 1 2 5 1 .",
    ]
    table = np.array([[-1 if m == "." else int(m) for m in row.split()] for row in marks]).T
    for level, published in (("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)):
        assert krippendorff_alpha(table, level=level).estimate == pytest.approx(published, abs=5e-4)


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


def test_ratings_agree_by_hand():
    # 1, 2, 2, 2, 3 have mean ranks .5, 2.5, 4.5; one in a thousand rated once tells nothing.
    found = rating_agreement({(1, 7): {5: 1, 6: 2}, (1, 8): {5: 2, 6: 2, 9: 3}, (2, 9): {9: 1000}})
    assert found.units == 2
    assert found.alpha.estimate == pytest.approx(1 - 4 * (2 * 4 + 4 * 4 / 2) / (2 * (3 * 4 + 3 * 4 + 16)))  # 0.2
    assert math.isnan(found.alpha.low)  # one item


@pytest.mark.parametrize("seed", range(5))
def test_agreement_of_ratings_is_the_krippendorff_packages_ordinal_alpha(seed):
    table = scores(seed, people=5, missing=0.4)
    said = {
        (row // 3, row): {user: int(value) - 3 for user, value in enumerate(values) if value >= 0}  # of -3 to 3
        for row, values in enumerate(table)
    }
    data = np.where(table < 0, np.nan, table - 3.0).T
    units, alpha = rating_agreement(said)
    assert units == ((table >= 0).sum(1) > 1).sum()
    assert alpha.estimate == pytest.approx(krippendorff.alpha(data, level_of_measurement="ordinal"), abs=1e-9)
    assert alpha.low < alpha.estimate < alpha.high
    assert alpha == pytest.approx(krippendorff_alpha(table, level="ordinal", clusters=np.arange(60) // 3))


def test_ratings_without_two_or_without_a_difference_have_no_alpha():
    for said, units in (({}, 0), ({(1, 2): {1: 4}, (2, 3): {2: 5}}, 0), ({(1, 2): {1: 4, 2: 4}}, 1)):
        found = rating_agreement(said)
        assert (found.units, math.isnan(found.alpha.estimate)) == (units, True)


def test_categories_may_have_any_numbers():
    few = ratings(3, people=2, missing=0.2)
    few = np.where(few == 2, 1, few)
    ids = np.where(few < 0, -1, np.array([3, 10_000_000])[few])
    both = (few >= 0).all(1)
    for level in ("nominal", "ordinal", "interval"):
        alike = krippendorff_alpha(few, level=level, num=50)
        assert alike.low < alike.estimate < alike.high
        assert krippendorff_alpha(ids, level=level, num=50) == pytest.approx(alike)
    assert raw_agreement(ids, num=50) == raw_agreement(few, num=50)
    assert fleiss_kappa(ids[both], num=50) == fleiss_kappa(few[both], num=50)
    assert cohen_kappa(*ids.T, num=50) == cohen_kappa(*few.T, num=50)


def test_what_cannot_be_told_is_nan_and_null_in_json():
    for table in ([[0, 0], [0, 0]], [[0, -1], [-1, 1]], np.zeros((0, 2), int)):
        found = krippendorff_alpha(table)
        assert math.isnan(found.estimate)
        assert json.loads(json.dumps(found.as_dict())) == {"estimate": None, "low": None, "high": None}
    assert krippendorff_alpha([[0, 0], [1, 1], [0, 0]]).estimate == 1.0


def test_two_who_share_no_item_have_no_kappa():
    for first, second in (([], []), ([-1, -1], [0, 1]), ([0, -1], [-1, 1])):
        found = cohen_kappa(np.array(first, int), np.array(second, int))
        assert all(math.isnan(value) for value in found)


def test_where_nothing_varies_there_is_no_interval():
    nothing = pytest.approx(math.nan, nan_ok=True)
    assert raw_agreement([[0, 1, 1]]) == (pytest.approx(1 / 3), nothing, nothing)  # one item
    assert raw_agreement([[0, 0], [1, 1], [1, 1]]) == (1.0, nothing, nothing)  # no disagreement yet
    assert krippendorff_alpha([[0, 0], [1, 1], [1, 1]]) == (1.0, nothing, nothing)
    assert raw_agreement([[0, 0], [0, 1]], clusters=[5, 5]) == (0.5, nothing, nothing)  # one ranking
    assert raw_agreement([[0, 0], [0, 1]])[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cohen_kappa([0, 1], [0]), r"shapes \(2,\) and \(1,\): must be one of each"),
        (lambda: fleiss_kappa([[0, 1, -1], [0, 1, 1]]), "2 to 3 ratings"),
        (lambda: raw_agreement([[0.5, 1.0]]), "must be integers"),
        (lambda: raw_agreement([0, 1]), "items × annotators"),
        (lambda: raw_agreement([[0, 1]], clusters=[0, 0]), "one number for each of the 1 items"),
        (lambda: krippendorff_alpha([[0, 1]], level="ratio"), "'ratio' is none of nominal, ordinal, interval"),
        (lambda: cohen_kappa([0, 1], [0, 1], weights="cubic"), "'cubic' is none of none, linear, quadratic"),
        (lambda: ranking_pairs([[0, 1], [1, 0]]), "items × annotators × responses"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize(("first", "second"), [(8, 2), (2, 8), (5, 5), (0, 1), (180, 120), (2600, 2400)])
def test_the_sign_test_is_scipys_binomial_test(first, second):
    found = sign_test(first, second)
    assert found.share == first / (first + second)
    assert found.p == pytest.approx(binomtest(first, first + second).pvalue, rel=1e-9)


@pytest.mark.parametrize(("at_most", "num", "chance"), [(0, 5, 0.3), (3, 10, 0.7), (250, 1000, 0.3), (7, 7, 0.2)])
def test_tails_are_scipys(at_most, num, chance):
    assert binomial_tail(at_most, num, chance) == pytest.approx(binom.cdf(at_most, num, chance), rel=1e-9)


def test_the_sign_test_of_nothing():
    assert sign_test(0, 0).as_dict() == {"share": None, "num": 0, "p": 1.0}
