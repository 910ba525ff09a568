"""PPO's clipped surrogate and its relatives: worked tables, where gradients vanish, and the first update."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.math.policy_losses import (
    POLICY_LOSSES,
    Clip,
    Surrogate,
    clip_fraction,
    clipped_policy_loss,
    policy_objective,
    sequence_old_logprobs,
)
from tether.types import Group, Prompt, Response, RolloutBatch

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


# Two responses: ratios (2, 1/2) and (4, 4, 4), so that the responses' are 1 and 4.
DRIFT = torch.tensor([2.0, 0.5, 4.0, 4.0, 4.0]).log()
LENGTHS = torch.tensor([2, 3])


def test_gspo_by_hand():
    """The ratio is the geometric mean over the response, and the clip takes all its tokens or none."""
    logprobs = (DRIFT - 1).requires_grad_()
    old, advantages = torch.full((5,), -1.0), torch.tensor([1.0, 1.0, 3.0, 3.0, 3.0])
    found = POLICY_LOSSES["gspo"](logprobs, old, advantages, Clip(0.2, 0.5), LENGTHS)
    assert found.loss.tolist() == pytest.approx([-1.0, -1.0, -4.5, -4.5, -4.5])
    assert found.clipped.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    assert gradient.tolist() == pytest.approx([-1.0, -1.0, 0.0, 0.0, 0.0])
    assert not sequence_old_logprobs(logprobs, old, LENGTHS).requires_grad


def test_cispo_by_hand():
    """The weight is clipped on both sides, whatever the advantage, and every token keeps its gradient −wA."""
    logprobs = DRIFT.clone().requires_grad_()
    advantages = torch.tensor([1.0, 1.0, 3.0, -3.0, 0.0])
    found = POLICY_LOSSES["cispo"](logprobs, torch.zeros(5), advantages, Clip(0.25, 2.0), LENGTHS)
    weights = torch.tensor([2.0, 0.75, 3.0, 3.0, 3.0])
    torch.testing.assert_close(found.loss, -weights * advantages * DRIFT)
    assert found.clipped.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    torch.testing.assert_close(gradient, -weights * advantages)
    # MiniMax sets no lower limit: ε_low = 1.
    unlimited = POLICY_LOSSES["cispo"](DRIFT, torch.zeros(5), advantages, Clip(1.0, 4.0), LENGTHS)
    assert unlimited.clipped.sum() == 0


@pytest.mark.parametrize("name", POLICY_LOSSES)
def test_every_loss_starts_as_the_policy_gradient(name: str):
    """Before an update every row has the gradient −A ∇ log π, and its clip does nothing."""
    torch.manual_seed(0)
    logprobs = (-3 * torch.rand(5, dtype=torch.float64)).requires_grad_()
    advantages = torch.randn(5, dtype=torch.float64)
    found = POLICY_LOSSES[name](logprobs, logprobs.detach().clone(), advantages, Clip(3e-4, 4e-4), LENGTHS)
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    torch.testing.assert_close(gradient, -advantages)
    assert found.clipped.tolist() == [0.0] * 5


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("drift", [200.0, -200.0])
def test_runaway_ratios_stay_finite_everywhere(name: str, drift: float):
    logprobs = torch.full((2,), drift, requires_grad=True)
    found = POLICY_LOSSES[name](logprobs, torch.zeros(2), torch.tensor([1.0, -1.0]), Clip(), torch.tensor([2]))
    (gradient,) = torch.autograd.grad(found.loss.sum(), logprobs)
    assert bool(found.loss.isfinite().all())
    assert bool(gradient.isfinite().all())


def batch_of(lengths: list[int], dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, RolloutBatch]:
    """Random current log-probs and a batch of one response a group."""
    torch.manual_seed(1)
    groups = [Group(Prompt((1,)), (Response((2,) * n),)) for n in lengths]
    logprobs, old, ref, advantages = -torch.rand(4, sum(lengths), dtype=dtype)
    batch = RolloutBatch.of(groups, logprobs, logprobs=old, ref_logprobs=ref, advantages=advantages + 0.5)
    return logprobs, batch


@pytest.mark.parametrize("name", POLICY_LOSSES)
@pytest.mark.parametrize("how", ["token", "sequence", "constant"])
def test_objective_does_not_depend_on_micro_batches(name: str, how: str):
    lengths = [3, 1, 4, 2]
    logprobs, batch = batch_of(lengths)
    surrogate = Surrogate(name, Clip(), how, 8, "k3", 0.3)
    whole, metrics = policy_objective(logprobs, -logprobs, batch, surrogate)
    parts = []
    for members in ([2, 0], [3, 1]):
        own = torch.cat([logprobs.split(lengths)[m] for m in members])
        parts.append(policy_objective(own, -own, batch.take(members), surrogate))
    torch.testing.assert_close(sum(objective for objective, _ in parts), whole)
    for metric, value in metrics.items():
        torch.testing.assert_close(sum(about[metric] for _, about in parts), value, msg=metric)


def test_objective_adds_the_tether_in_the_same_aggregation():
    logprobs, batch = batch_of([2, 3])
    plain, metrics = policy_objective(logprobs, -logprobs, batch, Surrogate("ppo", Clip(), "constant", 10))
    tethered, _ = policy_objective(logprobs, -logprobs, batch, Surrogate("ppo", Clip(), "constant", 10, "k1", 0.5))
    kl = (logprobs - batch.ref_logprobs).sum() / (2 * 10)
    torch.testing.assert_close(tethered - plain, 0.5 * kl)
    torch.testing.assert_close(metrics["policy/loss"], plain)
    torch.testing.assert_close(metrics["policy/entropy"], -logprobs.mean())
    torch.testing.assert_close(metrics["policy/ratio"], (logprobs - batch.logprobs).exp().mean())
    with pytest.raises(KeyError):
        policy_objective(logprobs, -logprobs, batch, Surrogate("trpo", Clip(), "token", 10))
