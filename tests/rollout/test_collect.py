from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tether.config import SamplingConfig
from tether.errors import InputError
from tether.rollout.collect import collect, from_rows, to_rows
from tether.rollout.native import NativeSampler
from tether.types import Group, Prompt, Response

ids = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)
meta = st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.none(), st.lists(st.booleans())), max_size=2)


@st.composite
def responses(draw):
    tokens = draw(ids)
    each = {"min_size": len(tokens), "max_size": len(tokens)}
    return Response(
        tokens,
        draw(st.text()),
        draw(st.booleans()),
        draw(st.none() | st.lists(st.floats(-100, 0), **each).map(tuple)),
        draw(st.none() | st.lists(st.booleans(), **each).map(tuple)),
        draw(st.integers(0, 9)),
        draw(meta),
    )


@st.composite
def groups(draw):
    messages = draw(st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text()})))
    answers = draw(st.lists(responses(), max_size=3))
    labels = draw(st.just({}) | st.just({"rewards": [0.1] * len(answers)}))
    return Group(Prompt(draw(ids), tuple(messages), draw(st.text()), draw(meta)), tuple(answers), labels)


@given(st.lists(groups(), max_size=3))
def test_rows_bring_the_same_groups_back(some):
    rows = to_rows(some)
    assert from_rows(rows) == some
    assert from_rows(json.loads(json.dumps(rows))) == some


@pytest.fixture
def sampler(make_role, template):
    return NativeSampler(make_role(), template, SamplingConfig(max_new_tokens=6))


def test_rewards_are_labels_of_their_responses(sampler, prompts):
    def length(groups):
        return torch.tensor([float(len(r.token_ids)) for g in groups for r in g.responses])

    scored, rewards = collect(sampler, length, prompts, 3, seed=0)
    assert [g.labels["rewards"] for g in scored] == [[len(r.token_ids) for r in g.responses] for g in scored]
    assert rewards.tolist() == [r for g in scored for r in g.labels["rewards"]]
    assert rewards.dtype == torch.float32
    sampled = sampler.generate(prompts, 3, seed=0)
    assert [(g.prompt, g.responses) for g in scored] == [(g.prompt, g.responses) for g in sampled]
    assert from_rows(json.loads(json.dumps(to_rows(scored)))) == scored


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([1.0] * 5 + [math.nan] + [1.0] * 20, "response 1 to prompt p2 is nan; a reward must be a finite number"),
        ([1.0] * 25 + [-math.inf], "response 1 to prompt p4 is -inf"),
        ([None] + [1.0] * 25, "response 0 to prompt p0 is None"),
        (torch.tensor([1.0] * 3 + [math.nan] + [1.0] * 22), "response 1 to prompt p1 is nan"),
        (torch.ones(26, 1), "response 0 to prompt p0 is"),
        ([1.0] * 25, "25 rewards for 26 responses"),
        ([[1.0, 2.0]] * 26, "response 0 to prompt p0 is"),
    ],
)
def test_a_bad_reward_names_its_sample(sampler, prompts, rewards, message):
    with pytest.raises(InputError, match=message):
        collect(sampler, lambda groups: rewards, prompts, 2, seed=0)
