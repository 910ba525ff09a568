from __future__ import annotations

import math

import pytest
import torch

from tether.errors import InputError
from tether.rewards.combine import Part, WeightedSum
from tether.types import Group, Prompt, Response

GROUPS = [Group(Prompt((1,)), (Response((2,)), Response((3, 4)))), Group(Prompt((1,)), (Response((2, 3, 4, 5)),))]


def length(groups):
    return torch.tensor([len(r.token_ids) for g in groups for r in g.responses])


def first(groups):
    return torch.tensor([float(r.token_ids[0]) for g in groups for r in g.responses])


def test_the_sum_by_hand_and_its_parts():
    both = WeightedSum((Part("first", first, 2.0), Part("length", length, -0.5)))
    total, parts, _, _ = both.components(GROUPS)
    assert total.tolist() == [3.5, 5.0, 2.0]
    assert both(GROUPS).tolist() == total.tolist()
    assert {name: scores.tolist() for name, scores in parts.items()} == {"first": [2, 3, 2], "length": [1, 2, 4]}
    assert total.dtype == torch.float32


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "at least one"),
        ((Part("a", first), Part("a", length)), "two scorers are named 'a'"),
        ((Part("a", first, math.nan),), "'a' has weight nan"),
    ],
)
def test_a_bad_sum_is_refused_at_once(parts, message):
    with pytest.raises(InputError, match=message):
        WeightedSum(parts)


def test_a_part_that_fails_is_named():
    with pytest.raises(InputError, match=r"scorer 'b' gave scores of shape \(2,\) for 3 responses"):
        WeightedSum((Part("a", first), Part("b", lambda groups: torch.zeros(2))))(GROUPS)
    with pytest.raises(InputError, match=r"scorer 'b' gave nan for response 1 of 3"):
        WeightedSum((Part("b", lambda groups: torch.tensor([0, math.nan, 0]), 0.0),))(GROUPS)
