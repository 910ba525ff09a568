"""Ensembles by hand; the heads of one model and whole models as members."""

from __future__ import annotations

import math

import pytest
import torch
from tests.train.conftest import Tiny, examples

from tether.data.template import Template
from tether.errors import InputError
from tether.models.load import load_scalar
from tether.rewards.ensemble import Ensemble
from tether.rewards.reward_model import RewardModelScorer
from tether.types import Group, Prompt, Response

GROUPS = [Group(Prompt((1,)), (Response((2,)), Response((3, 4)))), Group(Prompt((1,)), (Response((2, 3, 4)),))]


def gives(*scores: float):
    return lambda groups: torch.tensor(scores)


THREE = (gives(1, 0, 5), gives(2, 0, 5), gives(6, 0, -1))


@pytest.mark.parametrize(
    ("how", "penalty", "expected"),
    [
        ("mean", 1.0, [3.0, 0.0, 3.0]),
        ("min", 1.0, [1.0, 0.0, -1.0]),
        ("lower", 0.5, [3 - 0.5 * math.sqrt(14 / 3), 0.0, 3 - 0.5 * math.sqrt(8)]),
        ("lower", 0.0, [3.0, 0.0, 3.0]),
    ],
)
def test_by_hand(how, penalty, expected):
    ensemble = Ensemble(THREE, how, penalty)
    score, parts = ensemble.components(GROUPS)
    assert score.tolist() == pytest.approx(expected)
    assert ensemble(GROUPS).tolist() == score.tolist()
    assert parts.keys() == {"member_0", "member_1", "member_2", "disagreement"}
    assert parts["member_2"].tolist() == [6.0, 0.0, -1.0]
    assert parts["disagreement"].tolist() == pytest.approx([math.sqrt(14 / 3), 0.0, math.sqrt(8)])
    assert score.dtype == torch.float32


def test_one_member_is_itself():
    for how in ("mean", "min", "lower"):
        assert Ensemble(THREE[:1], how)(GROUPS).tolist() == [1.0, 0.0, 5.0]


def test_heads_are_members(tiny: Tiny):
    groups = examples(Template.load(tiny()), 4, 2)
    many, one = load_scalar(tiny(), num_heads=3, seed=1), load_scalar(tiny(), seed=2)
    ensemble = Ensemble((RewardModelScorer(many), RewardModelScorer(one)), "min")
    scores = ensemble.members(groups)
    assert scores.shape == (8, 4)
    torch.testing.assert_close(scores[:, 3], RewardModelScorer(one)(groups))
    torch.testing.assert_close(scores[:, :3].mean(1), RewardModelScorer(many)(groups))
    expected = many(many.lay_out(groups), ("scores",)).scores
    torch.testing.assert_close(scores[:, :3], expected, atol=1e-5, rtol=1e-5)
    assert ensemble(groups).tolist() == scores.amin(1).tolist()
    assert (scores.std(1) > 0.01).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ensemble(()), "at least one"),
        (lambda: Ensemble(THREE, "median"), "'median' is no way to join scores; valid: mean, min, lower"),
        (lambda: Ensemble(THREE, "lower", -1.0), "penalty -1.0"),
        (lambda: Ensemble(THREE, "lower", math.inf), "penalty inf"),
        (lambda: Ensemble((gives(1, 2),))(GROUPS), "member 0 gave no finite score for some of 3"),
        (lambda: Ensemble((THREE[0], gives(1, math.nan, 2)))(GROUPS), "member 1"),
    ],
)
def test_bad_ensembles_are_one_sentence(make, message):
    with pytest.raises(InputError, match=message):
        make()
