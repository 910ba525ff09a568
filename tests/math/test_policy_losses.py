"""PPO's clipped surrogate: a worked table, the gradient's dead zone, and the first update."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.policy_losses import Clip, clip_fraction, clipped_policy_loss

OLD = torch.zeros(1)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0.0),
        (1.1, 2.0, -2.2, 0.0),
        (1.5, 2.0, -2.6, 1.0),  # 1 + 0.3
        (0.5, 2.0, -1.0, 0.0),  # lower is worse: the free branch is the minimum
        (1.5, -2.0, 3.0, 0.0),
        (0.5, -2.0, 1.6, 1.0),  # 1 - 0.2
        (0.9, -2.0, 1.8, 0.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_by_hand(ratio: float, advantage: float, loss: float, clipped: float):
    logprobs = torch.tensor([ratio]).log().requires_grad_()
    advantages, clip = torch.tensor([advantage]), Clip(low=0.2, high=0.3)
    found = clipped_policy_loss(logprobs, OLD, advantages, clip)
    assert found.item() == pytest.approx(loss, rel=1e-6)
    assert clip_fraction(logprobs, OLD, advantages, clip).item() == clipped
    (gradient,) = torch.autograd.grad(found, logprobs)
    assert gradient.item() == pytest.approx(0.0 if clipped else -ratio * advantage, rel=1e-6)


def test_default_clip():
    assert Clip() == (0.2, 0.2)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(-4, 0), st.floats(-1, 1), st.floats(-3, 3)), min_size=1, max_size=8))
def test_pessimistic(tokens: list[tuple[float, float, float]]):
    """Never a lower loss than the unclipped surrogate; equal where the clip is not counted, and only there."""
    logprobs, drift, advantages = torch.tensor(tokens, dtype=torch.float64).unbind(1)
    old = logprobs - drift
    loss = clipped_policy_loss(logprobs, old, advantages, Clip())
    free = -(logprobs - old).exp() * advantages
    active = clip_fraction(logprobs, old, advantages, Clip()).bool()
    assert bool((loss >= free).all())
    assert torch.equal(loss > free, active)


def test_first_update_is_the_policy_gradient():
    """At ratio 1 the gradient is −A ∇ log π and nothing is clipped."""
    logprobs = torch.randn(5, dtype=torch.float64, requires_grad=True)
    advantages = torch.randn(5, dtype=torch.float64)
    old = logprobs.detach().clone()
    (gradient,) = torch.autograd.grad(clipped_policy_loss(logprobs, old, advantages, Clip()).sum(), logprobs)
    torch.testing.assert_close(gradient, -advantages)
    assert clip_fraction(logprobs, old, advantages, Clip()).sum() == 0


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("drift", [200.0, -200.0])
def test_runaway_ratios_stay_finite(drift: float, advantage: float):
    logprobs = torch.tensor([drift], requires_grad=True)
    loss = clipped_policy_loss(logprobs, OLD, torch.tensor([advantage]), Clip())
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert bool(loss.isfinite())
    assert bool(gradient.isfinite())


def test_gradcheck():
    logprobs = torch.tensor([-1.0, -0.4, -2.0, -0.1], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-1.1, -1.0, -1.0, -0.05], dtype=torch.float64)
    advantages = torch.tensor([1.0, -2.0, 0.5, -1.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: clipped_policy_loss(x, old, advantages, Clip()), (logprobs,))
