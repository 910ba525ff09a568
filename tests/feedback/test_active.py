"""Active selection: information by hand and against direct sums, propensities as promised, estimates without bias."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from tether.errors import InputError
from tether.feedback.active import choice, information, population_mean, select_pairs


def logits(*shares: float) -> list[list[float]]:
    """A member's scores of pairs whose first response it prefers with these probabilities."""
    return [[math.log(p / (1 - p)), 0.0] for p in shares]


def test_information_by_hand():
    # p = ¾ and ¼: H(½) − H(¼) = ln 2 − (¼ ln 4 + ¾ ln 4/3); p = ½ twice: unsure, but of one mind.
    found = information([logits(0.75, 0.5, 0.9), logits(0.25, 0.5, 0.9)])
    assert found == pytest.approx([math.log(2) - (0.25 * math.log(4) + 0.75 * math.log(4 / 3)), 0, 0], abs=1e-12)


def test_information_is_the_difference_of_scipys_entropies():
    rng = np.random.default_rng(0)
    scores = rng.normal(0, 3, (5, 200, 2))
    p = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    oracle = entropy(p.mean(0), axis=1) - entropy(p, axis=2).mean(0)
    assert information(scores) == pytest.approx(oracle, abs=1e-12)
    assert information(scores[:, :, ::-1]) == pytest.approx(oracle, abs=1e-12)  # sides do not matter


def test_information_of_members_that_are_sure():
    found = information([[[1e6, 0.0], [1e6, 0.0]], [[0.0, 1e6], [2e6, 0.0]]])
    assert found == pytest.approx([math.log(2), 0.0])


def drawn(scores, num, times, **how):
    """(times, P) whether each pair was chosen, and whether by the uniform arm; and the propensities (P,)."""
    chosen, uniform = np.zeros((2, times, len(scores)))
    propensity = np.full(len(scores), np.nan)
    for seed in range(times):
        for one in select_pairs(scores, num, seed=seed, **how):
            chosen[seed, one.pair], uniform[seed, one.pair] = 1, one.arm == "uniform"
            propensity[one.pair] = one.propensity
    return chosen, uniform, propensity


def test_pairs_are_chosen_as_often_as_their_propensities_say():
    scores, times = [0.0, 0.1, 0.2, 0.3, 0.4, 1.0, 0.0, 0.6], 4000
    chosen, uniform, propensity = drawn(scores, 3, times, uniform=0.4)
    by_hand = 0.4 * 3 / 8 + 0.6 * 3 * np.array(scores) / 2.6  # none above 1
    assert propensity == pytest.approx(by_hand)
    share = chosen.mean(0)
    assert np.abs(share - by_hand).max() < 4 * 0.5 / math.sqrt(times)
    assert np.abs(uniform.mean(0) - 0.15).max() < 4 * math.sqrt(0.15 * 0.85 / times)
    assert (chosen.sum(1) == 3).all()


def test_what_is_sure_to_be_chosen_gives_the_rest_to_the_others():
    # Base 0.2·2/4 = 0.1; 1.6 for the active arm, 0.9 of it for the first (π = 1), 0.7 in proportion 1 : 1 : 5.
    chosen, _, propensity = drawn([100.0, 1.0, 1.0, 5.0], 2, 60, uniform=0.2)
    assert propensity == pytest.approx([1.0, 0.2, 0.2, 0.6])
    assert chosen[:, 0].all()
    # Where only one pair has a score, the others share what it cannot take.
    _, _, propensity = drawn([7.0, 0.0, 0.0, 0.0], 3, 60, uniform=0.1)
    assert propensity == pytest.approx([1.0, 2 / 3, 2 / 3, 2 / 3])


@given(
    scores=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e6), st.floats(0, 1e-300)), min_size=1, max_size=40),
    share=st.floats(0, 1),
    uniform=st.floats(0.01, 1),
    power=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    seed=st.integers(0, 2**32),
)
def test_every_selection_keeps_its_promises(scores, share, uniform, power, seed):
    num = max(1, round(share * len(scores)))
    chosen = select_pairs(scores, num, uniform=uniform, power=power, seed=seed)
    assert len({one.pair for one in chosen}) == len(chosen) == num
    assert chosen == select_pairs(scores, num, uniform=uniform, power=power, seed=seed)
    base = uniform * num / len(scores)
    for one in chosen:
        assert base * (1 - 1e-9) <= one.propensity <= 1
        assert one.score == scores[one.pair]
    if num == len(scores):
        assert [one.propensity for one in chosen] == pytest.approx([1] * num)
    if uniform == 1:
        assert {one.arm for one in chosen} == {"uniform"}


def test_a_record_is_json_of_python_numbers():
    (one,) = select_pairs(np.array([0.25]), 1, uniform=0.5)
    assert json.loads(json.dumps(one.record())) == {"arm": one.arm, "propensity": 1.0, "score": 0.25}


