"""GAE and reward shaping: worked numbers, loops, and the identities at the ends of λ."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.advantages import gae, shape_rewards
from tether.math.segments import reverse_scan

steps = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=7)
quick = settings(deadline=None, max_examples=60)


def flat(responses: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rewards, values = torch.tensor([step for response in responses for step in response], dtype=torch.float64).unbind(1)
    return rewards, values, torch.tensor([len(response) for response in responses])


def test_gae_two_steps_by_hand():
    # r=(0,1), V=(.5,.25), γ=1, λ=.5 → δ=(-.25,.75), A=(.125,.75)
    advantages, returns = gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), torch.tensor([2]), 1.0, 0.5)
    assert advantages.tolist() == [0.125, 0.75]
    assert returns.tolist() == [0.625, 1.0]


def test_gae_discounted_by_hand():
    # r=(1,2), V=(4,8), γ=.5, λ=.5 → δ=(1+4-4, 2-8)=(1,-6), A=(1-6/4, -6)
    advantages, _ = gae(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0]), torch.tensor([2]), 0.5, 0.5)
    assert advantages.tolist() == [-0.5, -6.0]


@quick
@given(st.lists(steps, min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_gae_equal_to_loops(responses: list[list[tuple[float, float]]], gamma: float, lam: float):
    expected = []
    for response in responses:
        for t in range(len(response)):
            advantage = 0.0
            for k in range(t, len(response)):
                following = response[k + 1][1] if k + 1 < len(response) else 0.0
                advantage += (gamma * lam) ** (k - t) * (response[k][0] + gamma * following - response[k][1])
            expected.append(advantage)
    rewards, values, lengths = flat(responses)
    advantages, returns = gae(rewards, values, lengths, gamma, lam)
    torch.testing.assert_close(advantages.tolist(), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(returns, advantages + values)


@quick
@given(st.lists(steps, min_size=1, max_size=5), st.floats(0, 1))
def test_gae_at_the_ends_of_lambda(responses: list[list[tuple[float, float]]], gamma: float):
    """λ=1: returns are the discounted rewards, whatever the values. λ=0: advantages are the one-step errors."""
    rewards, values, lengths = flat(responses)
    _, returns = gae(rewards, values, lengths, gamma, 1.0)
    torch.testing.assert_close(returns, reverse_scan(rewards, gamma, lengths), rtol=1e-9, atol=1e-9)
    one_step, _ = gae(rewards, values, lengths, gamma, 0.0)
    alone = torch.cat(
        [gae(rewards[i : i + 1], values[i : i + 1], torch.tensor([1]), 1, 0)[0] for i in range(len(rewards))]
    )
    last = lengths.cumsum(0) - 1
    torch.testing.assert_close(one_step[last], alone[last])


def test_gae_ignores_batch_mates_and_gives_no_gradient():
    rewards, values = torch.randn(6), torch.randn(6, requires_grad=True)
    together, _ = gae(rewards, values, torch.tensor([2, 4]), 0.99, 0.95)
    apart = [
        gae(r, v, torch.tensor([len(r)]), 0.99, 0.95)[0]
        for r, v in ((rewards[:2], values[:2]), (rewards[2:], values[2:]))
    ]
    torch.testing.assert_close(together, torch.cat(apart))
    assert not together.requires_grad


def test_perfect_values_leave_no_advantage():
    rewards, lengths = torch.tensor([0.5, 0.0, 2.0, 1.0]), torch.tensor([3, 1])
    values = reverse_scan(rewards, 0.9, lengths)
    advantages, _ = gae(rewards, values, lengths, 0.9, 0.8)
    torch.testing.assert_close(advantages, torch.zeros(4), rtol=0, atol=1e-6)


def test_shape_rewards_by_hand():
    kl = torch.tensor([1.0, 2.0, 4.0])
    shaped = shape_rewards(torch.tensor([10.0, -3.0]), kl, 0.5, torch.tensor([2, 1]))
    assert shaped.tolist() == [-0.5, 9.0, -5.0]
    assert shape_rewards(torch.tensor([10.0, -3.0]), None, 0.5, torch.tensor([2, 1])).tolist() == [0.0, 10.0, -3.0]
    assert kl.tolist() == [1.0, 2.0, 4.0]


def test_shaped_rewards_sum_to_score_minus_kl():
    lengths = torch.tensor([4, 1, 3])
    scores, kl = torch.randn(3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    shaped = shape_rewards(scores, kl, 0.2, lengths)
    expected = [scores[s] - 0.2 * part.sum() for s, part in enumerate(kl.split(lengths.tolist()))]
    torch.testing.assert_close(
        torch.stack([part.sum() for part in shaped.split(lengths.tolist())]), torch.stack(expected)
    )


def test_a_response_without_tokens_is_refused():
    with pytest.raises(ValueError, match="response 1 has no token"):
        shape_rewards(torch.ones(2), None, 0.0, torch.tensor([2, 0]))
    with pytest.raises(ValueError, match="response 0 has no token"):
        gae(torch.ones(2), torch.ones(2), torch.tensor([0, 2]), 1.0, 1.0)
