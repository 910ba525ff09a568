"""KL by hand, against an exact one, and best-of-n's against its own simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tether.errors import InputError
from tether.evals.divergence import best_of_n_kl, response_log_ratios, sequence_kl


def test_by_hand():
    # Responses of two tokens, none and one: (0.5 + 1.0), 0, -0.5.
    found = response_log_ratios([-1.0, -1.0, -2.0], [-1.5, -2.0, -1.5], [2, 0, 1])
    assert list(found) == [1.5, 0.0, -0.5]
    assert sequence_kl([-1.0, -1.0, -2.0], [-1.5, -2.0, -1.5], [2, 0, 1]).estimate == pytest.approx(1 / 3)
    assert sequence_kl([-1.0, -2.0], [-1.0, -2.0], [1, 1]) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_exact_kl_of_two_known_policies():
    rng = np.random.default_rng(0)
    p, q = np.array([0.7, 0.2, 0.1]), np.array([0.4, 0.4, 0.2])
    lengths = rng.integers(1, 9, 3000)  # as if the length were given with the prompt
    tokens = rng.choice(3, size=lengths.sum(), p=p)
    exact = lengths.mean() * (p * np.log(p / q)).sum()
    found = sequence_kl(np.log(p)[tokens], np.log(q)[tokens], lengths)
    assert found.low < exact < found.high
    assert found.high - found.low < 0.2


def test_best_of_n_by_hand_and_by_its_exact_distribution():
    assert best_of_n_kl(1) == 0
    assert best_of_n_kl(4) == pytest.approx(math.log(4) - 0.75)
    # Of many equally likely responses with distinct rewards, the best of n has rank k with (k^n - (k-1)^n) / K^n.
    ranks = np.arange(2001.0) / 2000
    chance = np.diff(ranks**8)
    assert best_of_n_kl(8) == pytest.approx((chance * np.log(chance * 2000)).sum(), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sequence_kl([-1.0], [-1.0], [2]), "sum to 2, but there are 1"),
        (lambda: sequence_kl([-1.0, -1.0], [-1.0], [2]), "logprobs has 2 values and ref_logprobs 1"),
        (lambda: sequence_kl([-1.0], [-1.0], [2, -1]), "entry 1 is negative"),
        (lambda: best_of_n_kl(0), "n 0"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