def test_estimates_by_hand():
    values, propensities = [1.0, 0.0, 1.0], [0.5, 0.25, 0.25]  # 1/π: 2, 4, 4
    assert population_mean(values, propensities).estimate == pytest.approx(6 / 10)
    assert population_mean(values, propensities, 12).estimate == pytest.approx(6 / 12)
    # All π equal: the mean, with the variance of a simple random sample, (1 − n/P) s²/n (Cochran).
    sample = [3.0, 1.0, 4.0, 1.0, 5.0]
    found = population_mean(sample, [0.5] * 5)
    assert found.estimate == pytest.approx(2.8)
    error = math.sqrt(0.5 * np.var(sample, ddof=1) / 5)
    assert (found.high - found.estimate) / 1.959964 == pytest.approx(error)
    assert population_mean(sample, [0.5] * 5, 10) == pytest.approx(found)


def test_all_asked_leaves_nothing_to_guess_and_one_says_nothing_of_its_error():
    assert population_mean([1.0, 0.0], [1.0, 1.0]) == (0.5, 0.5, 0.5)
    found = population_mean([1.0], [0.5])
    assert found.estimate == 1.0
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_the_estimate_is_unbiased_where_the_plain_mean_is_not():
    """Agreement of annotators on 400 pairs, the informative ones being those on which they agree less."""
    rng = np.random.default_rng(0)
    scores = rng.gamma(1.0, 0.2, 400)
    agreement = rng.binomial(3, 1 / (1 + np.exp(6 * (scores - 0.5)))) / 3
    truth, times = agreement.mean(), 2000
    plain, hajek, thompson, covered = np.zeros((4, times))
    for seed in range(times):
        chosen = select_pairs(scores, 60, uniform=0.3, seed=seed)
        values, chances = agreement[[one.pair for one in chosen]], [one.propensity for one in chosen]
        found = population_mean(values, chances)
        plain[seed], hajek[seed] = values.mean(), found.estimate
        thompson[seed] = population_mean(values, chances, 400).estimate
        covered[seed] = found.low <= truth <= found.high
    error = 1 / math.sqrt(times)
    assert abs(thompson.mean() - truth) < 4 * thompson.std() * error  # unbiased
    assert abs(hajek.mean() - truth) < 0.005  # a ratio: nearly
    assert plain.mean() < truth - 0.1  # what weighing saves us from
    assert 0.92 <= covered.mean() <= 0.98


def test_what_votes_on_chosen_pairs_say_of_all_by_hand():
    arms = {"uniform": 1.0, "active": 0.5, "more": 0.25}
    records = [{"arm": "active" if arm == "more" else arm, "propensity": p, "score": 0.0} for arm, p in arms.items()]
    found = choice(records, [[3, 0, 0], [1, 1, 2], [0, 1, 0]])  # all agree; 1 of 6 pairs of annotators; one vote
    assert (found.uniform, found.active) == (1, 2)
    assert (found.decided.chosen, found.decided.all.estimate) == (pytest.approx(2 / 3), pytest.approx(5 / 7))
    assert found.agreement.chosen == pytest.approx(7 / 12)
    assert found.agreement.all.estimate == pytest.approx((1 + 2 / 6) / 3)
    alone = choice(records, [[1, 0, 0], [0, 0, 1], [0, 0, 0]]).as_dict()
    assert alone["decided"]["chosen"] == pytest.approx(1 / 3)
    assert alone["agreement"] == {"chosen": None, "all": {"estimate": None, "low": None, "high": None}}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: information([[[1.0, 0.0]]]), "two or more"),
        (lambda: information(np.zeros((2, 5))), "members"),
        (lambda: information([[[1.0, 0.0]] * 3, [[1.0, 0.0], [0.0, math.nan], [0.0, 0.0]]]), "member 1 gave pair 1"),
        (lambda: select_pairs([1.0, -0.1], 1), "0 or more"),
        (lambda: select_pairs([1.0, math.inf], 1), "finite"),
        (lambda: select_pairs([1.0, 2.0], 3), "between 1 and the number of candidates, 2"),
        (lambda: select_pairs([], 1), "candidates, 0"),
        (lambda: select_pairs([1.0], 0), "0 pairs to choose"),
        (lambda: select_pairs([1.0], 1, uniform=0.0), "above 0 and at most 1"),
        (lambda: select_pairs([1.0], 1, power=-1.0), "power -1.0"),
        (lambda: population_mean([], []), "one of each"),
        (lambda: population_mean([1.0, 2.0], [0.5]), "one of each"),
        (lambda: population_mean([math.nan], [0.5]), "finite"),
        (lambda: population_mean([1.0], [0.0]), "above 0 and at most 1"),
        (lambda: population_mean([1.0, 0.0], [0.5, 0.5], 1), "of which 2 were chosen"),
        (lambda: population_mean([1.0], [math.nan]), "above 0 and at most 1"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
