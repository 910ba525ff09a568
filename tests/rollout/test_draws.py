from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.config import SamplingConfig
from tether.rollout.draws import draw, inverse_cdf, kept, sample_keys, uniforms
from tether.types import Prompt


def test_uniforms_are_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]  # of seed 1234567
    given_ = uniforms(torch.full((4,), 1234567), torch.arange(4))
    assert given_.tolist() == [(z >> 11) * 2.0**-53 for z in published]


def test_uniforms_are_uniform_over_keys_and_steps():
    keys = sample_keys([Prompt((n,)) for n in range(100)], 10, seed=3)
    assert len(set(keys.tolist())) == 1000
    for numbers in (uniforms(keys, torch.zeros_like(keys)), uniforms(keys[:1].expand(1000), torch.arange(1000))):
        counts = torch.histc(numbers, bins=10, min=0, max=1)
        assert ((counts - 100) ** 2 / 100).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_keys_follow_the_prompt_and_not_its_place():
    a, b = Prompt((1, 2)), Prompt((3,))
    forward = sample_keys([a, b, a], 2, seed=0).view(3, 2)
    backward = sample_keys([b, a, a], 2, seed=0).view(3, 2)
    assert torch.equal(forward[[1, 0, 2]], backward)
    assert len(set(forward.flatten().tolist())) == 6
    assert not set(sample_keys([a], 2, seed=1).tolist()) & set(forward.flatten().tolist())
    # A K that grows adds samples and keeps the first ones.
    assert torch.equal(sample_keys([a], 5, seed=0)[:2], forward[0])


@given(
    st.lists(st.sampled_from([0.0, 0.0, 1e-9, 0.1, 0.3, 1.0]), min_size=1, max_size=200).filter(lambda w: sum(w) > 0),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=200, deadline=None)
def test_inverse_cdf_is_the_naive_search(weights, uniform):
    exact = torch.tensor(weights).double().tolist()
    sums = list(accumulate(exact))
    target = uniform * sums[-1]
    [token] = inverse_cdf(torch.tensor([weights]), torch.tensor([uniform], dtype=torch.float64)).tolist()
    assert weights[token] > 0
    if min(abs(s - target) for s in sums) > 1e-12:  # nearer than that, rounding decides
        assert token == bisect_right(sums, target)


@pytest.mark.parametrize("size", [3, 64, 65, 500])
def test_a_token_without_weight_is_never_drawn(size):
    weights = torch.zeros(3, size)
    weights[:, size // 2] = 0.3
    ends = torch.tensor([0.0, 0.5, 1 - 2.0**-53], dtype=torch.float64)
    assert inverse_cdf(weights, ends).tolist() == [size // 2] * 3


def test_kept_by_hand():
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert kept(probs, 2, 1.0).tolist() == [[0, pytest.approx(0.4), 0, pytest.approx(0.3)]]
    # 0.4 + 0.3 reaches 0.65; 0.4 alone does not
    assert kept(probs, 0, 0.65).tolist() == [[0, pytest.approx(0.4), 0, pytest.approx(0.3)]]
    # of the best three (0.9), 0.4 / 0.9 = 0.44 is below one half and (0.4 + 0.3) / 0.9 is not
    assert kept(probs, 3, 0.5).tolist() == [[0, pytest.approx(0.4), 0, pytest.approx(0.3)]]
    assert kept(probs, 0, 0.01).tolist() == [[0, pytest.approx(0.4), 0, 0]]
    assert kept(probs, 4, 1.0) is probs


def naive_kept(probs: list[float], top_k: int, top_p: float) -> list[float]:
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    order = order[:top_k] if top_k else order
    total, so_far, chosen = math.fsum(probs[i] for i in order), 0.0, set()
    for i in order:
        if top_p < 1 and so_far >= top_p * total:
            break
        chosen.add(i)
        so_far += probs[i]
    return [p if i in chosen else 0.0 for i, p in enumerate(probs)]


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=30),
    st.integers(0, 35),
    st.floats(0.01, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_kept_is_the_naive_loop(weights, top_k, top_p):
    probs = (torch.tensor([weights]).float() / sum(weights)).tolist()[0]
    assert kept(torch.tensor([probs]), top_k, top_p).tolist()[0] == naive_kept(probs, top_k, top_p)


def test_the_logprob_is_of_the_whole_tempered_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    params = SamplingConfig(temperature=0.5, top_k=1)
    tokens, logprobs = draw(logits, torch.tensor([0.9], dtype=torch.float64), params)
    assert tokens.tolist() == [2]
    assert logprobs.item() == pytest.approx(4 - math.log(1 + math.exp(2) + math.exp(4)), abs=1e-6)
    assert draw(logits, None, SamplingConfig(temperature=0.5)) == (tokens, logprobs)
