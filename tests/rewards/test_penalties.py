from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.rewards.penalties import length_penalty, missing_end
from tether.types import Group, Prompt, Response


def groups_of(*lengths, ended=None):
    ended = ended or [True] * len(lengths)
    return [Group(Prompt((1,)), (Response((2,) * n, ended=e),)) for n, e in zip(lengths, ended, strict=True)]


def test_missing_end_by_hand():
    groups = groups_of(3, 3, 3, ended=[True, False, False])
    scores = torch.tensor([0.5, 0.5, -2.0])
    assert missing_end(scores, groups, "penalty", 1.0).tolist() == [0.5, -0.5, -3.0]
    assert missing_end(scores, groups, "replace", -1.0).tolist() == [0.5, -1.0, -1.0]
    assert scores.tolist() == [0.5, 0.5, -2.0]


def test_a_linear_length_penalty_by_hand():
    assert length_penalty(groups_of(1, 4, 5, 10), free=4, per_token=0.5).tolist() == [0, 0, 0.5, 3]
    assert length_penalty(groups_of(1, 10), free=4, per_token=0.5, most=2).tolist() == [0, 2]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 20))
def test_it_holds_the_soft_overlong_punishment_of_dapo(length, cache, slack):
    longest = cache + slack
    if length <= longest - cache:
        expected = 0.0
    elif length <= longest:
        expected = ((longest - cache) - length) / cache
    else:
        expected = -1.0
    penalty = length_penalty(groups_of(length), longest - cache, 1 / cache, 1.0)
    assert -penalty.item() == pytest.approx(expected, abs=1e-6)


def test_only_trained_tokens_count():
    response = Response((2, 3, 4), trained=(True, False, True))
    assert length_penalty([Group(Prompt((1,)), (response,))], 0, 1.0).tolist() == [2.0]
