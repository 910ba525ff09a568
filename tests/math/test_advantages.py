"""GAE, reward shaping and group comparisons: worked numbers, loops, identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.advantages import (
    gae,
    group_advantages,
    leave_one_out,
    moving_mean,
    shape_rewards,
    zero_spread,
)
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


# Groups (1, 2, 6), (4, 4) and (0.5): means 3, 4, 0.5; the first's deviation is √((4+1+9)/2) = √7.
REWARDS = torch.tensor([1.0, 2.0, 6.0, 4.0, 4.0, 0.5])
GROUP_OF = torch.tensor([0, 0, 0, 1, 1, 2])

scored = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5), min_size=1, max_size=5)


def grouped(groups: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    rewards = torch.tensor([r for group in groups for r in group], dtype=torch.float64)
    return rewards, torch.tensor([g for g, group in enumerate(groups) for _ in group])


def test_group_advantages_by_hand():
    none = group_advantages(REWARDS, GROUP_OF, "none")
    assert none.tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0]
    std = group_advantages(REWARDS, GROUP_OF)
    assert std.tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, 0, 0, 0], abs=1e-4)
    # All six: mean 17.5/6, squares 73.25 − 17.5²/6, over 5.
    spread = ((73.25 - 17.5**2 / 6) / 5) ** 0.5
    assert group_advantages(REWARDS, GROUP_OF, "batch").tolist() == pytest.approx(
        [a / spread for a in none.tolist()], abs=1e-4
    )
    with pytest.raises(ValueError, match="'group' is not one of"):
        group_advantages(REWARDS, GROUP_OF, "group")


@quick
@given(scored, st.sampled_from(["std", "batch", "none"]), st.randoms(use_true_random=False))
def test_group_advantages_know_neither_order_nor_offset(groups: list[list[float]], scale: str, source):
    rewards, group_of = grouped(groups)
    found = group_advantages(rewards, group_of, scale)
    assert bool(found.isfinite().all())
    order = list(range(len(rewards)))
    source.shuffle(order)
    torch.testing.assert_close(group_advantages(rewards[order], group_of[order], scale), found[order])
    if scale != "batch":  # whose deviation sees how far groups are apart
        moved = rewards + 100.0 * group_of
        torch.testing.assert_close(group_advantages(moved, group_of, scale), found, rtol=1e-6, atol=1e-6)


def test_equal_rewards_give_no_advantage_where_rounding_would():
    """0.1 has no exact mean in fp32; the deviation's floor keeps that from becoming an advantage of order 1."""
    rewards = torch.full((7,), 0.1)
    assert group_advantages(rewards, torch.zeros(7, dtype=torch.long)).abs().max() < 1e-3


def test_leave_one_out_by_hand():
    assert leave_one_out(REWARDS[:5], GROUP_OF[:5]).tolist() == [4.0, 3.5, 1.5, 4.0, 4.0]
    with pytest.raises(ValueError, match="group 2 has one response"):
        leave_one_out(REWARDS, GROUP_OF)


@quick
@given(st.lists(st.lists(st.floats(-10, 10), min_size=2, max_size=5), min_size=1, max_size=4))
def test_leave_one_out_is_the_stretched_group_mean(groups: list[list[float]]):
    """r − b = n/(n−1) · (r − mean), and b does not change with the reward it is the baseline of."""
    rewards, group_of = grouped(groups)
    baseline = leave_one_out(rewards, group_of)
    stretch = torch.tensor([len(group) / (len(group) - 1) for group in groups for _ in group], dtype=torch.float64)
    torch.testing.assert_close(rewards - baseline, stretch * group_advantages(rewards, group_of, "none"))
    changed = rewards.clone()
    changed[0] += 5.0
    torch.testing.assert_close(leave_one_out(changed, group_of)[0], baseline[0])


def test_moving_mean_follows():
    past, used = None, []
    for mean in (2.0, 4.0, 4.0):
        baseline, past = moving_mean(torch.tensor([mean - 1, mean + 1]), past, 0.75)
        used.append(baseline)
    assert used == [2.0, 2.0, 2.5]  # 0.75 · 2 + 0.25 · 4
    assert past == 2.875


def test_zero_spread_by_hand():
    assert zero_spread(REWARDS, GROUP_OF).tolist() == [False, True, True]
    assert zero_spread(torch.tensor([1.0, 1.0 + 1e-7, 0.0, 1e-5]), torch.tensor([0, 0, 1, 1])).tolist() == [True, False]
    assert zero_spread(torch.zeros(2), torch.tensor([0, 0])).tolist() == [True]


@quick
@given(scored)
def test_zero_spread_is_where_no_reward_differs(groups: list[list[float]]):
    rounded = [[float(round(r)) for r in group] for group in groups]
    assert zero_spread(*grouped(rounded)).tolist() == [len(set(group)) == 1 for group in rounded]
